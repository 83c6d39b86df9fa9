//! The gate itself: what it reads and hands out, stage by stage. How pingora sees it is in [`io`].

mod io;

pub(crate) use self::io::farewell;

use std::{
    io::{Error as IoError, ErrorKind, Result as IoResult},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::ResponseHeader;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    Connection, ConnectionLimits, Slot, Socket,
    chunked::{self, ChunkFollower},
    frames::{CLOSE_1008, FrameFollower},
    framing::{self, Framing, HeadScanner},
};
use crate::denial::Reason;

/// What pingora is handed in the place of a request that was refused on its raw bytes.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n";

/// How much of a body is read at once.
const READ_BYTES: usize = 16 * 1024;

/// How much of a head is read at once, and held of what comes before its turn.
const HEAD_READ_BYTES: usize = 4 * 1024;

/// Answers up to this size leave in one write.
const WRITE_BYTES: usize = 8 * 1024;

/// How long a client may take to take in nothing at all of an answer.
const WRITE_STALL: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum Stage {
    /// Nothing of the next request has come.
    Idle,
    /// Its head is coming.
    Head(HeadScanner),
    /// Its head is being handed out; then comes the body.
    HandOut(Bytes, Framing),
    /// So many bytes of the body are left.
    Length(u64),
    /// A chunked body is passing.
    Chunked(ChunkFollower),
    /// The request is read whole; nothing more is handed out before its answer.
    Answering,
    /// The stand-in was handed out; nothing follows.
    Refused,
    /// Bytes pass as they are.
    Tunnel,
}

/// See [`crate::connection`].
pub struct Gate {
    socket: Option<Socket>,
    connection: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    limits: ConnectionLimits,
    stage: Stage,
    inbound: BytesMut,
    outbound: BytesMut,
    timer: Option<Pin<Box<Sleep>>>,
    deadline: Option<Instant>,
    stall: Option<Pin<Box<Sleep>>>,
    /// The client has ended its side. It may still wait for the answer (RFC 9112, section 9.6).
    ended: bool,
    closed: bool,
    /// What a tunnel has sent to its client, from the answer that opened it.
    frames: Option<FrameFollower>,
    /// Held until the socket is closed, also while it lingers.
    slot: Option<Box<dyn Slot>>,
}

impl std::fmt::Debug for Gate {
    /// Never prints what passes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("peer", &self.connection.peer)
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// A gate before this socket. `Err` when pingora's digest cannot be made, which only a lack of memory
    /// could cause.
    pub fn new(
        socket: Socket,
        peer: SocketAddr,
        loopback: bool,
        limits: ConnectionLimits,
        slot: Box<dyn Slot>,
    ) -> pingora_core::Result<Self> {
        let connection = Arc::new(Connection::new(peer, loopback, socket.scheme()));
        // The digest is pingora's own way to carry facts of a connection to its requests.
        let none = Box::new(ResponseHeader::build(200, Some(0))?);
        let digest = Arc::new(ProxyDigest::new(none, Some(Box::new(connection.clone()))));
        Ok(Self {
            socket: Some(socket),
            connection,
            digest,
            limits,
            stage: Stage::Answering,
            inbound: BytesMut::new(),
            outbound: BytesMut::new(),
            timer: None,
            deadline: None,
            stall: None,
            ended: false,
            closed: false,
            frames: None,
            slot: Some(slot),
        })
    }

    fn arm(&mut self, after: Duration) {
        self.deadline = Some(Instant::now() + after);
    }

    fn disarm(&mut self) {
        self.deadline = None;
    }

    /// Ready when the deadline has passed; otherwise wakes when it does.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }

