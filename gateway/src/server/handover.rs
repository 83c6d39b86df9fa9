//! The service that hands over what waits in the spool.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::{
    server::{ListenFds, ShutdownWatch},
    services::Service,
};

use super::stop;
use crate::{edge::Edge, spool::handover};

pub(super) struct HandOver {
    pub(super) edge: Arc<Edge>,
    pub(super) stopping: stop::Stopping,
}

#[async_trait]
impl Service for HandOver {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _per_fd: usize,
    ) {
        let Some(spool) = self.edge.spool.clone() else {
            return;
        };
        let working = self.stopping.working();
        handover::run(self.edge.clone(), spool, self.stopping.watch()).await;
        drop(working);
    }

    fn name(&self) -> &'static str {
        "hand-over"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}
