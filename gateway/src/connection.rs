//! One client connection, between the socket and pingora.
//!
//! pingora reads requests through this [`Gate`]. The gate hands out a request's head only when it is
//! complete, in time, within its size and unambiguous; then the body, exactly as framed and in time;
//! then nothing until the answer is out. So pingora never sees a malformed or a pipelined byte. A refusal
//! found here is not answered here: the gate notes the reason, hands pingora a plain request in the place of the bad one, and
//! the one place that answers refusals answers it. See [`framing`] for what counts as unambiguous.

pub mod chunked;
pub mod framing;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use pingora_core::protocols::{
    Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, raw_connect::ProxyDigest,
};
use pingora_http::ResponseHeader;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use self::{
    chunked::ChunkFollower,
    framing::{Framing, HeadScanner},
};
use crate::{denial::Reason, policy::Limits, request_head::Arrival};

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

/// How long and how much is still read after an answer to a request that was not read whole, so that
/// the client can read the answer before it sees the connection break.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Sizes and times a connection is held to; fixed when it is accepted.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Most bytes of a head.
    pub head_bytes: usize,
    /// Most header lines.
    pub header_count: usize,
    /// From a head's first byte to its end.
    pub head_timeout: Duration,
    /// From the end of a head to the end of its body.
    pub body_timeout: Duration,
    /// Between two requests.
    pub keepalive_timeout: Duration,
}

impl ConnectionLimits {
    /// What a policy's limits say of a connection.
    pub fn of(limits: &Limits) -> Self {
        Self {
            head_bytes: limits.head_bytes,
            header_count: limits.header_count,
            head_timeout: limits.head_timeout,
            body_timeout: limits.body_timeout,
            keepalive_timeout: limits.keepalive_timeout,
        }
    }
}

/// What the checks may know of a connection, and the two things they tell it.
#[derive(Debug)]
pub struct Connection {
    /// The peer of the socket.
    pub peer: SocketAddr,
    /// Whether the listener is on loopback.
    pub loopback: bool,
    turn: Mutex<Turn>,
}

/// The request whose turn it is.
#[derive(Debug, Default)]
struct Turn {
    /// A new request may be read.
    next: bool,
    /// The connection has become a tunnel.
    tunnel: bool,
    /// Why the request was refused on its raw bytes.
    refused: Option<Reason>,
    /// Whether the body came too slowly or badly framed.
    body: Option<Reason>,
    framing: Framing,
}

impl Connection {
    /// The connection a pingora session belongs to.
    pub fn of(digest: Option<&Digest>) -> Option<Arc<Self>> {
        digest?
            .proxy_digest
            .as_ref()?
            .user_data
            .as_ref()?
            .downcast_ref::<Arc<Self>>()
            .cloned()
    }

    /// How the request came, from a client judged to be this one.
    pub fn arrival(&self, client: IpAddr) -> Arrival {
        Arrival {
            client,
            loopback: self.loopback,
            framing: self.framing(),
        }
    }

    /// The answer to the last request is out: the next may be read.
    pub fn next_request(&self) {
        let mut turn = self.turn.lock();
        *turn = Turn {
            next: true,
            ..Turn::default()
        };
    }

    /// From here on, bytes pass both ways as they are.
    pub fn become_tunnel(&self) {
        self.turn.lock().tunnel = true;
    }

    /// Why the request was refused on its raw bytes, if it was.
    pub fn refused(&self) -> Option<Reason> {
        self.turn.lock().refused
    }

    /// Why its body was cut off, if it was.
    pub fn body_refused(&self) -> Option<Reason> {
        self.turn.lock().body
    }

    /// How the body of the request is framed.
    pub fn framing(&self) -> Framing {
        self.turn.lock().framing
    }
}

/// A place among the connections; given back when dropped.
pub trait Slot: std::fmt::Debug + Send + Sync {}

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

/// See the [module](self).
pub struct Gate {
    socket: Option<TcpStream>,
    connection: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    limits: ConnectionLimits,
    stage: Stage,
    inbound: BytesMut,
    outbound: BytesMut,
    timer: Option<Pin<Box<Sleep>>>,
    deadline: Option<Instant>,
    stall: Option<Pin<Box<Sleep>>>,
    closed: bool,
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
        socket: TcpStream,
        peer: SocketAddr,
        loopback: bool,
        limits: ConnectionLimits,
        slot: Box<dyn Slot>,
    ) -> pingora_core::Result<Self> {
        let connection = Arc::new(Connection {
            peer,
            loopback,
            turn: Mutex::default(),
        });
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
            closed: false,
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
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
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

    fn refuse_body(&mut self, reason: Reason) -> io::Error {
        self.disarm();
        self.connection.turn.lock().body = Some(reason);
        self.stage = Stage::Refused;
        io::Error::from(io::ErrorKind::InvalidData)
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
    ) -> Poll<io::Result<bool>> {
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
    fn hand_out_body(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
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
    ) -> Poll<io::Result<usize>> {
        let Some(socket) = self.socket.as_mut() else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let bytes = match data {
            Outgoing::Held => &self.outbound[..],
            Outgoing::Given(bytes) => bytes,
        };
        if let Poll::Ready(written) = Pin::new(socket).poll_write(cx, bytes) {
            self.stall = None;
            return Poll::Ready(written);
        }
        if matches!(self.stage, Stage::Tunnel) {
            return Poll::Pending;
        }
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outbound.is_empty() {
            let n = ready!(self.poll_socket_write(cx, Outgoing::Held))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbound.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn is_unread(&self) -> bool {
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
    Failed(io::Error),
}

/// Sends what is left, ends the sending side and, where the request was not read whole, reads on for a
/// little so that the answer arrives.
async fn close(
    mut socket: TcpStream,
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
                    let (next, tunnel) = {
                        let mut turn = this.connection.turn.lock();
                        (std::mem::take(&mut turn.next), turn.tunnel)
                    };
                    if tunnel {
                        this.stage = Stage::Tunnel;
                    } else if next {
                        this.arm(this.limits.keepalive_timeout);
                        this.stage = Stage::Idle;
                    } else if this.inbound.len() >= HEAD_READ_BYTES {
                        // Enough is held of what comes before its turn; the socket's own buffer holds the rest.
                        return Poll::Pending;
                    } else if ready!(this.poll_fill(cx))? == 0 {
                        return Poll::Ready(Ok(()));
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
        if this.outbound.len() + data.len() > WRITE_BYTES {
            ready!(this.poll_outbound(cx))?;
        }
        if data.len() >= WRITE_BYTES {
            return this.poll_socket_write(cx, Outgoing::Given(data));
        }
        this.outbound.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outbound(cx))?;
        match this.socket.as_mut() {
            Some(socket) => Pin::new(socket).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
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
            close(socket, self.outbound.split(), linger, self.slot.take()).await;
        }
    }
}

impl Drop for Gate {
    /// pingora drops a connection it gives up on; its answer still has to arrive.
    fn drop(&mut self) {
        let linger = self.is_unread();
        if self.closed || (self.outbound.is_empty() && !linger) {
            return;
        }
        if let (Some(socket), Ok(runtime)) =
            (self.socket.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(close(
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
