//! The checks, in order. Each says what must hold; a failure says what was seen instead.

use hmac::{Hmac, KeyInit, Mac};
use orket_shared::{header, id::new_ulid};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sha2::Sha256;

use super::{
    Checked, Outcome,
    wire::{Answer, Target},
};
use crate::{
    request_head::{API_KEY, TEST_TOKEN},
    secret::Secret,
};

type Seen = Result<(), String>;

/// An address nobody has (RFC 5737), claimed to see whether the claim arrives.
const CLAIMED_ADDRESS: &str = "192.0.2.66";
const CLAIMED_ACTOR: &str = "key:canary-spoof";
const WRONG_KEY: &str = "ork_canary_this-is-not-a-key";

const NO_KEY: &str = "not checked without --api-key-env";
const NO_SECRET: &str = "not checked without --webhook-secret-env";
const NO_RAW: &str = "raw requests are not sent through TLS";

/// Requests that must be refused on their raw bytes; `HOST` stands for the host.
const RAW: [(&str, &str, u16); 5] = [
    (
        "a request with two lengths is refused",
        "POST /v1/version HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    (
        "a path that climbs is refused",
        "GET /v1/../v1/version HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n",
        400,
    ),
    (
        "an encoded slash is refused",
        "GET /v1%2fversion HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n",
        400,
    ),
    (
        "a request with two hosts is refused",
        "GET /health HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n",
        400,
    ),
    (
        "a tunnel is refused",
        "CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n",
        405,
    ),
];

#[derive(Default)]
struct Ledger(Vec<Checked>);

impl Ledger {
    fn note(&mut self, name: &'static str, seen: Seen) {
        self.0.push(Checked {
            name,
            outcome: seen.map_or_else(Outcome::Fails, |()| Outcome::Holds),
        });
    }

    fn skip(&mut self, name: &'static str, why: &'static str) {
        self.0.push(Checked {
            name,
            outcome: Outcome::Skipped(why),
        });
    }
}

/// Runs them all.
pub(super) async fn all(target: &Target) -> Vec<Checked> {
    let mut ledger = Ledger::default();
    without_proof(target, &mut ledger).await;
    for (name, request, status) in RAW {
        if target.speaks_raw() {
            ledger.note(name, raw(target, request, status).await);
        } else {
            ledger.skip(name, NO_RAW);
        }
    }
    let names = [
        "a valid key opens the API",
        "a claimed identity does not arrive inside",
    ];
    match &target.key {
        Some(key) => {
            ledger.note(names[0], key_opens(target, key).await);
            ledger.note(names[1], claims_do_not_arrive(target, key).await);
        }
        None => names.into_iter().for_each(|name| ledger.skip(name, NO_KEY)),
    }
    let names = [
        "a signed delivery is accepted",
        "a signed delivery with one bit changed is refused",
    ];
    match &target.secret {
        Some(secret) => {
            let body = format!("{{\"canary\":\"{}\"}}", new_ulid()).into_bytes();
            ledger.note(names[0], signed(target, secret, &body).await);
            ledger.note(names[1], tampered(target, secret, body).await);
        }
        None => names
            .into_iter()
            .for_each(|name| ledger.skip(name, NO_SECRET)),
    }
    ledger.0
}

async fn without_proof(target: &Target, ledger: &mut Ledger) {
    ledger.note(
        "the gateway is alive and says nothing more",
        alive(target).await,
    );
    ledger.note(
        "an unknown path outside the API is not found",
        unknown_path(target).await,
    );
    for (name, path, headers) in [
        ("the API is closed without a key", "/v1/version", None),
        (
            "the API is closed to an empty key",
            "/v1/version",
            Some((API_KEY, "")),
        ),
        (
            "the API is closed to a wrong key",
            "/v1/version",
            Some((API_KEY, WRONG_KEY)),
        ),
        (
            "a bearer token is not taken for a key",
            "/v1/version",
            Some(("authorization", "Bearer canary")),
        ),
        (
            "nothing can be told apart under the API without a key",
            "/v1/no-such-thing",
            None,
        ),
    ] {
        ledger.note(name, closed(target, path, headers.as_slice()).await);
    }
    ledger.note(
        "nothing can be read without a key",
        closed_everywhere(target, &READS).await,
    );
    ledger.note(
        "nothing can be changed without a key",
        closed_everywhere(target, &CHANGES).await,
    );
    ledger.note(
        "the event stream is closed without a key",
        no_events(target).await,
    );
    ledger.note("a doubled key header is refused", doubled_key(target).await);
    for (name, signature, detail) in [
        ("an unsigned delivery is refused", None, "Missing signature"),
        (
            "an empty signature is refused",
            Some(""),
            "Missing signature",
        ),
        (
            "a malformed signature is refused",
            Some("sha256=zz"),
            "Invalid signature",
        ),
        (
            "a forged signature is refused",
            Some(FORGED),
            "Invalid signature",
        ),
    ] {
        ledger.note(name, unproven(target, signature, detail).await);
    }
    ledger.note("the test webhook is not open", test_webhook(target).await);
}

