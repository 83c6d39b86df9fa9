//! One delivery as it lies in the spool: what is stored of its head, its proven bytes, and a checksum.
//!
//! A file is: eight bytes that say what it is; [`Tries`], rewritten in place; SHA-256 of all that follows; the lengths of head
//! and body; the head as JSON; the body. No credential is in it: the gateway's own keys and tokens are stripped before, and what
//! `set_headers` adds is stamped when the delivery is handed over.

use std::{
    io::{self, Read},
    net::IpAddr,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What an entry begins with: its kind and version.
const MAGIC: &[u8; 8] = b"orkspl1\n";
/// Where [`Tries`] stand.
pub(super) const TRIES_AT: u64 = MAGIC.len() as u64;
const TRIES: usize = 32;
const DIGEST: usize = 32;
const LENGTHS: usize = 12;
const BEFORE_HEAD: usize = MAGIC.len() + TRIES + DIGEST + LENGTHS;
/// The largest file that can be an entry: the largest body a webhook may have, and a head.
pub(super) const LARGEST: u64 = 66 * 1024 * 1024;
/// The largest head: several times what a request's may be.
const LARGEST_HEAD: u32 = 2 * 1024 * 1024;
/// How much of a body is looked at at once.
const PART: usize = 64 * 1024;

/// What is stored of a delivery's head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The id it was answered with.
    pub id: String,
    /// Its source: what `X-Orket-Webhook-Source` says.
    pub source: String,
    /// The kind of sender.
    pub provider: String,
    /// The event.
    pub event: Option<String>,
    /// The sender's own id.
    pub delivery: Option<String>,
    /// The idempotency key.
    pub key: String,
    /// Whether a repetition of it is known by the key.
    pub remember: bool,
    /// The route that admitted it.
    pub route: String,
    /// The upstream it was meant for then.
    pub upstream: String,
    /// The id of the request it came with.
    pub request_id: String,
    /// The judged client address.
    pub client: IpAddr,
    /// The `Host` asked for.
    pub host: String,
    /// The scheme it came by.
    pub proto: String,
    /// The method.
    pub method: String,
    /// The judged path, with its query.
    pub target: String,
    /// The headers that are forwarded, credentials and claims already off. One character a byte.
    pub headers: Vec<(String, String)>,
    /// When it was proven, in milliseconds since 1970.
    pub received_ms: i64,
}

/// Why a delivery is not done. Its number is what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Why {
    /// It was not tried: others of its source waited already.
    #[default]
    InTurn = 0,
    /// No connection to the upstream.
    Unreachable = 1,
    /// No answer in time.
    Timeout = 2,
    /// The answer was cut off, or was none.
    BrokeOff = 3,
    /// The upstream answered 5xx, or what it has no business answering.
    Failed = 4,
    /// The upstream asked for patience: 408, 425 or 429.
    Throttled = 5,
    /// The source was over its budget.
    OverBudget = 6,
    /// The upstream refused it for good.
    Refused = 7,
    /// It waited longer than the policy lets it.
    Expired = 8,
    /// A fault of this program ended its hand-over.
    Fault = 9,
}

impl Why {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 10] = [
        Self::InTurn,
        Self::Unreachable,
        Self::Timeout,
        Self::BrokeOff,
        Self::Failed,
        Self::Throttled,
        Self::OverBudget,
        Self::Refused,
        Self::Expired,
        Self::Fault,
    ];

    /// As it stands in lists, records and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::InTurn => "in_turn",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::BrokeOff => "broke_off",
            Self::Failed => "failed",
            Self::Throttled => "throttled",
            Self::OverBudget => "over_budget",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Fault => "fault",
        }
    }
}

/// Whether the source's budget was charged for a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Charged {
    /// Not yet.
    #[default]
    No,
    /// Once and for all.
    Yes,
}

/// How a delivery has fared so far. Rewritten in place; when it cannot be read the delivery counts as never tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tries {
    /// How often it was sent.
    pub attempts: u32,
    /// What was answered last; 0 where nothing was.
    pub status: u16,
    /// Why it is not done.
    pub why: Why,
    /// Whether its source's budget was charged.
    pub charged: Charged,
    /// When it was sent last, in milliseconds since 1970.
    pub last_ms: i64,
    /// From when its age counts: when it was proven, or taken back from the dead letters.
    pub since_ms: i64,
}

