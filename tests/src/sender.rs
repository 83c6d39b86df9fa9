//! Deliveries as each sender makes and signs them.
//!
//! Written from the senders' own documentation, not from the gateway's code: it must not share a mistake with what
//! it tests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha512};

use crate::wire::Request;

/// What one delivery is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The secret, as an operator writes it down.
    pub secret: String,
    /// The moment it is signed at, in seconds since 1970.
    pub time: i64,
    /// The message's id.
    pub id: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Parts {
    /// A delivery of now, different from every other one.
    pub fn fresh(secret: &str) -> Self {
        let time = jiff::Timestamp::now().as_second();
        let body = format!(
            r#"{{"webhookTimestamp":{}000,"n":"{:x}"}}"#,
            time,
            rand::random::<u128>()
        );
        Self {
            secret: secret.to_owned(),
            time,
            id: format!("msg_{:x}", rand::random::<u64>()),
            body: body.into(),
        }
    }

    /// The same, signed so many seconds away from now.
    #[must_use]
    pub fn away(mut self, seconds: i64) -> Self {
        let before = self.time.to_string();
        self.time += seconds;
        let body = String::from_utf8(self.body).expect("text");
        self.body = body.replace(&before, &self.time.to_string()).into();
        self
    }
}

/// A kind of sender.
#[derive(Clone, Copy)]
pub struct Sender {
    /// Its name in a policy.
    pub name: &'static str,
    /// What else `auth` holds.
    pub auth: &'static str,
    /// The header of the signature, and how a delivery is signed.
    pub signature: (&'static str, fn(&Parts) -> String),
    /// The header of the time.
    pub time: Option<&'static str>,
    /// The header of the id, and whether it is signed.
    pub id: Option<(&'static str, bool)>,
    /// The header of the event.
    pub event: Option<&'static str>,
    /// How many seconds the time may be off; none where no time is signed.
    pub tolerance: Option<i64>,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Sender {
    /// Every header of a delivery, the signature first.
    pub fn headers(&self, parts: &Parts) -> Vec<(String, String)> {
        let (name, sign) = self.signature;
        let mut all = vec![(name.to_owned(), sign(parts))];
        all.extend(
            self.time
                .map(|name| (name.to_owned(), parts.time.to_string())),
        );
        all.extend(self.id.map(|(name, _)| (name.to_owned(), parts.id.clone())));
        all.extend(
            self.event
                .map(|name| (name.to_owned(), "thing.done".to_owned())),
        );
        all
    }

    /// The request with these headers.
    pub fn request(path: &str, headers: &[(String, String)], body: &[u8]) -> Request {
        let lines = headers.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        Request::new("POST", path)
            .header("Content-Type", "application/json")
            .headers(lines)
            .body(body)
    }

    /// A signed delivery.
    pub fn signed(&self, path: &str, parts: &Parts) -> Request {
        Self::request(path, &self.headers(parts), &parts.body)
    }

    /// The text an operator writes down for the secret: for Discord the public half.
    pub fn configured(&self, secret: &str) -> String {
        if self.name == "discord" {
            hex::encode(discord_key(secret).verifying_key().to_bytes())
        } else {
            secret.to_owned()
        }
    }
}

fn sha256(key: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length of key serves");
    mac.update(&pieces.concat());
    mac.finalize().into_bytes().to_vec()
}

fn body_hex(p: &Parts) -> String {
    hex::encode(sha256(p.secret.as_bytes(), &[&p.body]))
}

/// What `whsec_` and base64 stand for.
fn whsec(secret: &str) -> Vec<u8> {
    STANDARD
        .decode(secret.trim_start_matches("whsec_"))
        .expect("base64")
}

fn standard(p: &Parts) -> String {
    let head = format!("{}.{}.", p.id, p.time);
    let tag = sha256(&whsec(&p.secret), &[head.as_bytes(), &p.body]);
    format!("v1,{}", STANDARD.encode(tag))
}

fn discord_key(secret: &str) -> SigningKey {
    let seed: [u8; 32] = sha256(b"seed", &[secret.as_bytes()])
        .try_into()
        .expect("32 bytes");
    SigningKey::from_bytes(&seed)
}

const fn of_body(
    name: &'static str,
    signature: (&'static str, fn(&Parts) -> String),
    id: Option<(&'static str, bool)>,
    event: Option<&'static str>,
) -> Sender {
    Sender {
        name,
        auth: "",
        signature,
        time: None,
        id,
        event,
        tolerance: None,
    }
}

const fn of_standard(
    name: &'static str,
    [signature, time, id]: [&'static str; 3],
    event: Option<&'static str>,
) -> Sender {
    Sender {
        name,
        auth: "",
        signature: (signature, standard),
        time: Some(time),
        id: Some((id, true)),
        event,
        tolerance: Some(300),
    }
}

const GENERIC: &str = r#", hmac = { header = "X-Acme-Signature", algorithm = "sha512", encoding = "base64", prefix = "v2=", signed = "{id}:{timestamp}:{body}", timestamp_header = "X-Acme-Time", tolerance = "2min", id_header = "X-Acme-Id", event_header = "X-Acme-Event" }"#;

/// Every sender of the contract.
pub const SENDERS: [Sender; 18] = [
    of_body(
        "gitea",
        ("X-Gitea-Signature", body_hex),
        Some(("X-Gitea-Delivery", false)),
        Some("X-Gitea-Event-Type"),
    ),
    of_body(
        "forgejo",
        ("X-Forgejo-Signature", body_hex),
        Some(("X-Forgejo-Delivery", false)),
        Some("X-Forgejo-Event-Type"),
    ),
    of_body(
        "gogs",
        ("X-Gogs-Signature", body_hex),
        Some(("X-Gogs-Delivery", false)),
        Some("X-Gogs-Event"),
    ),
    of_body(
        "github",
        ("X-Hub-Signature-256", |p| format!("sha256={}", body_hex(p))),
        Some(("X-GitHub-Delivery", false)),
        Some("X-GitHub-Event"),
    ),
    of_body(
        "gitlab_token",
        ("X-Gitlab-Token", |p| p.secret.clone()),
        Some(("Idempotency-Key", false)),
        Some("X-Gitlab-Event"),
    ),
    of_standard(
        "gitlab_signing",
        ["webhook-signature", "webhook-timestamp", "webhook-id"],
        Some("X-Gitlab-Event"),
    ),
    of_standard(
        "standard_webhooks",
        ["webhook-signature", "webhook-timestamp", "webhook-id"],
        None,
    ),
    of_standard(
        "svix",
        ["svix-signature", "svix-timestamp", "svix-id"],
        None,
    ),
    Sender {
        name: "generic",
        auth: GENERIC,
        signature: ("X-Acme-Signature", |p| {
            let mut mac =
                Hmac::<Sha512>::new_from_slice(p.secret.as_bytes()).expect("any length serves");
            mac.update(format!("{}:{}:", p.id, p.time).as_bytes());
            mac.update(&p.body);
            format!("v2={}", STANDARD.encode(mac.finalize().into_bytes()))
        }),
        time: Some("X-Acme-Time"),
        id: Some(("X-Acme-Id", true)),
        event: Some("X-Acme-Event"),
        tolerance: Some(120),
    },
    Sender {
        tolerance: Some(300),
        ..of_body(
            "stripe",
            ("Stripe-Signature", |p| {
                let head = format!("{}.", p.time);
                let tag = sha256(p.secret.as_bytes(), &[head.as_bytes(), &p.body]);
                format!("t={},v1={},v0=abc", p.time, hex::encode(tag))
            }),
            None,
            None,
        )
    },
    Sender {
        time: Some("X-Slack-Request-Timestamp"),
        tolerance: Some(300),
        ..of_body(
            "slack",
            ("X-Slack-Signature", |p| {
                let head = format!("v0:{}:", p.time);
                let tag = sha256(p.secret.as_bytes(), &[head.as_bytes(), &p.body]);
                format!("v0={}", hex::encode(tag))
            }),
            None,
            None,
        )
    },
    of_body(
        "shopify",
        ("X-Shopify-Hmac-SHA256", |p| {
            STANDARD.encode(sha256(p.secret.as_bytes(), &[&p.body]))
        }),
        Some(("X-Shopify-Webhook-Id", false)),
        Some("X-Shopify-Topic"),
    ),
    of_body(
        "bitbucket",
        ("X-Hub-Signature", |p| format!("sha256={}", body_hex(p))),
        Some(("X-Request-UUID", false)),
        Some("X-Event-Key"),
    ),
    Sender {
        tolerance: Some(60),
        ..of_body(
            "linear",
            ("Linear-Signature", body_hex),
            Some(("Linear-Delivery", false)),
            Some("Linear-Event"),
        )
    },
    of_body(
        "sentry",
        ("Sentry-Hook-Signature", body_hex),
        Some(("Request-ID", false)),
        Some("Sentry-Hook-Resource"),
    ),
    of_body(
        "pagerduty",
        ("X-PagerDuty-Signature", |p| format!("v1={}", body_hex(p))),
        None,
        None,
    ),
    of_body(
        "circleci",
        ("circleci-signature", |p| format!("v1={}", body_hex(p))),
        None,
        Some("circleci-event-type"),
    ),
    Sender {
        time: Some("X-Signature-Timestamp"),
        tolerance: Some(300),
        ..of_body(
            "discord",
            ("X-Signature-Ed25519", |p| {
                let text = [p.time.to_string().as_bytes(), &p.body].concat();
                hex::encode(discord_key(&p.secret).sign(&text).to_bytes())
            }),
            None,
            None,
        )
    },
];
