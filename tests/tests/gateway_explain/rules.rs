//! The `[[tests]]` of a policy are judged as requests over a connection are.

use orket_tests::gateway::{WEBHOOK_SECRET, check};
use orket_tests::gitea::signature;
use orket_tests::policy::SECRET_FILE;
use orket_tests::{Cases, Policy};
use tempfile::TempDir;

#[tokio::test]
async fn a_policys_tests_know_the_bounds_of_bodies() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(SECRET_FILE.0), SECRET_FILE.1).unwrap();
    let long = "x".repeat(70_000);
    let signed = |body: &str| signature(WEBHOOK_SECRET.as_bytes(), body.as_bytes());
    let mut cases = Cases::new();
    for (what, path, body, headers, expect) in [
        (
            "a chunked delivery",
            "/webhook/gitea",
            "{}",
            format!(
                "Transfer-Encoding = \"chunked\", X-Gitea-Signature = \"{}\"",
                signed("{}")
            ),
            "forward = \"backend\"",
        ),
        (
            "a chunked delivery of more than 64 KiB",
            "/webhook/gitea",
            &long,
            format!(
                "Transfer-Encoding = \"chunked\", X-Gitea-Signature = \"{}\"",
                signed(&long)
            ),
            "status = 411, reason = \"length_required\"",
        ),
        (
            "a delivery that ends early",
            "/webhook/gitea",
            "{}",
            format!(
                "Content-Length = \"3\", X-Gitea-Signature = \"{}\"",
                signed("{}")
            ),
            "status = 408, reason = \"body_timeout\"",
        ),
        (
            "of a longer body only what was announced",
            "/webhook/gitea",
            "{} and the next request",
            format!(
                "Content-Length = \"2\", X-Gitea-Signature = \"{}\"",
                signed("{}")
            ),
            "forward = \"backend\"",
        ),
        (
            "a chunked body over the route's limit",
            "/open",
            &long,
            "Transfer-Encoding = \"chunked\"".to_owned(),
            "status = 413, reason = \"body_too_large\"",
        ),
        (
            "a target in absolute form",
            "http://localhost/open",
            "",
            "Host = \"localhost\"".to_owned(),
            "forward = \"backend\"",
        ),
    ] {
        let policy = Policy::new()
            .rest("[[routes]]\nid = \"open\"\npath = \"/open\"\nmethods = [\"POST\"]\nauth = { kind = \"none\" }\nbody_limit = \"64KiB\"\nupstream = \"backend\"")
            .rest(&format!(
                "[[tests]]\nname = \"t\"\nrequest = {{ method = \"POST\", path = \"{path}\", body = \"{body}\", headers = {{ {headers} }} }}\nexpect = {{ {expect} }}"
            ));
        let ended = check(dir.path(), &policy.to_string()).await;
        cases.holds(what, ended.status.success(), || {
            let output = ended.output();
            output
                .lines()
                .filter(|l| l.len() < 400)
                .collect::<Vec<_>>()
                .join("\n")
        });
    }
    cases.finish();
}
