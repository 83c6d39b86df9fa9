//! Every sender over the real gateway: what is proven goes in as it is, and nothing else does.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use orket_tests::gateway::{PREAMBLE, check, run};
use orket_tests::gitea::sha256;
use orket_tests::sender::{Parts, SENDERS, Sender};
use orket_tests::{Cases, Gateway, Request, Upstream, refusal};
use tempfile::TempDir;

/// Secrets that every scheme but Discord's can take as they are.
const FIRST: &str = "whsec_dGhpcnR5LXR3byBieXRlcyBvZiBhIGZpcnN0IG9uZS4=";
const SECOND: &str = "whsec_dGhpcnR5LXR3byBieXRlcyBvZiBhIHNlY29uZCBvbmU=";
const OTHER: &str = "whsec_dGhpcnR5LXR3byBieXRlcyBvZiBubyBvbmUncyBrZXk=";

fn path(sender: &Sender) -> String {
    format!("/webhook/{}", sender.name)
}

/// One route for each sender; each has two secrets.
fn policy() -> String {
    let mut secrets = String::new();
    let mut routes = String::new();
    for sender in SENDERS {
        let (name, auth) = (sender.name, sender.auth);
        writeln!(
            secrets,
            "{name} = [{{ file = \"{{dir}}/{name}-1\" }}, {{ file = \"{{dir}}/{name}-2\", expires = 2099-01-01T00:00:00Z }}]"
        )
        .unwrap();
        writeln!(
            routes,
            "[[routes]]\nid = \"{name}\"\npath = \"/webhook/{name}\"\nmethods = [\"POST\"]\nauth = {{ kind = \"webhook\", provider = \"{name}\", secret = \"{name}\"{auth} }}\nupstream = \"backend\""
        )
        .unwrap();
    }
    format!("{PREAMBLE}\n[limits]\nfailures_per_address = \"none\"\n[secrets]\n{secrets}\n{routes}")
}

async fn gateway(upstream: &Upstream) -> Gateway {
    let mut builder = Gateway::before(upstream.address()).policy(&policy());
    for sender in SENDERS {
        for (n, secret) in [(1, FIRST), (2, SECOND)] {
            let file = format!("{}-{n}", sender.name);
            builder = builder.file(&file, sender.configured(secret).as_bytes());
        }
    }
    builder.start().await
}

#[tokio::test]
async fn a_proven_delivery_goes_in_as_it_is_and_its_proof_stays_out() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let mut cases = Cases::new();
    for sender in SENDERS {
        for (n, secret) in [(1, FIRST), (2, SECOND)] {
            let parts = Parts::fresh(secret);
            let answer = sender
                .signed(&path(&sender), &parts)
                .send(gateway.address())
                .await;
            let name = format!("{} with its {n}. secret", sender.name);
            if answer.status != 200 || upstream.count() == 0 {
                cases.holds(&name, false, || {
                    format!("{} {}", answer.status, answer.text())
                });
                continue;
            }
            let sent = upstream.last();
            let signed_id = sender.id.is_some_and(|(_, signed)| signed);
            let key = if signed_id {
                parts.id.clone()
            } else {
                sha256(&parts.body)
            };
            let as_it_is = sent.body == parts.body
                && sent.header("X-Orket-Webhook-Provider") == Some(sender.name)
                && sent.header("X-Orket-Webhook-Key") == Some(key.as_str())
                && sent.header("X-Orket-Webhook-Event") == sender.event.map(|_| "thing.done")
                && sent.header("X-Orket-Webhook-Delivery") == sender.id.map(|_| parts.id.as_str());
            let proof = [
                Some(sender.signature.0),
                sender.time,
                sender
                    .id
                    .filter(|(_, signed)| *signed)
                    .map(|(name, _)| name),
            ];
            let kept_out = proof.iter().flatten().all(|name| !sent.names(name));
            cases.holds(&name, as_it_is && kept_out, || {
                String::from_utf8_lossy(&sent.raw).into_owned()
            });
        }
    }
    cases.finish();
    let page = Request::get("/metrics").send(gateway.admin()).await.text();
    for sender in SENDERS {
        for n in [1, 2] {
            let line = format!(
                "orket_gateway_webhook_secret_matched_total{{route=\"{0}\",secret=\"{0}.{n}\"}} 1",
                sender.name
            );
            assert!(page.contains(&line), "{line}: {page}");
        }
    }
}