impl Tries {
    pub(super) fn encode(&self) -> [u8; TRIES] {
        let mut out = [0; TRIES];
        let fields = [
            &self.attempts.to_le_bytes()[..],
            &self.status.to_le_bytes(),
            &[self.why as u8, u8::from(self.charged == Charged::Yes)],
            &self.last_ms.to_le_bytes(),
            &self.since_ms.to_le_bytes(),
        ]
        .concat();
        let sum = crc32fast::hash(&fields).to_le_bytes();
        for (to, from) in out.iter_mut().zip(fields.iter().chain(&sum)) {
            *to = *from;
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let fields = bytes.get(..24)?;
        let tries = Self {
            attempts: u32::from_le_bytes(input.take()?),
            status: u16::from_le_bytes(input.take()?),
            why: {
                let [number] = input.take()?;
                *Why::ALL.get(usize::from(number))?
            },
            charged: match input.take()? {
                [0] => Charged::No,
                [_] => Charged::Yes,
            },
            last_ms: i64::from_le_bytes(input.take()?),
            since_ms: i64::from_le_bytes(input.take()?),
        };
        let sum = u32::from_le_bytes(input.take()?);
        (crc32fast::hash(fields) == sum).then_some(tries)
    }
}

/// A delivery read from the spool, its checksum verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its head.
    pub head: Head,
    /// How it has fared.
    pub tries: Tries,
    /// Its proven bytes.
    pub body: Bytes,
}

/// Everything before the body.
pub(super) fn encode(head: &Head, tries: &Tries, body: &[u8]) -> Vec<u8> {
    let json = serde_json::to_vec(head).unwrap_or_default();
    let lengths = lengths(json.len(), body.len());
    let mut out = Vec::with_capacity(BEFORE_HEAD + json.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&tries.encode());
    out.extend_from_slice(&digest(&lengths, &json, body));
    out.extend_from_slice(&lengths);
    out.extend_from_slice(&json);
    out
}

/// What stands before the head.
struct Preface {
    tries: [u8; TRIES],
    sum: [u8; DIGEST],
    head_length: u32,
    body_length: u64,
}

impl Preface {
    fn read(bytes: &[u8; BEFORE_HEAD]) -> Option<Self> {
        let mut input = Input(bytes);
        if input.take::<8>()? != *MAGIC {
            return None;
        }
        Some(Self {
            tries: input.take()?,
            sum: input.take()?,
            head_length: u32::from_le_bytes(input.take()?),
            body_length: u64::from_le_bytes(input.take()?),
        })
        .filter(|preface| preface.head_length <= LARGEST_HEAD)
    }

    /// How long a file with this preface is.
    fn file_length(&self) -> Option<u64> {
        (BEFORE_HEAD as u64 + u64::from(self.head_length)).checked_add(self.body_length)
    }

    fn tries(&self, head: &Head) -> Tries {
        Tries::decode(&self.tries).unwrap_or(Tries {
            since_ms: head.received_ms,
            ..Tries::default()
        })
    }

    /// The digest over all that follows, before the body.
    fn digest(&self, json: &[u8]) -> Sha256 {
        let mut hash = Sha256::new();
        hash.update(self.head_length.to_le_bytes());
        hash.update(self.body_length.to_le_bytes());
        hash.update(json);
        hash
    }

    fn fits(&self, digest: Sha256) -> bool {
        <[u8; DIGEST]>::from(digest.finalize()) == self.sum
    }
}

/// The entry, if these bytes are one from first to last. Its body shares their memory.
pub(super) fn decode(bytes: &Bytes) -> Option<Entry> {
    let (first, rest) = bytes.split_first_chunk()?;
    let preface = Preface::read(first)?;
    let head_length = usize::try_from(preface.head_length).ok()?;
    let (json, body) = rest.split_at_checked(head_length)?;
    let mut digest = preface.digest(json);
    digest.update(body);
    if body.len() as u64 != preface.body_length || !preface.fits(digest) {
        return None;
    }
    let head: Head = serde_json::from_slice(json).ok()?;
    Some(Entry {
        tries: preface.tries(&head),
        head,
        body: bytes.slice(BEFORE_HEAD + head_length..),
    })
}

/// An entry whose checksum is verified, without its body.
#[derive(Debug)]
pub(super) struct Outline {
    pub(super) head: Head,
    pub(super) tries: Tries,
    pub(super) body_bytes: u64,
}

