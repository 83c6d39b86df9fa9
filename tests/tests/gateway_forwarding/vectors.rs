//! Published and third-party test vectors for Gitea and Gogs.

use orket_tests::corpus::{Vector, vectors};
use orket_tests::gateway::PREAMBLE;
use orket_tests::{Cases, Gateway, Request, Upstream, refusal};

fn policy(provider: &str) -> String {
    format!(
        r#"{PREAMBLE}
[secrets]
forge = [{{ file = "{{dir}}/secret" }}]

[[routes]]
id = "forge"
path = "/webhook/gitea"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "{provider}", secret = "forge" }}
upstream = "backend"
"#
    )
}

fn request(vector: &Vector) -> Request {
    let headers = vector
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    Request::new("POST", "/webhook/gitea")
        .headers(headers)
        .body(vector.body())
}

#[tokio::test]
async fn every_published_vector_is_judged_as_published() {
    let vectors = vectors(&["gitea", "gogs"]);
    assert_eq!(vectors.len(), 38, "the corpus lost a vector");
    let mut cases = Cases::new();
    for vector in vectors {
        let secret = vector.secret_bytes().unwrap_or_default();
        if secret.is_empty() {
            // The next test's matter: with an empty secret no gateway starts.
            continue;
        }
        eprintln!("case: {} ({})", vector.id, vector.source);
        let upstream = Upstream::tcp().await;
        // A trailing newline is taken off a file: one more keeps a secret that ends in one whole.
        let mut file = secret.clone();
        file.push(b'\n');
        let gateway = Gateway::before(upstream.address())
            .file("secret", &file)
            .policy(&policy(&vector.provider))
            .start()
            .await;
        let answer = request(&vector).send(gateway.address()).await;
        if vector.valid {
            let passed =
                answer.status == 200 && upstream.requests().iter().any(|r| r.body == vector.body());
            cases.holds(&vector.id, passed, || {
                format!("{} {}", answer.status, answer.text())
            });
        } else {
            let detail = match vector.reason.as_deref() {
                Some("missing_signature") => "Missing signature",
                Some(_) | None => "Invalid signature",
            };
            cases.note(&vector.id, refusal::judge(&answer, 401, detail));
            cases.holds(&vector.id, upstream.connections() == 0, || {
                "it was forwarded".to_owned()
            });
        }
    }
    cases.finish();
}

#[tokio::test]
async fn with_an_empty_secret_no_gateway_starts() {
    let upstream = Upstream::tcp().await;
    for empty in ["", "\n", "   ", " \n"] {
        let gateway = Gateway::before(upstream.address())
            .file("secret", empty.as_bytes())
            .policy(&policy("gitea"));
        let ended = gateway.refused().await;
        assert!(
            ended.output().contains("empty"),
            "{empty:?}: {}",
            ended.output()
        );
    }
}
