//! Routes that want an API key.

use orket_tests::gateway::API_KEY;
use orket_tests::gitea::sha256;
use orket_tests::{Answer, Cases, Gateway, Policy, Request, Upstream, assert_refused};

const REFUSED: &str = "Could not validate credentials";

/// The requests that prove nothing, each with its name.
fn unproven() -> Vec<(&'static str, Request)> {
    let get = || Request::get("/v1/version");
    let mut almost = API_KEY.to_owned();
    almost.pop();
    vec![
        ("no key", get()),
        ("an empty key", get().line("X-API-Key:")),
        ("a blank key", get().line("X-API-Key:    ")),
        ("an unknown key", get().key("someone-elses-key-0123456789")),
        ("the key without its last character", get().key(&almost)),
        (
            "the key and one character more",
            get().key(&format!("{API_KEY}x")),
        ),
        ("the key in upper case", get().key(&API_KEY.to_uppercase())),
        (
            "a key of bytes that are not ASCII",
            get().line(b"X-API-Key: \xff\xfe\xe9".as_slice()),
        ),
        ("a key of UTF-8 that is not ASCII", get().key("schlüssel")),
        (
            "the key and a byte that is not ASCII",
            get().line([b"X-API-Key: ", API_KEY.as_bytes(), b"\xff"].concat()),
        ),
        ("a key of 8 KiB", get().key(&"k".repeat(8 * 1024))),
        (
            "the key, twice, in one line",
            get().key(&format!("{API_KEY}, {API_KEY}")),
        ),
        ("the key in quotes", get().key(&format!("\"{API_KEY}\""))),
        (
            "the key as a bearer token",
            get().header("Authorization", &format!("Bearer {API_KEY}")),
        ),
        (
            "the key as a cookie",
            get().header("Cookie", &format!("X-API-Key={API_KEY}")),
        ),
        (
            "the key in the query",
            Request::get(&format!(
                "/v1/version?api_key={API_KEY}&X-API-Key={API_KEY}"
            )),
        ),
        (
            "the key under a name with underscores",
            get().header("X_API_Key", API_KEY),
        ),
        (
            "the key under the test token's name",
            get().header("X-Webhook-Test-Token", API_KEY),
        ),
        (
            "the key as a trailer",
            Request::new("POST", "/v1/runs")
                .header("Trailer", "X-API-Key")
                .chunked(b"{}", 2)
                .trailer("X-API-Key", API_KEY),
        ),
    ]
}

#[tokio::test]
async fn without_the_right_key_every_request_is_refused_alike() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let mut cases = Cases::new();
    for (name, request) in unproven() {
        cases
            .refused(name, address, &request.bytes(address), 403, REFUSED)
            .await;
    }
    cases.finish();
    upstream.untouched("requests without the right key");
}

#[tokio::test]
async fn where_no_key_is_configured_no_key_opens() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::builtin(upstream.address(), &[]).await;
    let address = gateway.address();
    let mut cases = Cases::new();
    for (name, request) in unproven() {
        cases
            .refused(name, address, &request.bytes(address), 403, REFUSED)
            .await;
    }
    let request = Request::get("/v1/version").key(API_KEY);
    cases
        .refused(
            "a well-formed key",
            address,
            &request.bytes(address),
            403,
            REFUSED,
        )
        .await;
    cases.finish();
    upstream.untouched("requests to a gateway without keys");
}

#[tokio::test]
async fn a_blank_key_in_the_environment_counts_as_none() {
    let upstream = Upstream::tcp().await;
    for blank in ["", "   ", "\t"] {
        let gateway = Gateway::builtin(upstream.address(), &[("ORKET_API_KEY", blank)]).await;
        for request in [
            Request::get("/v1/version").line("X-API-Key:"),
            Request::get("/v1/version").line(format!("X-API-Key: {blank}")),
        ] {
            assert_refused(&request.send(gateway.address()).await, 403, REFUSED);
        }
    }
    upstream.untouched("blank keys");
}

#[tokio::test]
async fn a_duplicated_key_is_refused_even_when_both_are_right() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let get = || Request::get("/v1/version");
    let mut cases = Cases::new();
    for (name, request) in [
        ("twice the right one", get().key(API_KEY).key(API_KEY)),
        (
            "the right one and a wrong one",
            get().key(API_KEY).key("wrong"),
        ),
        (
            "a wrong one and the right one",
            get().key("wrong").key(API_KEY),
        ),
        (
            "the right one and an empty one",
            get().key(API_KEY).line("X-API-Key:"),
        ),
        (
            "in different spelling",
            get()
                .header("x-api-key", API_KEY)
                .header("X-Api-KEY", API_KEY),
        ),
    ] {
        cases
            .refused(name, address, &request.bytes(address), 400, "Bad request")
            .await;
    }
    cases.finish();
    upstream.untouched("duplicated keys");
}

#[tokio::test]
async fn the_right_key_opens_and_its_id_is_stamped() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for name in ["X-API-Key", "x-api-key", "X-Api-Key"] {
        let request = Request::get("/v1/version").header(name, API_KEY);
        let answer = request.send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(upstream.last().header("x-orket-actor"), Some("key:default"));
    }
}

#[tokio::test]
async fn without_a_key_nothing_under_the_prefix_can_be_told_apart() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let told = |answer: &Answer| {
        let mut body = answer.json();
        body["request_id"] = "".into();
        let headers: Vec<_> = answer
            .headers
            .iter()
            // Whether the connection goes on depends on the request's body, not on the path.
            .filter(|(name, _)| !matches!(name.as_str(), "date" | "x-request-id" | "connection"))
            .filter(|(name, _)| !name.starts_with("ratelimit"))
            .cloned()
            .collect();
        (answer.status, headers, body)
    };
    let first = told(&Request::get("/v1/version").send(address).await);
    for request in [
        Request::get("/v1/no-such-thing"),
        Request::get("/v1/"),
        Request::get("/v1/cards/ISSUE-1"),
        Request::get("/v1/runs/01J0?state=running"),
        Request::get("/ws/events"),
        Request::new("DELETE", "/v1/cards/ISSUE-1"),
        Request::new("TRACE", "/v1/version"),
        Request::new("OPTIONS", "/v1/version"),
        Request::new("PROPFIND", "/v1/version"),
        Request::new("POST", "/ws/events"),
        Request::post("/v1/runs", "{}"),
        Request::get("/v1/version").key("unknown"),
    ] {
        let answer = request.send(address).await;
        assert_eq!(told(&answer), first, "{request:?}");
    }
    let head = Request::new("HEAD", "/v1/version").send(address).await;
    assert_eq!(head.status, 403);
    upstream.untouched("probing under the prefix");
}

#[tokio::test]
async fn a_key_of_a_policy_file_is_known_by_its_digest_and_refused_past_its_date() {
    let upstream = Upstream::tcp().await;
    let late = "ork-late-0aV7xQ2mTz9LpW4sKc8NbJ5e";
    let policy = Policy::new()
        .secrets(&format!("late = [{{ digest = \"sha256:{}\" }}]", sha256(late.as_bytes())))
        .rest("[[keys]]\nid = \"late\"\nsecret = \"late\"\nscopes = [\"*\"]\nexpires = 2020-01-01T00:00:00Z");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let answer = Request::get("/v1/version")
        .key(late)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 403, REFUSED);
    upstream.untouched("an expired key");
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.last().header("x-orket-actor"), Some("key:ci"));
}
