//! Secrets that are planted everywhere and presented rightly and wrongly are found in nothing that the gateway
//! writes or says.

use std::fs;
use std::path::Path;

use orket_tests::gateway::{self, API_KEY, TEST_TOKEN, WEBHOOK_SECRET};
use orket_tests::{
    Address, Connection, DEADLINE, Delivery, Gateway, Policy, Request, Upstream, eventually,
};

/// What must be found nowhere, beside the three secrets of the harness. Every other planted text begins with this.
const PLANTED: &str = "planted";
const UPSTREAM_KEY: &str = "planted-upstream-key-5rT8wQ2zX7vB4nM1";

/// The routes of [`Policy`], a test webhook, and an upstream that wants its own key.
fn policy() -> Policy {
    Policy::new()
        .secrets("token = [{ file = \"{dir}/token\" }]\nupstream = [{ file = \"{dir}/upstream\" }]")
        .upstream("set_headers = { \"X-Upstream-Key\" = \"upstream\" }")
        .api("rate_limits = [\"few\"]")
        .rest(
            "[[rate_limits]]\nid = \"few\"\nby = \"key\"\nrate = \"5/h\"\n\
             [[routes]]\nid = \"test\"\npath = \"/webhook/test\"\nmethods = [\"POST\"]\n\
             auth = { kind = \"test_webhook\", enabled = true, token = \"token\" }\nupstream = \"backend\"",
        )
}

/// Every header and place a secret could be sent in.
fn planted(request: Request) -> Request {
    request
        .header("Authorization", "Bearer planted-bearer")
        .header("Proxy-Authorization", "Basic planted-basic")
        .header("Cookie", "session=planted-cookie")
        .header("User-Agent", "planted-agent")
        .header("Referer", "https://planted.example/planted")
        .header("X-Forwarded-For", "planted")
        .header("Sec-WebSocket-Protocol", "planted-protocol")
        .header("traceparent", "planted")
        .header("X-Request-Id", "planted-request-id")
}

