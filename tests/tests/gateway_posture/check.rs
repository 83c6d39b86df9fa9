//! `orket-gateway check`: every error with its file, line and column, and a caret under it.

use orket_tests::gateway::{self, WEBHOOK_SECRET};
use orket_tests::policy::SECRET_FILE;
use orket_tests::{Cases, Policy};
use tempfile::TempDir;

fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(SECRET_FILE.0), SECRET_FILE.1).unwrap();
    std::fs::write(dir.path().join("empty"), "").unwrap();
    std::fs::write(dir.path().join("blank"), "  \n").unwrap();
    dir
}

#[tokio::test]
async fn a_good_policy_is_good() {
    let dir = folder();
    let ended = gateway::check(dir.path(), &Policy::new().to_string()).await;
    assert!(ended.status.success(), "{}", ended.output());
}

/// A wrong policy: its name, the policy, and text that stands only on the line that is wrong.
fn wrong() -> Vec<(&'static str, String, &'static str)> {
    let base = Policy::new;
    let text = |policy: Policy| policy.to_string();
    let swap = |from: &str, to: &str| {
        let text = base().to_string();
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    vec![
        ("a field no one knows", swap("version = 1", "version = 1\nverbose = true"), "verbose = true"),
        ("a section no one knows", text(base().rest("[lissten]\nhttp = \"127.0.0.1:0\"")), "[lissten]"),
        ("a field of a section", swap("[state]", "htpp = \"127.0.0.1:0\"\n[state]"), "htpp ="),
        ("a field of a route", text(base().api("uppstream = \"backend\"")), "uppstream"),
        ("a field of auth", swap("auth = { kind = \"api_key\" }", "auth = { kind = \"api_key\", secrett = \"ci\" }"), "secrett"),
        ("a wrong type", swap("methods = [\"POST\"]", "methods = \"POST\""), "methods = \"POST\""),
        ("a number for text", swap("id = \"gitea\"", "id = 7"), "id = 7"),
        ("a duration without end", text(base().limits("head_timeout = \"5000000000000000h\"")), "5000000000000000h"),
        ("a budget that never comes back", text(base().rest("[[rate_limits]]\nid = \"x\"\nby = \"key\"\nrate = \"1/d\"\nburst = 4294967295")), ""),
        ("a proxy that is everyone", text(base().rest("[client_address]\ntrusted_proxies = [\"0.0.0.0/0\"]")), "0.0.0.0/0"),
        ("an upstream with a password", swap("address = \"{upstream}\"", "address = \"user:word@127.0.0.1:1\""), ""),
        ("another version", swap("version = 1", "version = 2"), "version = 2"),
        ("an unknown upstream", text(base().rest("[[routes]]\nid = \"x\"\npath = \"/x\"\nmethods = [\"GET\"]\nauth = { kind = \"none\" }\nupstream = \"nowhere\"")), "\"nowhere\""),
        ("an unknown secret", swap("provider = \"gitea\", secret = \"gitea\"", "provider = \"gitea\", secret = \"nowhere\""), "\"nowhere\""),
        ("an unknown secret of a key", swap("secret = \"ci\"", "secret = \"nowhere\""), "\"nowhere\""),
        ("an unknown rate limit", text(base().api("rate_limits = [\"nowhere\"]")), "\"nowhere\""),
        ("a route without auth", text(base().rest("[[routes]]\nid = \"open\"\npath = \"/open\"\nmethods = [\"GET\"]\nupstream = \"backend\"")), ""),
        ("an unknown kind of auth", swap("kind = \"api_key\"", "kind = \"apikey\""), "\"apikey\""),
        ("an unknown provider", swap("provider = \"gitea\"", "provider = \"giteaa\""), "\"giteaa\""),
        ("a digest for a MAC", text(base().secrets(&format!("mac = [{{ digest = \"sha256:{}\" }}]", "0".repeat(64))).rest("[[routes]]\nid = \"x\"\npath = \"/x\"\nmethods = [\"POST\"]\nauth = { kind = \"webhook\", provider = \"gitea\", secret = \"mac\" }\nupstream = \"backend\"")), ""),
        ("a digest that is none", swap("sha256:", "sha256:zz"), "sha256:zz"),
        ("an unknown digest", text(base().secrets("md = [{ digest = \"md5:00\" }]")), "md5:00"),
        ("a secret file that is missing", swap("{dir}/gitea-secret", "{dir}/missing"), "/missing"),
        ("an empty secret file", swap("{dir}/gitea-secret", "{dir}/empty"), "/empty"),
        ("a blank secret file", swap("{dir}/gitea-secret", "{dir}/blank"), "/blank"),
        ("a variable that is not set", swap("{ file = \"{dir}/gitea-secret\" }", "{ env = \"NO_SUCH_VARIABLE\" }"), "NO_SUCH_VARIABLE"),
        ("a secret with two sources", swap("{ file = \"{dir}/gitea-secret\" }", "{ file = \"{dir}/gitea-secret\", env = \"HOME\" }"), "env = \"HOME\""),
        ("no secret in the list", swap("gitea = [{ file = \"{dir}/gitea-secret\" }]", "gitea = []"), "gitea = []"),
        ("two routes of one path", text(base().rest("[[routes]]\nid = \"again\"\npath = \"/v1/*\"\nmethods = [\"GET\"]\nauth = { kind = \"none\" }\nupstream = \"backend\"")), ""),
        ("two routes of one id", swap("id = \"events\"", "id = \"api\""), ""),
        ("a star in the middle", swap("path = \"/ws/events\"", "path = \"/ws/*/events\""), "/ws/*/events"),
        ("a star within a segment", swap("path = \"/ws/events\"", "path = \"/ws/ev*\""), "/ws/ev*"),
        ("a path without its slash", swap("path = \"/ws/events\"", "path = \"ws/events\""), "\"ws/events\""),
        ("a path with dots", swap("path = \"/ws/events\"", "path = \"/ws/../events\""), "/ws/../events"),
        ("a method that is none", swap("methods = [\"POST\"]", "methods = [\"PO ST\"]"), "PO ST"),
        ("no method", swap("methods = [\"POST\"]", "methods = []"), ""),
        ("a time that is none", text(base().limits("head_timeout = \"soon\"")), "\"soon\""),
        ("a time without a unit", text(base().limits("head_timeout = 10")), "head_timeout = 10"),
        ("a size that is none", text(base().limits("head_bytes = \"big\"")), "\"big\""),
        ("a rate that is none", text(base().limits("failures_per_address = \"often\"")), "\"often\""),
        ("a negative count", text(base().limits("connections = -1")), "connections = -1"),
        ("an environment no one knows", swap("environment = \"local\"", "environment = \"staging\""), "\"staging\""),
        ("an admin listener for all", swap("admin = \"127.0.0.1:0\"", "admin = \"0.0.0.0:0\""), "\"0.0.0.0:0\""),
        ("a listener that is no address", swap("http = \"127.0.0.1:0\"", "http = \"localhost\""), "\"localhost\""),
        ("an address rule that is none", text(base().gitea("addresses = { deny = [\"127.0.0\"] }")), "\"127.0.0\""),
        ("a proxy that is no network", text(base().rest("[client_address]\ntrusted_proxies = [\"10.0.0.0/99\"]")), "10.0.0.0/99"),
        ("an upgrade no one knows", swap("upgrade = \"websocket\"", "upgrade = \"h2c\""), "\"h2c\""),
        ("a header that is none", text(base().rest("[upstreams.other]\naddress = \"127.0.0.1:9\"\nset_headers = { \"X Y\" = \"ci\" }")), "X Y"),
        ("an upstream that is no address", text(base().rest("[upstreams.other]\naddress = \"nowhere\"")), "\"nowhere\""),
        ("a date that is none", swap("scopes = [\"*\"]", "scopes = [\"*\"]\nexpires = \"soon\""), "expires = \"soon\""),
        ("a syntax error", swap("[limits]", "[limits"), "[limits"),
        ("a value twice", swap("version = 1", "version = 1\nversion = 1"), ""),
    ]
}

#[tokio::test]
async fn every_error_names_its_place_with_a_caret() {
    let dir = folder();
    let mut cases = Cases::new();
    let position = regex::Regex::new(r"gateway\.toml:(\d+):(\d+)").unwrap();
    for (name, policy, place) in wrong() {
        let ended = gateway::check(dir.path(), &policy).await;
        let output = ended.output();
        let shown = || format!("exit {:?}\n{output}", ended.status.code());
        cases.holds(name, ended.status.code() == Some(1), shown);
        cases.holds(name, !output.contains("panicked"), shown);
        cases.holds(
            name,
            output
                .lines()
                .any(|line| line.trim_start_matches(['|', ' ']).starts_with('^')),
            shown,
        );
        let lines: Vec<usize> = position
            .captures_iter(&output)
            .map(|found| found[1].parse().unwrap())
            .collect();
        cases.holds(name, !lines.is_empty(), shown);
        let (errors, hints) = (
            output.matches(": error: ").count(),
            output.matches("= help: ").count(),
        );
        cases.holds(name, errors <= hints, shown);
        if !place.is_empty() {
            let written = std::fs::read_to_string(dir.path().join("gateway.toml")).unwrap();
            let line = 1 + written
                .lines()
                .position(|line| line.contains(place))
                .expect(name);
            cases.holds(name, lines.contains(&line), || {
                format!("line {line} is not named\n{output}")
            });
        }
        cases.holds(name, !output.contains(WEBHOOK_SECRET), shown);
    }
    cases.finish();
}

#[tokio::test]
async fn what_check_refuses_serve_refuses_as_well() {
    let upstream = orket_tests::Upstream::tcp().await;
    for (name, policy, _) in wrong() {
        eprintln!("case: {name}");
        let gateway = orket_tests::Gateway::before(upstream.address())
            .file(SECRET_FILE.0, SECRET_FILE.1)
            .file("empty", b"")
            .file("blank", b"  \n")
            .policy(&policy);
        gateway.refused().await;
    }
}

#[tokio::test]
async fn all_errors_are_shown_not_only_the_first() {
    let dir = folder();
    let policy = Policy::new()
        .limits("head_timeout = \"soon\"")
        .api("uppstream = \"backend\"\nrate_limits = [\"nowhere\"]")
        .gitea("body_limit = \"big\"");
    let ended = gateway::check(dir.path(), &policy.to_string()).await;
    for word in ["soon", "uppstream", "big"] {
        assert!(
            ended.output().contains(word),
            "{word} is missing: {}",
            ended.output()
        );
    }
    assert!(
        ended.output().matches('^').count() >= 3,
        "{}",
        ended.output()
    );
}

#[tokio::test]
async fn a_misspelt_field_is_answered_with_the_right_one() {
    let dir = folder();
    let policy = Policy::new().gitea("body_limt = \"1MiB\"");
    let ended = gateway::check(dir.path(), &policy.to_string()).await;
    assert!(ended.output().contains("body_limit"), "{}", ended.output());
}

#[tokio::test]
async fn a_file_that_is_missing_is_a_clear_error() {
    let dir = TempDir::new().unwrap();
    let ended = gateway::run(dir.path(), &["check", "nowhere.toml"], &[]).await;
    assert!(!ended.status.success());
    assert!(
        ended.output().contains("nowhere.toml"),
        "{}",
        ended.output()
    );
    assert!(!ended.output().contains("panicked"));
}
