//! The gate as pingora sees it: a stream to read from, to write to and to close.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, raw_connect::ProxyDigest,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{Gate, HEAD_READ_BYTES, Outgoing, READ_BYTES, Stage, WRITE_BYTES, Waited};
use crate::{
    connection::{Slot, Socket, framing::HeadScanner},
    denial::Reason,
};

/// How long and how much is still read after an answer to a request that was not read whole, so that
/// the client can read the answer before it sees the connection break.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Sends what is left, ends the sending side and, where the request was not read whole, reads on for a
/// little so that the answer arrives.
pub(crate) async fn farewell(
    mut socket: Socket,
    outbound: BytesMut,
    linger: bool,
    _slot: Option<Box<dyn Slot>>,
) {
    let farewell = async {
        socket.write_all(&outbound).await?;
        socket.shutdown().await
    };
    let said = tokio::time::timeout(LINGER, farewell).await;
    if !linger || !matches!(said, Ok(Ok(()))) {
        return;
    }
    let drain = async {
        let mut sink = vec![0; READ_BYTES];
        let mut seen = 0;
        while seen < LINGER_BYTES {
            match socket.read(&mut sink).await {
                Ok(0) | Err(_) => break,
                Ok(n) => seen += n,
            }
        }
    };
    // Over the time or the amount, the connection simply ends.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

impl AsyncRead for Gate {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_ended()?;
        loop {
            match &mut this.stage {
                Stage::HandOut(head, framing) => {
                    let n = head.len().min(buf.remaining());
                    buf.put_slice(&head.split_to(n));
                    if head.is_empty() {
                        let framing = *framing;
                        this.begin_body(framing);
                    }
                    return Poll::Ready(Ok(()));
                }
                Stage::Idle => {
                    if this.inbound.is_empty() {
                        match ready!(this.poll_more(cx)) {
                            Ok(true) => {}
                            // Idle for too long, or gone: the end of the stream either way.
                            Ok(false) | Err(Waited::TooLong) => return Poll::Ready(Ok(())),
                            Err(Waited::Failed(e)) => return Poll::Ready(Err(e)),
                        }
                    }
                    this.arm(this.limits.head_timeout);
                    this.stage = Stage::Head(HeadScanner::default());
                }
                Stage::Head(scanner) => {
                    let scanner = std::mem::take(scanner);
                    if !ready!(this.poll_head(cx, scanner))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                Stage::Length(_) | Stage::Chunked(_) => {
                    if this.inbound.is_empty() {
                        match ready!(this.poll_more(cx)) {
                            Ok(true) => {}
                            Ok(false) => return Poll::Ready(Ok(())),
                            Err(Waited::TooLong) => {
                                return Poll::Ready(Err(this.refuse_body(Reason::BodyTimeout)));
                            }
                            Err(Waited::Failed(e)) => return Poll::Ready(Err(e)),
                        }
                    }
                    return Poll::Ready(this.hand_out_body(buf));
                }
                Stage::Answering => {
                    let (next, tunnel, due) = {
                        let mut turn = this.connection.turn.lock();
                        let next = std::mem::take(&mut turn.next);
                        (next, turn.tunnel, turn.answer_due())
                    };
                    this.deadline = due;
                    if this.poll_deadline(cx).is_ready() {
                        return Poll::Ready(Err(this.give_up_answer()));
                    }
                    if tunnel {
                        this.stage = Stage::Tunnel;
                    } else if next {
                        this.arm(this.limits.keepalive_timeout);
                        this.stage = Stage::Idle;
                    } else if this.ended && this.connection.events.load(Ordering::Acquire) {
                        return Poll::Ready(Ok(()));
                    } else if this.ended || this.inbound.len() >= HEAD_READ_BYTES {
                        // Enough is held of what comes before its turn; the socket's own buffer holds the rest. And who
                        // has ended its side looks as one who has left: which it is, writing will show.
                        return Poll::Pending;
                    } else if ready!(this.poll_fill(cx))? == 0 {
                        this.ended = true;
                    }
                }
                Stage::Refused => return Poll::Ready(Ok(())),
                Stage::Tunnel => {
                    if this.inbound.is_empty() && ready!(this.poll_fill(cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    return Poll::Ready(this.hand_out_body(buf));
                }
            }
        }
    }
}

impl AsyncWrite for Gate {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check_ended()?;
        if this.outbound.len() + data.len() > WRITE_BYTES {
            ready!(this.poll_outbound(cx))?;
        }
        if data.len() >= WRITE_BYTES {
            let written = ready!(this.poll_socket_write(cx, Outgoing::Given(data)))?;
            this.follow_frames(data.get(..written).unwrap_or_default());
            return Poll::Ready(Ok(written));
        }
        this.outbound.extend_from_slice(data);
        this.follow_frames(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_ended()?;
        ready!(this.poll_outbound(cx))?;
        this.poll_socket_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outbound(cx))?;
        match this.socket.as_mut() {
            Some(socket) => Pin::new(socket).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

#[async_trait]
impl Shutdown for Gate {
    async fn shutdown(&mut self) {
        self.closed = true;
        let linger = self.is_unread();
        if let Some(socket) = self.socket.take() {
            farewell(socket, self.outbound.split(), linger, self.slot.take()).await;
        }
    }
}

impl Drop for Gate {
    /// pingora drops a connection it gives up on; its answer still has to arrive.
    fn drop(&mut self) {
        let linger = self.is_unread();
        // TLS says that it ends: without that, an answer that is closed off could be one that was cut off.
        let silent = matches!(self.socket, Some(Socket::Plain(_)));
        if self.closed || (silent && self.outbound.is_empty() && !linger) {
            return;
        }
        if let (Some(socket), Ok(runtime)) =
            (self.socket.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(farewell(
                socket,
                self.outbound.split(),
                linger,
                self.slot.take(),
            ));
        }
    }
}

impl UniqueID for Gate {
    fn id(&self) -> i32 {
        use std::os::fd::AsRawFd;
        self.socket.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl Ssl for Gate {}
impl Peek for Gate {}

impl GetTimingDigest for Gate {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Gate {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for Gate {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
