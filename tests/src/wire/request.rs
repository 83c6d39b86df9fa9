//! The bytes of a request, built line by line.

use std::net::Ipv4Addr;

use crate::wire::{Address, Answer, Connection, Exchange};

/// A request as it will be written. Nothing is added but `Host` (unless [`Request::no_host`]) and,
/// with a body, its framing.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    host: Option<String>,
    add_host: bool,
    lines: Vec<Vec<u8>>,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Sized(Vec<u8>),
    Chunked {
        chunks: Vec<Vec<u8>>,
        trailers: Vec<String>,
    },
}

impl Request {
    /// A request without a body.
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            host: None,
            add_host: true,
            lines: Vec::new(),
            body: Body::None,
        }
    }

    /// `GET target`.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// `POST target` with a sized body.
    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body)
    }

    /// `POST target` with a JSON body and its content type.
    pub fn post_json(target: &str, body: &serde_json::Value) -> Self {
        Self::post(target, body.to_string()).header("Content-Type", "application/json")
    }

    /// Adds one header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.lines.push(format!("{name}: {value}").into_bytes());
        self
    }

    /// Adds several header lines.
    #[must_use]
    pub fn headers<'a>(mut self, lines: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        for (name, value) in lines {
            self = self.header(name, value);
        }
        self
    }

    /// Adds one header line as it is, without its line end.
    #[must_use]
    pub fn line(mut self, line: impl Into<Vec<u8>>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// The API key, as a client sends it.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.header("X-API-Key", key)
    }

    /// Writes this `Host` instead of the address it is sent to.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// Writes no `Host` line of its own.
    #[must_use]
    pub fn no_host(mut self) -> Self {
        self.add_host = false;
        self
    }

    /// A body with its `Content-Length`.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Sized(body.into());
        self
    }

    /// A chunked body, one chunk per piece of at most `chunk` bytes.
    #[must_use]
    pub fn chunked(mut self, body: &[u8], chunk: usize) -> Self {
        let chunks = body.chunks(chunk.max(1)).map(<[u8]>::to_vec).collect();
        self.body = Body::Chunked {
            chunks,
            trailers: Vec::new(),
        };
        self
    }

    /// A trailer line behind a chunked body.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        match &mut self.body {
            Body::Chunked { trailers, .. } => trailers.push(format!("{name}: {value}")),
            Body::None | Body::Sized(_) => panic!("only a chunked body has trailers"),
        }
        self
    }

    /// The head alone, up to and with the empty line.
    pub fn head(&self, address: &Address) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        if self.add_host {
            let host = self.host.clone().unwrap_or_else(|| address.host());
            bytes.extend_from_slice(format!("Host: {host}\r\n").as_bytes());
        }
        for line in &self.lines {
            bytes.extend_from_slice(line);
            bytes.extend_from_slice(b"\r\n");
        }
        match &self.body {
            Body::None => {}
            Body::Sized(body) => {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
            }
            Body::Chunked { .. } => bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    /// The whole request.
    pub fn bytes(&self, address: &Address) -> Vec<u8> {
        let mut bytes = self.head(address);
        match &self.body {
            Body::None => {}
            Body::Sized(body) => bytes.extend_from_slice(body),
            Body::Chunked { chunks, trailers } => {
                for chunk in chunks {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n");
                for trailer in trailers {
                    bytes.extend_from_slice(trailer.as_bytes());
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"\r\n");
            }
        }
        bytes
    }

    /// Sends it on a new connection and reads the answer. Does not wait for the other side to
    /// close: for that, [`Request::exchange`].
    pub async fn send(&self, address: &Address) -> Answer {
        let mut connection = Connection::open(address).await;
        connection.send(&self.bytes(address)).await;
        connection.answer_to(&self.method).await
    }

    /// As [`Request::send`], to a program that may be gone, or go before it has answered.
    pub async fn attempt(&self, address: &Address) -> Option<Answer> {
        let mut connection = Connection::attempt(address).await.ok()?;
        connection.send(&self.bytes(address)).await;
        connection.one_answer(&self.method).await
    }

    /// As [`Request::send`], from one of this machine's loopback addresses.
    pub async fn send_from(&self, client: Ipv4Addr, address: &Address) -> Answer {
        let mut connection = Connection::open_from(client, address).await;
        connection.send(&self.bytes(address)).await;
        connection.answer_to(&self.method).await
    }

    /// Sends it on a new connection, reads the answer and sees whether the connection stays open.
    pub async fn exchange(&self, address: &Address) -> Exchange {
        let mut connection = Connection::open(address).await;
        connection.send(&self.bytes(address)).await;
        connection.exchange().await
    }
}
