//! A server that stands where the backend would and writes down every byte it gets.
//!
//! It is the one stand-in of the suite: the question "what reached the inside?" can only be
//! answered by something that observes. How it answers is set by the test and never depends on the
//! request.

mod request;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use request::Input;
pub use request::Recorded;

use crate::tls::Certificate;
use crate::wait::{DEADLINE, obtain};
use crate::wire::{Address, Stream};

/// What the upstream does with a request it has read whole.
#[derive(Debug, Clone)]
pub enum Reaction {
    /// Answers with a status, a media type and a body, and keeps the connection.
    Answer {
        /// The status.
        status: u16,
        /// The value of `Content-Type`.
        content_type: String,
        /// The body.
        body: Vec<u8>,
        /// Further header lines.
        headers: Vec<(String, String)>,
    },
    /// Answers 200 with these chunks, its length not said beforehand.
    Chunks(Vec<Vec<u8>>),
    /// Answers with the request's target, so that an answer shows which request it belongs to.
    Mirror,
    /// Waits until another reaction is set, then does that.
    Hold,
    /// Never answers; the connection stays open.
    Hang,
    /// Closes without an answer.
    Close,
    /// Answers with an endless stream: this head, one chunk, and then nothing more until the other side closes.
    Endless {
        /// The value of `Content-Type`.
        content_type: String,
    },
    /// Begins to answer 200 and closes within the body.
    Half,
    /// Accepts the upgrade to WebSocket and sends every byte back as it came.
    Echo,
}

