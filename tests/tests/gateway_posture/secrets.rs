//! Planted secrets are searched in everything the gateway says.

use orket_tests::gateway::{API_KEY, TEST_TOKEN, WEBHOOK_SECRET};
use orket_tests::gitea::{sha256, signature};
use orket_tests::{Delivery, Gateway, Policy, Reaction, Request, Upstream};

const PATH: &str = "/webhook/gitea";
/// What clients show that is wrong: it may be someone's secret elsewhere, so it is none of the log's.
const WRONG_KEY: &str = "planted-wrong-key-2Vx8Qm4";
const WRONG_TOKEN: &str = "planted-wrong-token-9Kd3Zt7";
const IN_A_BODY: &str = "planted-in-a-body-5Hn1Wc6";
const IN_A_QUERY: &str = "planted-in-a-query-4Jb8Ys2";

/// Every kind of request there is, proven and not, well-formed and not; all answers.
async fn converse(gateway: &Gateway, upstream: &Upstream) -> Vec<u8> {
    let address = gateway.address();
    let delivery = Delivery::new(
        "push",
        format!("{{\"n\":\"{IN_A_BODY}\",\"m\":{}}}", rand::random::<u32>()),
    );
    let mut said = Vec::new();
    let requests = vec![
        Request::get("/v1/a").key(API_KEY),
        Request::get("/v1/a").key(WRONG_KEY),
        Request::get("/v1/a").key(API_KEY).key(WRONG_KEY),
        Request::get("/v1/a").header("Authorization", &format!("Bearer {WRONG_KEY}")),
        Request::get(&format!("/v1/a?token={IN_A_QUERY}")),
        Request::get(&format!("/v1/a?token={IN_A_QUERY}")).key(API_KEY),
        Request::get(&format!("/nowhere?token={IN_A_QUERY}")),
        Request::get("/v1/../a").key(API_KEY),
        Request::get("/v1/a").key(API_KEY).line("X-A : b"),
        Request::get("/v1/a").key(API_KEY).line("no colon"),
        Request::get("/v1/a")
            .key(API_KEY)
            .line(b"X-A: \0".as_slice()),
        Request::get("/v1/a").key(API_KEY).line("Content-Length: x"),
        Request::get("/v1/a")
            .key(API_KEY)
            .header("X-Large", &"v".repeat(20_000)),
        Request::get("/v1/a").key(API_KEY).no_host(),
        Request::new("POST", "/v1/a")
            .key(API_KEY)
            .line("Transfer-Encoding: x"),
        Request::post("/webhook/test", "{}").header("X-Webhook-Test-Token", TEST_TOKEN),
        Request::post("/webhook/test", "{}").header("X-Webhook-Test-Token", WRONG_TOKEN),
        delivery.signed(PATH, WEBHOOK_SECRET),
        delivery.signed(PATH, WEBHOOK_SECRET),
        delivery.signed(PATH, WRONG_KEY),
        delivery.unsigned(PATH),
        delivery
            .signed(PATH, WEBHOOK_SECRET)
            .header("X-Gitea-Signature", "twice"),
        delivery
            .signed(PATH, WEBHOOK_SECRET)
            .header("Content-Encoding", "gzip"),
    ];
    for reaction in [Reaction::ok(), Reaction::json(500, "{}"), Reaction::Close] {
        upstream.react(reaction);
        for request in &requests {
            let bytes = request.bytes(address);
            said.extend(
                orket_tests::wire::exchange(address, &bytes)
                    .await
                    .answer
                    .raw,
            );
        }
    }
    for path in ["/metrics", "/ready", "/"] {
        said.extend(Request::get(path).send(gateway.admin()).await.raw);
    }
    said
}

fn planted() -> Vec<String> {
    let mut planted: Vec<String> = [
        API_KEY,
        WEBHOOK_SECRET,
        TEST_TOKEN,
        WRONG_KEY,
        WRONG_TOKEN,
        IN_A_BODY,
        IN_A_QUERY,
    ]
    .map(str::to_owned)
    .to_vec();
    // Nor what is as good as a secret: a key's digest opens nothing, but the log need not have it.
    planted.push(sha256(API_KEY.as_bytes()));
    planted.push(signature(WEBHOOK_SECRET.as_bytes(), b"{}"));
    planted
}

fn search(said: &[u8], output: &str) {
    let said = String::from_utf8_lossy(said);
    for secret in planted() {
        assert!(!said.contains(&secret), "{secret} is in an answer");
        let line = output.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}

#[tokio::test]
async fn nothing_the_built_in_policy_says_holds_a_secret() {
    let upstream = Upstream::tcp().await;
    for level in [None, Some("trace")] {
        let mut gateway = Gateway::before(upstream.address()).envs(&[
            ("ORKET_API_KEY", API_KEY),
            ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
            ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true"),
            ("ORKET_WEBHOOK_TEST_TOKEN", TEST_TOKEN),
        ]);
        if let Some(level) = level {
            gateway = gateway.env("RUST_LOG", level);
        }
        let mut gateway = gateway.start().await;
        let said = converse(&gateway, &upstream).await;
        gateway.program().terminate().await;
        search(&said, &gateway.output());
    }
}

#[tokio::test]
async fn nothing_a_policy_file_makes_it_say_holds_a_secret() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .secrets("token = [{ file = \"{dir}/token\" }]")
        .rest("[[routes]]\nid = \"test\"\npath = \"/webhook/test\"\nmethods = [\"POST\"]\nauth = { kind = \"test_webhook\", enabled = true, token = \"token\" }\nupstream = \"backend\"");
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    let mut gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .file("token", TEST_TOKEN.as_bytes())
        .policy(&policy.to_string())
        .start()
        .await;
    let said = converse(&gateway, &upstream).await;
    gateway.program().terminate().await;
    search(&said, &gateway.output());
}

#[tokio::test]
async fn a_secret_in_the_wrong_place_of_a_policy_is_not_shown() {
    let dir = tempfile::TempDir::new().unwrap();
    for wrong in [
        Policy::new().secrets(&format!("plain = \"{WRONG_KEY}\"")),
        Policy::new().secrets(&format!("plain = [\"{WRONG_KEY}\"]")),
        Policy::new().secrets(&format!("plain = [{{ value = \"{WRONG_KEY}\" }}]")),
        Policy::new().secrets(&format!("plain = [{{ digest = \"{WRONG_KEY}\" }}]")),
    ] {
        let (name, bytes) = orket_tests::policy::SECRET_FILE;
        std::fs::write(dir.path().join(name), bytes).unwrap();
        let ended = orket_tests::gateway::check(dir.path(), &wrong.to_string()).await;
        assert!(!ended.status.success());
        assert!(!ended.output().contains(WRONG_KEY), "{}", ended.output());
    }
}
