//! How the listeners of this machine serve: the admin listener and the control socket. Whoever can connect there can open connections and
//! say nothing, so there are few places, and nobody keeps one for long without asking something.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::answer::Answer;

/// How many connections one of these listeners serves at once. The others wait in its backlog, and take no descriptor. Those of both
/// listeners are within [`RESERVE`](super::caps).
const PLACES: usize = 12;

/// How long a connection may take to send a head, the first or the next.
const HEAD: Duration = Duration::from_secs(5);

/// How long one may last in all, whatever it asks.
const LIFE: Duration = Duration::from_mins(5);

/// The places of one listener.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Semaphore>);

/// The place of one connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(PLACES)))
    }

    /// Waits for a place. To be had before a connection is accepted.
    pub(super) async fn place(&self) -> Place {
        Place {
            // Never closed.
            _permit: self.0.clone().acquire_owned().await.ok(),
        }
    }
}

/// Answers the requests of one connection, on a task of its own. Whatever goes wrong is the caller's to see: the connection ends.
pub(super) fn serve<S, A, F>(stream: S, place: Place, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Answer> + Send,
{
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await.into_response()) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        let _ = tokio::time::timeout(LIFE, serving).await;
        drop(place);
    });
}
