//! Heads that two readers could read differently, or that are too large.

use orket_tests::gateway::API_KEY;
use orket_tests::{Cases, Gateway, Request, Upstream, wire};

/// A case: its name and the bytes that are sent, `HOST` standing for the gateway's address. Each
/// shows the right key, so that only the head decides.
type Case = (&'static str, Vec<u8>);

const GET: &str = "GET /v1/version HTTP/1.1";

fn with_body(lines: &str) -> Vec<u8> {
    format!("POST /v1/runs HTTP/1.1\r\nHost: HOST\r\nX-API-Key: {API_KEY}\r\n{lines}\r\n\r\n{{}}")
        .into_bytes()
}

fn start(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: HOST\r\nX-API-Key: {API_KEY}\r\n\r\n").into_bytes()
}

fn with_line(line: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!("{GET}\r\nHost: HOST\r\nX-API-Key: {API_KEY}\r\n");
    [head.as_bytes(), line.as_ref(), b"\r\n\r\n"].concat()
}

fn with_host(lines: &str) -> Vec<u8> {
    format!("{GET}\r\n{lines}X-API-Key: {API_KEY}\r\n\r\n").into_bytes()
}

/// Where does the body end?
fn framing() -> Vec<Case> {
    let chunks_in_1_0 = format!(
        "POST /v1/runs HTTP/1.0\r\nHost: HOST\r\nX-API-Key: {API_KEY}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    );
    let mut cases = vec![("chunks in HTTP/1.0", chunks_in_1_0.into_bytes())];
    for (name, lines) in [
        (
            "a length and chunks",
            "Content-Length: 2\r\nTransfer-Encoding: chunked",
        ),
        (
            "chunks and a length",
            "Transfer-Encoding: chunked\r\nContent-Length: 2",
        ),
        (
            "two different lengths",
            "Content-Length: 2\r\nContent-Length: 3",
        ),
        (
            "two equal lengths",
            "Content-Length: 2\r\nContent-Length: 2",
        ),
        ("a list of lengths", "Content-Length: 2, 2"),
        ("a length with a plus", "Content-Length: +2"),
        ("a negative length", "Content-Length: -2"),
        ("a hexadecimal length", "Content-Length: 0x2"),
        ("an empty length", "Content-Length:"),
        ("a length with a blank in it", "Content-Length: 2 0"),
        (
            "two lines of transfer coding",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ),
        ("chunked twice", "Transfer-Encoding: chunked, chunked"),
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
        ("chunked, gzip", "Transfer-Encoding: chunked, gzip"),
        ("identity", "Transfer-Encoding: identity"),
        ("an unknown transfer coding", "Transfer-Encoding: xchunked"),
        ("an empty transfer coding", "Transfer-Encoding:"),
        (
            "a vertical tab before chunked",
            "Transfer-Encoding: \u{b}chunked",
        ),
        ("quoted chunked", "Transfer-Encoding: \"chunked\""),
        ("a blank before the colon of a length", "Content-Length : 2"),
        (
            "a blank before the colon of chunked",
            "Transfer-Encoding : chunked",
        ),
    ] {
        cases.push((name, with_body(lines)));
    }
    cases
}

/// Where does a header end?
fn lines() -> Vec<Case> {
    let whole = |text: String| text.into_bytes();
    vec![
        (
            "bare line feeds",
            whole(format!("{GET}\nHost: HOST\nX-API-Key: {API_KEY}\n\n")),
        ),
        (
            "one bare line feed",
            whole(format!("{GET}\r\nHost: HOST\nX-API-Key: {API_KEY}\r\n\r\n")),
        ),
        (
            "a folded first line",
            whole(format!(
                "{GET}\r\n Host: HOST\r\nX-API-Key: {API_KEY}\r\n\r\n"
            )),
        ),
        (
            "a blank before the colon of the key",
            whole(format!(
                "{GET}\r\nHost: HOST\r\nX-API-Key : {API_KEY}\r\n\r\n"
            )),
        ),
        (
            "a bare carriage return in a value",
            with_line("X-A: b\rX-API-Key: c"),
        ),
        ("a folded line", with_line("X-A: b\r\n folded")),
        ("a line folded with a tab", with_line("X-A: b\r\n\tfolded")),
        ("a blank before the colon", with_line("X-A : b")),
        ("a tab before the colon", with_line("X-A\t: b")),
        ("no name", with_line(": b")),
        ("no colon", with_line("X-A")),
        ("a name that is no token", with_line("X(A): b")),
        ("a byte beyond ASCII in a name", with_line(b"X-\xe9: b")),
        ("a NUL in a value", with_line("X-A: b\0c")),
        ("a NUL in a name", with_line("X\0A: b")),
        ("a control character in a value", with_line("X-A: b\u{1}c")),
        (
            "an escape character in a value",
            with_line("X-A: b\u{1b}[31mc"),
        ),
        ("a delete character in a value", with_line("X-A: b\u{7f}c")),
    ]
}

/// Whose request is it?
fn hosts() -> Vec<Case> {
    [
        ("no host", ""),
        ("an empty host", "Host:\r\n"),
        ("two hosts", "Host: HOST\r\nHost: other.example\r\n"),
        ("two equal hosts", "Host: HOST\r\nHost: HOST\r\n"),
        ("two names in one host", "Host: HOST, other.example\r\n"),
        ("a host with a user", "Host: user@HOST\r\n"),
        ("a host with a path", "Host: HOST/path\r\n"),
        ("a host with a blank", "Host: a b\r\n"),
        (
            "a host with a port that is none",
            "Host: localhost:http\r\n",
        ),
        ("a host with a port too great", "Host: localhost:65536\r\n"),
    ]
    .map(|(name, lines)| (name, with_host(lines)))
    .to_vec()
}

/// What is asked for?
fn request_lines() -> Vec<Case> {
    let mut cases = [
        ("an unknown version", "GET /v1/version HTTP/1.2"),
        ("version 2.0", "GET /v1/version HTTP/2.0"),
        ("a version that is none", "GET /v1/version HTTP/x"),
        ("a version in lower case", "GET /v1/version http/1.1"),
        ("no version", "GET /v1/version"),
        ("two blanks", "GET  /v1/version HTTP/1.1"),
        ("a tab for a blank", "GET\t/v1/version\tHTTP/1.1"),
        ("a blank at the end", "GET /v1/version HTTP/1.1 "),
        ("a blank in the target", "GET /v1/ver sion HTTP/1.1"),
        ("a method that is no token", "G(T /v1/version HTTP/1.1"),
        ("no method", " /v1/version HTTP/1.1"),
    ]
    .map(|(name, line)| (name, start(line)))
    .to_vec();
    cases.push(("garbage", b"\x16\x03\x01\0\xa5\r\n\r\n".to_vec()));
    cases
}

async fn refused(heads: Vec<Case>) {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let mut cases = Cases::new();
    for (name, bytes) in heads {
        let bytes = replace(&bytes, b"HOST", address.host().as_bytes());
        // A second request stands behind: whatever was read wrongly must not be taken for one.
        let behind = Request::get("/v1/smuggled").key(API_KEY).bytes(address);
        let bytes = [bytes, behind].concat();
        if let Some(exchange) = cases
            .refused(name, address, &bytes, 400, "Bad request")
            .await
        {
            cases.holds(name, exchange.closed, || {
                "the connection stayed open".to_owned()
            });
        }
    }
    let reached = upstream.requests();
    cases.holds(
        "nothing reached the upstream",
        upstream.connections() == 0,
        || format!("{reached:#?}"),
    );
    cases.finish();
}

#[tokio::test]
async fn a_head_whose_body_could_end_in_two_places_is_refused() {
    refused(framing()).await;
}

#[tokio::test]
async fn a_head_with_a_malformed_line_is_refused() {
    refused(lines()).await;
}

#[tokio::test]
async fn a_head_without_one_clear_host_is_refused() {
    refused(hosts()).await;
}

#[tokio::test]
async fn a_malformed_request_line_is_refused() {
    refused(request_lines()).await;
}

#[tokio::test]
async fn what_may_not_be_lost_on_the_way_is_not_named_as_hop_by_hop() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let get = || Request::get("/v1/version").key(API_KEY);
    let mut cases = Cases::new();
    for (name, request) in [
        ("the key", get().header("Connection", "X-API-Key")),
        ("the host", get().header("Connection", "close, Host")),
        ("the length", get().header("Connection", "content-length")),
        ("a stamp", get().header("Connection", "X-Orket-Actor")),
        (
            "the request's id",
            get().header("Connection", "x-request-id"),
        ),
        ("no token", get().header("Connection", "a b")),
        ("an unknown expectation", get().header("Expect", "200-ok")),
    ] {
        cases
            .refused(name, address, &request.bytes(address), 400, "Bad request")
            .await;
    }
    cases.finish();
    upstream.untouched("nominations of what must not be lost");
}

#[tokio::test]
async fn a_head_that_is_odd_but_clear_passes() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let get = || Request::get("/v1/version").key(API_KEY);
    let mut cases = Cases::new();
    for (name, bytes) in [
        (
            "blanks around a value",
            get().line("X-A: \t b \t ").bytes(address),
        ),
        (
            "no blank before a value",
            get().line("X-A:b").bytes(address),
        ),
        ("an empty value", get().line("X-A:").bytes(address)),
        (
            "a value beyond ASCII",
            get().line(b"X-A: \xe9".as_slice()).bytes(address),
        ),
        (
            "a tab within a value",
            get().line("X-A: b\tc").bytes(address),
        ),
        (
            "a name of every token character",
            get().line("!#$%&'*+-.^_`|~aZ9: b").bytes(address),
        ),
        (
            "chunked in upper case",
            Request::new("POST", "/v1/runs")
                .key(API_KEY)
                .line("Transfer-Encoding: Chunked")
                .bytes(address)
                .into_iter()
                .chain(*b"0\r\n\r\n")
                .collect(),
        ),
        (
            "100 header lines",
            (0..98)
                .fold(get(), |request, n| request.header(&format!("X-{n}"), "v"))
                .bytes(address),
        ),
        (
            "HTTP/1.0",
            format!(
                "GET /v1/version HTTP/1.0\r\nHost: {}\r\nX-API-Key: {API_KEY}\r\n\r\n",
                address.host()
            )
            .into_bytes(),
        ),
    ] {
        let answer = wire::exchange(address, &bytes).await.answer;
        cases.holds(name, answer.status == 200, || {
            format!("{} {}", answer.status, answer.text())
        });
    }
    cases.finish();
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        // `Host:` is a header's name; only the placeholder in capitals is meant.
        if bytes[at..].starts_with(from) {
            replaced.extend_from_slice(to);
            at += from.len();
        } else {
            replaced.push(bytes[at]);
            at += 1;
        }
    }
    replaced
}
