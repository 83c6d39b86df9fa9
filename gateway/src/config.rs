//! The policy file as written: every field with the place it stands at, nothing judged yet.
//!
//! Reading collects *all* problems of form (unknown fields, wrong types, unreadable values) instead
//! of stopping at the first. What the values mean, and whether they fit together, is
//! [`crate::policy`]'s to say. Nothing at runtime holds a type of this module.

pub mod diagnostic;
mod read;
pub mod reader;
pub mod reference;
pub mod value;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;

pub use self::read::{catalogue, read};
use self::{
    reader::At,
    value::{RateWritten, Size},
};

/// The whole file.
#[derive(Debug, Default)]
pub struct Written {
    /// `[listen]`
    pub listen: Listen,
    /// `[state] dir`
    pub state_dir: Option<At<PathBuf>>,
    /// `[posture]`
    pub posture: Posture,
    /// `[client_address] trusted_proxies`
    pub trusted_proxies: Vec<At<String>>,
    /// `[limits]`
    pub limits: Limits,
    /// `[spool]`
    pub spool: Spool,
    /// `health`: whether the gateway itself answers `GET /health`.
    pub health: Option<At<bool>>,
    /// `[upstreams.<name>]`
    pub upstreams: Vec<Upstream>,
    /// `[secrets]`
    pub secrets: Vec<SecretList>,
    /// `[[scopes]]`
    pub scopes: Vec<Scope>,
    /// `[[keys]]`
    pub keys: Vec<Key>,
    /// `[[rate_limits]]`
    pub rate_limits: Vec<RateLimit>,
    /// `[[routes]]`
    pub routes: Vec<Route>,
    /// `[[tests]]`
    pub tests: Vec<Test>,
}

/// `[listen]`
#[derive(Debug, Default)]
pub struct Listen {
    /// Where clients connect.
    pub http: Option<At<SocketAddr>>,
    /// Where clients connect by TLS.
    pub https: Option<Https>,
    /// Metrics and readiness; loopback only.
    pub admin: Option<At<SocketAddr>>,
    /// The operator's socket: `unix:/path`.
    pub control: Option<At<String>>,
    /// Worker threads.
    pub threads: Option<At<u64>>,
}

/// `https = { address = …, cert_file = …, key_file = … }`
#[derive(Debug)]
pub struct Https {
    /// Where clients connect.
    pub address: Option<At<SocketAddr>>,
    /// The certificate, and those that signed it, in PEM.
    pub cert_file: Option<At<PathBuf>>,
    /// Its private key, in PEM.
    pub key_file: Option<At<PathBuf>>,
    /// Where the table stands.
    pub at: At<()>,
}

/// `[posture]`
#[derive(Debug, Default)]
pub struct Posture {
    /// `local`, `ci` or `production`.
    pub environment: Option<At<String>>,
    /// The insecure bypass.
    pub allow_insecure_no_api_key: Option<At<bool>>,
}

/// `[limits]`
#[derive(Debug, Default)]
pub struct Limits {
    /// Bytes of a request's head.
    pub head_bytes: Option<At<Size>>,
    /// Header lines of a request.
    pub header_count: Option<At<u64>>,
    /// From the first byte of a head to its end.
    pub head_timeout: Option<At<Duration>>,
    /// From the end of the head to the end of the body.
    pub body_timeout: Option<At<Duration>>,
    /// Between two requests of one connection.
    pub keepalive_timeout: Option<At<Duration>>,
    /// Connections in all.
    pub connections: Option<At<u64>>,
    /// Connections from one address.
    pub connections_per_address: Option<At<u64>>,
    /// Failed proofs from one address.
    pub failures_per_address: Option<At<RateWritten>>,
    /// Bytes of webhook bodies.
    pub webhook_memory: Option<At<Size>>,
}

/// `[spool]`
#[derive(Debug, Default)]
pub struct Spool {
    /// Deliveries that wait.
    pub entries: Option<At<u64>>,
    /// Their bytes.
    pub bytes: Option<At<Size>>,
    /// How long one is tried.
    pub age: Option<At<Duration>>,
    /// Dead letters that are kept.
    pub dead_entries: Option<At<u64>>,
    /// Their bytes.
    pub dead_bytes: Option<At<Size>>,
    /// How much of it one source may take, in percent.
    pub source_share: Option<At<u64>>,
}