/// Right and wrong requests for every route, and for as many reasons as can be provoked.
fn requests() -> Vec<Request> {
    let delivery = Delivery::new("push", r#"{"planted":"planted-body"}"#);
    let (test, hook) = ("/webhook/test?planted=planted-query", "/webhook/gitea");
    let mut all = Vec::new();
    for target in [
        "/v1/planted-path?key=planted-query",
        "/ws/events?planted",
        "/planted",
        test,
        hook,
    ] {
        for method in ["GET", "POST", "PLANTED"] {
            for key in [
                None,
                Some(API_KEY),
                Some("planted-key"),
                Some("planted key\u{e9}"),
            ] {
                let request = Request::new(method, target).body("planted-body");
                all.push(match key {
                    Some(key) => request.key(key),
                    None => request,
                });
            }
        }
    }
    for token in [TEST_TOKEN, "planted-token"] {
        all.push(Request::post(test, "{\"planted\":1}").header("X-Webhook-Test-Token", token));
    }
    let signed = delivery.signed(hook, WEBHOOK_SECRET);
    all.extend([signed.clone(), signed.clone()]);
    all.push(delivery.forged(hook));
    all.push(delivery.signed(hook, "planted-other-secret"));
    all.push(
        delivery
            .unsigned(hook)
            .header("X-Gitea-Signature", "planted-signature"),
    );
    all.push(signed.clone().header("Content-Encoding", "gzip"));
    all.push(Request::get("/v1/a").key(API_KEY).key("planted-second"));
    all.push(Request::get("/v1/../planted").key(API_KEY));
    all.push(
        Request::get("/v1/a")
            .key(API_KEY)
            .host("planted.example/planted"),
    );
    all.push(Request::get("/v1/a").line("planted header").key(API_KEY));
    all.push(
        Request::get("/v1/a")
            .header("Expect", "planted")
            .key(API_KEY),
    );
    all.push(
        Request::get("/v1/a")
            .header("Upgrade", "planted")
            .header("Connection", "upgrade")
            .key(API_KEY),
    );
    all.push(
        Request::get("/v1/a")
            .header("Connection", "x-api-key")
            .key(API_KEY),
    );
    all.push(
        Request::get("/v1/a")
            .header("X-Large", &"planted".repeat(4_000))
            .key(API_KEY),
    );
    all.extend((0..8).map(|_| Request::get("/v1/a").key(API_KEY)));
    all
}

/// Places of the policy, and what somebody could paste there.
const PASTED: [(&str, &str); 14] = [
    (
        "token = [{ file = \"{dir}/token\" }]",
        "token = [{ file = \"planted-0123456789abcdef }]",
    ),
    (
        "token = [{ file = \"{dir}/token\" }]",
        "token = \"planted-0123456789abcdef\"",
    ),
    (
        "token = [{ file = \"{dir}/token\" }]",
        "token = planted-0123456789abcdef",
    ),
    (
        "token = [{ file = \"{dir}/token\" }]",
        "token = [{ value = \"planted-0123456789abcdef\" }]",
    ),
    (
        "token = [{ file = \"{dir}/token\" }]",
        "token = [{ planted-0123456789abcdef = \"x\" }]",
    ),
    (
        "token = [{ file = \"{dir}/token\" }]",
        "token = [{ file = \"planted-0123456789abcdef\" }]",
    ),
    (
        "token = [{ file = \"{dir}/token\" }]",
        "token = [{ env = \"planted-0123456789abcdef\" }]",
    ),
    (
        "token = [{ file = \"{dir}/token\" }]",
        "token = [{ digest = \"planted-0123456789abcdef\" }]",
    ),
    (
        "token = [{ file = \"{dir}/token\" }]",
        "token = [{ digest = \"sha256:planted-0123456789abcdef }]",
    ),
    (
        "\"X-Upstream-Key\" = \"upstream\"",
        "\"X-Upstream-Key\" = \"planted-0123456789abcdef\"",
    ),
    (
        "\"X-Upstream-Key\" = \"upstream\" }",
        "\"X-Upstream-Key\" = \"planted-0123456789abcdef",
    ),
    ("token = \"token\"", "token = \"planted-0123456789abcdef\""),
    ("token = \"token\"", "token = \"planted-0123456789abcdef"),
    (
        "secret = \"ci\"",
        "secret = \"planted-0123456789abcdef\" planted",
    ),
];

/// What a program that steers the gateway could ask, rightly and wrongly.
fn asked_of_the_operator() -> Vec<Request> {
    let mut all: Vec<Request> = ["/status", "/keys", "/spool", "/planted?planted"]
        .map(Request::get)
        .into();
    for path in [
        "/explain",
        "/keys/revoke",
        "/spool/retry",
        "/spool/drop",
        "/reload",
        "/planted",
    ] {
        for body in [
            "planted",
            "{\"planted\":1}",
            "{\"id\":\"planted\"}",
            "{\"id\":\"x\",\"secrets\":[\"planted\"]}",
        ] {
            all.push(Request::post(path, body));
        }
    }
    let explain = serde_json::json!({
        "method": "POST", "path": "/webhook/gitea?planted", "address": "127.0.0.1",
        "headers": [["X-Gitea-Signature", "planted"], ["X-API-Key", "planted"], ["Cookie", "planted"]],
        "body": "cGxhbnRlZA==",
    });
    all.push(Request::post_json("/explain", &explain));
    all
}

/// Every text that must not be found: the secrets, the digests of what is kept as one, and the right MAC.
fn forbidden() -> Vec<String> {
    let delivery = Delivery::new("push", r#"{"planted":"planted-body"}"#);
    vec![
        PLANTED.to_owned(),
        API_KEY.to_owned(),
        WEBHOOK_SECRET.to_owned(),
        TEST_TOKEN.to_owned(),
        UPSTREAM_KEY.to_owned(),
        orket_tests::gitea::sha256(API_KEY.as_bytes()),
        orket_tests::gitea::signature(WEBHOOK_SECRET.as_bytes(), &delivery.body),
        orket_tests::gitea::signature(b"planted-other-secret", &delivery.body),
    ]
}

fn search(what: &str, bytes: &[u8], forbidden: &[String]) {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    for secret in forbidden {
        let at = text.find(&secret.to_lowercase());
        assert!(
            at.is_none(),
            "{what} holds {secret}: …{}…",
            &text[at.unwrap_or(0)..]
                .chars()
                .take(200)
                .collect::<String>()
        );
    }
}

fn search_files(folder: &Path, forbidden: &[String]) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search_files(&path, forbidden);
        } else if path.is_file() {
            search(
                &path.display().to_string(),
                &fs::read(&path).unwrap(),
                forbidden,
            );
        }
    }
}

