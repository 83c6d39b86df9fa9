//! What `check` says of policies that can be read: every mistake once, in one run, and what makes no sense.

use std::os::unix::fs::PermissionsExt;

use orket_tests::gateway::{check, run};
use orket_tests::policy::SECRET_FILE;
use orket_tests::{Cases, Policy, snapshot};
use tempfile::TempDir;

fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    let secret = dir.path().join(SECRET_FILE.0);
    std::fs::write(&secret, SECRET_FILE.1).unwrap();
    // Readable by others it would be warned of.
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    dir
}

/// Twelve mistakes of twelve kinds.
const TWELVE: &str = r#"version = 1
[posture]
environment = "prodution"
[limits]
head_timeout = 10
[client_address]
trusted_proxies = ["10.0.0.0/99"]
[upstreams.backend]
adress = "127.0.0.1:9"
[secrets]
gitea = [{ file = "{dir}/missing" }]
ci = "hunter2"
[[keys]]
id = "ci"
secret = "ci"
scopes = ["runs:wirte"]
[[rate_limits]]
id = "per-key"
by = "key"
rate = "often"
[[routes]]
id = "api"
path = "/v1/*"
methods = ["GET", "FETCH"]
auth = { kind = "api_key" }
rate_limits = ["per-key"]
upstream = "backend"
[[routes]]
id = "gitea"
path = "/webhook/../gitea"
methods = ["POST"]
auth = { kind = "webhook", provider = "gittea", secret = "gitea" }
upstream = "backend"
[[tests]]
name = "nothing"
request = { path = "/v1/version" }
"#;

