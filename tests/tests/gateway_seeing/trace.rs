//! `traceparent` (W3C Trace Context): a valid one goes on as it is, anything else begins anew.

use orket_tests::gateway::API_KEY;
use orket_tests::{Gateway, Request, Upstream, upstream::Recorded};

use super::{at_the_end, of};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn all<'a>(recorded: &'a Recorded, name: &str) -> Vec<&'a str> {
    let of_name = |(n, _): &&(String, String)| n.eq_ignore_ascii_case(name);
    recorded
        .headers
        .iter()
        .filter(of_name)
        .map(|(_, v)| v.as_str())
        .collect()
}

#[tokio::test]
async fn a_valid_trace_goes_on_and_stands_in_the_records() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let traced = |request: Request| {
        request
            .header("traceparent", VALID)
            .header("tracestate", "a=1")
            .header("tracestate", "b=2")
    };
    let address = gateway.address().clone();
    traced(Request::get("/v1/a").key(API_KEY))
        .send(&address)
        .await;
    let recorded = upstream.only();
    assert_eq!(all(&recorded, "traceparent"), [VALID]);
    assert_eq!(all(&recorded, "tracestate").join(","), "a=1,b=2");
    // A refusal belongs to it, too.
    traced(Request::get("/v1/a")).send(&address).await;
    let log = at_the_end(&mut gateway).await;
    let access = of(&log, "access", "request");
    assert_eq!(access.len(), 2);
    assert!(access.iter().all(|r| r["trace_id"] == TRACE), "{access:#?}");
    assert_eq!(of(&log, "audit", "refused")[0]["trace_id"], TRACE);
}

#[tokio::test]
async fn anything_else_begins_a_new_trace_without_state() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let address = gateway.address().clone();
    let cases: [&[&str]; 5] = [
        &[],
        &[VALID, VALID],
        &["00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"],
        &["00-00000000000000000000000000000000-00f067aa0ba902b7-01"],
        &["planted"],
    ];
    for values in cases {
        upstream.forget();
        let mut request = Request::get("/v1/a")
            .key(API_KEY)
            .header("tracestate", "a=1");
        for value in values {
            request = request.header("traceparent", value);
        }
        assert_eq!(request.send(&address).await.status, 200);
        let recorded = upstream.only();
        let sent = all(&recorded, "traceparent");
        assert_eq!(sent.len(), 1, "{values:?}");
        let fields: Vec<_> = sent[0].split('-').map(str::len).collect();
        assert_eq!(fields, [2, 32, 16, 2], "{sent:?}");
        assert!(
            sent[0].starts_with("00-") && sent[0].ends_with("-00"),
            "{sent:?}"
        );
        assert!(!sent[0].contains(TRACE), "{sent:?}");
        assert_eq!(all(&recorded, "tracestate"), [""; 0], "{values:?}");
    }
    let log = at_the_end(&mut gateway).await;
    let access = of(&log, "access", "request");
    let mut ids: Vec<_> = access.iter().map(|r| r["trace_id"].to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), cases.len());
    assert!(!gateway.output().contains("planted"));
}
