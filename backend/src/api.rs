//! What the backend answers. All routes are on this screen; one resource is one file.
//!
//! Requests are read strictly (`extract`), refused in one shape (`problem`), and every answer
//! carries the id of its request. Nobody is asked for proof here: who gets this far was judged by
//! the gateway, or may connect to the socket.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    listen::Stop, metrics::Metrics, sandbox::Sandboxes, scheduler::Scheduler, settings::Settings,
    store::Store, workspace::Workspace,
};

pub mod archive;
mod cards;
mod deliveries;
mod document;
mod events;
mod extract;
mod health;
mod logs;
mod once;
pub mod openapi;
mod page;
mod problem;
mod queues;
pub mod replay;
mod runs;
mod sandboxes;
mod schedules;
mod sessions;
mod submit;
mod system;
mod usage;
mod webhook;
mod websocket;

pub use extract::Caller;
pub use problem::ApiError;

/// The largest body of a request to the API, in bytes.
const BODY_LIMIT: usize = 2 << 20;
/// The largest delivery: more than any gateway should let through.
const DELIVERY_LIMIT: usize = 32 << 20;

/// What every handler can use.
#[derive(Clone)]
pub struct App {
    inner: Arc<Parts>,
}

/// The parts of an [`App`].
pub struct Parts {
    /// What the operator decided.
    pub settings: Settings,
    /// The durable truth.
    pub store: Store,
    /// Gives runs their slots.
    pub scheduler: Scheduler,
    /// Keeps sandboxes.
    pub sandboxes: Sandboxes,
    /// Where commands work.
    pub workspace: Workspace,
    /// Ends streams when the backend stops.
    pub stop: Stop,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How commands are confined.
    pub confinement: crate::confine::report::Report,
    /// Whether nothing but reading is served: the store's disk is full, and nothing else has begun.
    pub reads_only: bool,
}

impl App {
    /// An app of these parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            inner: Arc::new(parts),
        }
    }
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.inner
    }
}

/// The whole API.
pub fn router(app: App) -> Router {
    let deliveries = Router::new()
        .route("/webhook/{source}", post(webhook::receive))
        .layer(DefaultBodyLimit::max(DELIVERY_LIMIT));
    let routes = Router::new()
        .route("/health", get(health::health))
        .route("/openapi.json", get(openapi::serve))
        .route("/metrics", get(health::metrics))
        .route("/v1/version", get(health::version))
        .route("/v1/whoami", get(health::whoami))
        .route("/v1/system/heartbeat", get(system::heartbeat))
        .route("/v1/system/metrics", get(system::metrics))
        .route("/v1/system/run-active", post(system::run_active))
        .route("/v1/runs", get(runs::list).post(submit::submit))
        .route("/v1/runs/replay", post(replay::replay))
        .route("/v1/runs/{id}", get(runs::detail))
        .route("/v1/runs/{id}/cancel", post(runs::cancel))
        .route("/v1/runs/{id}/logs", get(logs::logs))
        .route("/v1/runs/{id}/metrics", get(runs::metrics))
        .route("/v1/runs/{id}/backlog", get(runs::backlog))
        .route("/v1/queues", get(queues::list))
        .route("/v1/queues/{name}/pause", post(queues::pause))
        .route("/v1/queues/{name}/resume", post(queues::resume))
        .route(
            "/v1/schedules",
            get(schedules::list).post(schedules::create),
        )
        .route(
            "/v1/schedules/{id}",
            get(schedules::detail)
                .patch(schedules::change)
                .delete(schedules::remove),
        )
        .route("/v1/sessions/{id}", get(sessions::session))
        .route("/v1/sessions/{id}/snapshot", get(sessions::snapshot))
        .route("/v1/cards", get(cards::list).post(cards::create))
        .route("/v1/cards/archive", post(archive::archive))
        .route(
            "/v1/cards/{id}",
            get(cards::detail)
                .patch(cards::change)
                .delete(cards::remove),
        )
        .route("/v1/deliveries", get(deliveries::list))
        .route("/v1/deliveries/{id}", get(deliveries::detail))
        .route("/v1/deliveries/{id}/replay", post(deliveries::replay))
        .route("/v1/events", get(events::sse))
        .route("/ws/events", get(events::websocket))
        .merge(sandboxes::routes())
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .merge(deliveries);
    if app.reads_only {
        let routes = routes.layer(middleware::from_fn(problem::reading_only));
        return enclose(routes).with_state(app);
    }
    enclose(routes).with_state(app)
}

/// What is answered where the store does not open, because its disk is full.
pub fn without_a_store() -> Router {
    Router::new()
        .route("/v1/version", get(health::version))
        .fallback(problem::no_store)
        .layer(middleware::from_fn(problem::finish))
}

/// What surrounds every route: what no route names, panics, problems, request ids.
fn enclose<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    routes
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(middleware::from_fn(problem::finish))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn boom() {
        panic!("an inner secret");
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_without_internals() {
        let router = enclose(Router::<()>::new().route("/boom", get(boom)));
        let request = Request::get("/boom").header("x-request-id", "r1");
        let request = request.body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["x-request-id"], "r1");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(
            text.contains("internal_error") && text.contains("r1"),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
    }
}
