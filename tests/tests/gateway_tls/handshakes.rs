//! Which handshakes succeed, and what becomes of those that do not.

use std::process::Command;

use orket_tests::gateway::API_KEY;
use orket_tests::tls::Client;
use orket_tests::{Connection, DEADLINE, Gateway, Policy, Request, assert_refused, eventually};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Secured, failures, metric};

async fn handshake(
    gateway: &Gateway,
    client: &Client,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let socket = TcpStream::connect(gateway.https(client).host())
        .await
        .unwrap();
    client.connect(socket).await
}

#[tokio::test]
async fn tls_1_2_and_1_3_carry_http_1_1() {
    let secured = Secured::start(Policy::new()).await;
    for version in [&TLS12, &TLS13] {
        for protocols in [&["http/1.1"][..], &["h2", "http/1.1"], &[]] {
            let client = secured.authority.client_speaking(&[version], protocols);
            let stream = handshake(&secured.gateway, &client).await.unwrap();
            let (_, session) = stream.get_ref();
            assert_eq!(session.protocol_version(), Some(version.version));
            let chosen = (!protocols.is_empty()).then_some(b"http/1.1".as_slice());
            assert_eq!(session.alpn_protocol(), chosen);
            let answer = Request::get("/health")
                .send(&secured.gateway.https(&client))
                .await;
            assert_eq!(answer.status, 200);
        }
    }
}

#[tokio::test]
async fn a_client_of_http_2_alone_is_refused_by_the_handshake() {
    let secured = Secured::start(Policy::new()).await;
    for protocols in [&["h2"][..], &["http/1.0"], &["h3", "h2"]] {
        let client = secured
            .authority
            .client_speaking(&[&TLS13, &TLS12], protocols);
        let refused = handshake(&secured.gateway, &client).await.unwrap_err();
        assert!(
            refused.to_string().contains("NoApplicationProtocol"),
            "{protocols:?}: {refused}"
        );
    }
    eventually("they are counted", DEADLINE, || async {
        metric(&secured.gateway, &failures("no_common_protocol")).await == 3
    })
    .await;
}

#[tokio::test]
async fn older_versions_are_refused() {
    let secured = Secured::start(Policy::new()).await;
    // A ClientHello of TLS 1.1 (RFC 4346, section 7.4.1.2): version 3.2, no session, two ciphers, no compression.
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0, 0x2f, 0, 0x35, 1, 0]);
    let mut message = vec![1, 0, 0, u8::try_from(hello.len()).unwrap()];
    message.extend(hello);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.extend(message);
    let host = secured.gateway.https(&secured.client()).host();
    let mut socket = TcpStream::connect(host).await.unwrap();
    socket.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    // An alert (21), fatal (2): protocol_version (70), or handshake_failure (40) where something that TLS 1.2 needs is
    // missed first.
    assert_eq!((answer[0], answer[5]), (21, 2), "{answer:?}");
    assert!(matches!(answer[6], 70 | 40), "{answer:?}");
    eventually("it is counted", DEADLINE, || async {
        metric(&secured.gateway, &failures("no_common_version")).await == 1
    })
    .await;
}

#[tokio::test]
async fn the_name_asked_for_opens_and_closes_nothing() {
    let secured = Secured::start(Policy::new()).await;
    // 127.0.0.1 is in the certificate and is never sent as SNI; the other is not in it, and clients refuse that.
    let by_address = secured.client().asking_for("127.0.0.1");
    let answer = Request::get("/health")
        .send(&secured.gateway.https(&by_address))
        .await;
    assert_eq!(answer.status, 200);
    let elsewhere = secured.client().asking_for("elsewhere.example");
    let refused = handshake(&secured.gateway, &elsewhere).await.unwrap_err();
    assert!(
        refused.to_string().contains("not valid for name"),
        "{refused}"
    );
    eventually("it is counted", DEADLINE, || async {
        metric(&secured.gateway, &failures("certificate_distrusted")).await == 1
    })
    .await;
}

#[tokio::test]
async fn a_plain_request_to_the_tls_port_is_told_so() {
    let secured = Secured::start(Policy::new()).await;
    let plain = orket_tests::Address::parse(&secured.gateway.https(&secured.client()).host());
    for request in [
        Request::get("/v1/version").key(API_KEY),
        Request::post("/v1/runs", vec![b'x'; 100_000]).key(API_KEY),
    ] {
        let mut connection = Connection::open(&plain).await;
        connection.send(&request.bytes(&plain)).await;
        assert_refused(&connection.answer().await, 400, "Use https here");
        assert!(connection.is_closed().await);
    }
    assert_eq!(metric(&secured.gateway, &failures("plain_http")).await, 2);
    secured.upstream.untouched("plain requests to the TLS port");
}