    /// Reads more into `inbound`; the number of bytes, 0 at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<IoResult<usize>> {
        let room = match self.stage {
            Stage::Length(_) | Stage::Chunked(_) | Stage::Tunnel => READ_BYTES,
            Stage::Idle
            | Stage::Head(_)
            | Stage::HandOut(..)
            | Stage::Answering
            | Stage::Refused => HEAD_READ_BYTES,
        };
        self.inbound.reserve(room);
        let Some(socket) = self.socket.as_mut() else {
            return Poll::Ready(Ok(0));
        };
        let read = std::pin::pin!(socket.read_buf(&mut self.inbound));
        std::future::Future::poll(read, cx)
    }

    fn refuse(&mut self, reason: Reason) {
        self.disarm();
        self.connection.turn.lock().refused = Some(reason);
        self.stage = Stage::HandOut(Bytes::from_static(STAND_IN), Framing::None);
    }

    fn refuse_body(&mut self, reason: Reason) -> IoError {
        self.disarm();
        self.connection.turn.lock().body = Some(reason);
        self.stage = Stage::Refused;
        IoError::from(ErrorKind::InvalidData)
    }

    /// pingora reads here while it waits for the upstream, and hears of it as of a failed read.
    fn give_up_answer(&mut self) -> IoError {
        self.disarm();
        let mut turn = self.connection.turn.lock();
        turn.patience = None;
        turn.late = true;
        IoError::from(ErrorKind::TimedOut)
    }

    /// A complete head is judged and, where it stands in absolute form, put in origin form.
    fn take_head(&mut self, end: usize) {
        let mut head = self.inbound.split_to(end);
        match framing::judge(&head, self.limits.header_count) {
            Err(reason) => self.refuse(reason),
            Ok(facts) => {
                if let Some(range) = facts.authority {
                    let mut plain = BytesMut::with_capacity(head.len());
                    plain.extend_from_slice(&head[..range.start]);
                    if facts.bare_authority {
                        plain.extend_from_slice(b"/");
                    }
                    plain.extend_from_slice(&head[range.end..]);
                    head = plain;
                }
                self.connection.turn.lock().framing = facts.framing;
                self.disarm();
                self.stage = Stage::HandOut(head.freeze(), facts.framing);
            }
        }
    }

    fn begin_body(&mut self, framing: Framing) {
        if self.connection.refused().is_some() {
            self.stage = Stage::Refused;
            return;
        }
        self.stage = match framing {
            Framing::None => Stage::Answering,
            Framing::Length(n) => Stage::Length(n),
            Framing::Chunked => Stage::Chunked(ChunkFollower::default()),
        };
        if !matches!(self.stage, Stage::Answering) {
            self.arm(self.limits.body_timeout);
        }
    }

    /// Waits for more bytes, or for the deadline. `Ok(true)`: there are more; `Ok(false)`: the stream ended.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Waited>> {
        match self.poll_fill(cx) {
            Poll::Ready(Ok(n)) => Poll::Ready(Ok(n > 0)),
            Poll::Ready(Err(e)) => Poll::Ready(Err(Waited::Failed(e))),
            Poll::Pending => {
                ready!(self.poll_deadline(cx));
                Poll::Ready(Err(Waited::TooLong))
            }
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        mut scanner: HeadScanner,
    ) -> Poll<IoResult<bool>> {
        match scanner.end(&self.inbound) {
            Err(reason) => self.refuse(reason),
            Ok(Some(end)) if end > self.limits.head_bytes => self.refuse(Reason::HeadTooLarge),
            Ok(Some(end)) => self.take_head(end),
            Ok(None) if self.inbound.len() > self.limits.head_bytes => {
                self.refuse(Reason::HeadTooLarge);
            }
            Ok(None) => {
                self.stage = Stage::Head(scanner);
                match self.poll_more(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false)) => return Poll::Ready(Ok(false)),
                    Poll::Ready(Err(Waited::TooLong)) => self.refuse(Reason::HeadTimeout),
                    Poll::Ready(Err(Waited::Failed(e))) => return Poll::Ready(Err(e)),
                }
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Hands out what of `inbound` belongs to the body, at most what fits.
    fn hand_out_body(&mut self, buf: &mut ReadBuf<'_>) -> IoResult<()> {
        let here = self.inbound.len().min(buf.remaining());
        let (belongs, done) = match &mut self.stage {
            Stage::Length(left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(here);
                *left -= n as u64;
                (n, *left == 0)
            }
            Stage::Chunked(follower) => match follower.follow(&self.inbound[..here]) {
                Ok(n) => (n, follower.is_done()),
                Err(chunked::Deviation) => return Err(self.refuse_body(Reason::FramingAmbiguous)),
            },
            Stage::Idle
            | Stage::Head(_)
            | Stage::HandOut(..)
            | Stage::Answering
            | Stage::Refused
            | Stage::Tunnel => (here, false),
        };
        buf.put_slice(&self.inbound[..belongs]);
        self.inbound.advance(belongs);
        if done {
            self.disarm();
            self.stage = Stage::Answering;
        }
        Ok(())
    }

    /// Writes to the socket. A client that takes in nothing for [`WRITE_STALL`] is given up; a tunnel has
    /// its own signs of life.
    fn poll_socket_write(
        &mut self,
        cx: &mut Context<'_>,
        data: Outgoing<'_>,
    ) -> Poll<IoResult<usize>> {
        let Some(socket) = self.socket.as_mut() else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        let bytes = match data {
            Outgoing::Held => &self.outbound[..],
            Outgoing::Given(bytes) => bytes,
        };
        if let Poll::Ready(written) = Pin::new(socket).poll_write(cx, bytes) {
            self.taken_in();
            return Poll::Ready(written);
        }
        self.poll_stall(cx).map(Err)
    }

    /// Sends what the socket itself still holds: TLS keeps records it could not send.
    fn poll_socket_flush(&mut self, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        let Some(socket) = self.socket.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        if let Poll::Ready(flushed) = Pin::new(socket).poll_flush(cx) {
            self.taken_in();
            return Poll::Ready(flushed);
        }
        self.poll_stall(cx).map(Err)
    }

    /// The client has taken something in. While it was waited for nobody listened to the upstream, whose time begins anew.
    fn taken_in(&mut self) {
        if self.stall.take().is_some() {
            self.connection.heard();
        }
    }

    /// Ready when the client has taken in nothing for too long.
    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<IoError> {
        if matches!(self.stage, Stage::Tunnel) {
            return Poll::Pending;
        }
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(ErrorKind::TimedOut.into())
    }

    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> Poll<IoResult<()>> {
        while !self.outbound.is_empty() {
            let n = ready!(self.poll_socket_write(cx, Outgoing::Held))?;
            if n == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.outbound.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    /// The connection this gate stands before.
    pub fn connection(&self) -> Arc<Connection> {
        self.connection.clone()
    }

    /// These bytes have passed to the client.
    fn follow_frames(&mut self, bytes: &[u8]) {
        if self.connection.tunnel.load(Ordering::Acquire) {
            self.frames.get_or_insert_default().follow(bytes);
        }
    }

    /// Nothing more passes once the connection was ended from outside. A WebSocket is told why, where a frame may stand.
    fn check_ended(&mut self) -> IoResult<()> {
        if !self.connection.ending().is_ended() {
            return Ok(());
        }
        if self.frames.take().is_some_and(|frames| frames.is_between()) {
            self.outbound.extend_from_slice(&CLOSE_1008);
        }
        Err(ErrorKind::ConnectionAborted.into())
    }

    /// Whether the client may still be sending, so that closing at once would cost it the answer.
    fn is_unread(&self) -> bool {
        if self.connection.ending().is_ended() {
            return true;
        }
        match self.stage {
            Stage::Head(_)
            | Stage::HandOut(..)
            | Stage::Length(_)
            | Stage::Chunked(_)
            | Stage::Refused => true,
            Stage::Answering => !self.inbound.is_empty(),
            Stage::Idle | Stage::Tunnel => false,
        }
    }
}

/// What is written: what the gate holds, or bytes that pass it by.
#[derive(Clone, Copy)]
enum Outgoing<'a> {
    Held,
    Given(&'a [u8]),
}

enum Waited {
    TooLong,
    Failed(IoError),
}