/// `[upstreams.<name>]`
#[derive(Debug)]
pub struct Upstream {
    /// The table's name.
    pub id: At<String>,
    /// `host:port` or `unix:/path`.
    pub address: Option<At<String>>,
    /// Until a connection stands.
    pub connect_timeout: Option<At<Duration>>,
    /// Between two reads of an answer.
    pub response_timeout: Option<At<Duration>>,
    /// What it has to prove, when it is spoken to by TLS.
    pub tls: Option<UpstreamTls>,
    /// Whether requests are meant to leave this machine as plain HTTP.
    pub clear_text: Option<At<bool>>,
    /// Headers set from secrets: header name and secret name.
    pub set_headers: Vec<(At<String>, At<String>)>,
    /// Where the table stands.
    pub at: At<()>,
}

/// `tls = { server_name = …, ca_file = … }` of an upstream.
#[derive(Debug)]
pub struct UpstreamTls {
    /// The name its certificate is for; that of the address unless written.
    pub server_name: Option<At<String>>,
    /// Who may vouch for it, in PEM; those the machine trusts unless written.
    pub ca_file: Option<At<PathBuf>>,
    /// Where the table stands.
    pub at: At<()>,
}

/// One list of `[secrets]`.
#[derive(Debug)]
pub struct SecretList {
    /// The list's name.
    pub id: At<String>,
    /// Its entries: several live ones are a rotation with overlap.
    pub entries: Vec<SecretEntry>,
}

/// Where one secret comes from, and until when it counts.
#[derive(Debug)]
pub struct SecretEntry {
    /// Where the entry stands.
    pub at: At<()>,
    /// The reference.
    pub source: Option<SecretSource>,
    /// After this moment the entry is not even read.
    pub expires: Option<At<Timestamp>>,
}

/// A reference to a secret. There is no form for the secret itself.
#[derive(Debug)]
pub enum SecretSource {
    /// A file; one trailing newline is taken off.
    File(At<PathBuf>),
    /// An environment variable, verbatim.
    Env(At<String>),
    /// `sha256:<hex>` of an API key or a token.
    Digest(At<String>),
}

/// `[[scopes]]`
#[derive(Debug)]
pub struct Scope {
    /// Its id, named by keys.
    pub id: Option<At<String>>,
    /// `METHOD /path`, where the path may end in `/*`.
    pub allow: Option<At<Vec<At<String>>>>,
    /// Where the table stands.
    pub at: At<()>,
}

/// `[[keys]]`
#[derive(Debug)]
pub struct Key {
    /// Its id, as it stands in logs and in `X-Orket-Actor`.
    pub id: Option<At<String>>,
    /// A list in `[secrets]`.
    pub secret: Option<At<String>>,
    /// What it may do.
    pub scopes: Option<At<Vec<At<String>>>>,
    /// Until when it works.
    pub expires: Option<At<Timestamp>>,
    /// Where the table stands.
    pub at: At<()>,
}

/// `[[rate_limits]]`
#[derive(Debug)]
pub struct RateLimit {
    /// Its id, announced in `RateLimit-Policy`.
    pub id: Option<At<String>>,
    /// `key`, `source`, `address` or `route`.
    pub by: Option<At<String>>,
    /// How often.
    pub rate: Option<At<RateWritten>>,
    /// How many at once; the rate's count unless said.
    pub burst: Option<At<u64>>,
    /// `enforce` or `shadow`.
    pub mode: Option<At<String>>,
    /// Where the table stands.
    pub at: At<()>,
}