const FORGED: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn expect(answer: &Answer, status: StatusCode, detail: &str) -> Seen {
    if answer.status == status && answer.detail() == detail {
        return Ok(());
    }
    let hint = if answer.status == StatusCode::TOO_MANY_REQUESTS {
        "; this address has used up its failure budget: wait a minute and try again"
    } else {
        ""
    };
    Err(format!(
        "expected {status} `{detail}`, got {}{hint}",
        answer.brief()
    ))
}

/// Whether the answer names its request.
fn named(answer: &Answer) -> Seen {
    if answer.headers.contains_key(header::REQUEST_ID) {
        Ok(())
    } else {
        Err("the answer carries no X-Request-Id".into())
    }
}

async fn alive(target: &Target) -> Seen {
    let answer = target.get("/health", &[]).await?;
    named(&answer)?;
    if answer.status == StatusCode::OK && answer.body == serde_json::json!({"status": "ok"}) {
        Ok(())
    } else {
        Err(format!(
            "expected 200 {{\"status\":\"ok\"}}, got {} {}",
            answer.status, answer.body
        ))
    }
}

async fn unknown_path(target: &Target) -> Seen {
    let answer = target.get("/canary-no-such-path", &[]).await?;
    expect(&answer, StatusCode::NOT_FOUND, "Not found")
}

async fn closed(target: &Target, path: &str, headers: &[(&str, &str)]) -> Seen {
    let answer = target.get(path, headers).await?;
    expect(
        &answer,
        StatusCode::FORBIDDEN,
        "Could not validate credentials",
    )?;
    named(&answer)
}

/// Knocks without a key on one path of every resource, to read and to change. The body is no JSON, so that
/// an open door, too, does nothing.
async fn closed_everywhere(target: &Target, knocks: &[(Method, &str)]) -> Seen {
    for (method, path) in knocks {
        let body = (*method != Method::GET).then(|| b"canary".to_vec());
        let answer = target.send(method.clone(), path, &[], body).await?;
        expect(
            &answer,
            StatusCode::FORBIDDEN,
            "Could not validate credentials",
        )
        .map_err(|why| format!("{method} {path}: {why}"))?;
    }
    Ok(())
}

const READS: [(Method, &str); 12] = [
    (Method::GET, "/v1/runs"),
    (Method::GET, "/v1/runs/canary-none"),
    (Method::GET, "/v1/runs/canary-none/logs"),
    (Method::GET, "/v1/cards"),
    (Method::GET, "/v1/cards/canary-none"),
    (Method::GET, "/v1/sessions/canary-none"),
    (Method::GET, "/v1/sandboxes"),
    (Method::GET, "/v1/sandboxes/canary-none"),
    (Method::GET, "/v1/deliveries"),
    (Method::GET, "/v1/deliveries/canary-none"),
    (Method::GET, "/v1/events"),
    (Method::GET, "/v1/system/metrics"),
];

const CHANGES: [(Method, &str); 13] = [
    (Method::POST, "/v1/runs"),
    (Method::POST, "/v1/runs/canary-none/cancel"),
    (Method::POST, "/v1/cards"),
    (Method::POST, "/v1/cards/archive"),
    (Method::POST, "/v1/sandboxes"),
    (Method::POST, "/v1/sandboxes/canary-none/stop"),
    (Method::POST, "/v1/sandboxes/canary-none/extend"),
    (Method::POST, "/v1/deliveries/canary-none/replay"),
    (Method::POST, "/v1/system/run-active"),
    (Method::PUT, "/v1/cards"),
    (Method::PATCH, "/v1/cards/canary-none"),
    (Method::DELETE, "/v1/cards/canary-none"),
    (Method::DELETE, "/v1/sandboxes/canary-none"),
];

