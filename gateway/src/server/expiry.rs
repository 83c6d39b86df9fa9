//! Closes open streams at the moment their key expires: one timer, whatever their number.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::{
    server::{ListenFds, ShutdownWatch},
    services::Service,
};

use crate::edge::Edge;

pub(super) struct Expiry {
    pub(super) edge: Arc<Edge>,
}

#[async_trait]
impl Service for Expiry {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _per_fd: usize,
    ) {
        let Edge {
            streams, metrics, ..
        } = &*self.edge;
        streams.close_at_their_ends(metrics).await;
    }

    fn name(&self) -> &'static str {
        "expiry"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}
