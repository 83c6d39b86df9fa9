//! The policy as meant: parsed, complete, immutable.
//!
//! Whatever a request could need is resolved here once, when the policy loads: references are
//! followed, secrets are read, patterns are compiled. A request holds one [`Policy`] from its first
//! check to its last byte. A policy that cannot be meant completely does not exist: see
//! [`load`].

pub mod address;
pub mod keys;
pub mod load;
pub mod posture;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method};
use jiff::Timestamp;

use self::{
    address::{AddressRules, Networks},
    keys::KeyRing,
    posture::Environment,
};
use crate::{
    connection::Scheme,
    limit::Rate,
    route::RouteTable,
    secret::Secret,
    tls::{identity::Identity, trust::Trust},
    webhook::{Sender, key::Key},
};

/// Everything an operator decided.
#[derive(Debug)]
pub struct Policy {
    /// Where it comes from: a file's path, or the built-in policy.
    pub origin: Origin,
    /// SHA-256 of its text, in hex.
    pub fingerprint: String,
    /// Addresses and worker threads; fixed while the program runs.
    pub listen: Listen,
    /// What the `https` listener proves itself with; there whenever that listener is.
    pub identity: Option<Identity>,
    /// Where state lies.
    pub state_dir: PathBuf,
    /// How strict the surroundings are.
    pub environment: Environment,
    /// The insecure bypass, as switched and as in force.
    pub bypass: Bypass,
    /// Whether the gateway itself answers `GET /health`.
    pub health: bool,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Networks,
    /// Sizes, times and counts.
    pub limits: Limits,
    /// Where requests go.
    pub upstreams: Vec<Upstream>,
    /// The API keys.
    pub keys: KeyRing,
    /// Named budgets, spent from by routes.
    pub rate_limits: Vec<RateLimit>,
    /// How much may wait in the spool.
    pub spool: SpoolBounds,
    /// What may come in at all.
    pub routes: RouteTable,
}

impl Policy {
    /// Whether any route keeps deliveries in the spool.
    pub fn spools(&self) -> bool {
        self.routes.iter().any(|r| r.spool == Spooling::On)
    }
}

/// Where a policy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Filled from the environment.
    BuiltIn,
    /// A file.
    File(PathBuf),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in policy"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Addresses and workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where clients connect. At least one of the two is there.
    pub http: Option<SocketAddr>,
    /// Where clients connect by TLS.
    pub https: Option<SocketAddr>,
    /// Metrics and readiness; loopback only.
    pub admin: SocketAddr,
    /// The operator's socket.
    pub control: PathBuf,
    /// Worker threads, each with connections of its own.
    pub threads: usize,
}

impl Listen {
    /// What a client speaks of whom nothing else is known: TLS where that is offered.
    pub fn scheme(&self) -> Scheme {
        match self.https {
            Some(_) => Scheme::Https,
            None => Scheme::Http,
        }
    }

    /// Whether clients can only be processes of this machine.
    pub fn is_loopback(&self) -> bool {
        self.http
            .iter()
            .chain(&self.https)
            .all(|a| a.ip().is_loopback())
    }
}

/// The insecure bypass: routes of API keys are open when no key is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bypass {
    /// Not switched on.
    Off,
    /// Switched on, but a key is configured, so it opens nothing.
    Idle,
    /// In force.
    Open,
}

/// Sizes, times and counts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of a head.
    pub head_bytes: usize,
    /// Most header lines.
    pub header_count: usize,
    /// From the first byte of a head to its end.
    pub head_timeout: Duration,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// Between two requests of one connection.
    pub keepalive_timeout: Duration,
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub connections_per_address: usize,
    /// Failed proofs from one address.
    pub failures_per_address: Option<Rate>,
    /// Bytes of webhook bodies in memory, from their arrival until the upstream has answered or the disk has them.
    pub webhook_memory: usize,
}

/// How much may wait in the spool, how long, and how much of what failed is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolBounds {
    /// Deliveries that wait.
    pub entries: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How much of both one source may take, in percent: 1 to 100.
    pub source_share: u8,
    /// How long one is tried before it counts as failed.
    pub age: Duration,
    /// Dead letters that are kept.
    pub dead_entries: usize,
    /// Their bytes.
    pub dead_bytes: u64,
}

impl SpoolBounds {
    /// How many deliveries of one source may wait: at least one.
    pub fn entries_of_source(&self) -> usize {
        (self.entries.saturating_mul(usize::from(self.source_share)) / 100).max(1)
    }

    /// How many bytes the waiting deliveries of one source may take.
    pub fn bytes_of_source(&self) -> u64 {
        (u128::from(self.bytes) * u128::from(self.source_share) / 100)
            .try_into()
            .unwrap_or(u64::MAX)
    }
}

/// Where requests go.
#[derive(Debug)]
pub struct Upstream {
    /// Its name.
    pub id: String,
    /// Its address.
    pub address: UpstreamAddress,
    /// What it has to prove; `None` where it is spoken to in clear.
    pub trust: Option<Trust>,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Between two reads of an answer.
    pub response_timeout: Duration,
    /// Headers set on every request to it.
    pub set_headers: Vec<SetHeader>,
}