/// A deployment may do without the event stream; where there is one, it wants a key.
async fn no_events(target: &Target) -> Seen {
    let answer = target.get("/ws/events", &[]).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(());
    }
    expect(
        &answer,
        StatusCode::FORBIDDEN,
        "Could not validate credentials",
    )
}

async fn doubled_key(target: &Target) -> Seen {
    let answer = target
        .get("/v1/version", &[(API_KEY, "a"), (API_KEY, "b")])
        .await?;
    expect(&answer, StatusCode::BAD_REQUEST, "Bad request")
}

async fn deliver(
    target: &Target,
    signature: Option<&str>,
    body: Vec<u8>,
) -> Result<Answer, String> {
    let mut headers = vec![
        ("content-type", "application/json"),
        ("x-gitea-event", "orket_canary"),
    ];
    if let Some(signature) = signature {
        headers.push(("x-gitea-signature", signature));
    }
    target
        .send(Method::POST, &target.webhook_path, &headers, Some(body))
        .await
}

async fn unproven(target: &Target, signature: Option<&str>, detail: &str) -> Seen {
    let answer = deliver(target, signature, b"{}".to_vec()).await?;
    expect(&answer, StatusCode::UNAUTHORIZED, detail)
}

async fn test_webhook(target: &Target) -> Seen {
    let headers = [("content-type", "application/json"), (TEST_TOKEN, "canary")];
    let answer = target
        .send(
            Method::POST,
            "/webhook/test",
            &headers,
            Some(b"{}".to_vec()),
        )
        .await?;
    match answer.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(()),
        _ => Err(format!("expected a refusal, got {}", answer.brief())),
    }
}

async fn raw(target: &Target, request: &str, status: u16) -> Seen {
    match target.raw(request).await? {
        got if got == status => Ok(()),
        got => Err(format!("expected {status}, got {got}")),
    }
}

async fn key_opens(target: &Target, key: &str) -> Seen {
    let answer = target.get("/v1/version", &[(API_KEY, key)]).await?;
    if answer.status.is_success() {
        Ok(())
    } else {
        Err(format!("expected 200, got {}", answer.brief()))
    }
}

async fn claims_do_not_arrive(target: &Target, key: &str) -> Seen {
    let claims = [
        (API_KEY, key),
        (header::ACTOR, CLAIMED_ACTOR),
        ("x_orket_actor", CLAIMED_ACTOR),
        (header::REQUEST_ID, "canary-spoof"),
        (header::FORWARDED_FOR, CLAIMED_ADDRESS),
        ("x-real-ip", CLAIMED_ADDRESS),
        ("forwarded", "for=192.0.2.66"),
        ("authorization", "Bearer canary"),
    ];
    let answer = target.get("/v1/whoami", &claims).await?;
    if !answer.status.is_success() {
        return Err(format!("expected 200, got {}", answer.brief()));
    }
    let field = |name: &str| {
        answer
            .body
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let request_id = answer
        .headers
        .get(header::REQUEST_ID)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if field("actor") == CLAIMED_ACTOR || !field("actor").starts_with("key:") {
        Err(format!("inside, the actor is `{}`", field("actor")))
    } else if field("request_id") != request_id {
        Err(format!(
            "inside, the request is `{}`, outside `{request_id}`",
            field("request_id")
        ))
    } else if field("client_address") == CLAIMED_ADDRESS || field("client_address").is_empty() {
        Err(format!(
            "inside, the client address is `{}`",
            field("client_address")
        ))
    } else {
        Ok(())
    }
}

fn sign(secret: &Secret, body: &[u8]) -> Result<String, String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose()).map_err(|e| e.to_string())?;
    mac.update(body);
    Ok(hex::encode(mac.finalize().into_bytes()))
}

async fn signed(target: &Target, secret: &Secret, body: &[u8]) -> Seen {
    let answer = deliver(target, Some(&sign(secret, body)?), body.to_vec()).await?;
    if answer.status.is_success() {
        Ok(())
    } else {
        Err(format!("expected 2xx, got {}", answer.brief()))
    }
}

async fn tampered(target: &Target, secret: &Secret, mut body: Vec<u8>) -> Seen {
    let signature = sign(secret, &body)?;
    if let Some(byte) = body.get_mut(2) {
        *byte ^= 1;
    }
    let answer = deliver(target, Some(&signature), body).await?;
    expect(&answer, StatusCode::UNAUTHORIZED, "Invalid signature")
}
