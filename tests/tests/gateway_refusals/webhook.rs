//! `/webhook/gitea`: the signature and what belongs to it.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::gitea::{Delivery, signature};
use orket_tests::{Cases, Gateway, Policy, Request, Upstream, assert_refused};

const PATH: &str = "/webhook/gitea";

#[tokio::test]
async fn without_a_signature_a_delivery_is_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let delivery = Delivery::fresh();
    let right = signature(WEBHOOK_SECRET.as_bytes(), &delivery.body);
    let unsigned = || delivery.unsigned(PATH);
    let mut cases = Cases::new();
    for (name, request) in [
        ("no header", unsigned()),
        ("an empty header", unsigned().line("X-Gitea-Signature:")),
        ("a blank header", unsigned().line("X-Gitea-Signature:   ")),
        (
            "the signature in another sender's header",
            unsigned().header("X-Hub-Signature-256", &format!("sha256={right}")),
        ),
        (
            "the signature under a name with underscores",
            unsigned().header("X_Gitea_Signature", &right),
        ),
        ("the signature in the query", {
            delivery.unsigned(&format!("{PATH}?X-Gitea-Signature={right}"))
        }),
        (
            "the API key instead of a signature",
            unsigned().key(API_KEY),
        ),
        ("an empty body", Request::post(PATH, "")),
    ] {
        cases
            .refused(
                name,
                address,
                &request.bytes(address),
                401,
                "Missing signature",
            )
            .await;
    }
    cases.finish();
    upstream.untouched("deliveries without a signature");
}

#[tokio::test]
async fn a_malformed_or_wrong_signature_is_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let delivery = Delivery::fresh();
    let right = signature(WEBHOOK_SECRET.as_bytes(), &delivery.body);
    let signed = |value: &str| delivery.unsigned(PATH).header("X-Gitea-Signature", value);
    let mut flipped = right.clone().into_bytes();
    flipped[63] = if flipped[63] == b'0' { b'1' } else { b'0' };
    let flipped = String::from_utf8(flipped).unwrap();
    let mut other_body = delivery.clone();
    other_body.body.push(b'\n');
    let mut cases = Cases::new();
    for (name, request) in [
        ("not hex", signed(&"g".repeat(64))),
        ("one digit short", signed(&right[..63])),
        ("one digit more", signed(&format!("{right}0"))),
        ("half of it", signed(&right[..32])),
        ("one digit", signed("0")),
        ("all zeros", signed(&"0".repeat(64))),
        ("one digit changed", signed(&flipped)),
        (
            "a list of the right one",
            signed(&format!("{right},{right}")),
        ),
        ("8 KiB", signed(&"a".repeat(8 * 1024))),
        (
            "bytes that are not ASCII",
            delivery
                .unsigned(PATH)
                .line(b"X-Gitea-Signature: \xff\xfe".as_slice()),
        ),
        (
            "the right one, a blank within",
            signed(&format!("{} {}", &right[..32], &right[32..])),
        ),
        ("under another secret", delivery.forged(PATH)),
        (
            "under an empty secret",
            signed(&signature(b"", &delivery.body)),
        ),
        (
            "under the secret and a newline",
            signed(&signature(
                format!("{WEBHOOK_SECRET}\n").as_bytes(),
                &delivery.body,
            )),
        ),
        (
            "of another body",
            other_body
                .unsigned(PATH)
                .header("X-Gitea-Signature", &right),
        ),
        (
            "of no body",
            signed(&signature(WEBHOOK_SECRET.as_bytes(), b"")),
        ),
        (
            "wrong, with a right one in another header",
            signed(&"0".repeat(64)).header("X-Hub-Signature-256", &format!("sha256={right}")),
        ),
        (
            "wrong, with the right API key",
            signed(&"0".repeat(64)).key(API_KEY),
        ),
    ] {
        cases
            .refused(
                name,
                address,
                &request.bytes(address),
                401,
                "Invalid signature",
            )
            .await;
    }
    cases.finish();
    upstream.untouched("deliveries with a wrong signature");
}