#[tokio::test]
async fn planted_secrets_are_found_in_nothing_that_is_written_or_said() {
    let upstream = Upstream::tcp().await;
    let forbidden = forbidden();
    let builder = Gateway::before(upstream.address())
        .standard(&policy())
        .file("token", TEST_TOKEN.as_bytes())
        .file("upstream", UPSTREAM_KEY.as_bytes());
    fs::create_dir(builder.dir().join("log")).unwrap();
    let (access, audit) = (
        builder.dir().join("log/access"),
        builder.dir().join("log/audit"),
    );
    let mut gateway = builder
        .env("ORKET_LOG", "trace")
        .env("ORKET_LOG_ACCESS", access.to_str().unwrap())
        .env("ORKET_LOG_AUDIT", audit.to_str().unwrap())
        .start()
        .await;
    let address = gateway.address().clone();
    for request in requests() {
        for request in [request.clone(), planted(request)] {
            let mut connection = Connection::open(&address).await;
            connection.send(&request.bytes(&address)).await;
            let answer = connection.answer().await;
            search("an answer", &answer.raw, &forbidden);
        }
    }
    // What the upstream got, so that the search is known to be able to find something.
    assert!(
        upstream
            .requests()
            .iter()
            .any(|r| r.header("x-upstream-key") == Some(UPSTREAM_KEY))
    );

    for path in ["/metrics", "/ready", "/planted?planted"] {
        let answer = planted(Request::get(path)).send(gateway.admin()).await;
        search(path, &answer.raw, &forbidden);
    }
    let folder = gateway.dir().to_owned();
    let file = folder.join("gateway.toml");
    let config = file.to_str().unwrap();
    let header = format!("X-API-Key: {API_KEY}");
    let wrong = [
        "X-API-Key: planted",
        "Authorization: planted",
        "X-Gitea-Signature: planted",
    ];
    for format in ["text", "json"] {
        let mut explain = vec![
            "explain",
            "--config",
            config,
            "--format",
            format,
            "--path",
            "/v1/a?planted",
        ];
        for field in std::iter::once(header.as_str()).chain(wrong) {
            let at = explain.len();
            explain.extend(["--header", field]);
            let ended = gateway::run(&folder, &explain, &[]).await;
            search("explain", ended.output().as_bytes(), &forbidden);
            explain.truncate(at);
        }
        for command in [
            vec!["check", config, "--format", format],
            vec!["reload", "--config", config, "--format", format],
        ] {
            let ended = gateway::run(&folder, &command, &[]).await;
            assert!(ended.status.success(), "{}", ended.output());
            search(command[0], ended.output().as_bytes(), &forbidden);
        }
    }
    // Reloads that fail: a secret that is gone, and one that is no longer good enough.
    fs::write(folder.join("upstream"), "planted\u{0}key").unwrap();
    let reload = ["reload", "--config", config];
    let ended = gateway::run(&folder, &reload, &[]).await;
    search("a failed reload", ended.output().as_bytes(), &forbidden);
    fs::remove_file(folder.join("token")).unwrap();
    let ended = gateway::run(&folder, &reload, &[]).await;
    assert!(!ended.status.success(), "{}", ended.output());
    search("a failed reload", ended.output().as_bytes(), &forbidden);

    eventually("refusals are written", DEADLINE, || async {
        fs::read_to_string(&audit).is_ok_and(|text| text.contains("signature_wrong"))
    })
    .await;
    gateway.program().terminate().await;
    search(
        "standard output and error",
        gateway.output().as_bytes(),
        &forbidden,
    );
    search_files(&folder.join("log"), &forbidden);
    search_files(&folder.join("state"), &forbidden);
}

