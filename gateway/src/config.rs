//! The policy file as written: every field with the place it stands at, nothing judged yet.
//!
//! Reading collects *all* problems of form (unknown fields, wrong types, unreadable values) instead
//! of stopping at the first. What the values mean, and whether they fit together, is
//! [`crate::policy`]'s to say. Nothing at runtime holds a type of this module.

pub mod diagnostic;
pub mod reader;
pub mod reference;
pub mod value;

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;

use self::{
    diagnostic::Diagnostics,
    reader::{Asked, At, Document, Table},
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

/// Reads the text of a policy file. Problems go to `problems`; what could be read is returned.
pub fn read(text: &str, problems: &mut Diagnostics) -> Written {
    read_from(&Document::Text(text), problems)
}

/// Every setting that [`read`] asks for, with its table and type.
pub fn catalogue() -> Vec<Asked> {
    let asked = RefCell::default();
    let mut none = Diagnostics::new("", "");
    read_from(&Document::Survey(&asked), &mut none);
    asked.into_inner()
}

fn read_from(document: &Document<'_>, problems: &mut Diagnostics) -> Written {
    reader::with_root(document, problems, |root| {
        let version = root
            .required("version", reader::Kind::Integer)
            .and_then(|v| root.integer_of(&v));
        if let Some(version) = version.filter(|v| v.value != 1) {
            root.error(
                &version.span,
                format!("version {} is not known", version.value),
                Some("this program reads version 1".into()),
            );
        }
        root.conceal_strings("secrets");
        Written {
            listen: root.table("listen", read_listen).unwrap_or_default(),
            state_dir: root
                .table("state", |t| t.string("dir").map(|d| d.map(PathBuf::from)))
                .flatten(),
            posture: root
                .table("posture", |t| Posture {
                    environment: t.string("environment"),
                    allow_insecure_no_api_key: t.boolean("allow_insecure_no_api_key"),
                })
                .unwrap_or_default(),
            trusted_proxies: root
                .table("client_address", |t| t.strings("trusted_proxies"))
                .unwrap_or_default(),
            limits: root.table("limits", read_limits).unwrap_or_default(),
            health: root.boolean("health"),
            upstreams: root.tables_by_name("upstreams", read_upstream),
            secrets: root.lists_by_name("secrets", read_secret_entry),
            scopes: root.array_of_tables("scopes", |t| Scope {
                id: t.string("id"),
                allow: t.strings_at("allow"),
                at: t.at(),
            }),
            keys: root.array_of_tables("keys", |t| Key {
                id: t.string("id"),
                secret: t.string("secret"),
                scopes: t.strings_at("scopes"),
                expires: t.timestamp("expires"),
                at: t.at(),
            }),
            rate_limits: root.array_of_tables("rate_limits", |t| RateLimit {
                id: t.string("id"),
                by: t.string("by"),
                rate: t.parsed("rate", value::rate),
                burst: t.integer("burst"),
                mode: t.string("mode"),
                at: t.at(),
            }),
            routes: root.array_of_tables("routes", read_route),
            tests: root.array_of_tables("tests", read_test),
        }
    })
}

fn read_listen(t: &Table<'_>) -> Listen {
    Listen {
        http: t.parsed("http", value::socket_address),
        https: t.table("https", |h| Https {
            address: h.parsed("address", value::socket_address),
            cert_file: h.string("cert_file").map(|f| f.map(PathBuf::from)),
            key_file: h.string("key_file").map(|f| f.map(PathBuf::from)),
            at: h.at(),
        }),
        admin: t.parsed("admin", value::socket_address),
        control: t.string("control"),
        threads: t.integer("threads"),
    }
}

fn read_limits(t: &Table<'_>) -> Limits {
    Limits {
        head_bytes: t.parsed("head_bytes", value::size),
        header_count: t.integer("header_count"),
        head_timeout: t.parsed("head_timeout", value::duration),
        body_timeout: t.parsed("body_timeout", value::duration),
        keepalive_timeout: t.parsed("keepalive_timeout", value::duration),
        connections: t.integer("connections"),
        connections_per_address: t.integer("connections_per_address"),
        failures_per_address: t.parsed("failures_per_address", value::rate),
    }
}

fn read_upstream(id: At<String>, t: &Table<'_>) -> Upstream {
    Upstream {
        id,
        address: t.string("address"),
        connect_timeout: t.parsed("connect_timeout", value::duration),
        response_timeout: t.parsed("response_timeout", value::duration),
        tls: t.table("tls", |u| UpstreamTls {
            server_name: u.string("server_name"),
            ca_file: u.string("ca_file").map(|f| f.map(PathBuf::from)),
            at: u.at(),
        }),
        set_headers: t.string_map("set_headers"),
        at: t.at(),
    }
}

fn read_secret_entry(t: &Table<'_>) -> SecretEntry {
    let found: Vec<SecretSource> = [
        t.string("file")
            .map(|f| SecretSource::File(f.map(PathBuf::from))),
        t.string("env").map(SecretSource::Env),
        t.string("digest").map(SecretSource::Digest),
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.len() != 1 {
        t.error_here(
            "a secret is exactly one of `file`, `env` or `digest`",
            Some("e.g. { file = \"/etc/orket/gitea\" }"),
        );
    }
    SecretEntry {
        at: t.at(),
        source: found.into_iter().next(),
        expires: t.timestamp("expires"),
    }
}

fn read_route(t: &Table<'_>) -> Route {
    Route {
        id: t.string("id"),
        path: t.string("path"),
        methods: t.strings_at("methods"),
        auth: t.table("auth", |a| Auth {
            kind: a.string("kind"),
            provider: a.string("provider"),
            secret: a.string("secret"),
            hmac: a.table("hmac", read_hmac),
            enabled: a.boolean("enabled"),
            token: a.string("token"),
            at: a.at(),
        }),
        rate_limits: t.strings("rate_limits"),
        addresses: t
            .table("addresses", |a| Addresses {
                allow: a.strings("allow"),
                deny: a.strings("deny"),
                exempt: a.strings("exempt"),
                mode: a.string("mode"),
            })
            .unwrap_or_default(),
        body_limit: t.parsed("body_limit", value::size),
        replay: t.boolean("replay"),
        spool: t.boolean("spool"),
        source: t.string("source"),
        keep_signature: t.boolean("keep_signature"),
        keep_authorization: t.boolean("keep_authorization"),
        rewrite: t.string("rewrite"),
        upgrade: t.string("upgrade"),
        upstream: t.string("upstream"),
        at: t.at(),
    }
}

fn read_hmac(t: &Table<'_>) -> Hmac {
    Hmac {
        header: t.string("header"),
        algorithm: t.string("algorithm"),
        encoding: t.string("encoding"),
        prefix: t.string("prefix"),
        signed: t.string("signed"),
        timestamp_header: t.string("timestamp_header"),
        tolerance: t.parsed("tolerance", value::duration),
        id_header: t.string("id_header"),
        event_header: t.string("event_header"),
        at: t.at(),
    }
}

fn read_test(t: &Table<'_>) -> Test {
    let mut test = Test {
        name: t.string("name"),
        method: None,
        path: None,
        headers: Vec::new(),
        body: None,
        address: None,
        moment: None,
        status: None,
        reason: None,
        forward: None,
        at: t.at(),
    };
    t.table("request", |r| {
        test.method = r.string("method");
        test.path = r.string("path");
        test.headers = r.string_map("headers");
        test.body = r.string("body");
        test.address = r.parsed("address", value::address);
        test.moment = r.timestamp("at");
    });
    t.table("expect", |e| {
        test.status = e.integer("status");
        test.reason = e.string("reason");
        test.forward = e.string("forward");
    });
    test
}