#[tokio::test]
async fn a_duplicated_security_header_is_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let delivery = Delivery::fresh();
    let right = signature(WEBHOOK_SECRET.as_bytes(), &delivery.body);
    let signed = || delivery.signed(PATH, WEBHOOK_SECRET);
    let mut cases = Cases::new();
    for (name, request) in [
        (
            "the right signature twice",
            signed().header("X-Gitea-Signature", &right),
        ),
        (
            "a right and a wrong signature",
            signed().header("X-Gitea-Signature", &"0".repeat(64)),
        ),
        (
            "a right and an empty signature",
            signed().line("x-gitea-signature:"),
        ),
        ("the event twice", signed().header("X-Gitea-Event", "push")),
        (
            "the event's type twice",
            signed().header("X-Gitea-Event-Type", "push"),
        ),
        (
            "the delivery's id twice",
            signed().header("X-Gitea-Delivery", "another"),
        ),
        ("two API keys on a webhook", signed().key("a").key("b")),
        (
            "two test tokens",
            signed()
                .header("X-Webhook-Test-Token", "a")
                .header("X-Webhook-Test-Token", "b"),
        ),
    ] {
        cases
            .refused(name, address, &request.bytes(address), 400, "Bad request")
            .await;
    }
    cases.finish();
    upstream.untouched("deliveries with duplicated security headers");
}

#[tokio::test]
async fn without_a_configured_secret_every_delivery_is_refused() {
    let upstream = Upstream::tcp().await;
    for env in [
        vec![("ORKET_API_KEY", API_KEY)],
        vec![("GITEA_WEBHOOK_SECRET", "")],
        vec![("GITEA_WEBHOOK_SECRET", "   ")],
        vec![("ORKET_ALLOW_INSECURE_NO_API_KEY", "true")],
    ] {
        let gateway = Gateway::builtin(upstream.address(), &env).await;
        let delivery = Delivery::fresh();
        for request in [
            delivery.unsigned(PATH),
            delivery.signed(PATH, WEBHOOK_SECRET),
            delivery.signed(PATH, ""),
            delivery.signed(PATH, "   "),
            delivery.unsigned(PATH).key(API_KEY),
        ] {
            let answer = request.send(gateway.address()).await;
            assert_refused(&answer, 403, "Webhook secret not configured");
        }
    }
    upstream.untouched("deliveries to a gateway without a webhook secret");
}

#[tokio::test]
async fn a_policy_file_without_the_webhooks_secret_does_not_load() {
    let upstream = Upstream::tcp().await;
    let text = Policy::new()
        .to_string()
        .replace(r#", secret = "gitea" }"#, " }");
    assert!(!text.contains(r#"provider = "gitea", secret"#));
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    let gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&text);
    let ended = gateway.refused().await;
    assert!(ended.output().contains("secret"), "{}", ended.output());
}

#[tokio::test]
async fn either_secret_of_a_rotation_opens_and_an_expired_one_does_not() {
    let upstream = Upstream::tcp().await;
    let text = Policy::new().to_string().replace(
        r#"gitea = [{ file = "{dir}/gitea-secret" }]"#,
        r#"gitea = [{ file = "{dir}/new" }, { file = "{dir}/old", expires = 2999-01-01T00:00:00Z }, { file = "{dir}/never-written", expires = 2020-01-01T00:00:00Z }]"#,
    );
    let old = "whs-old-1Qz7vN4kXc9RtB2mYw6LpJ8s";
    let gateway = Gateway::before(upstream.address())
        .file("new", format!("{WEBHOOK_SECRET}\n").as_bytes())
        .file("old", old.as_bytes())
        .policy(&text)
        .start()
        .await;
    for secret in [WEBHOOK_SECRET, old] {
        let answer = Delivery::fresh()
            .signed(PATH, secret)
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let with_newline = format!("{WEBHOOK_SECRET}\n");
    let answer = Delivery::fresh()
        .signed(PATH, &with_newline)
        .send(gateway.address())
        .await;
    assert_refused(&answer, 401, "Invalid signature");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_signed_body_that_is_not_json_is_answered_by_the_backend() {
    let upstream = Upstream::tcp().await;
    upstream.react(orket_tests::Reaction::problem(
        400,
        "Bad Request",
        "Invalid payload",
    ));
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let delivery = Delivery::new("push", "not json");
    let answer = delivery
        .signed(PATH, WEBHOOK_SECRET)
        .send(gateway.address())
        .await;
    assert_eq!(
        (answer.status, answer.json()["detail"].as_str()),
        (400, Some("Invalid payload"))
    );
    assert_eq!(upstream.only().body, b"not json");
    // Nothing was done: the same delivery asks again.
    delivery
        .signed(PATH, WEBHOOK_SECRET)
        .send(gateway.address())
        .await;
    assert_eq!(upstream.count(), 2);
}
