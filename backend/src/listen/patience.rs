//! A connection that gives up on a peer which does not take what is written to it: a slow reader
//! is cut off alone, and nothing piles up for it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::metrics::Counter;

/// A stream whose writes end in an error when the peer takes nothing for a while. It holds `P`, its place
/// among the connections, for as long as it is open: also once a WebSocket has come of it.
#[derive(Debug)]
pub(super) struct Patience<S, P> {
    stream: S,
    _place: P,
    limit: Duration,
    given_up: Counter,
    sleep: Pin<Box<Sleep>>,
    waiting: bool,
    gave_up: bool,
}

impl<S, P> Patience<S, P> {
    /// A stream that gives up on a peer after `limit`, which `given_up` counts.
    pub(super) fn new(stream: S, place: P, limit: Duration, given_up: Counter) -> Self {
        let sleep = Box::pin(tokio::time::sleep(limit));
        Self {
            stream,
            _place: place,
            limit,
            given_up,
            sleep,
            waiting: false,
            gave_up: false,
        }
    }

    /// Passes a finished write on, and one that waits too long as an error.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        if !self.waiting {
            self.waiting = true;
            self.sleep.as_mut().reset(Instant::now() + self.limit);
        }
        ready!(self.sleep.as_mut().poll(cx));
        if !self.gave_up {
            self.gave_up = true;
            self.given_up.inc();
        }
        let error = io::Error::new(io::ErrorKind::TimedOut, "the peer does not read");
        Poll::Ready(Err(error))
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Patience<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Patience<S, P> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let given_up = Counter::default();
        let (near, _far) = tokio::io::duplex(4);
        let mut near = Patience::new(near, (), Duration::from_millis(10), given_up.clone());
        near.write_all(b"1234").await.unwrap();
        let error = near.write_all(b"5").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(given_up.get(), 1);
    }
}
