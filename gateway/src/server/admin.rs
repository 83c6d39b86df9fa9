//! The admin listener: metrics and readiness, on loopback, for whoever runs the gateway. It changes nothing.

use std::{net::TcpListener, sync::Arc};

use async_trait::async_trait;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use pingora_core::{
    server::{ListenFds, ShutdownWatch},
    services::Service,
};

use super::{
    answer::Answer,
    local::{self, Places},
    stop::Stopping,
};
use crate::{edge::Edge, guard::insecure::is_loopback_name, metrics};

pub(super) struct Admin {
    pub(super) listener: Option<TcpListener>,
    pub(super) edge: Arc<Edge>,
    pub(super) stopping: Stopping,
}

#[async_trait]
impl Service for Admin {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _per_fd: usize,
    ) {
        let Some(listener) = self
            .listener
            .take()
            .and_then(|l| tokio::net::TcpListener::from_std(l).ok())
        else {
            tracing::error!(event = "fault", "the admin listener could not be used");
            return;
        };
        let places = Places::new();
        loop {
            let place = places.place().await;
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let (edge, stopping) = (self.edge.clone(), self.stopping.clone());
            local::serve(socket, place, move |request| {
                std::future::ready(answer(&edge, &stopping, &request))
            });
        }
    }

    fn name(&self) -> &'static str {
        "admin"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

fn answer(edge: &Edge, stopping: &Stopping, request: &Request<Incoming>) -> Answer {
    // A page that rebinds its own name to loopback still sends that name.
    let local = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .is_some_and(is_loopback_name);
    match (request.method(), request.uri().path()) {
        (_, _) if !local => Answer::refused(
            StatusCode::FORBIDDEN,
            "browser_refused",
            "Ask by a loopback address or localhost",
        ),
        (&Method::GET | &Method::HEAD, "/metrics") => Answer::Page {
            status: StatusCode::OK,
            kind: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body: metrics::page(edge),
        },
        (&Method::GET | &Method::HEAD, "/ready") => ready(edge, stopping),
        (_, "/metrics" | "/ready") => Answer::refused(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "This listener only answers GET",
        ),
        (_, _) => Answer::refused(
            StatusCode::NOT_FOUND,
            "not_found",
            "Here are /metrics and /ready",
        ),
    }
}

/// Whether new connections are taken: whoever deals them out should send none from the moment it was told to stop.
fn ready(edge: &Edge, stopping: &Stopping) -> Answer {
    let (status, word) = if stopping.is_told() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else {
        (StatusCode::OK, "ready")
    };
    let body = serde_json::json!({"status": word, "policy": edge.status()});
    Answer::json_with(status, &body)
}