#[tokio::test]
async fn twelve_mistakes_are_twelve_errors_of_one_run() {
    let dir = folder();
    let ended = check(dir.path(), TWELVE).await;
    assert_eq!(ended.status.code(), Some(1));
    let said = ended.stdout.replace(dir.path().to_str().unwrap(), "{dir}");
    snapshot::hold("twelve_mistakes.txt", &said);
    assert!(said.contains("12 error(s), 0 warning(s)"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let json = run(
        dir.path(),
        &["check", "gateway.toml", "--format", "json"],
        &[],
    )
    .await;
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let all = json["diagnostics"].as_array().unwrap();
    assert_eq!(all.len(), 12);
    for one in all {
        assert!(one["hint"].is_string(), "{one}");
        assert!(
            one["line"].as_u64() > Some(0) && one["column"].as_u64() > Some(0),
            "{one}"
        );
    }
}

/// Policies that load or not for want of sense: name, policy, what is said.
fn senseless() -> Vec<(&'static str, Policy, &'static str)> {
    let route = |id: &str, path: &str, more: &str| {
        format!("[[routes]]\nid = \"{id}\"\npath = \"{path}\"\nupstream = \"backend\"\n{more}")
    };
    let open = |methods: &str| format!("methods = [{methods}]\nauth = {{ kind = \"none\" }}\n");
    let scoped = |allow: &str| {
        format!(
            "[[scopes]]\nid = \"s\"\nallow = [\"{allow}\"]\n[[keys]]\nid = \"k\"\nsecret = \"k\"\nscopes = [\"s\"]"
        )
    };
    let key = "k = [{ digest = \"sha256:1111111111111111111111111111111111111111111111111111111111111111\" }]";
    let new = Policy::new;
    vec![
        ("behind health", new().rest(&route("h", "/health", &open("\"GET\""))), "error: nobody reaches route `h`"),
        ("denied whom it allows", new().gitea("addresses = { allow = [\"192.0.2.1\", \"192.0.2.2\"], deny = [\"192.0.2.0/24\"] }"), "error: nobody can ask"),
        ("a webhook without a body", new().gitea("body_limit = \"0B\""), "error: a webhook without a body"),
        ("writes without a body", new().api("body_limit = \"0B\""), "warning: route `api` takes writes and no byte"),
        ("an exempt proxy", new().gitea("addresses = { exempt = [\"10.1.0.0/16\"] }").rest("[client_address]\ntrusted_proxies = [\"10.0.0.0/8\"]"), "warning: `10.1.0.0/16` is a trusted proxy"),
        ("a longer pattern", new().rest(&route("one", "/v1/one/*", &open("\"GET\""))), "warning: route `one` takes these paths away from `api`, also for POST, PATCH, DELETE"),
        ("a longer exact path", new().rest(&route("one", "/v1/one", &open("\"GET\", \"POST\", \"PATCH\""))), "warning: route `one` takes this path away from `api`, also for DELETE"),
        ("a scope of nothing", new().secrets(key).rest(&scoped("GET /v2/x")), "warning: scope `s` allows `GET /v2/x`, which no key route takes"),
        ("a scope of a method that is not taken", new().secrets(key).rest(&scoped("PUT /v1/x")), "warning: scope `s` allows `PUT /v1/x`"),
        ("a scope no key has", new().rest("[[scopes]]\nid = \"s\"\nallow = [\"GET /v1/x\"]"), "warning: no key has the scope `s`"),
        ("an expired key", new().secrets(key).rest("[[keys]]\nid = \"k\"\nsecret = \"k\"\nscopes = [\"*\"]\nexpires = 2020-01-01T00:00:00Z"), "expired"),
        ("an unused upstream", new().rest("[upstreams.spare]\naddress = \"127.0.0.1:7\""), "warning: no route leads to the upstream `spare`"),
        ("an unused limit", new().rest("[[rate_limits]]\nid = \"spare\"\nby = \"key\"\nrate = \"5/s\""), "warning: no route spends from the limit `spare`"),
        ("a webhook that takes no POST", new().rest(&route("w", "/w", "methods = [\"PUT\"]\nauth = { kind = \"webhook\", provider = \"gitea\", secret = \"gitea\" }")), "warning: route `w` takes no POST"),
        ("a limit by source on a key route", new().api("rate_limits = [\"s\"]").rest("[[rate_limits]]\nid = \"s\"\nby = \"source\"\nrate = \"5/s\""), "error: limit `s` is kept by something this route does not have"),
        ("a test that expects nothing", new().rest("[[tests]]\nname = \"t\"\nrequest = { path = \"/\" }"), "error: the test `t` expects nothing"),
        ("a test of an upstream that is none", new().rest("[[tests]]\nname = \"t\"\nrequest = { path = \"/\" }\nexpect = { forward = \"x\" }"), "error: there is no upstream `x`"),
    ]
}

#[tokio::test]
async fn what_makes_no_sense_is_told() {
    let dir = folder();
    let mut cases = Cases::new();
    for (name, policy, word) in senseless() {
        let ended = check(dir.path(), &policy.to_string()).await;
        cases.holds(name, ended.output().contains(word), || ended.output());
        let loads = !word.starts_with("error");
        cases.holds(name, ended.status.success() == loads, || ended.output());
        cases.holds(name, ended.output().contains("help: "), || ended.output());
    }
    let ended = check(dir.path(), &Policy::new().to_string()).await;
    cases.holds(
        "nothing is wrong",
        ended.output().contains("0 error(s), 0 warning(s)"),
        || ended.output(),
    );
    cases.finish();
}

#[tokio::test]
async fn a_route_that_no_key_covers_is_told() {
    let dir = folder();
    let policy = Policy::new()
        .rest("[[scopes]]\nid = \"s\"\nallow = [\"GET /v1/*\"]")
        .to_string()
        .replace("scopes = [\"*\"]", "scopes = [\"s\"]");
    let ended = check(dir.path(), &policy).await;
    let said = ended.output();
    assert!(
        said.contains("warning: nobody can use route `events`"),
        "{said}"
    );
    assert!(!said.contains("nobody can use route `api`"), "{said}");
}

#[tokio::test]
async fn one_mistake_is_told_once() {
    let dir = folder();
    let mut cases = Cases::new();
    let swap = |from: &str, to: &str| {
        let text = Policy::new().to_string();
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let limit = |line: &str| {
        Policy::new()
            .api("rate_limits = [\"l\"]")
            .rest(&format!("[[rate_limits]]\nid = \"l\"\n{line}"))
            .to_string()
    };
    for (name, policy) in [
        (
            "a rate that is none",
            limit("by = \"key\"\nrate = \"often\""),
        ),
        ("no rate", limit("by = \"key\"")),
        ("a rate misspelt", limit("by = \"key\"\nrat = \"5/s\"")),
        (
            "an owner that is none",
            limit("by = \"moon\"\nrate = \"5/s\""),
        ),
        (
            "an upstream misspelt",
            swap("address = \"{upstream}\"", "adress = \"{upstream}\""),
        ),
        (
            "an upstream that is none",
            swap("address = \"{upstream}\"", "address = \"nowhere\""),
        ),
        (
            "a secret in the file",
            swap("ci = [{ digest", "cj = [{ digest")
                .replace("cj = [{ digest = \"sha256:", "ci = \"")
                .replace("\" }]\n\n[[keys]]", "\"\n\n[[keys]]"),
        ),
("secrets that are no table", "version = 1\nsecrets = 5\n[upstreams.b]\naddress = \"127.0.0.1:9\"\n[[keys]]\nid = \"k\"\nsecret = \"k\"\nscopes = [\"*\"]\n[[routes]]\nid = \"r\"\npath = \"/r\"\nmethods = [\"POST\"]\nauth = { kind = \"webhook\", provider = \"gitea\", secret = \"g\" }\nupstream = \"b\"\n".to_owned()),
        (
            "a proof that is no table",
            swap("auth = { kind = \"api_key\" }", "auth = \"api_key\""),
        ),
        (
            "a path that is no text",
            swap("path = \"/ws/events\"", "path = 7"),
        ),
        (
            "methods that are text",
            swap("methods = [\"POST\"]", "methods = \"POST\""),
        ),
        (
            "a key's scopes misspelt",
            swap("scopes = [\"*\"]", "scope = [\"*\"]"),
        ),
    ] {
        let ended = check(dir.path(), &policy).await;
        cases.holds(name, ended.output().contains("1 error(s)"), || {
            ended.output()
        });
    }
    cases.finish();
}

#[tokio::test]
async fn texts_of_all_kinds_are_told_of_in_the_right_place() {
    let dir = folder();
    let path = dir.path().join("gateway.toml");
    let said = async |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let ended = run(dir.path(), &["check", "gateway.toml"], &[]).await;
        assert_eq!(ended.status.code(), Some(1), "{}", ended.output());
        assert!(!ended.output().contains("panicked"), "{}", ended.output());
        ended.output()
    };
    let shown = said(b"\xef\xbb\xbfverbose = 1\n").await;
    assert!(
        shown.contains("gateway.toml:1:1: error: unknown field `verbose`"),
        "a byte order mark: {shown}"
    );
    let shown = said(b"version = 1\r\n\tverbose = 1\r\n").await;
    assert!(
        shown.contains("gateway.toml:2:2:") && shown.contains("\n  |     ^^^^^^^\n"),
        "{shown}"
    );
    let shown = said("version = 1\n[limits]\n\"日本\" = 1\n".as_bytes()).await;
    assert!(
        shown.contains("gateway.toml:3:1:") && shown.contains("\n  | ^^^^^^\n"),
        "{shown}"
    );
    let shown = said(b"version = 1\n# caf\xe9\n").await;
    assert!(
        shown.contains("gateway.toml:2:6: error: this is not UTF-8"),
        "{shown}"
    );
    let shown = said(b"version = 1\n\"\\u001b[31m\" = 1\n").await;
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

#[tokio::test]
async fn huge_and_deep_texts_are_bounded() {
    let dir = folder();
    let path = dir.path().join("gateway.toml");
    let many = "x = 1\n[[routes]]\n".repeat(100_000);
    let cases: [(&str, String); 7] = [
        (
            "many mistakes",
            format!(
                "version = 1\n{}",
                (0..100_000).fold(String::new(), |text, n| text + &format!("x{n} = 1\n"))
            ),
        ),
        ("many tables", many),
        (
            "deep arrays",
            format!(
                "version = 1\nx = {}{}\n",
                "[".repeat(100_000),
                "]".repeat(100_000)
            ),
        ),
        (
            "deep tables",
            format!(
                "version = 1\nx = {}1{}\n",
                "{a=".repeat(50_000),
                "}".repeat(50_000)
            ),
        ),
        (
            "deep dotted keys",
            format!("version = 1\nx{} = 1\n", ".a".repeat(100_000)),
        ),
        (
            "a deep header",
            format!("version = 1\n[x{}]\n", ".a".repeat(100_000)),
        ),
        (
            "a huge file",
            format!("version = 1\n#{}", "x".repeat(9 << 20)),
        ),
    ];
    for (name, text) in cases {
        std::fs::write(&path, text).unwrap();
        let ended = run(dir.path(), &["check", "gateway.toml"], &[]).await;
        assert_eq!(ended.status.code(), Some(1), "{name}: {:?}", ended.status);
        assert!(
            ended.output().len() < 200_000,
            "{name}: {}",
            ended.output().len()
        );
    }
}