#[tokio::test]
async fn what_is_pasted_into_a_policy_or_asked_of_the_operator_is_told_to_nobody() {
    let upstream = Upstream::tcp().await;
    let forbidden = forbidden();
    let builder = Gateway::before(upstream.address())
        .standard(&policy())
        .file("token", TEST_TOKEN.as_bytes())
        .file("upstream", UPSTREAM_KEY.as_bytes());
    let audit = builder.dir().join("audit");
    let mut gateway = builder
        .env("ORKET_LOG", "trace")
        .env("ORKET_LOG_AUDIT", audit.to_str().unwrap())
        .start()
        .await;
    let folder = gateway.dir().to_owned();
    let file = folder.join("gateway.toml");
    let config = file.to_str().unwrap();
    let header = format!("X-API-Key: {API_KEY}");
    for asked in asked_of_the_operator() {
        let asked = planted(asked);
        let answer = asked
            .send(&Address::Unix(folder.join("state/gateway.sock")))
            .await;
        search("the control socket", &answer.raw, &forbidden);
    }
    let body = folder.join("body");
    fs::write(&body, r#"{"planted":"planted-body"}"#).unwrap();
    for (path, field) in [
        ("/v1/a?planted", header.as_str()),
        ("/v1/a", "X-API-Key: planted"),
        ("/webhook/gitea", "X-Gitea-Signature: planted"),
        ("/webhook/test", "X-Webhook-Test-Token: planted"),
    ] {
        let mut live = vec!["explain", "--live", "--config", config, "--method", "POST"];
        live.extend(["--path", path, "--header", field]);
        live.extend(["--body-file", body.to_str().unwrap()]);
        let ended = gateway::run(&folder, &live, &[]).await;
        search("explain --live", ended.output().as_bytes(), &forbidden);
    }
    // A secret pasted into the policy, and a mistake in that very line.
    let good = fs::read_to_string(&file).unwrap();
    for (from, to) in PASTED {
        let from = from.replace("{dir}", folder.to_str().unwrap());
        assert!(good.contains(&from), "{from}");
        fs::write(&file, good.replacen(&from, to, 1)).unwrap();
        for command in [
            vec!["reload", "--control", "state/gateway.sock"],
            vec!["check", config],
            vec!["check", config, "--format", "json"],
            vec!["keys", "list", "--config", config],
        ] {
            let ended = gateway::run(&folder, &command, &[]).await;
            assert!(!ended.status.success(), "{to}: {}", ended.output());
            search(to, ended.output().as_bytes(), &forbidden);
        }
    }

    let told = || fs::read_to_string(&audit).unwrap_or_default();
    eventually("each refused reload is written", DEADLINE, || async {
        told().matches("\"reload_refused\"").count() == PASTED.len()
    })
    .await;
    search("the audit log", told().as_bytes(), &forbidden);
    gateway.program().terminate().await;
    search(
        "standard output and error",
        gateway.output().as_bytes(),
        &forbidden,
    );
    search_files(&folder.join("state"), &forbidden);
}

#[test]
fn planted_secrets_are_not_in_the_debug_form_of_a_loaded_policy() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("gitea-secret", WEBHOOK_SECRET),
        ("token", TEST_TOKEN),
        ("upstream", UPSTREAM_KEY),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let text = policy()
        .to_string()
        .replace("{dir}", &dir.path().to_string_lossy());
    let text = text.replace("{upstream}", "127.0.0.1:9");
    let file = dir.path().join("gateway.toml");
    fs::write(&file, text).unwrap();
    let ready = orket_gateway::reload::Source::File(file).read(None);
    let ready = ready.unwrap_or_else(|problems| panic!("{problems}"));
    let snapshot = format!("{:?}", ready.snapshot);
    assert!(snapshot.contains("/webhook/gitea"));
    search("Debug of the snapshot", snapshot.as_bytes(), &forbidden());
    let edge = orket_gateway::edge::Edge::new(ready.snapshot, orket_gateway::log::Queue::nowhere());
    let edge = std::sync::Arc::new(edge);
    search(
        "Debug of the edge",
        format!("{edge:?}").as_bytes(),
        &forbidden(),
    );
    let exchange = orket_gateway::exchange::Exchange::new(edge);
    search(
        "Debug of an exchange",
        format!("{exchange:?}").as_bytes(),
        &forbidden(),
    );
}
