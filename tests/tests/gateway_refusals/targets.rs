//! Targets that could mean another path further inside.

use orket_tests::gateway::API_KEY;
use orket_tests::{Cases, Gateway, Request, Upstream};

#[tokio::test]
async fn an_ambiguous_target_is_refused() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address();
    let host = address.host();
    let mut cases = Cases::new();
    for target in [
        "/v1/../v1/version",
        "/v1/..",
        "/v1/.",
        "/v1/./version",
        "/./v1/version",
        "/v1/cards/../../webhook/gitea",
        "/v1/%2e%2e/v1/version",
        "/v1/%2E%2E/v1/version",
        "/v1/.%2e/version",
        "/v1/%2e/version",
        "/v1/cards%2fISSUE-1",
        "/v1/cards%2FISSUE-1",
        "/v1%2fversion",
        "/v1/cards\\ISSUE-1",
        "/v1/cards%5cISSUE-1",
        "/v1/cards%5CISSUE-1",
        "/v1/..%5c..%5cversion",
        "//v1/version",
        "/v1//version",
        "/v1/version//",
        "///v1/version",
        "/v1/version%00",
        "/v1/version\0",
        "/v1/version%0d%0aX-A:b",
        "/v1/version%0a",
        "/v1/version%7f",
        "/v1/version\u{7f}",
        "/v1/version\t",
        "/v1/version#fragment",
        "/v1/version?a=b#fragment",
        // Paths of which there is a plainer form: a reader further inside may compare with that.
        "/v1/cards/%41",
        "/%761/version",
        "/v1/cards/a%2db",
        "/v1/cards/%25%32%65",
        "/v1/%252e%252e/version",
        "/v1;a=b/version",
        "/v1/cards/a;b",
        "/v1/cards/a%3bb",
        "/v1/version%3fa=b",
        "/v1/version%23a",
        "/v1/%zz",
        "/v1/version%",
        "/v1/version%2",
        "/v1/version%g0",
        "/v1/cards/ä",
        "/v1/cards/%c0%ae%c0%ae/version",
        "/v1/version\"",
        "/v1/<version>",
        "/v1/{version}",
        "/v1/version|",
        "/v1/version^`",
        "v1/version",
        "*",
        "?a=b",
        "http://other.example/v1/version",
        "https://other.example:8443/v1/version",
        "http://user:password@other.example/v1/version",
        "ftp://other.example/v1/version",
        "http:/v1/version",
        "http://",
        "other.example:443",
    ] {
        let request = Request::get(target).key(API_KEY);
        cases
            .refused(target, address, &request.bytes(address), 400, "Bad request")
            .await;
    }
    for target in [
        format!("http://{host}@other.example/v1/version"),
        format!("http://user@{host}/v1/version"),
    ] {
        let request = Request::get(&target).key(API_KEY);
        cases
            .refused(
                &target,
                address,
                &request.bytes(address),
                400,
                "Bad request",
            )
            .await;
    }
    cases.finish();
    upstream.untouched("ambiguous targets");
}

#[tokio::test]
async fn a_target_that_is_odd_but_clear_passes_byte_for_byte() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let mut cases = Cases::new();
    for target in [
        "/v1/version",
        "/v1/cards/a.b",
        "/v1/cards/...",
        "/v1/cards/..a",
        "/v1/cards/a%20b",
        "/v1/cards/%C3%A4",
        "/v1/cards/%c3%a4",
        "/v1/cards/a~b!$&'()*+,=:@",
        "/v1/version?",
        "/v1/version?a=%2f..%2F//&b=../..&c",
        "/v1/version?a=/../&b=?",
        "/v1/version?a=%00",
    ] {
        let answer = Request::get(target)
            .key(API_KEY)
            .send(gateway.address())
            .await;
        cases.holds(
            target,
            answer.status == 200 && upstream.last().target == target,
            || {
                format!(
                    "{} {} {:?}",
                    answer.status,
                    answer.text(),
                    upstream.requests().pop()
                )
            },
        );
    }
    cases.finish();
}

#[tokio::test]
async fn connect_and_the_asterisk_open_nothing() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for (method, target) in [
        ("CONNECT", "127.0.0.1:22".to_owned()),
        ("CONNECT", upstream.address().to_string()),
        ("CONNECT", "/v1/version".to_owned()),
        ("OPTIONS", "*".to_owned()),
    ] {
        let request = Request::new(method, &target).key(API_KEY);
        let answer = request.send(gateway.address()).await;
        assert!(
            matches!(answer.status, 400 | 405),
            "{method} {target}: {}",
            answer.status
        );
    }
    upstream.untouched("CONNECT and OPTIONS *");
}
