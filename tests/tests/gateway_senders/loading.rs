//! Secrets and descriptions of a wrong form do not load.

use orket_tests::Cases;
use orket_tests::gateway::{PREAMBLE, check};
use tempfile::TempDir;

use super::FIRST;

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

/// Whoever signs ids could take the digest of a body for one.
#[tokio::test]
async fn one_source_has_one_kind_of_mark() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("s"), FIRST).unwrap();
    let two = |second: &str| {
        let other = "[[routes]]\nid = \"q\"\npath = \"/webhook/q\"\nmethods = [\"POST\"]\nupstream = \"backend\"\nsource = \"forge\"\nauth = { kind = \"webhook\", secret = \"s\", provider = ";
        let first = one_route("provider = \"gitea\"");
        format!("{first}source = \"forge\"\n{other}\"{second}\" }}\n")
    };
    let same = check(dir.path(), &two("github")).await;
    assert!(same.status.success(), "{}", same.output());
    let mixed = check(dir.path(), &two("standard_webhooks")).await;
    assert!(
        !mixed.status.success() && mixed.output().contains("have one source"),
        "{}",
        mixed.output()
    );
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
