//! Credentials and claims of the client stop at the edge; the gateway's own facts are added.

use orket_tests::gateway::{API_KEY, TEST_TOKEN, WEBHOOK_SECRET};
use orket_tests::gitea::{sha256, signature};
use orket_tests::{Delivery, Gateway, Policy, Request, Upstream};

const PATH: &str = "/webhook/gitea";
const PLANTED: &str = "planted-by-the-client";

/// Headers by which a client could show a credential or claim to be someone: none may arrive.
const NEVER: &[&str] = &[
    "X-API-Key",
    "Authorization",
    "Proxy-Authorization",
    "X-Webhook-Test-Token",
    "X-Gitea-Signature",
    "X-Gogs-Signature",
    "X-Forgejo-Signature",
    "X-Hub-Signature",
    "X-Hub-Signature-256",
    "X-Gitlab-Token",
    "Webhook-Signature",
    "Svix-Signature",
    "Stripe-Signature",
    "X-Slack-Signature",
    "X-Shopify-Hmac-Sha256",
    "Linear-Signature",
    "Sentry-Hook-Signature",
    "X-PagerDuty-Signature",
    "Circleci-Signature",
    "X-Signature-Ed25519",
];

/// Headers of which the gateway may write its own, but what the client wrote may not arrive.
const NEVER_THE_CLIENTS: &[&str] = &[
    "X-Request-Id",
    "X-Orket-Actor",
    "X-Orket-Webhook-Source",
    "X-Orket-Webhook-Provider",
    "X-Orket-Webhook-Event",
    "X-Orket-Webhook-Delivery",
    "X-Orket-Webhook-Key",
    "X-Orket-Anything",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Forwarded-User",
    "X-Forwarded-Prefix",
    "X-Forwarded-Client-Cert",
    "Forwarded",
    "X-Real-IP",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "CF-Connecting-IP",
    "Fastly-Client-IP",
    "X-Original-URL",
    "X-Rewrite-URL",
    "X-Original-Host",
    "X-Host",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "Remote-User",
    "Remote-Groups",
    "Remote-Email",
    "Remote-Name",
    "X-Remote-User",
    "X-WebAuth-User",
    "X-Authentik-Username",
    "X-Authentik-Meta-Outpost",
    "X-Auth-Request-User",
    "X-Auth-Request-Preferred-Username",
    "X-Vouch-User",
    "X-Vouch-Idp-Claims-Groups",
    "X-Pomerium-Jwt-Assertion",
    "X-Pomerium-Claim-Email",
    "X-Consumer-Username",
    "X-Consumer-Custom-ID",
    "X-Credential-Identifier",
    "X-Userinfo",
    "CF-Access-Jwt-Assertion",
    "CF-Access-Authenticated-User-Email",
    "X-Goog-IAP-JWT-Assertion",
    "X-Goog-Authenticated-User-Email",
    "X-Endpoint-API-UserInfo",
    "X-Amzn-Oidc-Data",
    "X-Amzn-Oidc-Identity",
    "X-Amzn-Mtls-Clientcert-Subject",
    "X-MS-CLIENT-PRINCIPAL",
    "X-MS-CLIENT-PRINCIPAL-NAME",
    "Tailscale-User-Login",
    "X-ExeDev-Email",
    "X-SSL-Client-Verify",
    "SSL-Client-S-DN",
    "Client-Cert",
    "X-Client-Cert-Subject",
];

fn spellings(name: &str) -> [String; 6] {
    let half: String = name
        .char_indices()
        .map(|(at, c)| if c == '-' && at % 2 == 0 { '_' } else { c })
        .collect();
    [
        name.to_owned(),
        name.to_lowercase(),
        name.replace('-', "_"),
        // Some servers fold every mark, not `_` alone.
        name.replace('-', "."),
        name.replace('-', "~"),
        half,
    ]
}

