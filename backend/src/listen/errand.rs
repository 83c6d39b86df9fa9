//! Requests that change something are carried to their end, also when who asked has left.
//!
//! A connection that closes takes the request it waits for with it, wherever that is: between a commit
//! and what has to follow it, such as the end of the processes of a run whose cancel is on disk. So such
//! a request is a task of its own, and the connection only waits for it. A stop waits for it, too.

use std::convert::Infallible;

use axum::{
    Router,
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use tower::{Service, ServiceExt as _, service_fn};

/// What answers the requests of one connection. Each task holds until its end what the connection holds:
/// its place, so that no more are under way than there may be connections, and what a stop waits for.
pub(super) fn carry<H: Clone + Send + 'static>(
    router: Router,
    held: H,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static>
+ Clone
+ Send {
    service_fn(move |request: Request<Incoming>| {
        let (router, held) = (router.clone(), held.clone());
        async move {
            let request = request.map(Body::new);
            if request.method().is_safe() {
                return router.oneshot(request).await;
            }
            let task = tokio::spawn(async move {
                let answer = router.oneshot(request).await;
                drop(held);
                answer
            });
            // It neither panics, for that is caught inside, nor is it aborted.
            task.await
                .unwrap_or_else(|_| Ok(StatusCode::INTERNAL_SERVER_ERROR.into_response()))
        }
    })
}
