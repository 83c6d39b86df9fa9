//! Server-sent events as a client reads them: one after the other, as they come.

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::wait::DEADLINE;
use crate::wire::{Address, Stream};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Its kind.
    pub kind: String,
    /// Its number.
    pub id: Option<i64>,
    /// What it says.
    pub data: Value,
}

/// An open stream of events.
pub struct Watch {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    has_head: bool,
}

impl Watch {
    /// Asks for the events of `target`, those after number `last` if that is given; none when
    /// nobody listens at this moment.
    pub async fn try_open(address: &Address, target: &str, last: Option<i64>) -> Option<Self> {
        let mut stream = address.connect().await.ok()?;
        let resume = last.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        // HTTP/1.0: the body comes as it is, until the end of the connection.
        let request = format!(
            "GET {target} HTTP/1.0\r\nHost: localhost\r\nAccept: text/event-stream\r\n{resume}\r\n"
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
        Some(Self {
            stream,
            buffer: Vec::new(),
            has_head: false,
        })
    }

    /// The same from a program that listens.
    pub async fn open(address: &Address, target: &str, last: Option<i64>) -> Self {
        let opened = Self::try_open(address, target, last).await;
        opened.unwrap_or_else(|| panic!("nothing listens on {address}"))
    }

    /// The next event, comments passed over; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            let block = self.block().await?;
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|rest| rest.strip_prefix(": "))
            };
            if let (Some(kind), Some(data)) = (field("event"), field("data")) {
                return Some(Told {
                    kind: kind.to_owned(),
                    id: field("id").and_then(|id| id.parse().ok()),
                    data: serde_json::from_str(data).expect("data is JSON"),
                });
            }
        }
    }

    /// The number that a reader has to come back with who has been told no event yet: an `id` alone.
    pub async fn position(&mut self) -> i64 {
        loop {
            let block = self.block().await.expect("an open stream");
            let id = block.strip_prefix("id: ").map(str::trim);
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                return id;
            }
        }
    }

    /// The next event of a stream that must go on.
    pub async fn must_next(&mut self) -> Told {
        self.next().await.expect("the stream goes on")
    }

    /// Waits for a sign of life: a comment.
    pub async fn sign_of_life(&mut self) {
        while !self.block().await.expect("an open stream").starts_with(':') {}
    }

    /// What comes before the next empty line.
    async fn block(&mut self) -> Option<String> {
        loop {
            let end = if self.has_head { "\n\n" } else { "\r\n\r\n" };
            let at = self
                .buffer
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = at {
                let block: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                let block = String::from_utf8(block).expect("events are text");
                if self.has_head {
                    return Some(block);
                }
                assert!(block.contains(" 200 "), "{block}");
                self.has_head = true;
                continue;
            }
            self.buffer.reserve(16 * 1024);
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await;
            match read.expect("something comes in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