/// Checks an entry of this length without holding its body in memory; `None` where it is none.
pub(super) fn outline(input: &mut impl Read, length: u64) -> io::Result<Option<Outline>> {
    match read_outline(input, length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        read => read,
    }
}

fn read_outline(input: &mut impl Read, length: u64) -> io::Result<Option<Outline>> {
    let mut first = [0; BEFORE_HEAD];
    input.read_exact(&mut first)?;
    let Some(preface) = Preface::read(&first).filter(|p| p.file_length() == Some(length)) else {
        return Ok(None);
    };
    let mut json = vec![0; usize::try_from(preface.head_length).unwrap_or(0)];
    input.read_exact(&mut json)?;
    let mut digest = preface.digest(&json);
    let mut part = vec![0; PART];
    let mut left = preface.body_length;
    while left > 0 {
        let now = usize::try_from(left).map_or(PART, |left| left.min(PART));
        let part = &mut part[..now];
        input.read_exact(part)?;
        digest.update(part);
        left -= now as u64;
    }
    if !preface.fits(digest) {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&json).ok().map(|head| Outline {
        tries: preface.tries(&head),
        body_bytes: preface.body_length,
        head,
    }))
}

fn lengths(head: usize, body: usize) -> [u8; LENGTHS] {
    let mut out = [0; LENGTHS];
    let head = u32::try_from(head).unwrap_or(u32::MAX).to_le_bytes();
    let body = (body as u64).to_le_bytes();
    for (to, from) in out.iter_mut().zip(head.iter().chain(&body)) {
        *to = *from;
    }
    out
}

fn digest(lengths: &[u8], head: &[u8], body: &[u8]) -> [u8; DIGEST] {
    let mut hash = Sha256::new();
    hash.update(lengths);
    hash.update(head);
    hash.update(body);
    hash.finalize().into()
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
mod tests {
    use super::*;

    fn head(id: &str, source: &str) -> Head {
        Head {
            id: id.into(),
            source: source.into(),
            provider: "gitea".into(),
            event: Some("push".into()),
            delivery: None,
            key: format!("key-{id}"),
            remember: true,
            route: "gitea".into(),
            upstream: "backend".into(),
            request_id: "01J".into(),
            client: "192.0.2.1".parse().unwrap(),
            host: "forge".into(),
            proto: "http".into(),
            method: "POST".into(),
            target: "/webhook/gitea?a=1".into(),
            headers: vec![("x-odd".into(), "\u{e9}".into())],
            received_ms: 1_700_000_000_000,
        }
    }

    /// Both ways to read have to agree.
    fn read(bytes: &[u8]) -> Option<Entry> {
        let entry = decode(&Bytes::copy_from_slice(bytes));
        let outline = outline(&mut &*bytes, bytes.len() as u64).unwrap();
        match (&entry, outline) {
            (None, None) => {}
            (Some(entry), Some(outline)) => {
                assert_eq!((&entry.head, entry.tries), (&outline.head, outline.tries));
                assert_eq!(entry.body.len() as u64, outline.body_bytes);
            }
            (entry, outline) => panic!("{entry:?} {outline:?}"),
        }
        entry
    }

    fn written() -> (Entry, Vec<u8>) {
        let tries = Tries {
            attempts: 3,
            status: 503,
            why: Why::Failed,
            charged: Charged::Yes,
            last_ms: 5,
            since_ms: 4,
        };
        let entry = Entry {
            head: head("a", "s"),
            tries,
            body: Bytes::from_static(b"the body"),
        };
        let mut bytes = encode(&entry.head, &tries, &entry.body);
        bytes.extend_from_slice(&entry.body);
        (entry, bytes)
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let (entry, bytes) = written();
        assert_eq!(read(&bytes), Some(entry));
    }

    #[test]
    fn no_byte_may_be_missing_changed_or_added() {
        let (entry, bytes) = written();
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]), None, "{length}");
        }
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0x20;
            match read(&other) {
                None => {}
                // Only how it has fared may be lost, never the delivery.
                Some(read) if at >= MAGIC.len() && at < MAGIC.len() + TRIES => {
                    assert_eq!(
                        (read.head, read.body),
                        (entry.head.clone(), entry.body.clone())
                    );
                }
                Some(_) => panic!("byte {at} was changed unnoticed"),
            }
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(read(&longer), None);
    }

    #[test]
    fn reasons_keep_their_numbers() {
        for (number, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, number);
        }
    }
}
