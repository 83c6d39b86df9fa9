//! The listener's certificate: what loads, what does not, and what is warned of.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{ToSpan, Zoned};
use orket_tests::gateway::{API_KEY, check};
use orket_tests::policy::SECRET_FILE;
use orket_tests::program::Ended;
use orket_tests::tls::{Authority, write_private};
use orket_tests::{Gateway, Policy, Request, Upstream};
use tempfile::TempDir;

fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(SECRET_FILE.0), SECRET_FILE.1).unwrap();
    dir
}

async fn checked(dir: &Path, environment: &str) -> Ended {
    let policy = Policy::new().https().to_string().replace(
        "environment = \"local\"",
        &format!("environment = \"{environment}\""),
    );
    check(dir, &policy).await
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|l| std::str::from_utf8(l).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// The day so many days from now.
fn day(days: i32) -> (i32, u8, u8) {
    let day = Zoned::now().checked_add(days.days()).unwrap().date();
    (
        i32::from(day.year()),
        u8::try_from(day.month()).unwrap(),
        u8::try_from(day.day()).unwrap(),
    )
}

#[tokio::test]
async fn what_does_not_serve_is_an_error_with_its_place() {
    let authority = Authority::new("the test's");
    let good = authority.certificate(&["localhost"]);
    let old = authority.certificate_between(&["localhost"], (2001, 1, 1), (2002, 1, 1));
    let new = authority.certificate_between(&["localhost"], (2088, 1, 1), (2090, 1, 1));
    let other = authority.certificate(&["localhost"]);
    let garbage = pem("CERTIFICATE", b"not one");
    let half = good.pem()[..200].to_owned();
    for (certificate, key, said, place) in [
        (None, Some(good.key_pem()), "cannot be read", "cert_file"),
        (
            Some(good.key_pem()),
            Some(good.key_pem()),
            "no certificate",
            "cert_file",
        ),
        (
            Some(String::new()),
            Some(good.key_pem()),
            "no certificate",
            "cert_file",
        ),
        (Some(garbage), Some(good.key_pem()), "damaged", "cert_file"),
        (Some(half), Some(good.key_pem()), "damaged", "cert_file"),
        (
            Some(old.pem()),
            Some(old.key_pem()),
            "expired at 2002-01-01",
            "cert_file",
        ),
        (
            Some(new.pem()),
            Some(new.key_pem()),
            "not valid before 2088",
            "cert_file",
        ),
        (
            Some(include_str!("weak_rsa.pem").to_owned()),
            Some(good.key_pem()),
            "1024 bits",
            "cert_file",
        ),
        (Some(good.pem()), None, "cannot be read", "key_file"),
        (
            Some(good.pem()),
            Some(good.pem()),
            "no private key",
            "key_file",
        ),
        (
            Some(good.pem()),
            Some(pem("ENCRYPTED PRIVATE KEY", &good.key_der())),
            "no private key",
            "key_file",
        ),
        (
            Some(good.pem()),
            Some(pem("PRIVATE KEY", b"nonsense")),
            "cannot be used",
            "key_file",
        ),
        (
            Some(good.pem()),
            Some(other.key_pem()),
            "does not belong",
            "key_file",
        ),
    ] {
        let dir = folder();
        if let Some(text) = certificate {
            std::fs::write(dir.path().join("cert.pem"), text).unwrap();
        }
        if let Some(text) = &key {
            write_private(&dir.path().join("key.pem"), text.as_bytes());
        }
        for environment in ["local", "production"] {
            let ended = checked(dir.path(), environment).await;
            let output = ended.output();
            assert!(!ended.status.success(), "{said}: {output}");
            assert!(output.contains(said), "{said}: {output}");
            assert!(output.contains("help: "), "{said} has no hint: {output}");
            // The caret stands below the file that is meant.
            let lines: Vec<&str> = output.lines().collect();
            let caret = lines.iter().position(|l| l.contains('^')).unwrap();
            let column = lines[caret].find('^').unwrap();
            let before = &lines[caret - 1][..column];
            let nearest = before.rfind("cert_file").max(before.rfind("key_file"));
            assert_eq!(nearest, before.rfind(place), "{said}: {output}");
            if let Some(key) = &key {
                let body = key.lines().nth(1).unwrap_or("-");
                assert!(
                    body.len() < 20 || !output.contains(body),
                    "the key is shown"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_that_ends_soon_and_a_key_others_can_read_are_warned_of() {
    let authority = Authority::new("the test's");
    let dir = folder();
    let soon = authority.certificate_between(&["localhost"], (2020, 1, 1), day(10));
    soon.write(dir.path());
    for environment in ["local", "ci", "production"] {
        let ended = checked(dir.path(), environment).await;
        assert!(ended.status.success(), "{}", ended.output());
        assert!(
            ended.output().contains("the certificate expires at"),
            "{}",
            ended.output()
        );
    }
    authority
        .certificate_between(&["localhost"], (2020, 1, 1), day(20))
        .write(dir.path());
    assert!(!checked(dir.path(), "ci").await.output().contains("expires"));
    let key = std::fs::read(dir.path().join("key.pem")).unwrap();
    std::fs::remove_file(dir.path().join("key.pem")).unwrap();
    std::fs::write(dir.path().join("key.pem"), key).unwrap();
    for (environment, loads) in [("local", true), ("ci", true), ("production", false)] {
        let ended = checked(dir.path(), environment).await;
        assert_eq!(ended.status.success(), loads, "{}", ended.output());
        assert!(
            ended.output().contains("other users can read"),
            "{}",
            ended.output()
        );
    }
}

#[tokio::test]
async fn keys_in_their_older_forms_serve_too() {
    let authority = Authority::new("the test's");
    let certificate = authority.certificate(&["localhost"]);
    let dir = folder();
    certificate.write(dir.path());
    // SEC1 (RFC 5915) is what lies within PKCS#8: the contents of its octet string.
    let der = certificate.key_der();
    let at = der
        .windows(4)
        .position(|w| w == [4, 0x6d, 0x30, 0x6b])
        .unwrap();
    let sec1 = pem("EC PRIVATE KEY", &der[at + 2..]);
    write_private(&dir.path().join("key.pem"), sec1.as_bytes());
    let ended = checked(dir.path(), "production").await;
    assert!(ended.status.success(), "{}", ended.output());
    // PKCS#1, as older tools write RSA keys.
    for step in [
        "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost -keyout rsa.pem -out cert.pem",
        "rsa -traditional -in rsa.pem -out key.pem",
    ] {
        let ran = Command::new("openssl")
            .args(step.split(' '))
            .current_dir(dir.path())
            .output()
            .expect("openssl is needed for this test");
        assert!(
            ran.status.success(),
            "{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
    let key = std::fs::read(dir.path().join("key.pem")).unwrap();
    assert!(key.starts_with(b"-----BEGIN RSA PRIVATE KEY-----"));
    write_private(&dir.path().join("key.pem"), &key);
    let ended = checked(dir.path(), "production").await;
    assert!(ended.status.success(), "{}", ended.output());
}

#[tokio::test]
async fn production_takes_tls_beyond_loopback_and_still_no_plain_http() {
    let dir = folder();
    Authority::new("the test's")
        .certificate(&["localhost"])
        .write(dir.path());
    let policy = Policy::new()
        .https()
        .to_string()
        .replace("environment = \"local\"", "environment = \"production\"")
        .replace(
            "address = \"127.0.0.1:0\", cert",
            "address = \"0.0.0.0:8443\", cert",
        );
    let ended = check(dir.path(), &policy).await;
    assert!(ended.status.success(), "{}", ended.output());
    let alone = policy.replace("http = \"127.0.0.1:0\"\n", "");
    let ended = check(dir.path(), &alone).await;
    assert!(ended.status.success(), "{}", ended.output());
    let plain = policy.replace("http = \"127.0.0.1:0\"", "http = \"0.0.0.0:8080\"");
    let ended = check(dir.path(), &plain).await;
    assert!(
        !ended.status.success() && ended.output().contains("plain HTTP"),
        "{}",
        ended.output()
    );
    // The bypass stays where only this machine reaches it.
    let bypass = policy.replace(
        "environment = \"production\"",
        "environment = \"local\"\nallow_insecure_no_api_key = true",
    );
    let ended = check(dir.path(), &bypass).await;
    assert!(
        !ended.status.success() && ended.output().contains("loopback only"),
        "{}",
        ended.output()
    );
}

#[tokio::test]
async fn tls_can_be_all_there_is() {
    let authority = Authority::new("the test's");
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .https()
        .to_string()
        .replacen("http = \"127.0.0.1:0\"\n", "", 1);
    let (name, bytes) = SECRET_FILE;
    let builder = Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&policy);
    authority.certificate(&["localhost"]).write(builder.dir());
    let gateway = builder.start().await;
    assert!(
        !gateway.output().contains("listening on http://"),
        "{}",
        gateway.output()
    );
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(&gateway.https(&authority.client()))
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn an_incomplete_listener_does_not_load() {
    let dir = folder();
    Authority::new("the test's")
        .certificate(&["localhost"])
        .write(dir.path());
    for part in [
        "address = \"127.0.0.1:0\", ",
        "cert_file = \"{dir}/cert.pem\", ",
        ", key_file = \"{dir}/key.pem\"",
    ] {
        let policy = Policy::new().https().to_string().replacen(part, "", 1);
        let ended = check(dir.path(), &policy).await;
        assert!(
            !ended.status.success() && ended.output().contains("`https` needs"),
            "{}",
            ended.output()
        );
    }
    let verify = Policy::new()
        .https()
        .to_string()
        .replace("cert_file =", "verify = false, cert_file =");
    assert!(!check(dir.path(), &verify).await.status.success());
}
