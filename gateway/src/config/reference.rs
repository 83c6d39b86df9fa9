//! What the settings of a policy file mean: the tables of `docs/reference/policy.md`.
//!
//! Names and types are not written here: they are what the reader asks for ([`catalogue`]). A test holds that
//! every setting that is read is described, that nothing else is, and that the defaults told are the ones in force.

use super::catalogue;

/// A table of the file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Where it stands: `limits`, `routes[].auth`, `upstreams.<id>`; empty for the top.
    pub path: &'static str,
    /// Its heading.
    pub heading: &'static str,
    /// What is to be said of it as a whole.
    pub intro: &'static str,
    /// Its settings, in the order they are shown.
    pub fields: &'static [Field],
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What holds where it is not written.
    pub default: Unwritten,
    /// What it means.
    pub meaning: &'static str,
}

/// What holds where a setting is not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// The policy does not load.
    Refused,
    /// The same as this, written in TOML.
    Is(&'static str),
    /// This, in words.
    Told(&'static str),
}

use Unwritten::{Is, Refused, Told};

const fn field(name: &'static str, default: Unwritten, meaning: &'static str) -> Field {
    Field {
        name,
        default,
        meaning,
    }
}

/// All tables, in the order they are shown.
#[rustfmt::skip]
pub const SECTIONS: &[Section] = &[
    Section { path: "", heading: "The top", intro: "", fields: &[
        field("version", Refused, "of this format; 1"),
        field("health", Is("true"), "the gateway answers `GET /health` itself; `false` gives the path to a route"),
    ] },
    Section { path: "listen", heading: "`[listen]`", intro: "A change needs a restart.", fields: &[
        field("http", Told("`127.0.0.1:8080`; with `https`, nowhere"), "where clients connect; plain HTTP. Beyond loopback: warned of, refused in production"),
        field("https", Told("nowhere"), "where clients connect by [TLS](#https), besides or instead of `http`"),
        field("admin", Is("\"127.0.0.1:9901\""), "`/metrics` and `/ready`; loopback only"),
        field("control", Told("`gateway.sock` in `state.dir`"), "the operator's socket, for `orket-gateway reload` and `explain --live`: `unix:/path`, made with mode 0600"),
        field("threads", Told("the number of cores"), "workers, 1 to 256"),
    ] },
    Section { path: "listen.https", heading: "`https` of `[listen]`", intro: "", fields: &[
        field("address", Refused, "where clients connect"),
        field("cert_file", Refused, "PEM: the server's own certificate first, then those that signed it"),
        field("key_file", Refused, "PEM: PKCS#8, PKCS#1 or SEC1, not encrypted"),
    ] },
    Section { path: "state", heading: "`[state]`", intro: "", fields: &[
        field("dir", Is("\".orket\""), "where state lies: the control socket, the memory of done deliveries, the spool and the list of revoked keys. A directory of this gateway's own: it belongs to its user, nobody else can write it, and one process has it at a time. A change needs a restart"),
    ] },
    Section { path: "spool", heading: "`[spool]`", intro: "For routes with `spool = true`. Beyond `entries` or `bytes`, or when the disk takes nothing, deliveries are answered 503 with `Retry-After`; what waits is never dropped for them. The sender is answered within 2 s of the proof: the upstream is tried for at most 1.2 s, the disk has the rest. First tries of a source run side by side, and what the upstream refuses in one (a 4xx) is relayed to the sender, who hears it, and is not kept. Order begins when one waits: then all that come join it untried and are handed over one by one, and a 4xx is kept as a dead letter.", fields: &[
        field("entries", Is("10000"), "deliveries that wait, 1 to 1000000"),
        field("bytes", Is("\"256MiB\""), "what they take"),
        field("source_share", Told("50 where several sources spool, else 100"), "how much of `entries` and of `bytes` one source may take, in percent: whoever has one source's secret cannot fill the spool for the others (503 `spool_share_full`)"),
        field("age", Is("\"7d\""), "how long one is tried before it is a dead letter; units up to days (`\"7d\"`)"),
        field("dead_entries", Is("1000"), "dead letters that are kept; the oldest makes room for the newest, and an audit record (`dead_letter_dropped`) says so"),
        field("dead_bytes", Is("\"64MiB\""), "what they take"),
    ] },
    Section { path: "posture", heading: "`[posture]`", intro: "", fields: &[
        field("environment", Is("\"production\""), "`local`, `ci` or `production`; see [the matrix](../SECURITY.md#environments)"),
        field("allow_insecure_no_api_key", Is("false"), "[the insecure switch](../SECURITY.md#the-insecure-switch)"),
    ] },
    Section { path: "client_address", heading: "`[client_address]`", intro: "", fields: &[
        field("trusted_proxies", Is("[]"), "addresses and networks whose `X-Forwarded-For` is believed: read from the right to the first hop that is not in this list. They are exempt from the cap on connections per address"),
    ] },
    Section { path: "limits", heading: "`[limits]`", intro: "", fields: &[
        field("head_bytes", Is("\"16KiB\""), "of a request line with its headers, 256B to 256KiB"),
        field("header_count", Is("100"), "header lines, 1 to 250"),
        field("head_timeout", Is("\"10s\""), "from the first byte of a head to its end"),
        field("body_timeout", Is("\"30s\""), "from the end of a head to the end of its body"),
        field("keepalive_timeout", Is("\"60s\""), "between two requests of a connection"),
        field("connections", Is("10000"), "in all, 1 to 1000000"),
        field("connections_per_address", Is("256"), "an IPv6 client counts by its /64; 1 to 1000000"),
        field("failures_per_address", Is("\"120/min\""), "failed proofs; `none` switches it off"),
        field("webhook_memory", Is("\"256MiB\""), "bodies of webhooks held in memory, in all: from their first byte until the upstream has answered or the disk has them. Of it, one address may hold a quarter unproven (429 `webhook_share_exceeded`), and a half proven; so may one source. All unproven ones together have half of what is not proven; up to 64KiB from an address that holds no more finds room in three quarters of it, an exempt one in all. All of it taken: 503 `webhook_memory_full`. At least four of the largest `body_limit` of a webhook's route. What the spool hands over takes at most half as much besides"),
    ] },
    Section { path: "upstreams.<id>", heading: "`[upstreams.<id>]`", intro: "", fields: &[
        field("address", Refused, "`host:port` or `unix:/path` (at most 107 bytes). A name is looked up once, when the policy loads; a reload looks again"),
        field("tls", Told("plain HTTP"), "the upstream is spoken to by TLS, and has to prove who it is: [below](#tls-of-an-upstream). `tls = {}` is TLS with both defaults; there is no way to switch the proof off"),
        field("clear_text", Is("false"), "that requests go to another machine as plain HTTP is meant: the network between is trusted, or encrypted below. Without it production refuses an address beyond loopback without `tls`; with it `ci` and production warn"),
        field("connect_timeout", Is("\"1s\""), "until a connection stands, its TLS handshake included"),
        field("response_timeout", Is("\"30s\""), "until the head of an answer, and between two parts of it; not between two events of a `text/event-stream` that answers a request without a body, and not on an upgraded connection"),
        field("set_headers", Is("{}"), "header names and the secrets that are put there"),
    ] },
    Section { path: "upstreams.<id>.tls", heading: "`tls` of an upstream", intro: "", fields: &[
        field("server_name", Told("the host of `address`"), "the name its certificate has to be for"),
        field("ca_file", Told("those this machine trusts"), "PEM: whose certificates vouch for it"),
    ] },
    Section { path: "secrets.<id>[]", heading: "`[secrets]`", intro: "A list of references under each name, each with exactly one of `file`, `env` and `digest`. Several live entries are all accepted: a rotation with overlap. There is no way to write a secret itself into the file.", fields: &[
        field("file", Told("one of the three"), "a file; one newline at its end is taken off"),
        field("env", Told("one of the three"), "a variable, verbatim"),
        field("digest", Told("one of the three"), "`sha256:` and 64 hex digits, for what callers present and the gateway only recognises: API keys and test tokens"),
        field("expires", Told("never"), "from then on the entry is not read"),
    ] },
    Section { path: "scopes[]", heading: "`[[scopes]]`", intro: "", fields: &[
        field("id", Refused, "named by keys; letters, digits, `-`, `_`, `.` and `:`"),
        field("allow", Refused, "`METHOD /path`, where the path may end in `/*`"),
    ] },
    Section { path: "keys[]", heading: "`[[keys]]`", intro: "", fields: &[
        field("id", Refused, "stands in the log and in `X-Orket-Actor` as `key:<id>`"),
        field("secret", Refused, "a name in `[secrets]`"),
        field("scopes", Refused, "ids of scopes; what none of them allows is refused with `scope_missing`. `[\"*\"]` allows everything"),
        field("expires", Told("never"), "from then on `api_key_expired`"),
    ] },
    Section { path: "rate_limits[]", heading: "`[[rate_limits]]`", intro: "Routes name the limits they spend from. A limiter remembers at most 98 304 owners, all together at most 786 432: with more than 8 limiters (two are the gateway's own) each remembers fewer. Owners that have their whole budget back make room; what finds none shares one budget with the others that found none. So the limiters of a policy take less than 64 MiB, whoever asks and however many come and go. Answers announce the limits of a route as draft-ietf-httpapi-ratelimit-headers-10 has it, in lists of structured fields (RFC 9651): `RateLimit-Policy: \"per-key\";q=600;w=60`, `RateLimit: \"per-key\";r=599;t=1`. `q` in `w` seconds is the rate; `r` are left at once, and after `t` seconds all are back, or one after a refusal.", fields: &[
        field("id", Refused, "announced in `RateLimit-Policy` and `RateLimit`"),
        field("by", Refused, "whose budget: `key`, `source` (webhooks), `address` (an IPv6 client by its /64), `route`"),
        field("rate", Refused, "how often"),
        field("burst", Told("the rate's count"), "how many at once"),
        field("mode", Is("\"enforce\""), "`enforce`, or `shadow`: see [shadow mode](#shadow-mode)"),
    ] },
    Section { path: "routes[]", heading: "`[[routes]]`", intro: "What no route names is refused. Exact paths beat prefixes, longer prefixes beat shorter ones; two routes of one path that share a method do not load.", fields: &[
        field("id", Refused, "stands in the log and the metrics"),
        field("path", Refused, "exact, or a prefix that ends in `/*` (one or more segments)"),
        field("methods", Refused, "of GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        field("auth", Refused, "what proof it wants: [below](#auth-of-a-route)"),
        field("upstream", Refused, "a name of `[upstreams]`"),
        field("rate_limits", Is("[]"), "ids of limits to spend from, after proof"),
        field("addresses", Is("{}"), "who may ask: [below](#addresses-of-a-route)"),
        field("body_limit", Is("\"1MiB\""), "bytes of a body; at most 64MiB for webhooks"),
        field("replay", Told("`true` for webhooks"), "webhooks: a repetition of a done delivery is answered `duplicate`; `false` forwards each as new"),
        field("source", Told("the `id`"), "webhooks: the name the deliveries belong to; routes of one forge should share it"),
        field("spool", Is("false"), "webhooks: what the upstream does not take within 1.2 s (unreachable, too slow, 5xx, 408, 425, 429), or what is over the source's budget, is written to disk, answered 202 and handed over later, in order; see [`[spool]`](#spool). Not with `keep_authorization`"),
        field("keep_signature", Is("false"), "the sender's signature headers reach the upstream"),
        field("keep_authorization", Is("false"), "`Authorization` reaches the upstream"),
        field("rewrite", Told("the judged path"), "the path sent upstream instead of the judged one; ends in `/*` if `path` does"),
        field("upgrade", Told("none"), "`websocket`"),
    ] },
    Section { path: "routes[].auth", heading: "`auth` of a route", intro: "", fields: &[
        field("kind", Refused, "`api_key`, `webhook`, `test_webhook` or `none`"),
        field("provider", Told("must be written for `webhook`"), "the kind of sender: one of the [senders](#senders)"),
        field("secret", Told("must be written for `webhook`"), "a name in `[secrets]`"),
        field("hmac", Told("must be written for `generic`"), "what the sender `generic` signs: [below](#hmac-of-auth)"),
        field("enabled", Told("`false` for `test_webhook`"), "the switch of `test_webhook`"),
        field("token", Told("an API key opens it"), "a name in `[secrets]`; when set, only it opens `test_webhook`"),
    ] },
    Section { path: "routes[].auth.hmac", heading: "`hmac` of `auth`", intro: "The sender `generic`.", fields: &[
        field("header", Refused, "the header of the signature"),
        field("algorithm", Refused, "`sha256` or `sha512`"),
        field("encoding", Refused, "`hex` (lower case) or `base64` (standard alphabet, padded)"),
        field("prefix", Told("nothing"), "what stands before the signature in its header"),
        field("signed", Refused, "the text that is signed: `{body}` exactly once, `{timestamp}` and `{id}` at most once, any text between. Beside `{id}` a character is needed that is no letter, digit, `-` or `_`"),
        field("timestamp_header", Told("no time is signed"), "the header of the time, in seconds since 1970; with `{timestamp}` only"),
        field("tolerance", Told("`300s`"), "how far the time may be off, on both sides"),
        field("id_header", Told("none"), "the header of the delivery's id; with `{id}` it is signed and is the idempotency key, else it is a label"),
        field("event_header", Told("none"), "the header of the event, a label"),
    ] },
    Section { path: "routes[].addresses", heading: "`addresses` of a route", intro: "", fields: &[
        field("allow", Is("[]"), "addresses and networks; when not empty, only these"),
        field("deny", Is("[]"), "never these; beats `allow`"),
        field("exempt", Is("[]"), "failures are not counted and bodies not slowed down"),
        field("mode", Is("\"enforce\""), "of `allow` and `deny`: `enforce`, or `shadow`: see [shadow mode](#shadow-mode)"),
    ] },
    Section { path: "tests[]", heading: "`[[tests]]`", intro: "Requests that the policy has to judge as stated. They are run by `check`, at the start and before every reload, by the code that judges live requests; a policy that fails one does not come into force. They spend no live budget and send nothing.", fields: &[
        field("name", Refused, "what the test holds"),
        field("request", Refused, "what is asked"),
        field("expect", Refused, "at least one of `status`, `reason` and `forward`"),
    ] },
    Section { path: "tests[].request", heading: "`request` of a test", intro: "", fields: &[
        field("path", Refused, "with its query"),
        field("method", Is("\"GET\""), ""),
        field("headers", Is("{}"), "names and values. `Host` and `Content-Length` are added where they are not given"),
        field("body", Is("\"\""), ""),
        field("address", Is("\"127.0.0.1\""), "the peer's"),
        field("at", Told("now"), "the moment it is judged at: for keys, secrets and signed times"),
    ] },
    Section { path: "tests[].expect", heading: "`expect` of a test", intro: "", fields: &[
        field("status", Told("anything"), "of the answer"),
        field("reason", Told("anything"), "the true [reason](reasons.md) of the refusal"),
        field("forward", Told("anything"), "the upstream it reaches"),
    ] },
];

/// The tables as Markdown.
pub fn tables() -> String {
    let asked = catalogue();
    let mut out = Vec::new();
    for section in SECTIONS {
        let Section {
            path,
            heading,
            intro,
            fields,
        } = section;
        let within = heading.contains(" of ");
        let level = if within { "###" } else { "##" };
        out.push(format!("{level} {heading}\n"));
        if !intro.is_empty() {
            out.push(format!("{intro}\n\n"));
        }
        out.push("| field | type | default | meaning |\n|---|---|---|---|\n".to_owned());
        for field in *fields {
            let kind = asked
                .iter()
                .find(|a| a.table == *path && a.field == field.name)
                .map_or("", |a| a.kind);
            let default = match field.default {
                Refused => "must be written".to_owned(),
                Is(value) => format!("`{}`", value.trim_matches('"')).replace("``", "empty"),
                Told(words) => words.to_owned(),
            };
            let (name, meaning) = (field.name, field.meaning);
            out.push(format!("| `{name}` | {kind} | {default} | {meaning} |\n"));
        }
        out.push("\n".to_owned());
    }
    out.concat()
}

#[cfg(test)]
#[expect(clippy::panic, clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use std::collections::BTreeSet;

    use toml_edit::{DocumentMut, Item, Table};

    use super::*;
    use crate::policy::{Origin, load};

    #[test]
    fn every_setting_that_is_read_is_described_and_nothing_else() {
        let told: BTreeSet<(String, &str)> = SECTIONS
            .iter()
            .flat_map(|s| s.fields.iter().map(|f| (s.path.to_owned(), f.name)))
            .collect();
        let read: BTreeSet<(String, &str)> = catalogue()
            .into_iter()
            // The tables of the top are sections themselves.
            .filter(|a| !(a.table.is_empty() && a.kind == "table"))
            .map(|a| (a.table, a.field))
            .collect();
        let lacking: Vec<_> = read.difference(&told).collect();
        let idle: Vec<_> = told.difference(&read).collect();
        assert!(
            lacking.is_empty() && idle.is_empty(),
            "config/reference.rs: describe {lacking:?}; nothing reads {idle:?}"
        );
    }

    const BASE: &str = r#"
version = 1
[posture]
environment = "production"
[listen]
[state]
[spool]
[client_address]
[limits]
[upstreams.b]
address = "127.0.0.1:1"
[secrets]
s = [{ env = "S" }]
k = [{ env = "K" }]
[[scopes]]
id = "a"
allow = ["GET /v1/*"]
[[keys]]
id = "k"
secret = "k"
scopes = ["a"]
[[rate_limits]]
id = "l"
by = "address"
rate = "5/s"
[[routes]]
id = "api"
path = "/v1/*"
methods = ["GET"]
auth = { kind = "api_key" }
addresses = {}
upstream = "b"
[[routes]]
id = "hook"
path = "/hook"
methods = ["POST"]
auth = { kind = "webhook", provider = "gitea", secret = "s" }
upstream = "b"
"#;

    /// The loaded policy as text, line by line in order: maps have none of their own.
    fn meant(text: &str) -> Vec<String> {
        let env = |name: &str| Some(format!("{name}-8Jd2KqR5mXvB9tGz3PnL7aFwQ4sT6uYe").into());
        let loaded = load::load(text, "p.toml", Origin::BuiltIn, &env)
            .unwrap_or_else(|problems| panic!("{problems}"));
        let mut policy = loaded.policy;
        policy.fingerprint.clear();
        let mut lines: Vec<String> = format!("{policy:#?}").lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    fn table_of<'a>(
        document: &'a mut DocumentMut,
        path: &str,
    ) -> Option<&'a mut dyn toml_edit::TableLike> {
        let mut item: &mut Item = document.as_item_mut();
        for part in path.split('.').filter(|p| !p.is_empty()) {
            let name = part.trim_end_matches("[]");
            item = if name == "<id>" {
                item.get_mut("b")?
            } else {
                item.get_mut(name)?
            };
            if part.ends_with("[]") {
                return item
                    .as_array_of_tables_mut()
                    .and_then(|tables| tables.iter_mut().next())
                    .map(|t: &mut Table| t as &mut dyn toml_edit::TableLike);
            }
        }
        item.as_table_like_mut()
    }

    #[test]
    fn the_defaults_that_are_told_are_the_ones_in_force() {
        let plain = meant(BASE);
        let mut written = 0;
        for section in SECTIONS.iter().filter(|s| !s.path.starts_with("tests")) {
            for field in section.fields {
                let Is(value) = field.default else { continue };
                let mut document: DocumentMut = BASE.parse().unwrap();
                // A table within an array of tables: its own parent is looked up first.
                let path = section.path.replace("[].addresses", "[]");
                let Some(mut table) = table_of(&mut document, &path) else {
                    panic!("the policy of this test has no `{}`", section.path)
                };
                if section.path.ends_with(".addresses") {
                    table = table
                        .get_mut("addresses")
                        .unwrap()
                        .as_table_like_mut()
                        .unwrap();
                }
                let value: toml_edit::Value = value.parse().unwrap();
                table.insert(field.name, Item::Value(value));
                assert_eq!(
                    meant(&document.to_string()),
                    plain,
                    "{} {}",
                    section.path,
                    field.name
                );
                written += 1;
            }
        }
        assert!(written > 20, "{written}");
    }
}
