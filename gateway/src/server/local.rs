//! How the listeners of this machine serve: the admin listener and the control socket. Whoever can connect there can open connections and
//! say nothing, so there are few places, and nobody keeps one for long without asking something, or at all where somebody else wants it.

use std::{
    convert::Infallible,
    future::{Future, pending},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
};

use super::answer::Answer;

/// How many connections one of these listeners serves at once. The others wait in its backlog, and take no descriptor. Those of both
/// listeners are within [`RESERVE`](super::caps).
const PLACES: usize = 12;

/// How long a connection may take to send a head, the first or the next.
const HEAD: Duration = Duration::from_secs(5);

/// How long one may last in all, whatever it asks.
const LIFE: Duration = Duration::from_mins(5);

/// How long after the last look those who have a place and have asked nothing are told to leave again.
const AGAIN: Duration = Duration::from_millis(50);

/// The places of one listener.
#[derive(Debug, Clone)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    /// Somebody waits for a place.
    wanted: Arc<Notify>,
}

/// The place of one connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    wanted: Arc<Notify>,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(PLACES)),
            wanted: Arc::default(),
        }
    }

    /// Waits for a place. To be had before a connection is accepted. Who has one and has asked nothing loses it.
    pub(super) async fn place(&self) -> Place {
        let mut free = std::pin::pin!(self.free.clone().acquire_owned());
        loop {
            tokio::select! {
                biased;
                // Never closed.
                permit = &mut free => {
                    return Place {
                        _permit: permit.ok(),
                        wanted: self.wanted.clone(),
                    };
                }
                () = tokio::time::sleep(AGAIN) => self.wanted.notify_waiters(),
            }
        }
    }
}

impl Place {
    /// Ends once somebody wants the place of a connection that has asked nothing.
    async fn is_wanted(&self, asked: &AtomicBool) {
        self.wanted.notified().await;
        if asked.load(Ordering::Acquire) {
            pending::<()>().await;
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
        let asked = Arc::new(AtomicBool::new(false));
        let asks = asked.clone();
        let service = service_fn(move |request| {
            asks.store(true, Ordering::Release);
            let answer = answer(request);
            async move { Ok::<_, Infallible>(answer.await.into_response()) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            biased;
            _ = tokio::time::timeout(LIFE, serving) => {}
            () = place.is_wanted(&asked) => {}
        }
        drop(place);
    });
}
