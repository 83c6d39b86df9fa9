//! A reload takes its time beside everything else: nothing waits for it, and nothing it reads is waited for.

use std::fmt::Write as _;
use std::path::Path;

use orket_tests::gateway::{API_KEY, check, run};
use orket_tests::gitea::sha256;
use orket_tests::{Address, Connection, DEADLINE, Gateway, Policy, Request, Upstream, eventually};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use serde_json::json;

const NEW_KEY: &str = "ork-newer-3Rt6Yh8Uj2Ik4Ol9PaSdFg1Z";

fn control(gateway: &Gateway) -> Address {
    Address::Unix(gateway.dir().join("state/gateway.sock"))
}

/// The tests of a policy fail as often as they say.
fn patient() -> Policy {
    Policy::new().limits("failures_per_address = \"none\"")
}

/// A policy whose own tests take long enough for others to be answered meanwhile.
fn long(text: &str) -> String {
    let mut text = text.to_owned();
    for number in 0..30_000 {
        let _ = write!(
            text,
            "\n[[tests]]\nname = \"t{number}\"\nrequest = {{ path = \"/v1/x\" }}\nexpect = {{ reason = \"api_key_missing\" }}\n"
        );
    }
    text
}

/// Begins a long reload and returns where its verdict will come.
async fn begin(gateway: &Gateway, change: impl FnOnce(String) -> String) -> Connection {
    let file = gateway.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, long(&change(text))).unwrap();
    let socket = control(gateway);
    let mut reload = Connection::open(&socket).await;
    reload
        .send(&Request::post("/reload", "").bytes(&socket))
        .await;
    eventually("the reload is under way", DEADLINE, || async {
        let status = Request::get("/status").send(&socket).await.json();
        status["reload_under_way"] == true
    })
    .await;
    reload
}

async fn under_way(gateway: &Gateway) -> bool {
    let status = Request::get("/status").send(&control(gateway)).await;
    status.json()["reload_under_way"] == true
}

async fn status(gateway: &Gateway, key: &str) -> u16 {
    let ask = Request::get("/v1/version").key(key);
    ask.send(gateway.address()).await.status
}

#[tokio::test]
async fn a_key_is_revoked_while_a_reload_takes_its_time_and_what_that_reads_brings_none_back() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &patient()).await;
    let entry = format!("{{ digest = \"sha256:{}\" }}", sha256(API_KEY.as_bytes()));
    let both = format!(
        "{entry}, {{ digest = \"sha256:{}\" }}",
        sha256(NEW_KEY.as_bytes())
    );
    let mut reload = begin(&gateway, |text| text.replace(&entry, &both)).await;
    let revoke = Request::post_json("/keys/revoke", &json!({ "id": "ci" }));
    let revoked = revoke.send(&control(&gateway)).await;
    assert_eq!(revoked.json()["known"], true, "{}", revoked.text());
    assert_eq!(status(&gateway, API_KEY).await, 403);
    assert!(under_way(&gateway).await, "the reload was not waited for");
    let verdict = reload.answer().await.json();
    assert_eq!(verdict["in_force"], true, "{verdict}");
    assert!(!under_way(&gateway).await);
    for key in [API_KEY, NEW_KEY] {
        assert_eq!(status(&gateway, key).await, 403);
    }
    let keys = Request::get("/keys").send(&control(&gateway)).await.json();
    assert_eq!(keys[0]["secrets"].as_array().unwrap().len(), 2, "{keys}");
}

#[tokio::test]
async fn whoever_asks_meanwhile_is_answered_by_the_reading_that_follows() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &patient()).await;
    let file = gateway.dir().join("gateway.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let mut first = begin(&gateway, |text| text).await;
    // What was written after the first had begun is not its to judge.
    std::fs::write(&file, "version = 2").unwrap();
    let socket = control(&gateway);
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = Connection::open(&socket).await;
        other
            .send(&Request::post("/reload", "").bytes(&socket))
            .await;
        others.push(other);
    }
    assert_eq!(first.answer().await.json()["in_force"], true);
    for mut other in others {
        assert_eq!(other.answer().await.json()["in_force"], false);
    }
    std::fs::write(&file, good).unwrap();
    assert_eq!(
        Request::post("/reload", "").send(&socket).await.json()["in_force"],
        true
    );
}

/// Puts something that is no plain file, or is far too large, in the place of a file.
fn spoil(path: &Path, how: &str) {
    let _ = std::fs::remove_file(path);
    match how {
        "a pipe" => mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
        "a device" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        "a directory" => std::fs::create_dir(path).unwrap(),
        _ => {
            let file = std::fs::File::create(path).unwrap();
            file.set_len(1024 * 1024 * 1024).unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_no_plain_file_of_a_sensible_size_is_a_diagnostic_at_once() {
    let upstream = Upstream::tcp().await;
    let certificate = orket_tests::tls::Certificate::self_signed(&["localhost"]);
    let gateway = {
        let (name, bytes) = orket_tests::policy::SECRET_FILE;
        let policy = Policy::new().https().to_string().replace(
            "address = \"{upstream}\"",
            "address = \"localhost:9\"\ntls = { ca_file = \"{dir}/ca.pem\" }",
        );
        let builder = Gateway::before(upstream.address())
            .file(name, bytes)
            .policy(&policy);
        certificate.write(builder.dir());
        std::fs::copy(builder.dir().join("cert.pem"), builder.dir().join("ca.pem")).unwrap();
        builder.start().await
    };
    let file = gateway.dir().join("gateway.toml");
    let config = file.to_str().unwrap();
    let socket = control(&gateway);
    for name in [
        "gitea-secret",
        "cert.pem",
        "key.pem",
        "ca.pem",
        "gateway.toml",
    ] {
        let path = gateway.dir().join(name);
        let good = std::fs::read(&path).unwrap();
        for how in ["a pipe", "a device", "a directory", "a gibibyte"] {
            spoil(&path, how);
            let verdict = Request::post("/reload", "").send(&socket).await.json();
            assert_eq!(verdict["in_force"], false, "{name} is {how}");
            let said = verdict["diagnostics"].as_str().unwrap().to_owned();
            let checked = run(gateway.dir(), &["check", config], &[]).await;
            assert!(!checked.status.success(), "{name} is {how}");
            let expected = if how == "a gibibyte" {
                "it is larger than"
            } else {
                "it is not a plain file"
            };
            for said in [said, checked.output()] {
                assert!(said.contains(expected), "{name} is {how}: {said}");
            }
            if path.is_dir() {
                std::fs::remove_dir(&path).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
        }
        std::fs::write(&path, good).unwrap();
    }
    let verdict = Request::post("/reload", "").send(&socket).await.json();
    assert_eq!(verdict["in_force"], true, "{verdict}");
}

#[tokio::test]
async fn hangups_without_number_are_one_reload_or_a_few() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    for _ in 0..100 {
        gateway.program().signal(Signal::HUP);
    }
    eventually("one was heard", DEADLINE, || async {
        gateway.output().contains("\"reloaded\"")
    })
    .await;
    let verdict = Request::post("/reload", "").send(&control(&gateway)).await;
    assert_eq!(verdict.json()["in_force"], true);
    let policy = Policy::new().to_string();
    let checked = check(gateway.dir(), &policy).await;
    assert!(checked.status.success(), "{}", checked.output());
}