#[tokio::test]
async fn a_handshake_that_stalls_is_closed_and_gives_its_place_back() {
    let limits = "head_timeout = \"500ms\"\nconnections_per_address = 3";
    let secured = Secured::start(Policy::new().limits(limits)).await;
    let host = secured.gateway.https(&secured.client()).host();
    let mut stalled = Vec::new();
    for begun in [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]] {
        let mut socket = TcpStream::connect(&host).await.unwrap();
        socket.write_all(begun).await.unwrap();
        stalled.push(socket);
    }
    for mut socket in stalled {
        let mut rest = Vec::new();
        // Closed, or reset where something was left unread.
        let read = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "it is not closed");
        assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    }
    eventually("all places are free again", DEADLINE, || async {
        metric(&secured.gateway, "orket_gateway_connections").await == 0
    })
    .await;
    assert_eq!(metric(&secured.gateway, &failures("timeout")).await, 3);
    let answer = Request::get("/health")
        .send(&secured.gateway.https(&secured.client()))
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn handshakes_count_among_the_connections_of_an_address() {
    let limits = "head_timeout = \"60s\"\nconnections_per_address = 2";
    let secured = Secured::start(Policy::new().limits(limits)).await;
    let host = secured.gateway.https(&secured.client()).host();
    let held = [
        TcpStream::connect(&host).await.unwrap(),
        TcpStream::connect(&host).await.unwrap(),
    ];
    eventually("both have a place", DEADLINE, || async {
        metric(&secured.gateway, "orket_gateway_connections").await == 2
    })
    .await;
    assert!(
        handshake(&secured.gateway, &secured.client())
            .await
            .is_err(),
        "the third is turned away"
    );
    drop(held);
    eventually("a place is free again", DEADLINE, || async {
        handshake(&secured.gateway, &secured.client()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn what_is_not_tls_gets_no_answer_worth_having() {
    let secured = Secured::start(Policy::new()).await;
    let host = secured.gateway.https(&secured.client()).host();
    for bytes in [
        &[0; 64][..],
        &[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10],
        b"\x16\x03\x01\xff\xff\x01\x00\xff\xfc",
        b"\x15\x03\x01\x00\x02\x02\x28",
    ] {
        let mut socket = TcpStream::connect(&host).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        assert!(answer.len() < 64, "{answer:?}");
    }
    let answer = Request::get("/health")
        .send(&secured.gateway.https(&secured.client()))
        .await;
    assert_eq!(answer.status, 200, "and nobody else is held up");
}

/// Other people's TLS: what operators have at hand.
#[tokio::test]
async fn curl_and_openssl_speak_to_it() {
    let secured = Secured::start(Policy::new()).await;
    let dir = secured.gateway.dir();
    std::fs::write(dir.join("ca.pem"), secured.authority.pem()).unwrap();
    let host = secured.gateway.https(&secured.client()).host();
    let port = host.rsplit(':').next().unwrap().to_owned();
    let run = async |program: &'static str, arguments: Vec<String>| {
        let dir = dir.to_owned();
        let ran = tokio::task::spawn_blocking(move || {
            Command::new(program)
                .args(arguments)
                .current_dir(dir)
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"))
        });
        let output = ran.await.unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    let url = format!("https://localhost:{port}/health");
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for version in ["--tlsv1.2 --tls-max 1.2", "--tlsv1.3", "--http2"] {
        let said = run(
            "curl",
            words(&format!(
                "-sS --cacert ca.pem --noproxy * {version} -w %{{http_version}} {url}"
            )),
        )
        .await;
        assert_eq!(said, r#"{"status":"ok"}1.1"#, "{version}");
    }
    for (version, spoken) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = run(
            "openssl",
            words(&format!(
                "s_client -connect {host} -servername localhost -verify_return_error -CAfile ca.pem {version}"
            )),
        )
        .await;
        assert!(
            said.contains(spoken) && said.contains("Verify return code: 0 (ok)"),
            "{said}"
        );
        assert!(
            !said.contains("Secure Renegotiation IS supported") || spoken == "TLSv1.2",
            "{said}"
        );
        assert!(!said.contains("Max Early Data: 1"), "{said}");
    }
}