/// A header that is set from a secret.
#[derive(Debug)]
pub struct SetHeader {
    /// Its name.
    pub name: HeaderName,
    /// Its value, marked as sensitive.
    pub value: HeaderValue,
    /// The secret's name.
    pub secret: String,
}

/// An upstream's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// A unix socket.
    Unix(String),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// A named budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Its id.
    pub id: String,
    /// Whose budget it is.
    pub by: BudgetOf,
    /// How often.
    pub rate: Rate,
    /// Whether it refuses.
    pub mode: Mode,
}

/// Whether a rule refuses. Only limits and address rules have a mode: proof, admission and body caps have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It is judged, logged and counted, and refuses nothing.
    Shadow,
}

/// Whose budget a limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetOf {
    /// An API key's.
    Key,
    /// A webhook source's.
    Source,
    /// A client address's.
    Address,
    /// A route's as a whole.
    Route,
}

/// One route.
#[derive(Debug)]
pub struct Route {
    /// Its id.
    pub id: Arc<str>,
    /// The paths it has.
    pub path: PathPattern,
    /// The methods it takes.
    pub methods: Vec<Method>,
    /// What proof it wants.
    pub auth: Auth,
    /// Indices into [`Policy::rate_limits`].
    pub budgets: Vec<usize>,
    /// Address rules.
    pub addresses: AddressRules,
    /// Most bytes of a body.
    pub body_limit: usize,
    /// The path sent upstream, when it differs from the judged one.
    pub rewrite: Option<PathPattern>,
    /// Whether the sender's signature headers reach the upstream.
    pub keep_signature: bool,
    /// Whether `Authorization` reaches the upstream.
    pub keep_authorization: bool,
    /// Whether the connection may become a WebSocket.
    pub upgrade: Upgrade,
    /// Whether deliveries wait on disk while the upstream does not take them.
    pub spool: Spooling,
    /// Index into [`Policy::upstreams`].
    pub upstream: usize,
}

/// What becomes of a delivery that the upstream does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spooling {
    /// Its sender is told.
    Off,
    /// It is kept on disk and handed over later.
    On,
}

/// Whether a route's connection may become something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upgrade {
    /// It stays HTTP.
    None,
    /// It may become a WebSocket (RFC 6455).
    WebSocket,
}

/// An exact path, or all paths below a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// Exactly this path.
    Exact(String),
    /// One or more segments below this prefix, which ends in `/`.
    Below(String),
}

impl PathPattern {
    /// The pattern that is written so. What may stand in one, the loader judges.
    pub fn of(written: &str) -> Self {
        match written.strip_suffix("/*") {
            Some(prefix) => Self::Below(format!("{prefix}/")),
            None => Self::Exact(written.to_owned()),
        }
    }

    /// Whether some path has both patterns.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (pattern @ Self::Below(_), Self::Exact(path))
            | (Self::Exact(path), pattern @ Self::Below(_)) => pattern.matches(path),
            (Self::Below(a), Self::Below(b)) => {
                a.starts_with(b.as_str()) || b.starts_with(a.as_str())
            }
        }
    }

    /// Whether the pattern has this path.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Below(prefix) => path.len() > prefix.len() && path.starts_with(prefix.as_str()),
        }
    }
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(p) => f.write_str(p),
            Self::Below(p) => write!(f, "{p}*"),
        }
    }
}

/// What proof a route wants.
#[derive(Debug)]
pub enum Auth {
    /// An API key.
    ApiKey,
    /// A sender's signature over the body.
    Webhook(WebhookAuth),
    /// The gated test webhook.
    TestWebhook(TestWebhookAuth),
    /// None, and the policy says so in writing.
    None,
}

/// How deliveries of a sender are proven.
#[derive(Debug)]
pub struct WebhookAuth {
    /// The kind of sender.
    pub provider: Sender,
    /// Its secrets; none only in the built-in policy, where it means that all is refused.
    pub secrets: Vec<WebhookSecret>,
    /// The name its deliveries belong to.
    pub source: Arc<str>,
    /// Whether repetitions of a done delivery are answered without asking.
    pub replay: bool,
}

/// A secret of a sender, ready to prove deliveries.
#[derive(Debug, Clone)]
pub struct WebhookSecret {
    /// What it is called in metrics: its list, and its place in it from 1.
    pub label: Arc<str>,
    /// The secret as configured.
    pub text: Secret,
    /// What it means to the sender.
    pub key: Key,
    /// After this moment it proves nothing.
    pub expires: Option<Timestamp>,
}

/// What opens the test webhook.
#[derive(Debug)]
pub enum TestWebhookAuth {
    /// Nothing: it is switched off.
    Disabled,
    /// Nothing: it is on, but there is neither a token nor a key.
    NotConfigured,
    /// One of these tokens, in `X-Webhook-Test-Token`.
    Token(Vec<(crate::secret::SecretDigest, Option<Timestamp>)>),
    /// Any live API key, in `X-API-Key`.
    ApiKey,
}
