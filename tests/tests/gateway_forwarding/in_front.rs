//! In front of a service that is not changed: it wants a key of its own and checks its senders' signatures itself.
//! The policy is the one of `deploy/examples/gateway-in-front.toml`.

use orket_tests::gateway::{API_KEY, WEBHOOK_SECRET};
use orket_tests::gitea::{sha256, signature};
use orket_tests::repository::{read, root};
use orket_tests::{Delivery, Gateway, Reaction, Request, Upstream, assert_refused};

const SERVICE_KEY: &str = "service-2Vb7Nq9Xk4Lm8Wz3Rt6Yp1Hd";

/// What the service does with a request before it looks further: its key, and the signature of a webhook.
fn service_accepts(request: &orket_tests::upstream::Recorded) -> bool {
    if request.target == "/webhook/gitea" {
        let own = signature(WEBHOOK_SECRET.as_bytes(), &request.body);
        return request.all("x-gitea-signature") == [own.as_str()];
    }
    request.all("x-api-key") == [SERVICE_KEY]
}

/// The example with this test's addresses, files and digest, and whatever else it needs to run here.
fn policy(backend: &Upstream) -> String {
    let digest = sha256(API_KEY.as_bytes());
    let text = read(&root().join("deploy/examples/gateway-in-front.toml"));
    for there in [
        "\"127.0.0.1:8090\"",
        "\"unix:/run/orket/backend.sock\"",
        "/var/lib/orket/gateway",
    ] {
        assert!(text.contains(there), "{there}");
    }
    text.replace("\"127.0.0.1:8080\"", "\"127.0.0.1:0\"")
        .replace("\"127.0.0.1:9901\"", "\"127.0.0.1:0\"")
        .replace("\"127.0.0.1:8090\"", "\"{upstream}\"")
        .replace(
            "\"unix:/run/orket/backend.sock\"",
            &format!("\"{}\"", backend.address()),
        )
        .replace("/var/lib/orket/gateway", "{dir}/state")
        .replace("/etc/orket/", "{dir}/")
        .replace(&"0".repeat(64), &digest)
}

#[tokio::test]
async fn a_service_that_is_not_changed_works_behind_the_gateway() {
    let (service, backend) = (Upstream::tcp().await, Upstream::tcp().await);
    service.react(Reaction::json(200, r#"{"service":"reached"}"#));
    let gateway = Gateway::before(service.address())
        .file("service_key", format!("{SERVICE_KEY}\n").as_bytes())
        .file("gitea_secret", WEBHOOK_SECRET.as_bytes())
        .policy(&policy(&backend))
        .start()
        .await;
    let address = gateway.address();

    let delivery = Delivery::fresh();
    for (request, target) in [
        (
            Request::get("/service/v1/things?a=b").key(API_KEY),
            "/v1/things?a=b",
        ),
        (
            Request::post("/service/v1/things", "{}").key(API_KEY),
            "/v1/things",
        ),
        (
            delivery.signed("/service/webhook/gitea", WEBHOOK_SECRET),
            "/webhook/gitea",
        ),
        (Request::get("/health"), "/healthz"),
    ] {
        let answer = request.send(address).await;
        assert_eq!(
            answer.json()["service"],
            "reached",
            "{target}: {}",
            answer.text()
        );
        let recorded = service.last();
        assert_eq!(recorded.target, target);
        assert!(service_accepts(&recorded), "{target}: {recorded:?}");
        assert!(
            !String::from_utf8_lossy(&recorded.raw).contains(API_KEY),
            "{target}"
        );
    }
    assert_eq!(service.requests()[2].body, delivery.body, "byte for byte");
    assert_eq!(
        service.requests()[2].header("x-gitea-event"),
        Some(delivery.event.as_str())
    );
    backend.untouched("requests to the service");

    let reached = service.count();
    for request in [
        Request::get("/service/v1/things"),
        Request::get("/service/v1/things").key(SERVICE_KEY),
        Request::get("/v1/things").key(SERVICE_KEY),
    ] {
        assert_refused(
            &request.send(address).await,
            403,
            "Could not validate credentials",
        );
    }
    let forged = Delivery::fresh().forged("/service/webhook/gitea");
    assert_refused(&forged.send(address).await, 401, "Invalid signature");
    assert_eq!(
        service.count(),
        reached,
        "nothing unproven reaches the service"
    );

    assert_eq!(
        Request::get("/v1/things")
            .key(API_KEY)
            .send(address)
            .await
            .status,
        200
    );
    let recorded = backend.only();
    assert!(
        !recorded.names("x-api-key"),
        "the service's key is the service's alone"
    );
    assert!(!gateway.output().contains(SERVICE_KEY));
}
