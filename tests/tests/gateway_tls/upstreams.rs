//! TLS to an upstream: verified, or nothing is sent.

use orket_gateway::denial::Reason;
use orket_gateway::tls::trust::{Trust, reason_of};
use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET, check};
use orket_tests::policy::SECRET_FILE;
use orket_tests::tls::{Authority, Certificate};
use orket_tests::{
    Address, Connection, Delivery, Gateway, Policy, Reaction, Request, Upstream, assert_refused,
};
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const TRUSTING: &str = "tls = { server_name = \"inside.example\", ca_file = \"{dir}/ca.pem\" }";

/// What TLS to an upstream comes to is seen, and not how long its handshake takes on a busy machine.
const PATIENT: &str = "connect_timeout = \"30s\"";

async fn gateway(upstream: &Upstream, authority: &Authority, tls: &str) -> Gateway {
    gateway_before(upstream.address(), authority, tls).await
}

async fn gateway_before(address: &Address, authority: &Authority, tls: &str) -> Gateway {
    Gateway::before(address)
        .standard(&Policy::new().upstream(tls).upstream(PATIENT))
        .file("ca.pem", authority.pem().as_bytes())
        .start()
        .await
}

#[tokio::test]
async fn a_proven_upstream_gets_requests_deliveries_and_websockets() {
    let authority = Authority::new("inside");
    let upstream = Upstream::tls(&authority.certificate(&["inside.example"])).await;
    let gateway = gateway(&upstream, &authority, TRUSTING).await;
    let address = gateway.address();
    for n in 0..5 {
        let answer = Request::get("/v1/version").key(API_KEY).send(address).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = vec![b'x'; 300_000 + n];
        let delivery = Delivery::new("push", body);
        let answer = delivery
            .signed("/webhook/gitea", WEBHOOK_SECRET)
            .send(address)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(upstream.last().body == delivery.body);
    }
    // One for each worker at most: connections are kept.
    assert!(upstream.connections() <= 8, "{}", upstream.connections());
    upstream.react(Reaction::Echo);
    let upgrade = Request::get("/ws/events")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
    let mut connection = Connection::open(address).await;
    connection.send(&upgrade.key(API_KEY).bytes(address)).await;
    assert_eq!(connection.answer().await.status, 101);
    connection.send(b"\x81\x85abcdhello").await;
    assert_eq!(connection.read_exact(11).await, b"\x81\x85abcdhello");
}

/// A request is refused for this reason, and none reached the upstream.
async fn refused(upstream: &Upstream, gateway: &Gateway, reason: &str) {
    for request in [
        Request::get("/v1/version").key(API_KEY),
        Request::post("/v1/runs", vec![b'x'; 100_000]).key(API_KEY),
        Delivery::fresh().signed("/webhook/gitea", WEBHOOK_SECRET),
    ] {
        let answer = request.send(gateway.address()).await;
        assert_refused(&answer, 502, "Backend unreachable");
        let id = answer.header("x-request-id").unwrap();
        orket_tests::eventually("it is logged", orket_tests::DEADLINE, || async {
            gateway.output().contains(id)
        })
        .await;
        let output = gateway.output();
        let record = output.lines().find(|l| l.contains(id)).unwrap();
        assert!(record.contains(&format!("\"{reason}\"")), "{record}");
    }
    assert_eq!(upstream.count(), 0, "it was sent to someone unproven");
}

#[tokio::test]
async fn who_does_not_prove_himself_gets_nothing_and_the_log_says_why() {
    let authority = Authority::new("inside");
    let stranger = Authority::new("inside");
    let names = ["inside.example"];
    let none: [&str; 0] = [];
    for (certificate, reason) in [
        (
            authority.certificate(&["outside.example"]),
            "upstream_tls_wrong_name",
        ),
        (
            authority.certificate(&["*.inside.example"]),
            "upstream_tls_wrong_name",
        ),
        (authority.certificate(&none), "upstream_tls_wrong_name"),
        (
            authority.certificate(&["127.0.0.1"]),
            "upstream_tls_wrong_name",
        ),
        (
            authority.certificate_between(&names, (2001, 1, 1), (2002, 1, 1)),
            "upstream_tls_expired",
        ),
        (
            authority.certificate_between(&names, (2088, 1, 1), (2090, 1, 1)),
            "upstream_tls_expired",
        ),
        (stranger.certificate(&names), "upstream_tls_unknown_issuer"),
        (
            Certificate::self_signed(&names),
            "upstream_tls_unknown_issuer",
        ),
    ] {
        let upstream = Upstream::tls(&certificate).await;
        let gateway = gateway(&upstream, &authority, TRUSTING).await;
        refused(&upstream, &gateway, reason).await;
    }
}

