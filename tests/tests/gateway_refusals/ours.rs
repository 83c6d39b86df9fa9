//! Whatever comes in, every answer is the gateway's own: its body, its `X-Request-Id`, its record. The proxy library answers some heads bare;
//! none of those may reach it.

use std::fmt::Write as _;

use orket_tests::gateway::API_KEY;
use orket_tests::{Cases, Connection, DEADLINE, Gateway, Policy, Upstream, eventually};

/// A case: its name and the bytes that are sent, `HOST` standing for the gateway's address.
type Case = (String, Vec<u8>);

fn case(name: impl Into<String>, bytes: impl AsRef<[u8]>) -> Case {
    (name.into(), bytes.as_ref().to_vec())
}

fn good() -> String {
    format!("GET /v1/a HTTP/1.1\r\nHost: HOST\r\nX-API-Key: {API_KEY}\r\n\r\n")
}

const VERSIONS: [&str; 20] = [
    "HTTP/0.9",
    "HTTP/1.2",
    "HTTP/1.10",
    "HTTP/11",
    "HTTP/2.0",
    "HTTP/2",
    "HTTP/3",
    "http/1.1",
    "HTTP/1.1 x",
    "HTTP/ 1.1",
    "HTTPS/1.1",
    "ICY/1.1",
    "HTTP/1.\u{661}",
    "HTTP/1",
    "HTTP/",
    "",
    "HTTP/1.0",
    "HTTP/+1.1",
    "HTTP/1.1\t",
    "\u{0}",
];

/// Heads that are cut off, and versions there are not.
fn halves() -> Vec<Case> {
    let good = good();
    let mut all = Vec::new();
    for end in 1..good.len() - 1 {
        if end % 7 == 0 || good[..end].ends_with(['\n', '\r']) {
            all.push(case(format!("a head cut after {end} bytes"), &good[..end]));
        }
    }
    for version in VERSIONS {
        let head = format!("GET /v1/a {version}\r\nHost: HOST\r\n\r\n");
        all.push(case(format!("the version {version:?}"), head));
    }
    all
}

/// What other protocols say first, and HTTP that is none.
const SPEECHES: &[&str] = &[
    "GET /v1/a HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    "SSH-2.0-OpenSSH_9.6\r\n",
    "EHLO mail.example\r\n",
    "*1\r\n$4\r\nPING\r\n",
    "USER anonymous\r\n",
    "OPTIONS rtsp://HOST/ RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "INVITE sip:a@HOST SIP/2.0\r\nVia: x\r\n\r\n",
    "CONNECT HOST:443 HTTP/1.1\r\nHost: HOST:443\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET * HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET http://[::1 HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET //[ HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET http:/// HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET http://a:b:c/ HTTP/1.1\r\nHost: a:b:c\r\n\r\n",
    "GET ? HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /%zz HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /v1/a HTTP/1.1\r\n\r\n",
    "GET /v1/a HTTP/1.1\r\nHost:\r\n\r\n",
    "GET /v1/a HTTP/1.1\r\nHost: a b\r\n\r\n",
    "GET /v1/a HTTP/1.1\r\nHost: [\r\n\r\n",
    "GET /v1/a HTTP/1.1\r\nHost: HOST:99999\r\n\r\n",
    "GET /v1/a HTTP/1.1\r\nHost: HOST\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "GET /v1/a HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    "POST /v1/a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "POST /webhook/gitea HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "POST /webhook/gitea HTTP/1.1\r\nHost: HOST\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: HOST\r\n\r\nGET /nowhere HTTP/7.7\r\n\r\n",
    "HEAD /nowhere HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /v1/a HTTP/1.0\r\n\r\n",
];

fn strangers() -> Vec<Case> {
    let good = good();
    let proxied =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x02";
    let mut all: Vec<Case> = SPEECHES
        .iter()
        .map(|speech| case(format!("{speech:?}"), speech))
        .collect();
    all.extend([
        case("HTTP/0.9", "GET /v1/a\r\n"),
        case("a line without blanks", "GET\r\n\r\n"),
        case("a blank line alone", "\r\n"),
        case("many blank lines", "\r\n".repeat(3000)),
        case("blank lines before a request", format!("\r\n\r\n{good}")),
        case("line feeds", "\n".repeat(100)),
        case("nothing but NUL", [0; 64]),
        case(
            "a NUL within a head",
            "GET /v1/a\0 HTTP/1.1\r\nHost: HOST\r\n\r\n",
        ),
        case("nothing but 0xff", vec![0xff; 20_000]),
        case("one byte", "G"),
        case(
            "the preface of HTTP/2",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ),
        case(
            "a ClientHello",
            b"\x16\x03\x01\x00\x45\x01\x00\x00\x41\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00\x00\x02\x13\x01\x01\x00\x00\x16\x00\x2b\x00\x03\x02\x03\x04\x00\x0a\x00\x04\x00\x02\x00\x1d\x00\x0d\x00\x04\x00\x02\x04\x03",
        ),
        case("a TLS alert", b"\x15\x03\x03\x00\x02\x01\x00"),
        case(
            "an SSLv2 hello",
            b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10",
        ),
        case(
            "the PROXY protocol, in text",
            format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{good}"),
        ),
        case(
            "the PROXY protocol, in bytes",
            [proxied.as_slice(), good.as_bytes()].concat(),
        ),
    ]);
    all
}