#[tokio::test]
async fn no_credential_and_no_claim_of_the_client_arrives() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::before(upstream.address())
        .env("ORKET_API_KEY", API_KEY)
        .env("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET)
        .env("ORKET_RATE_LIMIT", "10000")
        .start()
        .await;
    let mut wrong = Vec::new();
    for name in NEVER.iter().chain(NEVER_THE_CLIENTS) {
        for spelling in spellings(name) {
            // The key routes and the webhook route each have their own way to the upstream.
            let mut requests = Vec::new();
            if !spelling.eq_ignore_ascii_case("x-api-key") {
                requests.push(
                    Request::get("/v1/version")
                        .key(API_KEY)
                        .header(&spelling, PLANTED),
                );
            }
            if !spelling.eq_ignore_ascii_case("x-gitea-signature") {
                let signed = Delivery::fresh().signed(PATH, WEBHOOK_SECRET);
                requests.push(signed.header(&spelling, PLANTED));
            }
            for request in requests {
                let before = upstream.count();
                let answer = request.send(gateway.address()).await;
                // A refusal is as good as a removal, but only where two headers contradict.
                if upstream.count() == before {
                    if answer.status != 400 {
                        wrong.push(format!("{spelling}: {} {}", answer.status, answer.text()));
                    }
                    continue;
                }
                let raw = String::from_utf8_lossy(&upstream.last().raw).into_owned();
                if raw.contains(PLANTED) || (NEVER.contains(name) && upstream.last().names(name)) {
                    wrong.push(format!("{spelling}: {raw}"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} arrived:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn spoofable_headers_are_removed_however_often_they_occur() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    for name in NEVER_THE_CLIENTS {
        let request = (0..5).fold(Request::get("/v1/version").key(API_KEY), |request, n| {
            request.header(name, &format!("{PLANTED}-{n}"))
        });
        let answer = request.send(gateway.address()).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let raw = String::from_utf8_lossy(&upstream.last().raw).into_owned();
        assert!(!raw.contains(PLANTED), "{name}: {raw}");
    }
}

#[tokio::test]
async fn hop_by_hop_fields_and_what_connection_names_do_not_arrive() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let request = Request::get("/v1/version")
        .key(API_KEY)
        .header("Connection", "keep-alive, X-Named, x-also-named")
        .header("X-Named", PLANTED)
        .header("X-Also-Named", PLANTED)
        .header("Keep-Alive", PLANTED)
        .header("Proxy-Connection", PLANTED)
        .header("Proxy-Authenticate", PLANTED)
        .header("TE", "trailers, planted-by-the-client")
        .header("X-Kept", "kept");
    let answer = request.send(gateway.address()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let raw = String::from_utf8_lossy(&upstream.only().raw).into_owned();
    assert!(!raw.contains(PLANTED), "{raw}");
    assert_eq!(
        upstream.only().header("x-kept"),
        Some("kept"),
        "the rest passes"
    );
}

#[tokio::test]
async fn trailers_do_not_arrive() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let trailers = |request: Request| {
        request
            .trailer("X-Orket-Actor", PLANTED)
            .trailer("X-API-Key", PLANTED)
            .trailer("X-Other", PLANTED)
    };
    let api = Request::new("POST", "/v1/runs")
        .key(API_KEY)
        .header("Trailer", "X-Orket-Actor, X-API-Key, X-Other")
        .chunked(b"{}", 1);
    let webhook = Request::new("POST", PATH)
        .header("X-Gitea-Event", "push")
        .header(
            "X-Gitea-Signature",
            &signature(WEBHOOK_SECRET.as_bytes(), b"{}"),
        )
        .chunked(b"{}", 1);
    for request in [trailers(api), trailers(webhook)] {
        let answer = request.send(gateway.address()).await;
        // Refused or taken off: what counts is that none goes on.
        assert!(matches!(answer.status, 200 | 400), "{}", answer.text());
    }
    for recorded in upstream.requests() {
        let raw = String::from_utf8_lossy(&recorded.raw).into_owned();
        assert!(
            recorded.trailers.is_empty() && !raw.contains(PLANTED),
            "{raw}"
        );
    }
}

#[tokio::test]
async fn an_admitted_api_request_carries_the_gateways_facts() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let answer = Request::get("/v1/whoami")
        .key(API_KEY)
        .host("orket.example:8080")
        .header("User-Agent", "someone/1")
        .header("Accept", "application/json")
        .send(gateway.address())
        .await;
    let recorded = upstream.only();
    assert_eq!(recorded.header("x-orket-actor"), Some("key:default"));
    assert_eq!(
        recorded.header("x-request-id"),
        answer.header("x-request-id")
    );
    assert_eq!(recorded.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(recorded.header("x-forwarded-proto"), Some("http"));
    assert_eq!(
        recorded.header("x-forwarded-host"),
        Some("orket.example:8080")
    );
    assert_eq!(recorded.header("user-agent"), Some("someone/1"));
    assert_eq!(recorded.header("accept"), Some("application/json"));
    assert_eq!(recorded.all("host").len(), 1);
    for name in ["source", "provider", "event", "delivery", "key"] {
        assert!(
            !recorded.names(&format!("x-orket-webhook-{name}")),
            "{recorded:?}"
        );
    }
}

#[tokio::test]
async fn a_proven_delivery_carries_the_gateways_facts() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let mut delivery = Delivery::fresh();
    delivery.event = "pull_request_approved".to_owned();
    delivery.event_type = "pull_request_review_approved".to_owned();
    let answer = delivery
        .signed(PATH, WEBHOOK_SECRET)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let recorded = upstream.only();
    assert_eq!(recorded.header("x-orket-actor"), Some("webhook:gitea"));
    assert_eq!(recorded.header("x-orket-webhook-source"), Some("gitea"));
    assert_eq!(recorded.header("x-orket-webhook-provider"), Some("gitea"));
    assert_eq!(
        recorded.header("x-orket-webhook-event"),
        Some("pull_request_review_approved")
    );
    assert_eq!(
        recorded.header("x-orket-webhook-delivery"),
        Some(delivery.id.as_str())
    );
    assert_eq!(
        recorded.header("x-orket-webhook-key"),
        Some(sha256(&delivery.body).as_str())
    );
    assert_eq!(
        recorded.header("x-request-id"),
        answer.header("x-request-id")
    );
    assert_eq!(recorded.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(recorded.header("content-type"), Some("application/json"));
    assert_eq!(recorded.body, delivery.body);
}

#[tokio::test]
async fn the_event_is_the_plain_one_where_the_sender_names_no_type() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_key_and_secret(upstream.address()).await;
    let body = b"{\"n\":1}";
    let request = Request::post(PATH, body.to_vec())
        .header("X-Gitea-Event", "push")
        .header(
            "X-Gitea-Signature",
            &signature(WEBHOOK_SECRET.as_bytes(), body),
        );
    assert_eq!(request.send(gateway.address()).await.status, 200);
    assert_eq!(
        upstream.only().header("x-orket-webhook-event"),
        Some("push")
    );
}

#[tokio::test]
async fn the_test_webhook_is_stamped_as_what_it_is() {
    let upstream = Upstream::tcp().await;
    let env = [
        ("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true"),
        ("ORKET_WEBHOOK_TEST_TOKEN", TEST_TOKEN),
    ];
    let gateway = Gateway::builtin(upstream.address(), &env).await;
    let answer = Request::post("/webhook/test", r#"{"event":"push"}"#)
        .header("Content-Type", "application/json")
        .header("X-Webhook-Test-Token", TEST_TOKEN)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let recorded = upstream.only();
    assert_eq!(recorded.header("x-orket-actor"), Some("test-webhook"));
    assert!(!String::from_utf8_lossy(&recorded.raw).contains(TEST_TOKEN));
}

#[tokio::test]
async fn a_route_may_keep_the_signature_and_set_the_key_of_a_service_of_its_own() {
    let upstream = Upstream::tcp().await;
    let inner = "inner-service-key-5Yb8Qw2Zr7";
    let policy = Policy::new()
        .secrets("python_key = [{ file = \"{dir}/python-key\" }]")
        .rest(
            r#"
[upstreams.python]
address = "{upstream}"
set_headers = { "X-API-Key" = "python_key" }

[[routes]]
id = "python-gitea"
path = "/python/webhook/gitea"
rewrite = "/webhook/gitea"
methods = ["POST"]
auth = { kind = "webhook", provider = "gitea", secret = "gitea" }
source = "gitea"
keep_signature = true
upstream = "python"

[[routes]]
id = "python-api"
path = "/python/v1/*"
methods = ["GET"]
auth = { kind = "api_key" }
upstream = "python"
"#,
        );
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    let gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .file("python-key", format!("{inner}\n").as_bytes())
        .policy(&policy.to_string())
        .start()
        .await;

    let delivery = Delivery::fresh();
    let signed = delivery.signed("/python/webhook/gitea?a=b", WEBHOOK_SECRET);
    let answer = signed.key("the client's own").send(gateway.address()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let recorded = upstream.last();
    assert!(
        recorded.target.starts_with("/webhook/gitea"),
        "{}",
        recorded.target
    );
    assert_eq!(recorded.header("x-api-key"), Some(inner));
    let signature = signature(WEBHOOK_SECRET.as_bytes(), &delivery.body);
    assert_eq!(
        recorded.header("x-gitea-signature"),
        Some(signature.as_str())
    );
    assert_eq!(recorded.header("x-gitea-event"), Some("push"));

    let answer = Request::get("/python/v1/version")
        .key(API_KEY)
        .send(gateway.address())
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(upstream.last().header("x-api-key"), Some(inner));
    assert!(!String::from_utf8_lossy(&upstream.last().raw).contains(API_KEY));
}

#[tokio::test]
async fn a_header_that_the_policy_sets_stands_alone_in_every_spelling() {
    let upstream = Upstream::tcp().await;
    let inner = "set-by-the-policy-7Kd2Wq9Zx";
    let policy = Policy::new()
        .secrets("inner = [{ file = \"{dir}/inner\" }]")
        .upstream("set_headers = { \"X-Service-User\" = \"inner\" }");
    let (name, bytes) = orket_tests::policy::SECRET_FILE;
    let gateway = Gateway::before(upstream.address())
        .file(name, bytes)
        .file("inner", inner.as_bytes())
        .policy(&policy.to_string())
        .start()
        .await;
    let all = spellings("X-Service-User").into_iter().chain([
        "x-service_user".to_owned(),
        "X_SERVICE-USER".to_owned(),
        "X_Orket_Actor".to_owned(),
        "x-orket_actor".to_owned(),
    ]);
    for spelling in all {
        let api = Request::get("/v1/version").key(API_KEY);
        let webhook = Delivery::fresh().signed(PATH, WEBHOOK_SECRET);
        for request in [api, webhook] {
            let request = request
                .header(&spelling, PLANTED)
                .header(&spelling, PLANTED);
            let answer = request.send(gateway.address()).await;
            assert_eq!(answer.status, 200, "{spelling}: {}", answer.text());
            let recorded = upstream.last();
            let raw = String::from_utf8_lossy(&recorded.raw).into_owned();
            assert!(!raw.contains(PLANTED), "{spelling}: {raw}");
            assert_eq!(recorded.all("x-service-user"), [inner], "{raw}");
            assert_eq!(recorded.all("x-orket-actor").len(), 1, "{raw}");
        }
    }
}