#[tokio::test]
async fn the_machines_own_roots_do_not_know_a_private_authority() {
    let authority = Authority::new("inside");
    let upstream = Upstream::tls(&authority.certificate(&["inside.example"])).await;
    let policy = Policy::new()
        .upstream("tls = { server_name = \"inside.example\" }")
        .upstream(PATIENT);
    // The machine's roots are those of this file.
    let other = Authority::new("the machine's");
    let builder = Gateway::before(upstream.address())
        .standard(&policy)
        .file("machine.pem", other.pem().as_bytes())
        .file("ca.pem", authority.pem().as_bytes());
    let roots = builder.dir().join("machine.pem");
    let gateway = builder
        .env("SSL_CERT_FILE", roots.to_str().unwrap())
        .start()
        .await;
    refused(&upstream, &gateway, "upstream_tls_unknown_issuer").await;
    // … and those that know it do.
    let builder = Gateway::before(upstream.address())
        .standard(&policy)
        .file("machine.pem", authority.pem().as_bytes());
    let roots = builder.dir().join("machine.pem");
    let gateway = builder
        .env("SSL_CERT_FILE", roots.to_str().unwrap())
        .start()
        .await;
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn without_a_name_the_host_of_the_address_has_to_be_proven() {
    let authority = Authority::new("inside");
    let tls = "tls = { ca_file = \"{dir}/ca.pem\" }";
    let upstream = Upstream::tls(&authority.certificate(&["127.0.0.1"])).await;
    let by_address = gateway(&upstream, &authority, tls).await;
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(by_address.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let named = format!("localhost:{}", upstream.address().port());
    let by_name = Gateway::before_text(&named)
        .standard(&Policy::new().upstream(tls).upstream(PATIENT))
        .file("ca.pem", authority.pem().as_bytes())
        .start()
        .await;
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(by_name.address())
        .await;
    assert_refused(&answer, 502, "Backend unreachable");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn nothing_is_sent_in_clear_to_an_upstream_that_should_speak_tls() {
    let authority = Authority::new("inside");
    // It reads whatever comes, and would record a request. It says nothing, so it is not waited for for long.
    let silent = Upstream::tcp().await;
    let before_silence = Gateway::before(silent.address())
        .standard(&Policy::new().upstream(TRUSTING))
        .file("ca.pem", authority.pem().as_bytes())
        .start()
        .await;
    let answer = Request::get("/v1/version")
        .key(API_KEY)
        .send(before_silence.address())
        .await;
    assert!(matches!(answer.status, 502 | 504), "{}", answer.text());
    assert_eq!(silent.count(), 0);
    // Another gateway answers in clear, as any server of plain HTTP does.
    let far = Upstream::tcp().await;
    let plain = Gateway::with_key_and_secret(far.address()).await;
    let before_plain = gateway_before(plain.address(), &authority, TRUSTING).await;
    refused(&far, &before_plain, "upstream_tls_failed").await;
}

#[tokio::test]
async fn a_reload_that_trusts_someone_else_uses_no_connection_of_before() {
    let authority = Authority::new("inside");
    let upstream = Upstream::tls(&authority.certificate(&["inside.example"])).await;
    let gateway = gateway(&upstream, &authority, TRUSTING).await;
    let ask = async || {
        Request::get("/v1/version")
            .key(API_KEY)
            .send(gateway.address())
            .await
    };
    assert_eq!(ask().await.status, 200);
    std::fs::write(gateway.dir().join("ca.pem"), Authority::new("inside").pem()).unwrap();
    let ended =
        orket_tests::gateway::run(gateway.dir(), &["reload", "--config", "gateway.toml"], &[])
            .await;
    assert!(ended.status.success(), "{}", ended.output());
    for _ in 0..8 {
        assert_refused(&ask().await, 502, "Backend unreachable");
    }
    assert_eq!(upstream.count(), 1);
}

/// What the gateway sends on its own goes through this, and is verified as requests are.
#[tokio::test]
async fn the_gateways_own_connections_are_verified_in_the_same_way() {
    let authority = Authority::new("inside");
    let dir = TempDir::new().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, authority.pem()).unwrap();
    let trust = |name: &str| {
        Trust::new(
            ServerName::try_from(name.to_owned()).unwrap(),
            Some(&ca_file),
        )
        .unwrap()
    };
    let upstream = Upstream::tls(&authority.certificate(&["inside.example"])).await;
    let open = async |trust: Trust| {
        let socket = TcpStream::connect(upstream.address().host()).await.unwrap();
        trust.connect(socket).await
    };
    let mut stream = open(trust("inside.example")).await.unwrap();
    let ask = b"GET /own HTTP/1.1\r\nHost: inside.example\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    upstream.arrived(1).await;
    let wrong = open(trust("outside.example"))
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(reason_of(&wrong), Reason::UpstreamTlsName, "{wrong}");
    std::fs::write(&ca_file, Authority::new("inside").pem()).unwrap();
    let unknown = open(trust("inside.example")).await.unwrap_err().to_string();
    assert_eq!(reason_of(&unknown), Reason::UpstreamTlsIssuer, "{unknown}");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn what_could_not_be_verified_does_not_load() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(SECRET_FILE.0), SECRET_FILE.1).unwrap();
    std::fs::write(dir.path().join("ca.pem"), Authority::new("inside").pem()).unwrap();
    std::fs::write(dir.path().join("empty.pem"), "").unwrap();
    for (tls, said) in [
        ("tls = { server_name = \"\" }", "not a name"),
        ("tls = { server_name = \"a_b.example\" }", "not a name"),
        ("tls = { server_name = \"a b\" }", "not a name"),
        ("tls = { ca_file = \"{dir}/none.pem\" }", "cannot be read"),
        ("tls = { ca_file = \"{dir}/empty.pem\" }", "no certificate"),
        ("tls = { verify = false }", "verify"),
        ("tls = false", "table"),
    ] {
        let policy = Policy::new().upstream(tls).to_string();
        let ended = check(dir.path(), &policy).await;
        assert!(!ended.status.success(), "{tls}");
        assert!(ended.output().contains(said), "{tls}: {}", ended.output());
    }
    let policy = Policy::new()
        .upstream(TRUSTING)
        .to_string()
        .replace("{upstream}", "unix:/run/orket/backend.sock");
    let ended = check(dir.path(), &policy).await;
    assert!(
        !ended.status.success() && ended.output().contains("there is no TLS to it"),
        "{}",
        ended.output()
    );
    let beyond = Policy::new()
        .upstream(TRUSTING)
        .to_string()
        .replace("{upstream}", "192.0.2.1:443");
    let ended = check(dir.path(), &beyond).await;
    assert!(
        ended.status.success() && !ended.output().contains("plain HTTP"),
        "{}",
        ended.output()
    );
}