/// The value with one letter or digit near its end changed into another of the same alphabet.
fn one_off(value: &str) -> String {
    let mut bytes = value.as_bytes().to_vec();
    let at = bytes
        .iter()
        .rposition(|b| *b == b',')
        .unwrap_or(bytes.len());
    // Of Stripe's list the `v0` at the end counts for nothing.
    let end = if value.starts_with("t=") {
        at
    } else {
        bytes.len()
    };
    let at = end - 10;
    bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
    String::from_utf8(bytes).unwrap()
}

/// The value in another case, behind its prefix.
fn other_case(value: &str) -> String {
    let short_prefix = value.find(['=', ',']).filter(|at| *at < 8);
    let (prefix, rest) = value.split_at(short_prefix.map_or(0, |at| at + 1));
    format!("{prefix}{}", rest.to_uppercase())
}

/// A delivery that must not go in: what is wrong with it, the request, and what the answer says.
type Bad = (String, Request, &'static str);

const WRONG: &str = "Invalid signature";
const MISSING: &str = "Missing signature";

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn bad_deliveries(sender: &Sender) -> Vec<Bad> {
    let path = path(sender);
    let parts = Parts::fresh(FIRST);
    let good = sender.headers(&parts);
    let value = good[0].1.clone();
    let with = |value: &str| {
        let mut headers = good.clone();
        value.clone_into(&mut headers[0].1);
        Sender::request(&path, &headers, &parts.body)
    };
    let without = |name: &str| {
        let headers: Vec<_> = good.iter().filter(|(n, _)| n != name).cloned().collect();
        headers
    };
    let mut all: Vec<Bad> = vec![
        (
            "another secret".into(),
            sender.signed(&path, &Parts::fresh(OTHER)),
            WRONG,
        ),
        ("one bit off".into(), with(&one_off(&value)), WRONG),
        ("truncated".into(), with(&value[..value.len() / 2]), WRONG),
        ("longer".into(), with(&format!("{value}0")), WRONG),
        (
            "no signature".into(),
            Sender::request(&path, &without(&good[0].0), &parts.body),
            MISSING,
        ),
        ("an empty signature".into(), with(""), MISSING),
        (
            "a blank within".into(),
            with(&format!("{} {}", &value[..9], &value[9..])),
            WRONG,
        ),
        (
            "bytes that are not ASCII".into(),
            {
                let line = [good[0].0.as_bytes(), b": \xff\xfe", value.as_bytes()].concat();
                Sender::request(&path, &without(&good[0].0), &parts.body).line(line)
            },
            WRONG,
        ),
        ("another case".into(), with(&other_case(&value)), WRONG),
    ];
    if sender.name == "stripe" {
        // Behind the last comma stands a version that nobody reads.
        all.retain(|(what, ..)| what != "longer" && what != "another case");
        let upper = value.split(',').map(|item| match item.split_once("v1=") {
            Some((_, tag)) => format!("v1={}", tag.to_uppercase()),
            None => item.to_owned(),
        });
        all.push((
            "another case".into(),
            with(&upper.collect::<Vec<_>>().join(",")),
            WRONG,
        ));
        all.push((
            "two times".into(),
            with(&format!("t={},{value}", parts.time - 1)),
            WRONG,
        ));
        all.push((
            "no time".into(),
            with(value.split_once(',').unwrap().1),
            MISSING,
        ));
    }
    if sender.name != "gitlab_token" {
        let mut other = parts.body.clone();
        other[3] ^= 1;
        all.push((
            "one bit of the body off".into(),
            Sender::request(&path, &good, &other),
            WRONG,
        ));
        let another = Parts::fresh(FIRST).body;
        all.push((
            "the body of another delivery".into(),
            Sender::request(&path, &good, &another),
            WRONG,
        ));
        all.push(("no body".into(), Sender::request(&path, &good, b""), WRONG));
    }
    if let Some(tolerance) = sender.tolerance {
        for (what, seconds) in [("too old", -tolerance - 30), ("too new", tolerance + 30)] {
            let parts = parts.clone().away(seconds);
            all.push((what.to_owned(), sender.signed(&path, &parts), WRONG));
        }
    }
    if let Some(name) = sender.time {
        let time = parts.time.to_string();
        for (what, text) in [
            ("a sign before the time", format!("+{time}")),
            ("a zero before the time", format!("0{time}")),
            ("a fraction of a second", format!("{time}.0")),
            ("a digit of the body in the time", format!("{time}1")),
            ("a digit of the time in the body", time[..9].to_owned()),
            ("a separator in the time", format!("{time}:")),
        ] {
            let mut headers = without(name);
            headers.push((name.to_owned(), text));
            all.push((
                what.to_owned(),
                Sender::request(&path, &headers, &parts.body),
                WRONG,
            ));
        }
        let headers = without(name);
        all.push((
            "no time".into(),
            Sender::request(&path, &headers, &parts.body),
            MISSING,
        ));
    }
    if let Some((name, true)) = sender.id {
        for id in ["a.b", "a b", "\u{e9}", &"x".repeat(256)] {
            let parts = Parts {
                id: id.to_owned(),
                ..Parts::fresh(FIRST)
            };
            all.push((
                format!("the id {id:.9}"),
                sender.signed(&path, &parts),
                WRONG,
            ));
        }
        let headers = without(name);
        all.push((
            "no id".into(),
            Sender::request(&path, &headers, &parts.body),
            MISSING,
        ));
        let mut headers = without(name);
        headers.push((name.to_owned(), "another".to_owned()));
        all.push((
            "another id".into(),
            Sender::request(&path, &headers, &parts.body),
            WRONG,
        ));
    }
    all
}

#[tokio::test]
async fn what_is_not_proven_is_refused_and_nothing_of_it_goes_in() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let address = gateway.address();
    let mut cases = Cases::new();
    for sender in SENDERS {
        for (what, request, detail) in bad_deliveries(&sender) {
            let answer = request.send(address).await;
            let name = format!("{}: {what}", sender.name);
            cases.note(&name, refusal::judge(&answer, 401, detail));
        }
        // None of its headers may stand there twice, be lost on the way, or be spelled in two ways.
        let parts = Parts::fresh(FIRST);
        for (header, value) in sender.headers(&parts) {
            let twice = sender
                .signed(&path(&sender), &parts)
                .header(&header, &value);
            let nominated = sender
                .signed(&path(&sender), &parts)
                .header("Connection", &header);
            for (what, request) in [("twice", twice), ("nominated", nominated)] {
                let answer = request.send(address).await;
                let name = format!("{}: {header} {what}", sender.name);
                cases.note(&name, refusal::judge(&answer, 400, "Bad request"));
            }
        }
    }
    cases.finish();
    upstream.untouched("deliveries that are not proven");
}

