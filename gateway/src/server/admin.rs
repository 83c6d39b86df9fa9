//! The admin listener: metrics and readiness, on loopback, for whoever runs the gateway. It changes nothing.

use std::{convert::Infallible, net::TcpListener, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use orket_shared::{
    header::REQUEST_ID,
    id::new_ulid,
    problem::{self, Problem},
};
use pingora_core::{
    server::{ListenFds, ShutdownWatch},
    services::Service,
};

use crate::{denial::status_phrase, edge::Edge, guard::insecure::is_loopback_name, metrics};

pub(super) struct Admin {
    pub(super) listener: Option<TcpListener>,
    pub(super) edge: Arc<Edge>,
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
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let edge = self.edge.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(&edge, &request);
                    async move { Ok::<_, Infallible>(response) }
                });
                // Whatever goes wrong is the scraper's to see: its connection ends.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
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

fn answer(edge: &Edge, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    // A page that rebinds its own name to loopback still sends that name.
    let local = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .is_some_and(is_loopback_name);
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (_, _) if !local => refusal(
            StatusCode::FORBIDDEN,
            "browser_refused",
            "Ask by a loopback address or localhost",
        ),
        (&Method::GET | &Method::HEAD, "/metrics") => (
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            metrics::page(edge),
        ),
        (&Method::GET | &Method::HEAD, "/ready") => (
            StatusCode::OK,
            "application/json",
            serde_json::json!({"status": "ready", "policy": edge.status()}).to_string(),
        ),
        (_, "/metrics" | "/ready") => refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "This listener only answers GET",
        ),
        (_, _) => refusal(
            StatusCode::NOT_FOUND,
            "not_found",
            "Here are /metrics and /ready",
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    if let Ok(id) = http::HeaderValue::from_str(&new_ulid()) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

pub(super) fn refusal(
    status: StatusCode,
    reason: &str,
    detail: &str,
) -> (StatusCode, &'static str, String) {
    let problem = Problem::new(
        status.as_u16(),
        status_phrase(status.as_u16()),
        reason,
        detail,
    );
    (
        status,
        problem::CONTENT_TYPE,
        serde_json::to_string(&problem).unwrap_or_default(),
    )
}