impl Reaction {
    /// `200` with a JSON body.
    pub fn ok() -> Self {
        Self::json(200, r#"{"upstream":"reached"}"#)
    }

    /// A status with a JSON body.
    pub fn json(status: u16, body: &str) -> Self {
        Self::Answer {
            status,
            content_type: "application/json".to_owned(),
            body: body.as_bytes().to_vec(),
            headers: Vec::new(),
        }
    }

    /// A status with a problem body.
    pub fn problem(status: u16, title: &str, detail: &str) -> Self {
        let body = serde_json::json!({
            "type": "about:blank", "title": title, "status": status, "detail": detail, "reason": "bad_request",
        });
        Self::Answer {
            status,
            content_type: "application/problem+json".to_owned(),
            body: body.to_string().into_bytes(),
            headers: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Ledger {
    requests: Mutex<Vec<Recorded>>,
    reaction: Mutex<Reaction>,
    connections: AtomicUsize,
    ended: AtomicUsize,
    bytes: AtomicUsize,
}

impl Ledger {
    /// What to do with a request, once it is not to be held.
    async fn reaction_to(&self, target: &str) -> Reaction {
        let current = || self.reaction.lock().unwrap().clone();
        let reaction = obtain("the held request is let go", DEADLINE, || async {
            let reaction = current();
            (!matches!(reaction, Reaction::Hold)).then_some(reaction)
        })
        .await;
        if matches!(reaction, Reaction::Mirror) {
            Reaction::json(200, &serde_json::json!({ "target": target }).to_string())
        } else {
            reaction
        }
    }
}

/// The recording upstream. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct Upstream {
    address: Address,
    ledger: Arc<Ledger>,
    accepting: JoinHandle<()>,
}

enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, TlsAcceptor),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Tls(listener, acceptor) => loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                // A client that does not believe it goes away.
                if let Ok(stream) = acceptor.accept(stream).await {
                    break Box::new(stream);
                }
            },
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

impl Upstream {
    /// Listens on a free port of the loopback.
    pub async fn tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("its address"));
        Self::serve(address, Listener::Tcp(listener))
    }

    /// As [`Upstream::tcp`], by TLS with this certificate.
    pub async fn tls(certificate: &Certificate) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = Address::Tcp(listener.local_addr().expect("its address"));
        Self::serve(address, Listener::Tls(listener, certificate.acceptor()))
    }

    /// Listens on a unix socket in `dir`.
    pub fn unix(dir: &Path) -> Self {
        let path = dir.join("upstream.sock");
        let listener = UnixListener::bind(&path).expect("a unix socket");
        Self::serve(Address::Unix(path), Listener::Unix(listener))
    }

    fn serve(address: Address, listener: Listener) -> Self {
        let ledger = Arc::new(Ledger {
            requests: Mutex::new(Vec::new()),
            reaction: Mutex::new(Reaction::ok()),
            connections: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&ledger);
        let accepting = tokio::spawn(async move {
            // Dropped with this task, and with it every connection.
            let mut serving = JoinSet::new();
            while let Ok(stream) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let ledger = Arc::clone(&shared);
                serving.spawn(async move {
                    serve_connection(stream, Arc::clone(&ledger)).await;
                    ledger.ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            address,
            ledger,
            accepting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How it reacts from now on.
    pub fn react(&self, reaction: Reaction) {
        *self.ledger.reaction.lock().unwrap() = reaction;
    }

    /// The requests it has read whole, in their order.
    pub fn requests(&self) -> Vec<Recorded> {
        self.ledger.requests.lock().unwrap().clone()
    }

    /// How many requests it has read whole.
    pub fn count(&self) -> usize {
        self.ledger.requests.lock().unwrap().len()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> usize {
        self.ledger.connections.load(Ordering::SeqCst)
    }

    /// How many of its connections have ended.
    pub fn ended(&self) -> usize {
        self.ledger.ended.load(Ordering::SeqCst)
    }

    /// How many bytes it has been sent, also of requests that never became whole.
    pub fn bytes(&self) -> usize {
        self.ledger.bytes.load(Ordering::SeqCst)
    }

    /// The only request it got; fails the test when there were more or none.
    pub fn only(&self) -> Recorded {
        let requests = self.requests();
        assert_eq!(
            requests.len(),
            1,
            "one request was to reach the upstream: {requests:#?}"
        );
        requests.into_iter().next().unwrap()
    }

    /// The last request it got.
    pub fn last(&self) -> Recorded {
        self.requests()
            .pop()
            .expect("a request reached the upstream")
    }

    /// Waits until `count` requests have arrived.
    pub async fn arrived(&self, count: usize) {
        obtain(
            &format!("{count} requests reach the upstream"),
            DEADLINE,
            || async { (self.count() >= count).then_some(()) },
        )
        .await;
    }

    /// Fails the test when a single connection was made.
    pub fn untouched(&self, after: &str) {
        assert_eq!(
            (self.connections(), self.bytes()),
            (0, 0),
            "the upstream was contacted after {after}: {:#?}",
            self.requests()
        );
    }

    /// Forgets what it got.
    pub fn forget(&self) {
        self.ledger.requests.lock().unwrap().clear();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve_connection(mut stream: Box<dyn Stream>, ledger: Arc<Ledger>) {
    let mut input = Input::default();
    while let Some(request) = input.request(&mut stream, &ledger.bytes).await {
        let upgrade = request.header("sec-websocket-key").map(str::to_owned);
        let target = request.target.clone();
        ledger.requests.lock().unwrap().push(request);
        match ledger.reaction_to(&target).await {
            Reaction::Answer {
                status,
                content_type,
                body,
                headers,
            } => {
                let mut answer = format!(
                    "HTTP/1.1 {status} Observed\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n",
                    body.len()
                );
                for (name, value) in headers {
                    let _ = write!(answer, "{name}: {value}\r\n");
                }
                answer.push_str("\r\n");
                let mut bytes = answer.into_bytes();
                bytes.extend_from_slice(&body);
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Reaction::Chunks(chunks) => {
                let mut bytes = b"HTTP/1.1 200 Observed\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
                for chunk in &chunks {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Reaction::Endless { content_type } => {
                let answer = format!(
                    "HTTP/1.1 200 Observed\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n"
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                while input.fill(&mut stream, &ledger.bytes).await {}
                return;
            }
            Reaction::Mirror | Reaction::Hold => return,
            Reaction::Hang => while input.fill(&mut stream, &ledger.bytes).await {},
            Reaction::Close => return,
            Reaction::Half => {
                let half = "HTTP/1.1 200 Observed\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"half\":";
                let _ = stream.write_all(half.as_bytes()).await;
                return;
            }
            Reaction::Echo => {
                let accept = derive_accept_key(upgrade.unwrap_or_default().as_bytes());
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                loop {
                    let bytes = std::mem::take(&mut input.buffer);
                    if stream.write_all(&bytes).await.is_err()
                        || !input.fill(&mut stream, &ledger.bytes).await
                    {
                        return;
                    }
                }
            }
        }
    }
}