#[tokio::test]
async fn a_signature_for_one_sender_opens_no_other_senders_route() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let mut cases = Cases::new();
    for from in SENDERS {
        for to in SENDERS {
            // These two are one scheme under one set of headers.
            let same = |name| ["gitlab_signing", "standard_webhooks"].contains(&name);
            if from.name == to.name || (same(from.name) && same(to.name)) {
                continue;
            }
            let request = from.signed(&path(&to), &Parts::fresh(FIRST));
            let answer = request.send(gateway.address()).await;
            cases.holds(
                &format!("{} at the door of {}", from.name, to.name),
                answer.status == 401,
                || format!("{} {}", answer.status, answer.text()),
            );
        }
    }
    cases.finish();
    upstream.untouched("deliveries of other senders");
}

#[tokio::test]
async fn one_of_several_signatures_is_enough_and_lists_are_bounded() {
    let upstream = Upstream::tcp().await;
    let gateway = gateway(&upstream).await;
    let mut cases = Cases::new();
    for (name, between) in [
        ("standard_webhooks", " "),
        ("pagerduty", ","),
        ("circleci", ","),
    ] {
        let sender = SENDERS.iter().find(|s| s.name == name).unwrap();
        let parts = Parts::fresh(FIRST);
        let good = sender.headers(&parts)[0].1.clone();
        let bad = (sender.signature.1)(&Parts {
            secret: OTHER.to_owned(),
            ..parts.clone()
        });
        let unknown = good.replace("v1", "v9");
        for (what, list, status) in [
            ("a good one last", vec![&bad, &unknown, &good], 200),
            ("the good one again", vec![&good, &good], 200),
            ("only bad ones", vec![&bad, &bad], 401),
            ("only of another version", vec![&unknown, &unknown], 401),
            ("seventeen", vec![&good; 17], 401),
        ] {
            // A new body each time, so that none is a repetition.
            let _ = what;
            let value = list
                .iter()
                .map(|s| s.as_str())
                .collect::<Vec<_>>()
                .join(between);
            let mut headers = sender.headers(&parts);
            headers[0].1 = value;
            let answer = Sender::request(&path(sender), &headers, &parts.body)
                .send(gateway.address())
                .await;
            cases.holds(&format!("{name}: {what}"), answer.status == status, || {
                format!("{} {}", answer.status, answer.text())
            });
        }
    }
    cases.finish();
}

