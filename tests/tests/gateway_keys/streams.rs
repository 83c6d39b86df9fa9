//! What a key has open is closed with it: tunnels and streamed answers, for each way a key can go. Others stay.

use jiff::{SignedDuration, Timestamp};
use orket_tests::gateway::API_KEY;
use orket_tests::{
    Address, Connection, DEADLINE, Gateway, Policy, Reaction, Request, Stack, Upstream, eventually,
};

use super::{OTHER_KEY, metrics, reload, revoke, two_keys};

/// An edit of a policy.
type Change = Box<dyn Fn(String) -> String>;

/// Close frame, status 1008.
const GOODBYE: &[u8] = b"\x88\x02\x03\xf0";

fn upgrade(key: &str) -> Request {
    Request::get("/ws/events")
        .key(key)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

async fn tunnel(gateway: &Gateway, upstream: &Upstream, key: &str) -> Connection {
    upstream.react(Reaction::Echo);
    let mut connection = Connection::open(gateway.address()).await;
    connection
        .send(&upgrade(key).bytes(gateway.address()))
        .await;
    assert_eq!(connection.answer().await.status, 101);
    assert!(echoes(&mut connection).await);
    connection
}

/// Whether a tunnel still carries a frame there and back.
async fn echoes(tunnel: &mut Connection) -> bool {
    let frame = b"\x81\x05hello";
    tunnel.send(frame).await;
    tunnel.read_exact(frame.len()).await == frame
}

/// An answer that does not end, read up to its first piece.
async fn stream(gateway: &Gateway, upstream: &Upstream, key: &str, kind: &str) -> Connection {
    upstream.react(Reaction::Endless {
        content_type: kind.to_owned(),
    });
    let mut connection = Connection::open(gateway.address()).await;
    let ask = Request::get("/v1/events").key(key).bytes(gateway.address());
    connection.send(&ask).await;
    let mut head = Vec::new();
    while !head.ends_with(b"data: 1\r\n") {
        head.extend(connection.read_exact(1).await);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"));
    connection
}

/// Waits until nothing more moves, as all buffers on the way are full.
async fn filled(upstream: &Upstream) {
    let (mut seen, mut same) = (0, 0);
    eventually("the buffers fill up", DEADLINE, || {
        let bytes = upstream.bytes();
        same = if bytes == seen && bytes > 1_000_000 {
            same + 1
        } else {
            0
        };
        seen = bytes;
        async move { same > 20 }
    })
    .await;
}

async fn open_streams(gateway: &Gateway) -> String {
    let page = metrics(gateway).await;
    let line = page
        .lines()
        .find_map(|l| l.strip_prefix("orket_gateway_streams "));
    line.unwrap().to_owned()
}

#[tokio::test]
async fn a_revoked_key_loses_what_it_has_open_at_once_and_others_lose_nothing() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let mut others = tunnel(&gateway, &upstream, OTHER_KEY).await;
    let mut first = tunnel(&gateway, &upstream, API_KEY).await;
    let mut events = stream(&gateway, &upstream, API_KEY, "text/event-stream").await;
    let mut answer = stream(&gateway, &upstream, API_KEY, "text/plain").await;
    let mut others_events = stream(&gateway, &upstream, OTHER_KEY, "text/event-stream").await;
    assert_eq!(open_streams(&gateway).await, "5");
    let said = revoke(&gateway, "ci").await;
    assert_eq!(said["streams"], 3, "{said}");
    assert_eq!(first.read_to_end().await, GOODBYE);
    assert_eq!(events.read_to_end().await, b"");
    assert_eq!(answer.read_to_end().await, b"");
    eventually("the inside sees it, too", DEADLINE, || async {
        upstream.ended() == 3
    })
    .await;
    assert!(echoes(&mut others).await);
    assert_eq!(open_streams(&gateway).await, "2");
    assert!(
        metrics(&gateway)
            .await
            .contains("streams_closed_total{reason=\"api_key_revoked\"} 3")
    );
    revoke(&gateway, "other").await;
    assert_eq!(others.read_to_end().await, GOODBYE);
    assert_eq!(others_events.read_to_end().await, b"");
    eventually("closing is in the log", DEADLINE, || async {
        gateway.output().matches("\"stream_closed\"").count() == 5
    })
    .await;
}

#[tokio::test]
async fn a_goodbye_never_stands_inside_a_frame_or_behind_another_goodbye() {
    for sent in [
        b"\x82\x7e\x01\x00half of a frame".as_slice(),
        b"\x82",
        b"\x88\x02\x03\xe8",
    ] {
        let upstream = Upstream::tcp().await;
        let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
        let mut tunnel = tunnel(&gateway, &upstream, API_KEY).await;
        tunnel.send(sent).await;
        assert_eq!(tunnel.read_exact(sent.len()).await, sent);
        revoke(&gateway, "ci").await;
        assert_eq!(tunnel.read_to_end().await, b"", "{sent:?}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_in_is_closed_as_well() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let mut tunnel = tunnel(&gateway, &upstream, API_KEY).await;
    // More than the buffers on the way hold, and nobody reads the echo.
    let flood = vec![0x82; 64 * 1024 * 1024];
    tokio::select! {
        () = tunnel.send(&flood) => panic!("all of it fitted"),
        () = filled(&upstream) => {}
    }
    assert_eq!(revoke(&gateway, "ci").await["streams"], 1);
    eventually("the inside is free", DEADLINE, || async {
        upstream.ended() == 1
    })
    .await;
    eventually("the place is free", DEADLINE, || async {
        metrics(&gateway)
            .await
            .contains("orket_gateway_connections 0")
    })
    .await;
}

#[tokio::test]
async fn a_reload_closes_what_it_would_not_admit_and_only_that() {
    let digest = orket_tests::gitea::sha256(API_KEY.as_bytes());
    let other = "[[keys]]\nid = \"ci\"\nsecret = \"ci\"\nscopes = [\"*\"]\n".to_owned();
    let edit = |from: &str, to: &str| -> Change {
        let (from, to) = (from.to_owned(), to.to_owned());
        Box::new(move |text: String| {
            assert!(text.contains(&from), "{from}");
            text.replace(&from, &to)
        })
    };
    let scope = "[[scopes]]\nid = \"cards\"\nallow = [\"GET /v1/cards\"]\n";
    let cases: [(&str, Change, &str, &str); 6] = [
        ("the key is gone", edit(&other, ""), "api_key_unknown", "ci"),
        (
            "its secret is another",
            edit(&digest, &"ab".repeat(32)),
            "api_key_unknown",
            "ci",
        ),
        (
            "the secret is another key's",
            edit("id = \"ci\"\n", "id = \"c2\"\n"),
            "api_key_unknown",
            "ci",
        ),
        (
            "its scopes do not cover it",
            edit(
                &other,
                &format!("{}{scope}", other.replace("\"*\"", "\"cards\"")),
            ),
            "scope_missing",
            "ci",
        ),
        (
            "it is expired",
            edit(
                "id = \"ci\"\n",
                "id = \"ci\"\nexpires = 2021-01-01T00:00:00Z\n",
            ),
            "api_key_expired",
            "ci",
        ),
        (
            "the address is denied",
            edit(
                "auth = { kind = \"api_key\" }\n",
                "auth = { kind = \"api_key\" }\naddresses = { deny = [\"127.0.0.0/8\"] }\n",
            ),
            "address_denied",
            "all",
        ),
    ];
    for (what, change, reason, whose) in cases {
        let upstream = Upstream::tcp().await;
        let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
        let mut first = tunnel(&gateway, &upstream, API_KEY).await;
        let mut events = stream(&gateway, &upstream, API_KEY, "text/event-stream").await;
        let mut others = tunnel(&gateway, &upstream, OTHER_KEY).await;
        reload(&gateway, |text| text + "\n# nothing\n").await;
        assert!(echoes(&mut first).await, "{what}");
        reload(&gateway, change).await;
        assert_eq!(first.read_to_end().await, GOODBYE, "{what}");
        assert_eq!(events.read_to_end().await, b"", "{what}");
        let closed = if whose == "all" { 3 } else { 2 };
        let metric = format!("streams_closed_total{{reason=\"{reason}\"}} {closed}");
        let page = metrics(&gateway).await;
        assert!(page.contains(&metric), "{what}: {page}");
        if whose == "ci" {
            assert!(echoes(&mut others).await, "{what}");
        }
    }
}

#[tokio::test]
async fn a_route_that_goes_or_wants_another_proof_closes_what_came_by_it() {
    let cases = [
        (
            "path = \"/ws/events\"",
            "path = \"/ws/other\"",
            "route_not_found",
        ),
        ("upgrade = \"websocket\"\n", "", "upgrade_refused"),
        (
            "methods = [\"GET\"]",
            "methods = [\"PUT\"]",
            "method_not_allowed",
        ),
        (
            "methods = [\"GET\"]\nauth = { kind = \"api_key\" }\nupgrade = \"websocket\"",
            "methods = [\"GET\"]\nauth = { kind = \"webhook\", provider = \"gitea\", secret = \"gitea\" }\nupgrade = \"websocket\"",
            "signature_missing",
        ),
    ];
    for (from, to, reason) in cases {
        let upstream = Upstream::tcp().await;
        let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
        let mut tunnel = tunnel(&gateway, &upstream, API_KEY).await;
        let mut events = stream(&gateway, &upstream, API_KEY, "text/event-stream").await;
        reload(&gateway, |text| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        })
        .await;
        assert_eq!(tunnel.read_to_end().await, GOODBYE, "{reason}");
        let page = metrics(&gateway).await;
        assert!(
            page.contains(&format!("reason=\"{reason}\"}} 1")),
            "{reason}: {page}"
        );
        revoke(&gateway, "ci").await;
        assert_eq!(events.read_to_end().await, b"");
    }
}

/// A gateway whose key `ci` ends at this moment.
async fn expiring(upstream: &Upstream, end: Timestamp) -> Gateway {
    let policy = two_keys().to_string().replace(
        "id = \"ci\"\n",
        &format!("id = \"ci\"\nexpires = {end:.3}\n"),
    );
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    Gateway::before(upstream.address())
        .file(name, bytes)
        .policy(&policy)
        .start()
        .await
}

#[tokio::test]
async fn a_key_that_expires_takes_its_streams_with_it_at_that_moment() {
    let upstream = Upstream::tcp().await;
    let end = Timestamp::now() + SignedDuration::from_secs(3);
    let gateway = expiring(&upstream, end).await;
    let mut others = tunnel(&gateway, &upstream, OTHER_KEY).await;
    let mut first = tunnel(&gateway, &upstream, API_KEY).await;
    let mut events = stream(&gateway, &upstream, API_KEY, "text/event-stream").await;
    assert_eq!(first.read_to_end().await, GOODBYE);
    assert!(Timestamp::now() >= end - SignedDuration::from_millis(1));
    assert_eq!(events.read_to_end().await, b"");
    assert!(echoes(&mut others).await);
    assert!(
        metrics(&gateway)
            .await
            .contains("streams_closed_total{reason=\"api_key_expired\"} 2")
    );
}

#[tokio::test]
async fn an_end_that_a_reload_moves_is_the_one_that_counts() {
    let upstream = Upstream::tcp().await;
    let far = Timestamp::now() + SignedDuration::from_secs(6);
    let gateway = expiring(&upstream, far).await;
    // The first key's end goes away, and the other's comes.
    let mut first = tunnel(&gateway, &upstream, API_KEY).await;
    let mut others = tunnel(&gateway, &upstream, OTHER_KEY).await;
    let mut events = stream(&gateway, &upstream, OTHER_KEY, "text/event-stream").await;
    let end = Timestamp::now() + SignedDuration::from_secs(4);
    reload(&gateway, |text| {
        text.replace(&format!("expires = {far:.3}\n"), "").replace(
            "id = \"other\"\n",
            &format!("id = \"other\"\nexpires = {end:.3}\n"),
        )
    })
    .await;
    assert!(echoes(&mut others).await, "its new end is to come");
    assert_eq!(others.read_to_end().await, GOODBYE);
    assert!(Timestamp::now() >= end - SignedDuration::from_millis(1));
    assert_eq!(events.read_to_end().await, b"");
    let closed = "streams_closed_total{reason=\"api_key_expired\"} 2";
    assert!(metrics(&gateway).await.contains(closed));
    eventually("the end that was taken away is past", DEADLINE, || async {
        Timestamp::now() > far + SignedDuration::from_millis(500)
    })
    .await;
    assert!(echoes(&mut first).await);
    assert_eq!(open_streams(&gateway).await, "1");
}

#[tokio::test]
async fn a_client_that_ends_its_side_of_a_stream_has_left() {
    let upstream = Upstream::tcp().await;
    // So that no silence of the upstream ends it.
    let policy = two_keys().upstream("response_timeout = \"300s\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let mut events = stream(&gateway, &upstream, API_KEY, "text/event-stream").await;
    let mut tunnel = tunnel(&gateway, &upstream, API_KEY).await;
    events.finish().await;
    eventually("the inside is free of the events", DEADLINE, || async {
        upstream.ended() == 1
    })
    .await;
    assert_eq!(events.read_to_end().await, b"");
    tunnel.finish().await;
    eventually("and of the tunnel", DEADLINE, || async {
        upstream.ended() == 2
    })
    .await;
    eventually("both are forgotten", DEADLINE, || async {
        open_streams(&gateway).await == "0"
    })
    .await;
    // Whoever ends its side before an ordinary answer may still be waiting for it (RFC 9112, section 9.6).
    upstream.react(Reaction::Hold);
    let mut patient = Connection::open(gateway.address()).await;
    let ask = Request::get("/v1/version").key(API_KEY);
    patient.send(&ask.bytes(gateway.address())).await;
    patient.finish().await;
    upstream.arrived(3).await;
    upstream.react(Reaction::ok());
    assert_eq!(patient.answer().await.status, 200);
}

#[tokio::test]
async fn a_silent_stream_outlives_the_time_that_an_ordinary_answer_has() {
    let upstream = Upstream::tcp().await;
    let policy = two_keys().upstream("response_timeout = \"1s\"");
    let gateway = Gateway::with_policy(upstream.address(), &policy).await;
    let mut events = stream(&gateway, &upstream, API_KEY, "text/event-stream").await;
    let mut tunnel = tunnel(&gateway, &upstream, API_KEY).await;
    for _ in 0..2 {
        let mut answer = stream(&gateway, &upstream, API_KEY, "text/plain").await;
        // Cut after its second, while the others have said nothing for longer.
        assert_eq!(answer.read_to_end().await, b"");
    }
    eventually("only those two are left", DEADLINE, || async {
        open_streams(&gateway).await == "2"
    })
    .await;
    assert_eq!(upstream.ended(), 2);
    assert!(echoes(&mut tunnel).await);
    assert_eq!(revoke(&gateway, "ci").await["streams"], 2);
    assert_eq!(tunnel.read_to_end().await, GOODBYE);
    assert_eq!(events.read_to_end().await, b"");
}

#[tokio::test]
async fn a_stream_that_begins_after_the_revocation_is_closed_before_it_says_anything() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    upstream.react(Reaction::Hold);
    let mut connection = Connection::open(gateway.address()).await;
    connection
        .send(&upgrade(API_KEY).bytes(gateway.address()))
        .await;
    upstream.arrived(1).await;
    revoke(&gateway, "ci").await;
    upstream.react(Reaction::Echo);
    let came = connection.read_to_end().await;
    assert!(
        !came.starts_with(b"HTTP/1.1 101"),
        "{:?}",
        String::from_utf8_lossy(&came)
    );
}

#[tokio::test]
async fn ordinary_answers_leave_nothing_behind() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let mut connection = Connection::open(gateway.address()).await;
    let ask = Request::get("/v1/version")
        .key(OTHER_KEY)
        .bytes(gateway.address());
    for _ in 0..3 {
        connection.send(&ask).await;
        assert_eq!(connection.answer().await.status, 200);
    }
    let mut gone = tunnel(&gateway, &upstream, API_KEY).await;
    gone.finish().await;
    drop(gone);
    eventually(
        "a tunnel whose client went is forgotten",
        DEADLINE,
        || async { open_streams(&gateway).await == "0" },
    )
    .await;
    assert_eq!(revoke(&gateway, "ci").await["streams"], 0);
    upstream.react(Reaction::ok());
    connection.send(&ask).await;
    assert_eq!(connection.answer().await.status, 200);
}

#[tokio::test]
async fn the_events_of_the_real_backend_are_closed_both_ways() {
    let stack = Stack::start("").await;
    let address: &Address = stack.address();
    let mut tunnel = Connection::open(address).await;
    tunnel.send(&upgrade(API_KEY).bytes(address)).await;
    assert_eq!(tunnel.answer().await.status, 101);
    let mut events = Connection::open(address).await;
    let ask = Request::get("/v1/events").key(API_KEY);
    events.send(&ask.bytes(address)).await;
    let head = events.read_exact(12).await;
    assert_eq!(head, b"HTTP/1.1 200");
    eventually("both are open", DEADLINE, || async {
        open_streams(&stack.gateway).await == "2"
    })
    .await;
    assert_eq!(revoke(&stack.gateway, "default").await["streams"], 2);
    assert!(tunnel.read_to_end().await.ends_with(GOODBYE));
    events.read_to_end().await;
    assert_eq!(stack.get("/v1/version").await.status, 403);
}
