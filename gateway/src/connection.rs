//! One client connection, between the socket and pingora.
//!
//! pingora reads requests through this [`Gate`]. The gate hands out a request's head only when it is
//! complete, in time, within its size and unambiguous; then the body, exactly as framed and in time;
//! then nothing until the answer is out. So pingora never sees a malformed or a pipelined byte. A refusal
//! found here is not answered here: the gate notes the reason, hands pingora a plain request in the place of the bad one, and
//! the one place that answers refusals answers it. See [`framing`] for what counts as unambiguous.

pub mod chunked;
mod ending;
mod frames;
pub mod framing;
mod gate;
mod socket;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use pingora_core::protocols::Digest;
use tokio::time::Instant;

use self::framing::Framing;
pub(crate) use self::gate::farewell;
pub use self::{ending::Ending, gate::Gate, socket::Socket};
use crate::{denial::Reason, policy::Limits, request_head::Arrival};

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

/// What a client speaks to this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP within TLS.
    Https,
}

impl Scheme {
    /// As URLs and `X-Forwarded-Proto` write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
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
    /// What the client speaks.
    pub scheme: Scheme,
    turn: Mutex<Turn>,
    ending: Ending,
    /// As in `turn`, for every write to see without a lock.
    tunnel: AtomicBool,
    /// The answer is a stream of events: it lasts as long as its client.
    events: AtomicBool,
    turns: AtomicU32,
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
    /// How long the upstream may say nothing of its answer; none where nobody counts here.
    patience: Option<Duration>,
    /// Until when it may.
    due: Option<Instant>,
    /// It has not.
    late: bool,
}

impl Turn {
    /// Until when the upstream has to say something, if it has to.
    fn answer_due(&mut self) -> Option<Instant> {
        let patience = self.patience?;
        Some(*self.due.get_or_insert_with(|| Instant::now() + patience))
    }
}

impl Connection {
    /// A connection on which nothing has been read.
    fn new(peer: SocketAddr, loopback: bool, scheme: Scheme) -> Self {
        Self {
            peer,
            loopback,
            scheme,
            turn: Mutex::default(),
            ending: Ending::default(),
            tunnel: AtomicBool::new(false),
            events: AtomicBool::new(false),
            turns: AtomicU32::new(0),
        }
    }

    /// How it is ended from outside.
    pub fn ending(&self) -> &Ending {
        &self.ending
    }

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

    /// How many requests have had their turn, this one with them.
    pub fn turns(&self) -> u32 {
        self.turns.load(Ordering::Relaxed)
    }

    /// The answer to the last request is out: the next may be read.
    pub fn next_request(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.events.store(false, Ordering::Release);
        let mut turn = self.turn.lock();
        *turn = Turn {
            next: true,
            ..Turn::default()
        };
    }

    /// So long the upstream may say nothing: from here on for the head of its answer, and then between two parts of it.
    pub fn await_answer(&self, patience: Duration) {
        let mut turn = self.turn.lock();
        turn.patience = Some(patience);
        turn.due = None;
    }

    /// A part of the answer has come.
    pub fn heard(&self) {
        let mut turn = self.turn.lock();
        turn.due = turn.patience.map(|patience| Instant::now() + patience);
    }

    /// Whether the upstream has said nothing for too long.
    pub fn answer_is_late(&self) -> bool {
        self.turn.lock().late
    }

    /// From here on, bytes pass both ways as they are.
    pub fn become_tunnel(&self) {
        let mut turn = self.turn.lock();
        turn.tunnel = true;
        turn.patience = None;
        drop(turn);
        self.tunnel.store(true, Ordering::Release);
    }

    /// The answer is a stream of events, which may be silent for as long as there is nothing to say. It ends when its client ends its side:
    /// nothing else would ever tell that it has gone.
    pub fn become_events(&self) {
        self.turn.lock().patience = None;
        self.events.store(true, Ordering::Release);
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