#[tokio::test]
async fn a_secret_that_is_none_of_the_senders_does_not_load() {
    let dir = TempDir::new().unwrap();
    let mut cases = Cases::new();
    for (provider, secret, said) in [
        ("standard_webhooks", "whsec_", "nothing behind `whsec_`"),
        (
            "standard_webhooks",
            "not-base64-at-all-but-long-enough!",
            "not base64",
        ),
        ("svix", "whsec_short*", "not base64"),
        (
            "gitlab_signing",
            "dGhpcnR5LXR3byBieXRlcyBvZiBhIGZpcnN0IG9uZS4=",
            "does not begin with `whsec_`",
        ),
        (
            "gitlab_signing",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "not 32 bytes",
        ),
        (
            "discord",
            "D75A980182B10AB7D54BFED3C964073A0EE172F3DAA62325AF021A68F707511A",
            "lower-case hex",
        ),
        (
            "discord",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f7075",
            "64 lower-case hex digits",
        ),
        (
            "discord",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "no valid Ed25519 public key",
        ),
        (
            "discord",
            "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "no valid Ed25519 public key",
        ),
    ] {
        std::fs::write(dir.path().join("s"), secret).unwrap();
        let ended = check(
            dir.path(),
            &one_route(&format!("provider = \"{provider}\"")),
        )
        .await;
        let output = ended.output();
        let told = !ended.status.success()
            && output.contains(said)
            && (secret == "whsec_" || !output.contains(secret));
        cases.holds(&format!("{provider} {secret}"), told, || output.clone());
    }
    // A digest proves nothing here, not even for a token that is only compared.
    let digest = one_route(r#"provider = "gitlab_token""#).replace(
        "{ file = \"{dir}/s\" }",
        "{ digest = \"sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae\" }",
    );
    let ended = check(dir.path(), &digest).await;
    cases.holds(
        "a digest",
        ended.output().contains("the secret itself is needed"),
        || ended.output().clone(),
    );
    cases.finish();
}

