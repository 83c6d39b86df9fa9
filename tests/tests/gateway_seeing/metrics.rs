//! What is counted, and that nothing a client sends becomes a label.

use std::time::{Duration, Instant};

use orket_gateway::metrics::Metrics;
use orket_tests::gateway::API_KEY;
use orket_tests::{DEADLINE, Delivery, Gateway, Policy, Reaction, Request, Upstream, eventually};

async fn page(gateway: &Gateway) -> String {
    Request::get("/metrics").send(gateway.admin()).await.text()
}

#[tokio::test]
async fn requests_are_counted_by_route_outcome_actor_and_status() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let address = gateway.address();
    Request::post("/v1/planted?planted", "four")
        .key(API_KEY)
        .send(address)
        .await;
    Request::get("/v1/planted")
        .key("planted")
        .header("X-Planted", "planted")
        .send(address)
        .await;
    Delivery::fresh()
        .forged("/webhook/gitea")
        .send(address)
        .await;
    Request::get("/planted").send(address).await;
    Request::new("PLANTED", "/planted").send(address).await;
    Request::get("/health").send(address).await;
    let expected = [
        r#"requests_total{route="api",outcome="forwarded",actor="key",status="200"} 1"#,
        r#"requests_total{route="api",outcome="api_key_unknown",actor="none",status="403"} 1"#,
        r#"requests_total{route="gitea",outcome="signature_wrong",actor="none",status="401"} 1"#,
        r#"requests_total{route="",outcome="route_not_found",actor="none",status="404"} 2"#,
        r#"requests_total{route="",outcome="health",actor="none",status="200"} 1"#,
        r#"request_duration_seconds_count{route="api"} 2"#,
        r#"upstream_first_byte_seconds_count{route="api"} 1"#,
        r#"request_body_bytes_bucket{le="256.0",route="api"} 2"#,
        r#"limiter_entries{limiter="failures-per-address",kind="built-in"} 1"#,
        "policy_in_force_is_on_disk 1",
        "build_info{version=",
        "panics_total 0",
        "log_records_dropped_total 0",
    ];
    eventually("everything is counted", DEADLINE, || async {
        page(&gateway).await.contains(expected[4])
    })
    .await;
    let page = page(&gateway).await;
    for line in expected {
        assert!(
            page.contains(&format!("orket_gateway_{line}")),
            "{line}\n{page}"
        );
    }
    assert!(!page.to_lowercase().contains("planted"), "{page}");
    // Whatever is shown is declared, and so stands in the reference.
    for family in page.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
        let name = family.split(' ').next().unwrap();
        assert!(Metrics::TABLE.iter().any(|m| m.family() == name), "{name}");
    }
    assert!(page.ends_with("# EOF\n"), "{page}");
}

#[tokio::test]
async fn an_open_stream_is_counted_while_it_is_open() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let url = format!("ws://{}/ws/events", gateway.address());
    let mut request =
        tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(url)
            .unwrap();
    request
        .headers_mut()
        .insert("X-API-Key", API_KEY.parse().unwrap());
    upstream.react(Reaction::Echo);
    let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let open = |n: u32| format!("orket_gateway_streams {n}\n");
    eventually("the stream is counted", DEADLINE, || async {
        page(&gateway).await.contains(&open(1))
    })
    .await;
    drop(socket);
    eventually("it is gone", DEADLINE, || async {
        page(&gateway).await.contains(&open(0))
    })
    .await;
}

#[tokio::test]
async fn scrapes_hold_up_no_request() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &Policy::new()).await;
    let address = gateway.address().clone();
    let end = Instant::now() + Duration::from_millis(500);
    let scraping = async {
        let mut scrapes = 0;
        while Instant::now() < end {
            assert!(page(&gateway).await.ends_with("# EOF\n"));
            scrapes += 1;
        }
        scrapes
    };
    let asking = async {
        let mut answers = 0;
        while Instant::now() < end {
            assert_eq!(
                Request::get("/v1/a")
                    .key(API_KEY)
                    .send(&address)
                    .await
                    .status,
                200
            );
            answers += 1;
        }
        answers
    };
    let (scrapes, answers) = tokio::join!(scraping, asking);
    assert!(scrapes > 0 && answers > 0);
}
