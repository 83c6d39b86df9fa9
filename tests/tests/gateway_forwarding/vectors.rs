//! Published and third-party test vectors: each is judged as published, by the real gateway.
//!
//! Those of schemes that sign a time are of years ago. They are judged by `orket-gateway explain --at`, the same
//! pipeline at the vector's own moment; over the wire all of them have to be refused today.

use std::fmt::Write as _;

use orket_tests::corpus::{Vector, vectors};
use orket_tests::gateway::{PREAMBLE, run};
use orket_tests::{Cases, Gateway, Request, Upstream, refusal};
use serde_json::Value;
use tempfile::TempDir;

/// The schemes of the corpus and the `auth` of a route that speaks them.
const SPOKEN: [(&str, &str); 7] = [
    ("gitea", r#"provider = "gitea""#),
    ("gogs", r#"provider = "gogs""#),
    ("github", r#"provider = "github""#),
    ("bitbucket", r#"provider = "bitbucket""#),
    ("circleci", r#"provider = "circleci""#),
    ("slack", r#"provider = "slack""#),
    ("standard-webhooks", r#"provider = "standard_webhooks""#),
];

/// Schemes of the corpus that are not spoken, and why.
const NOT_SPOKEN: [(&str, &str); 1] = [(
    "twilio",
    "HMAC-SHA1 over the URL as the sender was given it, and over sorted form fields: a gateway behind others does \
     not know that URL, and what is forwarded is not what was signed",
)];

/// What the corpus calls `generic-hmac` is Convoy, which policies describe.
fn auth(vector: &Vector) -> String {
    if let Some((_, auth)) = SPOKEN.iter().find(|(name, _)| *name == vector.provider) {
        return (*auth).to_owned();
    }
    assert_eq!(
        vector.provider, "generic-hmac",
        "a scheme nobody decided about"
    );
    let encoding = if vector.id.ends_with("b64") {
        "base64"
    } else {
        "hex"
    };
    format!(
        r#"provider = "generic", hmac = {{ header = "X-Convoy-Signature", algorithm = "sha512", encoding = "{encoding}", signed = "{{body}}" }}"#
    )
}

fn all_spoken() -> Vec<Vector> {
    let names: Vec<&str> = SPOKEN.iter().map(|(name, _)| *name).collect();
    vectors(&[names.as_slice(), &["generic-hmac"]].concat())
}

/// Secrets with which no gateway starts; the next test's matter.
fn is_empty(vector: &Vector) -> bool {
    let secret = vector.secret_bytes().unwrap_or_default();
    secret.trim_ascii().is_empty() || secret == b"whsec_"
}

/// A policy with a route and a secret of its own for each vector.
fn policy(vectors: &[Vector]) -> String {
    let mut secrets = String::new();
    let mut routes = String::new();
    for (n, vector) in vectors.iter().enumerate() {
        writeln!(secrets, "s{n} = [{{ file = \"{{dir}}/s{n}\" }}]").unwrap();
        writeln!(
            routes,
            r#"[[routes]]
id = "r{n}"
path = "{}"
methods = ["POST"]
auth = {{ kind = "webhook", secret = "s{n}", {} }}
replay = false
upstream = "backend"
"#,
            path(n),
            auth(vector)
        )
        .unwrap();
    }
    format!("{PREAMBLE}\n[limits]\nfailures_per_address = \"none\"\n[secrets]\n{secrets}\n{routes}")
}

fn path(n: usize) -> String {
    format!("/webhook/{n}")
}

/// A trailing newline is taken off a file: one more keeps a secret that ends in one whole.
fn secret_file(vector: &Vector) -> Vec<u8> {
    let mut file = vector.secret_bytes().unwrap_or_default();
    file.push(b'\n');
    file
}

fn request(n: usize, vector: &Vector) -> Request {
    let headers = vector
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    Request::new("POST", &path(n))
        .headers(headers)
        .body(vector.body())
}

#[tokio::test]
async fn every_published_vector_is_judged_as_published() {
    let vectors: Vec<_> = all_spoken().into_iter().filter(|v| !is_empty(v)).collect();
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::before(upstream.address()).policy(&policy(&vectors));
    for (n, vector) in vectors.iter().enumerate() {
        gateway = gateway.file(&format!("s{n}"), &secret_file(vector));
    }
    let gateway = gateway.start().await;
    let mut cases = Cases::new();
    for (n, vector) in vectors.iter().enumerate() {
        eprintln!("case: {} ({})", vector.id, vector.source);
        let before = upstream.count();
        let answer = request(n, vector).send(gateway.address()).await;
        let forwarded = upstream.count() > before;
        if vector.valid && vector.now.is_none() {
            let passed = answer.status == 200 && forwarded && upstream.last().body == vector.body();
            cases.holds(&vector.id, passed, || {
                format!("{} {}", answer.status, answer.text())
            });
            continue;
        }
        let detail = match vector.reason.as_deref() {
            Some("missing_signature" | "missing_header") => "Missing signature",
            Some(_) | None => "Invalid signature",
        };
        cases.note(&vector.id, refusal::judge(&answer, 401, detail));
        cases.holds(&vector.id, !forwarded, || "it was forwarded".to_owned());
    }
    cases.finish();
}

#[tokio::test]
async fn every_timed_vector_is_judged_as_published_at_its_own_moment() {
    let timed: Vec<_> = all_spoken()
        .into_iter()
        .filter(|v| v.now.is_some() && !is_empty(v))
        .collect();
    assert_eq!(timed.len(), 19, "the corpus lost a vector");
    let dir = TempDir::new().unwrap();
    let at = dir.path().to_str().unwrap();
    for (n, vector) in timed.iter().enumerate() {
        std::fs::write(dir.path().join(format!("s{n}")), secret_file(vector)).unwrap();
    }
    let text = policy(&timed)
        .replace("{dir}", at)
        .replace("{upstream}", "127.0.0.1:1");
    std::fs::write(dir.path().join("gateway.toml"), text).unwrap();
    let mut cases = Cases::new();
    for (n, vector) in timed.iter().enumerate() {
        std::fs::write(dir.path().join("body"), vector.body()).unwrap();
        let moment = jiff::Timestamp::from_second(vector.now.unwrap()).unwrap();
        let (moment, path) = (moment.to_string(), path(n));
        let mut arguments = vec!["explain", "--config", "gateway.toml", "--format", "json"];
        arguments.extend(["--method", "POST", "--path", &path, "--at", &moment]);
        arguments.extend(["--body-file", "body"]);
        let lines: Vec<String> = vector
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        for line in &lines {
            arguments.extend(["--header", line]);
        }
        let ended = run(dir.path(), &arguments, &[]).await;
        let said: Value = serde_json::from_str(&ended.stdout).unwrap_or_default();
        let expected: &[&str] = match vector.reason.as_deref() {
            None => &[""],
            Some("malformed_signature") => &["signature_malformed"],
            Some("missing_signature") => &["signature_missing"],
            Some("bad_signature") => &["signature_wrong"],
            Some("missing_header") => &["timestamp_missing", "message_id_missing"],
            Some("bad_timestamp") => &["timestamp_malformed"],
            Some("timestamp_too_old") => &["timestamp_too_old"],
            Some(other) => panic!("{}: what is {other}?", vector.id),
        };
        let as_published = match said["verdict"].as_str() {
            Some("forwarded") => vector.valid,
            Some("refused") => {
                !vector.valid && expected.contains(&said["reason"].as_str().unwrap_or_default())
            }
            Some(_) | None => false,
        };
        cases.holds(&vector.id, as_published, || {
            format!("{} {said}", ended.output())
        });
    }
    cases.finish();
}

#[tokio::test]
async fn with_an_empty_secret_no_gateway_starts() {
    let upstream = Upstream::tcp().await;
    let mut all = vectors(&["gitea"]);
    all.truncate(1);
    for empty in ["", "\n", "   ", " \n"] {
        let gateway = Gateway::before(upstream.address())
            .file("s0", empty.as_bytes())
            .policy(&policy(&all));
        let ended = gateway.refused().await;
        assert!(
            ended.output().contains("empty"),
            "{empty:?}: {}",
            ended.output()
        );
    }
    let empty: Vec<_> = all_spoken().into_iter().filter(is_empty).collect();
    assert_eq!(empty.len(), 3, "the corpus lost a vector");
    for vector in empty {
        let said = if vector.provider == "standard-webhooks" {
            "nothing behind `whsec_`"
        } else {
            "empty"
        };
        let gateway = Gateway::before(upstream.address())
            .file("s0", &secret_file(&vector))
            .policy(&policy(std::slice::from_ref(&vector)));
        let ended = gateway.refused().await;
        assert!(
            ended.output().contains(said),
            "{}: {}",
            vector.id,
            ended.output()
        );
    }
}

#[test]
fn every_vector_of_the_corpus_was_decided_about() {
    let spoken = all_spoken().len();
    let not_spoken: Vec<&str> = NOT_SPOKEN.iter().map(|(name, _)| *name).collect();
    assert_eq!(spoken, 77, "the corpus lost a vector");
    assert_eq!(
        orket_tests::corpus::all_vectors().len(),
        spoken + vectors(&not_spoken).len(),
        "a scheme is neither spoken nor is it said why not: {NOT_SPOKEN:?}"
    );
}
