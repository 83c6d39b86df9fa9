//! The listener's certificate while the gateway runs: what a reload brings, and what it leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orket_tests::gateway::{API_KEY, run};
use orket_tests::program::Ended;
use orket_tests::tls::{Certificate, write_private};
use orket_tests::{Connection, DEADLINE, Gateway, Policy, Request, Upstream, eventually};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;

use super::{Secured, metric};

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