/// `[[routes]]`
#[derive(Debug)]
pub struct Route {
    /// Its id.
    pub id: Option<At<String>>,
    /// An exact path, or one that ends in `/*`.
    pub path: Option<At<String>>,
    /// The methods it takes.
    pub methods: Option<At<Vec<At<String>>>>,
    /// What proof it wants.
    pub auth: Option<Auth>,
    /// Limits it spends from.
    pub rate_limits: Vec<At<String>>,
    /// Address rules.
    pub addresses: Addresses,
    /// Most bytes of a body.
    pub body_limit: Option<At<Size>>,
    /// Whether repetitions of a done delivery are answered without asking.
    pub replay: Option<At<bool>>,
    /// Whether deliveries are kept while the upstream is down.
    pub spool: Option<At<bool>>,
    /// The name the deliveries belong to.
    pub source: Option<At<String>>,
    /// Whether the sender's signature headers reach the upstream.
    pub keep_signature: Option<At<bool>>,
    /// Whether `Authorization` reaches the upstream.
    pub keep_authorization: Option<At<bool>>,
    /// The path sent upstream instead of the judged one.
    pub rewrite: Option<At<String>>,
    /// `websocket`.
    pub upgrade: Option<At<String>>,
    /// An upstream's name.
    pub upstream: Option<At<String>>,
    /// Where the table stands.
    pub at: At<()>,
}

/// `[[tests]]`: a request, and what the policy must say of it.
#[derive(Debug)]
pub struct Test {
    /// What it holds.
    pub name: Option<At<String>>,
    /// `request.method`; GET unless said.
    pub method: Option<At<String>>,
    /// `request.path`, with its query.
    pub path: Option<At<String>>,
    /// `request.headers`
    pub headers: Vec<(At<String>, At<String>)>,
    /// `request.body`
    pub body: Option<At<String>>,
    /// `request.address`: the client's.
    pub address: Option<At<IpAddr>>,
    /// `request.at`: the moment it is judged at.
    pub moment: Option<At<Timestamp>>,
    /// `expect.status`
    pub status: Option<At<u64>>,
    /// `expect.reason`: the true reason of a refusal.
    pub reason: Option<At<String>>,
    /// `expect.forward`: the upstream it reaches.
    pub forward: Option<At<String>>,
    /// Where the table stands.
    pub at: At<()>,
}

/// `auth = { kind = …, … }`
#[derive(Debug)]
pub struct Auth {
    /// `api_key`, `webhook`, `test_webhook` or `none`.
    pub kind: Option<At<String>>,
    /// The kind of sender, for `webhook`.
    pub provider: Option<At<String>>,
    /// The sender's secret, for `webhook`.
    pub secret: Option<At<String>>,
    /// What the sender `generic` signs, and how.
    pub hmac: Option<Hmac>,
    /// The switch of `test_webhook`.
    pub enabled: Option<At<bool>>,
    /// The token of `test_webhook`.
    pub token: Option<At<String>>,
    /// Where the table stands.
    pub at: At<()>,
}

/// `[routes.auth.hmac]`: the sender `generic`.
#[derive(Debug)]
pub struct Hmac {
    /// The header of the signature.
    pub header: Option<At<String>>,
    /// `sha256` or `sha512`.
    pub algorithm: Option<At<String>>,
    /// `hex` or `base64`.
    pub encoding: Option<At<String>>,
    /// What stands before the signature in its header.
    pub prefix: Option<At<String>>,
    /// What is signed: `{body}`, and `{timestamp}`, `{id}` and text around it.
    pub signed: Option<At<String>>,
    /// The header of the time.
    pub timestamp_header: Option<At<String>>,
    /// How far the time may be off.
    pub tolerance: Option<At<Duration>>,
    /// The header of the message's id.
    pub id_header: Option<At<String>>,
    /// The header of the event.
    pub event_header: Option<At<String>>,
    /// Where the table stands.
    pub at: At<()>,
}

/// `addresses = { allow = […], deny = […], exempt = […] }`
#[derive(Debug, Default)]
pub struct Addresses {
    /// When not empty, only these.
    pub allow: Vec<At<String>>,
    /// Never these.
    pub deny: Vec<At<String>>,
    /// Not counted, not slowed down.
    pub exempt: Vec<At<String>>,
    /// `enforce` or `shadow`.
    pub mode: Option<At<String>>,
}
