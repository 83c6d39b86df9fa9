//! Which field of the file is which setting: one line for each.

use std::{cell::RefCell, path::PathBuf};

use super::{
    Addresses, Auth, Hmac, Https, Key, Limits, Listen, Posture, RateLimit, Route, Scope,
    SecretEntry, SecretSource, Spool, Test, Upstream, UpstreamTls, Written,
    diagnostic::Diagnostics,
    reader::{self, Asked, At, Document, Table},
    value,
};

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
            spool: root
                .table("spool", |t| Spool {
                    entries: t.integer("entries"),
                    bytes: t.parsed("bytes", value::size),
                    age: t.parsed("age", value::age),
                    dead_entries: t.integer("dead_entries"),
                    dead_bytes: t.parsed("dead_bytes", value::size),
                    source_share: t.integer("source_share"),
                })
                .unwrap_or_default(),
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
        webhook_memory: t.parsed("webhook_memory", value::size),
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
        clear_text: t.boolean("clear_text"),
        set_headers: t.string_map("set_headers"),
        at: t.at(),
    }
}

fn read_secret_entry(t: &Table<'_>) -> SecretEntry {
    t.holds_secrets();
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
