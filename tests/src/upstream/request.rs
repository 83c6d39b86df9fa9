//! Requests as they arrive: read byte for byte, kept whole.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncReadExt;

use crate::wire::Stream;

/// A request as it arrived.
#[derive(Clone)]
pub struct Recorded {
    /// The method.
    pub method: String,
    /// The target, byte for byte.
    pub target: String,
    /// The header lines in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, its transfer coding taken off.
    pub body: Vec<u8>,
    /// Trailer lines behind a chunked body.
    pub trailers: Vec<String>,
    /// Every byte of the request.
    pub raw: Vec<u8>,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.raw.len().min(2000);
        write!(f, "{:?}", String::from_utf8_lossy(&self.raw[..length]))
    }
}

impl Recorded {
    /// The one value of a header; fails the test when it occurs twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(
            values.len() <= 1,
            "{name} occurs more than once in {:?}",
            self.headers
        );
        values.first().copied()
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let name = name.to_ascii_lowercase();
        self.headers
            .iter()
            .filter(|(n, _)| *n == name)
            .map(|(_, v)| v.as_str())
            .collect()
    }

    /// Whether any header line or trailer has this name, `_` and `-` being the same.
    pub fn names(&self, name: &str) -> bool {
        let wanted = name.to_ascii_lowercase().replace('_', "-");
        self.headers
            .iter()
            .any(|(n, _)| n.replace('_', "-") == wanted)
            || self.trailers.iter().any(|line| {
                line.split(':')
                    .next()
                    .unwrap_or_default()
                    .to_ascii_lowercase()
                    .replace('_', "-")
                    == wanted
            })
    }
}

/// What has been read of a connection and not been taken for a request yet.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) buffer: Vec<u8>,
}

impl Input {
    pub(super) async fn fill(
        &mut self,
        stream: &mut Box<dyn Stream>,
        count_of_bytes: &AtomicUsize,
    ) -> bool {
        self.buffer.reserve(16 * 1024);
        match stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                count_of_bytes.fetch_add(count, Ordering::SeqCst);
                true
            }
        }
    }

    /// Reads up to and with the next line end from `at` on; its text and where the next begins.
    async fn line(
        &mut self,
        at: usize,
        stream: &mut Box<dyn Stream>,
        count_of_bytes: &AtomicUsize,
    ) -> Option<(String, usize)> {
        loop {
            if let Some(length) = self.buffer[at..]
                .windows(2)
                .position(|pair| pair == b"\r\n")
            {
                let text = String::from_utf8_lossy(&self.buffer[at..at + length]).into_owned();
                return Some((text, at + length + 2));
            }
            if !self.fill(stream, count_of_bytes).await {
                return None;
            }
        }
    }

    pub(super) async fn request(
        &mut self,
        stream: &mut Box<dyn Stream>,
        count_of_bytes: &AtomicUsize,
    ) -> Option<Recorded> {
        let (start, mut at) = self.line(0, stream, count_of_bytes).await?;
        let mut words = start.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        loop {
            let (line, next) = self.line(at, stream, count_of_bytes).await?;
            at = next;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((line.as_str(), ""));
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let value_of = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let mut body = Vec::new();
        let mut trailers = Vec::new();
        if value_of("transfer-encoding").is_some() {
            loop {
                let (size, next) = self.line(at, stream, count_of_bytes).await?;
                let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
                at = next;
                if size == 0 {
                    break;
                }
                while self.buffer.len() < at + size + 2 {
                    if !self.fill(stream, count_of_bytes).await {
                        return None;
                    }
                }
                body.extend_from_slice(&self.buffer[at..at + size]);
                at += size + 2;
            }
            loop {
                let (line, next) = self.line(at, stream, count_of_bytes).await?;
                at = next;
                if line.is_empty() {
                    break;
                }
                trailers.push(line);
            }
        } else if let Some(length) = value_of("content-length") {
            let length: usize = length.parse().ok()?;
            while self.buffer.len() < at + length {
                if !self.fill(stream, count_of_bytes).await {
                    return None;
                }
            }
            body.extend_from_slice(&self.buffer[at..at + length]);
            at += length;
        }
        let raw = self.buffer.drain(..at).collect();
        Some(Recorded {
            method,
            target,
            headers,
            body,
            trailers,
            raw,
        })
    }
}