/// Too long, too many, or nearly.
fn extremes() -> Vec<Case> {
    let mut all = Vec::new();
    for method in [
        "A".repeat(300),
        "A".repeat(9_000),
        "G\u{e9}T".to_owned(),
        "(".to_owned(),
    ] {
        let head = format!("{method} /v1/a HTTP/1.1\r\nHost: HOST\r\n\r\n");
        all.push(case(format!("a method of {} bytes", method.len()), head));
    }
    for length in [1_000, 8_190, 15_000, 16_500, 70_000, 300_000] {
        let long = "a".repeat(length);
        for (what, head) in [
            (
                "target",
                format!("GET /{long} HTTP/1.1\r\nHost: HOST\r\n\r\n"),
            ),
            (
                "query",
                format!("GET /nowhere?{long} HTTP/1.1\r\nHost: HOST\r\n\r\n"),
            ),
            (
                "name",
                format!("GET /nowhere HTTP/1.1\r\nHost: HOST\r\n{long}: b\r\n\r\n"),
            ),
            (
                "value",
                format!("GET /nowhere HTTP/1.1\r\nHost: HOST\r\nX: {long}\r\n\r\n"),
            ),
            (
                "host",
                format!("GET /nowhere HTTP/1.1\r\nHost: {long}\r\n\r\n"),
            ),
        ] {
            all.push(case(format!("a {what} of {length} bytes"), head));
        }
    }
    for count in [99, 101, 160, 257, 400] {
        let mut head = "GET /nowhere HTTP/1.1\r\nHost: HOST\r\n".to_owned();
        for number in 0..count {
            let _ = write!(head, "X-{number}: {number}\r\n");
        }
        all.push(case(format!("{count} lines"), head + "\r\n"));
    }
    all
}

fn corpus() -> Vec<Case> {
    [halves(), strangers(), extremes()].concat()
}

/// The bytes with this host in the place of `HOST`.
fn fill(bytes: &[u8], host: &str) -> Vec<u8> {
    let mut filled = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(4).position(|w| w == b"HOST") {
        filled.extend_from_slice(&rest[..at]);
        filled.extend_from_slice(host.as_bytes());
        rest = &rest[at + 4..];
    }
    filled.extend_from_slice(rest);
    filled
}

/// The ids of the answers in these bytes, or what is not ours in them.
fn ids(bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = String::from_utf8_lossy(bytes);
    let shown = || format!("{:?}", text.chars().take(400).collect::<String>());
    if !text.is_empty() && !text.starts_with("HTTP/1.1 ") {
        return Err(format!("no answer of HTTP/1.1: {}", shown()));
    }
    let mut ids = Vec::new();
    // No body of ours holds this.
    for answer in text.split("HTTP/1.1 ").skip(1) {
        if answer.starts_with("100 ") {
            continue;
        }
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(shown)?;
        let value = |name: &str| {
            head.lines().find_map(|line| {
                let (n, v) = line.split_once(':')?;
                n.eq_ignore_ascii_case(name).then(|| v.trim().to_owned())
            })
        };
        let id = value("x-request-id").ok_or_else(|| format!("no id: {}", shown()))?;
        let kind = value("content-type").unwrap_or_default();
        let refused = head.starts_with('4') || head.starts_with('5');
        if refused && kind != "application/problem+json" {
            return Err(format!("not our refusal: {}", shown()));
        }
        if refused && !body.is_empty() && !body.contains(&id) {
            return Err(format!("its body lacks the id: {}", shown()));
        }
        if refused {
            ids.push(id);
        }
    }
    Ok(ids)
}

#[tokio::test]
async fn every_answer_to_whatever_comes_is_ours() {
    let upstream = Upstream::tcp().await;
    let policy = Policy::new()
        .limits("head_timeout = \"1s\"\nbody_timeout = \"1s\"\nkeepalive_timeout = \"1s\"");
    let builder = Gateway::before(upstream.address()).standard(&policy);
    let audit = builder.dir().join("audit");
    let gateway = builder
        .env("ORKET_LOG_AUDIT", audit.to_str().unwrap())
        .start()
        .await;
    let mut cases = Cases::new();
    let mut answered = Vec::new();
    let mut talks = tokio::task::JoinSet::new();
    for (number, (name, bytes)) in corpus().into_iter().enumerate() {
        for left in [true, false] {
            let (name, address) = (name.clone(), gateway.address().clone());
            let bytes = fill(&bytes, &address.host());
            // Of many addresses, so that each refusal has its record.
            let client = std::net::Ipv4Addr::new(
                127,
                1,
                u8::try_from(number % 200).unwrap(),
                1 + u8::from(left),
            );
            talks.spawn(async move {
                let mut connection = Connection::open_from(client, &address).await;
                connection.send(&bytes).await;
                if left {
                    connection.finish().await;
                }
                (
                    format!("{name} (left: {left})"),
                    connection.read_to_end().await,
                )
            });
            if talks.len() >= 16
                && let Some(talk) = talks.join_next().await
            {
                answered.push(talk.unwrap());
            }
        }
    }
    answered.extend(talks.join_all().await);
    let mut all = Vec::new();
    for (name, bytes) in answered {
        match ids(&bytes) {
            Ok(ids) => all.extend(ids.into_iter().map(|id| (name.clone(), id))),
            Err(problem) => cases.note::<()>(&name, Err(problem)),
        }
    }
    assert!(all.len() > 200, "{}", all.len());
    let log = || std::fs::read_to_string(&audit).unwrap_or_default();
    eventually("the records are written", DEADLINE, || async {
        all.iter().all(|(_, id)| log().contains(id.as_str())) || log().contains("left_out")
    })
    .await;
    let log = log();
    if !log.contains("\"left_out\"") {
        for (name, id) in &all {
            cases.holds(name, log.contains(id.as_str()), || {
                "its refusal has no record".to_owned()
            });
        }
    }
    cases.finish();
}