fn one_route(auth: &str) -> String {
    format!(
        "{PREAMBLE}\n[secrets]\ns = [{{ file = \"{{dir}}/s\" }}]\n[[routes]]\nid = \"r\"\npath = \"/webhook/r\"\nmethods = [\"POST\"]\nauth = {{ kind = \"webhook\", secret = \"s\", {auth} }}\nupstream = \"backend\"\n"
    )
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn a_description_that_leaves_anything_open_does_not_load() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("s"), FIRST).unwrap();
    let good = r#"header = "X-S", algorithm = "sha256", encoding = "hex", signed = "{timestamp}.{body}", timestamp_header = "X-T""#;
    let mut cases = Cases::new();
    let of = |hmac: &str| one_route(&format!("provider = \"generic\", hmac = {{ {hmac} }}"));
    let ended = check(dir.path(), &of(good)).await;
    cases.holds("the good one", ended.status.success(), || {
        ended.output().clone()
    });
    for (change, to, said) in [
        (r#"header = "X-S", "#, "", "lacks `header`"),
        (r#"algorithm = "sha256", "#, "", "lacks `algorithm`"),
        ("\"sha256\"", "\"sha1\"", "SHA-1 is not taken"),
        ("\"sha256\"", "\"md5\"", "`md5` is not an `algorithm`"),
        ("\"hex\"", "\"base32\"", "`base32` is not an `encoding`"),
        (
            "{timestamp}.{body}",
            "{timestamp}",
            "`{body}` has to be in it",
        ),
        (
            "{timestamp}.{body}",
            "{body}{body}{timestamp}",
            "`{body}` stands there twice",
        ),
        (
            "{timestamp}.{body}",
            "{url}.{body}.{timestamp}",
            "braces stand around",
        ),
        (
            "{timestamp}.{body}",
            "{body}",
            "a time that is not signed proves nothing",
        ),
        (
            "{timestamp}.{body}",
            "{id}.{timestamp}.{body}",
            "no header of it is named",
        ),
        (
            "{timestamp}.{body}\"",
            "{timestamp}.{id}{body}\", id_header = \"X-I\"",
            "between `{id}` and what is beside it",
        ),
        (
            r#", timestamp_header = "X-T""#,
            "",
            "no header of it is named",
        ),
        (
            r#"{timestamp}.{body}", timestamp_header = "X-T""#,
            r#"{body}", tolerance = "1min""#,
            "`tolerance` is of a signed time",
        ),
        ("\"X-T\"", "\"X-S\"", "has two meanings"),
        (
            "\"X-S\"",
            "\"Authorization\"",
            "cannot be a header of a sender",
        ),
        ("\"X-S\"", "\"Host\"", "cannot be a header of a sender"),
        (
            "\"X-S\"",
            "\"Connection\"",
            "cannot be a header of a sender",
        ),
        (
            "\"X-S\"",
            "\"X-Orket-Actor\"",
            "cannot be a header of a sender",
        ),
        ("\"X-S\"", "\"X_S\"", "cannot be a header of a sender"),
        ("\"X-S\"", "\"X S\"", "cannot be a header of a sender"),
        (
            "encoding",
            "prefix = \"\\n\", encoding",
            "no header can begin with this `prefix`",
        ),
    ] {
        let ended = check(dir.path(), &of(&good.replace(change, to))).await;
        let output = ended.output();
        let told =
            !ended.status.success() && output.contains(said) && output.contains("gateway.toml:");
        cases.holds(&format!("{change} -> {to}"), told, || output.clone());
    }
    for (auth, said) in [
        (r#"provider = "generic""#.to_owned(), "needs `hmac`"),
        (
            format!("provider = \"github\", hmac = {{ {good} }}"),
            "describes the sender `generic` only",
        ),
        (
            r#"provider = "twilio""#.to_owned(),
            "one of: gitea, forgejo, gogs, github",
        ),
    ] {
        let ended = check(dir.path(), &one_route(&auth)).await;
        cases.holds(
            &auth,
            !ended.status.success() && ended.output().contains(said),
            || ended.output().clone(),
        );
    }
    cases.finish();
}

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
