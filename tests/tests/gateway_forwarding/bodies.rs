//! Bodies and targets arrive byte for byte.

use std::fmt::Write as _;

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::gitea::signature;
use orket_tests::{Delivery, Gateway, Request, Upstream, assert_refused};

const PATH: &str = "/webhook/gitea";
const SIZES: [usize; 7] = [0, 1, 65_535, 65_536, 65_537, 131_072, 1_048_576];

/// Bytes of every value, so that no length of a run hides a loss.
fn bytes(size: usize) -> Vec<u8> {
    let mut state = u32::try_from(size).unwrap() | 1;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        })
        .collect()
}

#[tokio::test]
async fn a_signed_body_of_any_size_arrives_byte_for_byte() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for size in SIZES {
        let body = bytes(size);
        let delivery = Delivery::new("push", body.clone());
        let answer = delivery
            .signed(PATH, WEBHOOK_SECRET)
            .send(gateway.address())
            .await;
        assert_eq!(answer.status, 200, "{size}: {}", answer.text());
        let recorded = upstream.last();
        assert!(
            recorded.body == body,
            "{size}: {} bytes arrived",
            recorded.body.len()
        );
        assert!(recorded.all("content-length").len() <= 1);
        assert!(!(recorded.names("content-length") && recorded.names("transfer-encoding")));
    }
    assert_eq!(upstream.count(), SIZES.len());
}

#[tokio::test]
async fn an_api_body_of_any_size_arrives_byte_for_byte() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for size in SIZES {
        let body = bytes(size);
        for request in [
            Request::post("/v1/runs", body.clone()).key(API_KEY),
            Request::new("POST", "/v1/runs")
                .key(API_KEY)
                .chunked(&body, 7001),
        ] {
            let answer = request.send(gateway.address()).await;
            assert_eq!(answer.status, 200, "{size}: {}", answer.text());
            let recorded = upstream.last();
            assert!(
                recorded.body == body,
                "{size}: {} bytes arrived",
                recorded.body.len()
            );
        }
    }
}

#[tokio::test]
async fn the_target_arrives_byte_for_byte() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for target in [
        "/v1/runs?state=running&cursor=a%2Fb%00",
        "/v1/cards/%c3%A4%20b",
        "/v1/cards/a+b?",
    ] {
        Request::get(target)
            .key(API_KEY)
            .send(gateway.address())
            .await;
        assert_eq!(upstream.last().target, target);
    }
    let delivery = Delivery::fresh().signed(&format!("{PATH}?from=a%20b"), WEBHOOK_SECRET);
    assert_eq!(delivery.send(gateway.address()).await.status, 200);
    assert_eq!(upstream.last().target, format!("{PATH}?from=a%20b"));
}

#[tokio::test]
async fn a_large_answer_arrives_byte_for_byte() {
    let upstream = Upstream::tcp().await;
    let body = bytes(3_000_000);
    upstream.react(orket_tests::Reaction::Answer {
        status: 200,
        content_type: "application/octet-stream".to_owned(),
        body: body.clone(),
        headers: vec![("X-Of-The-Backend".to_owned(), "kept".to_owned())],
    });
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let answer = Request::get("/v1/runs/x/logs")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert!(answer.body == body);
    assert_eq!(answer.header("x-of-the-backend"), Some("kept"));
}

fn encoded(text: &[u8]) -> String {
    let mut form = String::new();
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                form.push(char::from(*byte));
            }
            b' ' => form.push('+'),
            _ => {
                write!(form, "%{byte:02X}").unwrap();
            }
        }
    }
    form
}

fn form(text: &[u8], body: String) -> Request {
    Request::post(PATH, body)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("X-Gitea-Event", "push")
        .header(
            "X-Gitea-Signature",
            &signature(WEBHOOK_SECRET.as_bytes(), text),
        )
}

#[tokio::test]
async fn a_delivery_in_form_mode_is_forwarded_as_the_json_that_was_signed() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for text in [
        r#"{"title":"a + b & c = d % e","n":1}"#,
        "{\"title\":\"Grüße — 日本語\"}",
        "{\n  \"n\": 2\r\n}",
    ] {
        let request = form(
            text.as_bytes(),
            format!("payload={}", encoded(text.as_bytes())),
        );
        let answer = request.send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let recorded = upstream.last();
        assert_eq!(String::from_utf8(recorded.body.clone()).unwrap(), text);
        assert_eq!(recorded.header("content-type"), Some("application/json"));
        if let Some(length) = recorded.header("content-length") {
            assert_eq!(length, text.len().to_string());
        }
        let key = orket_tests::gitea::sha256(text.as_bytes());
        assert_eq!(recorded.header("x-orket-webhook-key"), Some(key.as_str()));
    }
}

#[tokio::test]
async fn a_form_that_is_not_one_signed_payload_is_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let text = br#"{"n":3}"#;
    let coded = encoded(text);
    for (body, status) in [
        (format!("payload={coded}&payload={coded}"), 400),
        ("other=1".to_owned(), 400),
        (String::new(), 400),
        (format!("payload={}", encoded(br#"{"n":4}"#)), 401),
    ] {
        let answer = form(text, body.clone()).send(gateway.address()).await;
        assert_refused(
            &answer,
            status,
            if status == 400 {
                "Bad request"
            } else {
                "Invalid signature"
            },
        );
    }
    // A signature over the form itself is not Gitea's.
    let body = format!("payload={coded}");
    let request = form(body.as_bytes(), body.clone());
    assert_refused(
        &request.send(gateway.address()).await,
        401,
        "Invalid signature",
    );
    upstream.untouched("malformed forms");
}
