//! The listener's certificate: what does not load, and what a reload brings.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{ToSpan, Zoned};
use orket_tests::gateway::{API_KEY, check, run};
use orket_tests::policy::SECRET_FILE;
use orket_tests::program::Ended;
use orket_tests::tls::{Authority, Certificate, write_private};
use orket_tests::{Connection, DEADLINE, Gateway, Policy, Request, Upstream, eventually};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::{Secured, metric};

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

/// The certificate a new client is shown.
async fn shown(secured: &Secured) -> CertificateDer<'static> {
    let client = secured.client();
    let socket = TcpStream::connect(secured.gateway.https(&client).host())
        .await
        .unwrap();
    let stream = client.connect(socket).await.unwrap();
    let (_, session) = stream.get_ref();
    session.peer_certificates().unwrap()[0].clone().into_owned()
}

async fn reload(gateway: &Gateway) -> Ended {
    run(gateway.dir(), &["reload", "--config", "gateway.toml"], &[]).await
}

/// Asks without a pause until told to stop; every request has to be answered.
fn load(secured: &Arc<Secured>) -> (Arc<AtomicBool>, tokio::task::JoinHandle<usize>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (secured, stopped) = (secured.clone(), stop.clone());
    let asking = tokio::spawn(async move {
        let address = secured.gateway.https(&secured.client());
        let mut answered = 0;
        while !stopped.load(Ordering::SeqCst) {
            let answer = Request::get("/v1/version")
                .key(API_KEY)
                .send(&address)
                .await;
            assert_eq!(answer.status, 200);
            answered += 1;
        }
        answered
    });
    (stop, asking)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_serves_new_handshakes_and_open_connections_stay() {
    let secured = Arc::new(Secured::start(Policy::new()).await);
    let address = secured.gateway.https(&secured.client());
    let first = shown(&secured).await;
    let mut kept = Connection::open(&address).await;
    let ask = Request::get("/v1/version").key(API_KEY).bytes(&address);
    kept.send(&ask).await;
    assert_eq!(kept.answer().await.status, 200);
    let (stop, asking) = load(&secured);

    let renewed = secured
        .authority
        .certificate_between(&["localhost"], (2020, 1, 1), (2077, 7, 7));
    renewed.write(secured.gateway.dir());
    assert!(
        shown(&secured).await == first,
        "nothing changes before it is asked for"
    );
    let ended = reload(&secured.gateway).await;
    assert!(ended.status.success(), "{}", ended.output());
    assert!(shown(&secured).await == renewed.der());
    kept.send(&ask).await;
    assert_eq!(kept.answer().await.status, 200, "the open connection stays");
    let expiry = metric(
        &secured.gateway,
        "orket_gateway_tls_certificate_expiry_timestamp_seconds",
    )
    .await;
    assert_eq!(expiry, 3_392_841_600, "2077-07-07");

    stop.store(true, Ordering::SeqCst);
    assert!(asking.await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_renewal_leaves_the_old_certificate() {
    let secured = Arc::new(Secured::start(Policy::new()).await);
    let first = shown(&secured).await;
    let (stop, asking) = load(&secured);
    let dir = secured.gateway.dir();
    let other = secured.authority.certificate(&["localhost"]);
    let old = secured
        .authority
        .certificate_between(&["localhost"], (2001, 1, 1), (2002, 1, 1));
    for said in [
        "does not belong",
        "expired",
        "no private key",
        "cannot be read",
    ] {
        match said {
            "does not belong" => write_private(&dir.join("key.pem"), other.key_pem().as_bytes()),
            "expired" => old.write(dir),
            "no private key" => {
                other.write(dir);
                write_private(&dir.join("key.pem"), b"");
            }
            _ => std::fs::remove_file(dir.join("cert.pem")).unwrap(),
        }
        let ended = reload(&secured.gateway).await;
        assert!(
            !ended.status.success() && ended.output().contains(said),
            "{}",
            ended.output()
        );
        assert!(shown(&secured).await == first);
        assert_eq!(
            metric(&secured.gateway, "orket_gateway_policy_in_force_is_on_disk").await,
            0
        );
    }
    // Mended, and asked for by the signal.
    other.write(dir);
    let pid = secured.gateway.pid();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(),
        Signal::HUP,
    )
    .unwrap();
    eventually("the new certificate is shown", DEADLINE, || async {
        shown(&secured).await == other.der()
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    assert!(asking.await.unwrap() > 0);
}

#[tokio::test]
async fn a_changed_address_wants_a_restart_and_no_certificate_no_handshake() {
    let secured = Secured::start(Policy::new()).await;
    let path = secured.gateway.dir().join("gateway.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace(
            "address = \"127.0.0.1:0\", cert",
            "address = \"127.0.0.1:1\", cert",
        ),
    )
    .unwrap();
    let ended = reload(&secured.gateway).await;
    assert!(
        ended.status.success() && ended.output().contains("restart needed: listen.https"),
        "{}",
        ended.output()
    );
    shown(&secured).await;
    let mut without = text.clone();
    let begins = without.find("https = ").unwrap();
    let ends = begins + without[begins..].find('\n').unwrap();
    without.replace_range(begins..ends, "");
    std::fs::write(&path, without).unwrap();
    let ended = reload(&secured.gateway).await;
    assert!(
        ended.output().contains("restart needed: listen.https"),
        "{}",
        ended.output()
    );
    let client = secured.client();
    let socket = TcpStream::connect(secured.gateway.https(&client).host())
        .await
        .unwrap();
    assert!(client.connect(socket).await.is_err());
    assert_eq!(
        Request::get("/health")
            .send(secured.gateway.address())
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn the_posture_names_the_certificate_and_nothing_tells_the_key() {
    let upstream = Upstream::tcp().await;
    let builder = Gateway::before(upstream.address())
        .standard(&Policy::new().https())
        .env("ORKET_LOG", "trace");
    let certificate = Certificate::self_signed(&["gate.example", "127.0.0.1"]);
    certificate.write(builder.dir());
    let gateway = builder.start().await;
    eventually("the posture is logged", DEADLINE, || async {
        gateway.output().contains("\"posture\"")
    })
    .await;
    let output = gateway.output();
    let record = output.lines().find(|l| l.contains("\"posture\"")).unwrap();
    assert!(record.contains("gate.example 127.0.0.1"), "{record}");
    assert!(record.contains("certificate_expires"), "{record}");
    let page = Request::get("/metrics").send(gateway.admin()).await.text();
    for line in certificate
        .key_pem()
        .lines()
        .filter(|l| !l.contains("-----"))
    {
        assert!(!gateway.output().contains(line) && !page.contains(line));
    }
}
