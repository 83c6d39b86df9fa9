//! One connection, and what is read from it.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::wait::DEADLINE;
use crate::wire::{Address, Stream};

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header lines in their order, names in lower case, values without outer white space.
    pub headers: Vec<(String, String)>,
    /// The body, its transfer coding taken off.
    pub body: Vec<u8>,
    /// Every byte of the answer.
    pub raw: Vec<u8>,
}

impl Answer {
    /// The one value of a header; fails the test when it occurs twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let name = name.to_ascii_lowercase();
        let mut values = self
            .headers
            .iter()
            .filter(|(n, _)| *n == name)
            .map(|(_, v)| v.as_str());
        let first = values.next();
        assert!(
            values.next().is_none(),
            "{name} occurs more than once in {:?}",
            self.headers
        );
        first
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error} in the body of {}: {}", self.status, self.text())
        })
    }
}

/// An answer, and what became of the connection after it.
#[derive(Debug)]
pub struct Exchange {
    /// The answer.
    pub answer: Answer,
    /// Whether the other side closed the connection (or said it would).
    pub closed: bool,
}

/// An open connection.
pub struct Connection {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects; fails the test when nothing listens there.
    pub async fn open(address: &Address) -> Self {
        Self::attempt(address)
            .await
            .unwrap_or_else(|error| panic!("no connection to {address}: {error}"))
    }

    /// Connects, where something listens.
    pub async fn attempt(address: &Address) -> std::io::Result<Self> {
        let stream = timeout(DEADLINE, address.connect())
            .await
            .unwrap_or_else(|_| panic!("no connection to {address} within {DEADLINE:?}"))?;
        let (reader, writer) = tokio::io::split(stream);
        Ok(Self {
            reader,
            writer,
            buffer: Vec::new(),
        })
    }

    /// Connects from one of this machine's loopback addresses, so that a test has several clients.
    pub async fn open_from(client: Ipv4Addr, address: &Address) -> Self {
        let (Address::Tcp(server) | Address::Tls(server, _)) = address else {
            panic!("{address} has no client addresses")
        };
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((client, 0).into()).expect("a loopback address");
        let stream = timeout(DEADLINE, socket.connect(*server))
            .await
            .expect("in time");
        let stream = stream.unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
        stream.set_nodelay(true).expect("a TCP option");
        let stream: Box<dyn Stream> = match address {
            Address::Tls(_, client) => Box::new(client.connect(stream).await.expect("a handshake")),
            Address::Tcp(_) | Address::Unix(_) => Box::new(stream),
        };
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            writer,
            buffer: Vec::new(),
        }
    }

    /// Writes bytes. An error is not one of the test: a program that refuses early may close while
    /// the rest is still being sent, and what it answered is then still there to be read.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        };
        let _ = timeout(DEADLINE, sent)
            .await
            .expect("the other side stopped reading");
    }

    /// Closes the sending side.
    pub async fn finish(&mut self) {
        let _ = self.writer.shutdown().await;
    }

    /// Reads the answer to a request of any method but HEAD.
    pub async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    /// Reads the answer to a request of `method`; passes over `100 Continue`.
    pub async fn answer_to(&mut self, method: &str) -> Answer {
        loop {
            let answer = self.one_answer(method).await.unwrap_or_else(|| {
                panic!(
                    "the connection closed before an answer was complete; it held {:?}",
                    String::from_utf8_lossy(&self.buffer)
                )
            });
            if answer.status != 100 {
                return answer;
            }
        }
    }

    /// The answer, if it begins to arrive within `time`.
    pub async fn answer_within(&mut self, time: Duration) -> Option<Answer> {
        self.buffer.reserve(1024);
        match timeout(time, self.reader.read_buf(&mut self.buffer)).await {
            Err(_) => None,
            Ok(_) => Some(self.answer().await),
        }
    }

    /// Reads the next answer, `100 Continue` as well; none if the connection closed first.
    pub async fn one_answer(&mut self, method: &str) -> Option<Answer> {
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).into_owned();
        let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
        let status_line = lines.next().unwrap_or_default();
        let status: u16 = status_line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let value_of = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let (body, end) = if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            (Vec::new(), head_end)
        } else if value_of("transfer-encoding").is_some() {
            self.chunked_body(head_end).await?
        } else if let Some(length) = value_of("content-length") {
            let length: usize = length.parse().expect("a Content-Length is a number");
            while self.buffer.len() < head_end + length {
                if !self.fill().await {
                    return None;
                }
            }
            (
                self.buffer[head_end..head_end + length].to_vec(),
                head_end + length,
            )
        } else {
            while self.fill().await {}
            (self.buffer[head_end..].to_vec(), self.buffer.len())
        };
        let raw = self.buffer.drain(..end).collect();
        Some(Answer {
            status,
            headers,
            body,
            raw,
        })
    }

    /// Reads an answer and then sees whether the other side keeps the connection.
    pub async fn exchange(&mut self) -> Exchange {
        let answer = self.answer().await;
        self.after(answer).await
    }

    /// Sees what becomes of the connection after `answer`.
    pub async fn after(&mut self, answer: Answer) -> Exchange {
        let said = answer
            .headers
            .iter()
            .any(|(name, value)| name == "connection" && value.eq_ignore_ascii_case("close"));
        let closed = if said {
            assert!(
                self.is_closed().await,
                "`Connection: close` was said and not done"
            );
            true
        } else {
            self.closes_at_once().await
        };
        Exchange { answer, closed }
    }

    /// Waits until the other side closed; false when it sent something instead.
    pub async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill().await
    }

    /// Whether the other side has closed by now, without waiting for it to.
    async fn closes_at_once(&mut self) -> bool {
        self.buffer.reserve(1024);
        let read = timeout(
            Duration::from_millis(20),
            self.reader.read_buf(&mut self.buffer),
        )
        .await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }

    /// Reads exactly `count` bytes.
    pub async fn read_exact(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(
                self.fill().await,
                "closed after {} of {count} bytes",
                self.buffer.len()
            );
        }
        self.buffer.drain(..count).collect()
    }

    /// Reads until the other side closes.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Takes more bytes in; false at the end of the stream or when it was reset.
    async fn fill(&mut self) -> bool {
        self.buffer.reserve(16 * 1024);
        match timeout(DEADLINE, self.reader.read_buf(&mut self.buffer)).await {
            Ok(Ok(0) | Err(_)) => false,
            Ok(Ok(_)) => true,
            Err(elapsed) => panic!(
                "{elapsed}: nothing came within {DEADLINE:?}; so far {:?}",
                String::from_utf8_lossy(&self.buffer)
            ),
        }
    }

    async fn chunked_body(&mut self, start: usize) -> Option<(Vec<u8>, usize)> {
        let mut body = Vec::new();
        let mut at = start;
        loop {
            let line_end = loop {
                if let Some(found) = find(&self.buffer[at..], b"\r\n") {
                    break at + found;
                }
                if !self.fill().await {
                    return None;
                }
            };
            let line = String::from_utf8_lossy(&self.buffer[at..line_end]).into_owned();
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16)
                .unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
            let data = line_end + 2;
            while self.buffer.len() < data + size + 2 {
                if !self.fill().await {
                    return None;
                }
            }
            if size == 0 {
                return Some((body, data + 2));
            }
            body.extend_from_slice(&self.buffer[data..data + size]);
            at = data + size + 2;
        }
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .position(|window| window == needle)
}
