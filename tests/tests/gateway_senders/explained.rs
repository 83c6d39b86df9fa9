//! The mistakes that `explain` finds in a delivery.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orket_tests::Cases;
use orket_tests::gateway::run;
use orket_tests::sender::{Parts, SENDERS, Sender};
use tempfile::TempDir;

use super::{FIRST, OTHER, SECOND, policy};

/// What `explain` says of a delivery to the route of `sender`.
async fn hint(dir: &TempDir, sender: &str, headers: &[(String, String)], body: &[u8]) -> String {
    std::fs::write(dir.path().join("body"), body).unwrap();
    let path = format!("/webhook/{sender}");
    let mut arguments = vec!["explain", "--config", "gateway.toml", "--method", "POST"];
    arguments.extend(["--path", &path, "--body-file", "body"]);
    let lines: Vec<String> = headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    for line in &lines {
        arguments.extend(["--header", line]);
    }
    let ended = run(dir.path(), &arguments, &[]).await;
    let output = ended.output();
    for secret in [FIRST, SECOND, OTHER] {
        assert!(!output.contains(secret), "a secret is shown: {output}");
    }
    let hint = output.lines().find(|line| line.starts_with("hint"));
    hint.unwrap_or(&output).to_owned()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn explain_names_the_common_mistake_of_every_kind() {
    let dir = TempDir::new().unwrap();
    for sender in SENDERS {
        for (n, secret) in [(1, FIRST), (2, SECOND)] {
            let file = dir.path().join(format!("{}-{n}", sender.name));
            std::fs::write(file, sender.configured(secret)).unwrap();
        }
    }
    std::fs::write(dir.path().join("svix-1"), OTHER).unwrap();
    let text = policy()
        .replace("{dir}", dir.path().to_str().unwrap())
        .replace("{upstream}", "127.0.0.1:1");
    std::fs::write(dir.path().join("gateway.toml"), text).unwrap();
    let of = |name: &str| *SENDERS.iter().find(|s| s.name == name).unwrap();
    let parts = Parts::fresh(FIRST);
    let with = |secret: &str| Parts {
        secret: secret.to_owned(),
        ..parts.clone()
    };
    let value = |sender: &Sender, parts: &Parts| sender.headers(parts)[0].1.clone();
    let mut cases = Cases::new();
    for (what, name, headers, body, said) in [
        (
            "without its prefix",
            "github",
            vec![(
                "X-Hub-Signature-256".to_owned(),
                value(&of("gitea"), &parts),
            )],
            parts.body.clone(),
            "not its form: wanted is `sha256=` and 64 lower-case hex digits",
        ),
        (
            "hex where base64 is written",
            "shopify",
            vec![(
                "X-Shopify-Hmac-SHA256".to_owned(),
                value(&of("gitea"), &parts),
            )],
            parts.body.clone(),
            "not its form: wanted is 44 characters of base64",
        ),
        (
            "in upper case",
            "pagerduty",
            vec![(
                "X-PagerDuty-Signature".to_owned(),
                format!("v1={}", value(&of("gitea"), &parts).to_uppercase()),
            )],
            parts.body.clone(),
            "not its form",
        ),
        (
            "the time is not in the signed text",
            "slack",
            vec![
                (
                    "X-Slack-Signature".to_owned(),
                    format!("v0={}", value(&of("gitea"), &parts)),
                ),
                (
                    "X-Slack-Request-Timestamp".to_owned(),
                    parts.time.to_string(),
                ),
            ],
            parts.body.clone(),
            "it covers the body alone",
        ),
        (
            "too old",
            "stripe",
            of("stripe").headers(&parts.clone().away(-4000)),
            parts.clone().away(-4000).body,
            "it was signed 40",
        ),
        (
            "too new",
            "linear",
            of("linear").headers(&parts.clone().away(4000)),
            parts.clone().away(4000).body,
            "s after this moment, and 60 s are allowed",
        ),
        (
            "a secret with a line break",
            "github",
            of("github").headers(&with(&format!("{FIRST}\n"))),
            parts.body.clone(),
            "with a line break at its end",
        ),
        (
            "the secret of another route",
            "github",
            of("github").headers(&with(OTHER)),
            parts.body.clone(),
            "it fits the secret of the route `svix`",
        ),
        (
            "another sender's delivery",
            "gitea",
            of("github").headers(&parts),
            parts.body.clone(),
            "it is signed as `github` signs, and the route says `gitea`",
        ),
        (
            "a body that was re-serialised",
            "circleci",
            of("circleci").headers(&parts),
            serde_json::to_vec_pretty(
                &serde_json::from_slice::<serde_json::Value>(&parts.body).unwrap(),
            )
            .unwrap(),
            "it fits the body re-serialised without white space",
        ),
    ] {
        let found = hint(&dir, name, &headers, &body).await;
        cases.holds(what, found.contains(said), || found.clone());
    }
    // Standard Webhooks under the text instead of what it stands for.
    let sender = of("standard_webhooks");
    let text = STANDARD.encode(FIRST);
    let mut headers = sender.headers(&parts);
    headers[0].1 = value(&sender, &with(&format!("whsec_{text}")));
    let found = hint(&dir, sender.name, &headers, &parts.body).await;
    cases.holds(
        "`whsec_` not decoded",
        found.contains("taken as text"),
        || found.clone(),
    );
    cases.finish();
}
