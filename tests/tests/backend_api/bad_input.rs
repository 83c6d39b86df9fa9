//! Bad input: a clear problem a person can act on, never a 500, and nothing changed.

use orket_tests::{Answer, Backend, Request};
use serde_json::{Value, json};

fn assert_problem(answer: &Answer, status: u16, about: &str) {
    assert_eq!(answer.status, status, "{about}: {}", answer.text());
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{about}"
    );
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{about}");
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| !detail.is_empty()),
        "{about}"
    );
    assert_eq!(
        problem["request_id"].as_str(),
        answer.header("x-request-id"),
        "{about}"
    );
}

async fn nothing_was_made(backend: &Backend) {
    for list in ["/v1/runs", "/v1/cards", "/v1/deliveries"] {
        let answer = backend.get(list).await;
        assert_eq!(answer.json()["items"], json!([]), "{list}");
    }
}

#[tokio::test]
async fn documents_that_do_not_fit_are_refused_by_field() {
    let backend = Backend::start("").await;
    std::os::unix::fs::symlink("/etc", backend.workspace().join("link")).unwrap();
    let ok = json!({ "command": ["true"] });
    let with = |field: &str, value: Value| {
        let mut body = ok.clone();
        body[field] = value;
        body
    };
    let runs = [
        (json!({}), "command"),
        (json!([]), "object"),
        (json!(null), "object"),
        (json!([null, null, null, ["true"]]), "object"),
        (json!("x"), "object"),
        (with("comand", json!([])), "comand"),
        (json!({ "command": "echo hi" }), "shell"),
        (json!({ "command": [] }), "command"),
        (json!({ "command": [""] }), "command"),
        (json!({ "command": [1] }), "string"),
        (json!({ "command": ["a\0b"] }), "NUL"),
        (with("env", json!({ "A=B": "c" })), "env"),
        (with("env", json!({ "A": 1 })), "string"),
        (with("env", json!([])), "map"),
        (with("timeout", json!(0)), "timeout"),
        (with("timeout", json!(-1)), "duration"),
        (with("timeout", json!("soon")), "duration"),
        (with("timeout", json!(1e300)), "duration"),
        (with("retries", json!(-1)), "u32"),
        (with("retries", json!(101)), "retries"),
        (with("priority", json!(10)), "priority"),
        (with("priority", json!("high")), "i64"),
        (with("id", json!("a b")), "id"),
        (with("id", json!("")), "id"),
        (with("id", json!("../x")), "id"),
        (with("id", json!("x".repeat(101))), "id"),
        (with("build_id", json!("a/b")), "build_id"),
        (with("workdir", json!("..")), "workdir"),
        (with("workdir", json!("/etc")), "workdir"),
        (with("workdir", json!("link")), "workdir"),
        (with("workdir", json!("link/ssl")), "workdir"),
        (with("card_id", json!("ISSUE-1")), "card_id"),
    ];
    for (body, named) in runs {
        let answer = backend.post("/v1/runs", &body).await;
        assert_problem(&answer, 400, &body.to_string());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains(named),
            "{body}: {detail:?} does not name {named}"
        );
    }
    let card = |field: &str, value: Value| {
        let mut body = json!({ "title": "t", "command": ["true"] });
        body[field] = value;
        body
    };
    for (body, named) in [
        (json!({ "command": ["true"] }), "title"),
        (json!({ "title": "t" }), "command"),
        (card("title", json!(" ")), "title"),
        (card("title", json!("x".repeat(1001))), "title"),
        (card("title", json!("a\0b")), "NUL"),
        (card("statsu", json!("done")), "statsu"),
        (card("depends_on", json!(["ISSUE-9"])), "ISSUE-9"),
        (card("depends_on", json!("ISSUE-9")), "sequence"),
        (card("workdir", json!("a/../..")), "workdir"),
    ] {
        let answer = backend.post("/v1/cards", &body).await;
        assert_problem(&answer, 400, &body.to_string());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.contains(named),
            "{body}: {detail:?} does not name {named}"
        );
    }
    for list in [json!([["a"]]), json!([])] {
        let answer = backend.post("/v1/cards/archive", &list).await;
        assert_problem(&answer, 400, "a list for an object");
    }
    let none = backend
        .post("/v1/cards/archive", &json!({ "related_tokens": [" "] }))
        .await;
    assert_problem(&none, 400, "no selector");
    assert_eq!(
        none.json()["detail"],
        "Provide at least one selector: card_ids, build_id, or related_tokens"
    );
    nothing_was_made(&backend).await;
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let backend = Backend::start("").await;
    let routes = [
        "/v1/runs",
        "/v1/cards",
        "/v1/cards/archive",
        "/v1/system/run-active",
    ];
    for route in routes {
        for body in ["", "{", "nonsense", "{\"a\":}", "\u{feff}{}", "{}{}"] {
            let request = Request::post(route, body).header("Content-Type", "application/json");
            let answer = request.send(backend.address()).await;
            assert_problem(&answer, 400, &format!("{route} {body:?}"));
        }
        let invalid = Request::post(route, vec![0xff, 0xfe]);
        let invalid = invalid.header("Content-Type", "application/json");
        assert_problem(&invalid.send(backend.address()).await, 400, route);
        let untyped = Request::post(route, "{}").send(backend.address()).await;
        assert_problem(&untyped, 415, route);
        let form = Request::post(route, "a=b");
        let form = form.header("Content-Type", "application/x-www-form-urlencoded");
        assert_problem(&form.send(backend.address()).await, 415, route);
        let deep = "[".repeat(100_000);
        let deep = Request::post(route, deep).header("Content-Type", "application/json");
        assert_problem(&deep.send(backend.address()).await, 400, route);
        let huge = Request::post(route, vec![b' '; 3 << 20]);
        let huge = huge.header("Content-Type", "application/json");
        assert_problem(&huge.send(backend.address()).await, 413, route);
    }
    nothing_was_made(&backend).await;
}

#[tokio::test]
async fn unknown_things_are_not_found_and_wrong_methods_are_named() {
    let backend = Backend::start("").await;
    let long = "x".repeat(200);
    for id in ["unknown", "%00", "%ff%fe", "..", "a%2fb", "-a", "ä", &long] {
        for path in [
            "/v1/runs/{}",
            "/v1/runs/{}/logs",
            "/v1/runs/{}/metrics",
            "/v1/runs/{}/backlog",
            "/v1/sessions/{}",
            "/v1/sessions/{}/snapshot",
            "/v1/cards/{}",
            "/v1/deliveries/{}",
        ] {
            let target = path.replace("{}", id);
            if id == "ä" || id == ".." {
                continue;
            }
            assert_problem(&backend.get(&target).await, 404, &target);
        }
    }
    for target in ["/", "/v1", "/v2/runs", "/v1/runs/", "/V1/runs", "/v1//runs"] {
        assert_problem(&backend.get(target).await, 404, target);
    }
    for (method, target, allow) in [
        ("PUT", "/v1/runs", "GET,HEAD,POST"),
        ("DELETE", "/v1/runs/x", "GET,HEAD"),
        ("GET", "/v1/runs/x/cancel", "POST"),
        ("GET", "/webhook/gitea", "POST"),
        ("POST", "/health", "GET,HEAD"),
    ] {
        let answer = Request::new(method, target).send(backend.address()).await;
        assert_problem(&answer, 405, target);
        assert_eq!(answer.header("allow"), Some(allow), "{method} {target}");
    }
}

#[tokio::test]
async fn queries_that_do_not_fit_are_refused() {
    let backend = Backend::start("").await;
    assert_eq!(
        backend
            .post("/v1/runs", &json!({ "id": "r", "command": ["true"] }))
            .await
            .status,
        201
    );
    for target in [
        "/v1/runs?cursor=nonsense",
        "/v1/runs?cursor=",
        "/v1/runs?cursor=c",
        "/v1/runs?cursor=cffffffffffffffffffff",
        "/v1/runs?cursor=c1%00",
        "/v1/cards?cursor=8",
        "/v1/deliveries?cursor=x",
        "/v1/runs?limit=0",
        "/v1/runs?limit=501",
        "/v1/runs?limit=many",
        "/v1/runs?state=sleeping",
        "/v1/runs?stat=queued",
        "/v1/cards?status=gone",
        "/v1/runs/r/logs?after=-1",
        "/v1/runs/r/logs?after=x",
        "/v1/runs/r/logs?folow=true",
        "/v1/events?after=-1",
        "/v1/events?after=soon",
        "/ws/events?after=soon",
    ] {
        assert_problem(&backend.get(target).await, 400, target);
    }
    let resumed = Request::get("/v1/events").header("Last-Event-ID", "nonsense");
    assert_problem(&resumed.send(backend.address()).await, 400, "Last-Event-ID");
}

#[tokio::test]
async fn headers_that_occur_twice_or_are_no_text_are_refused() {
    let backend = Backend::start("").await;
    let body = json!({ "command": ["true"] });
    for name in ["Idempotency-Key", "X-Orket-Actor"] {
        let twice = Request::post_json("/v1/runs", &body)
            .header(name, "a")
            .header(name, "b");
        assert_problem(&twice.send(backend.address()).await, 400, name);
        let odd = Request::post_json("/v1/runs", &body).header(name, "ä");
        assert_problem(&odd.send(backend.address()).await, 400, name);
    }
    nothing_was_made(&backend).await;
}

#[tokio::test]
async fn an_id_that_is_a_route_is_refused() {
    let backend = Backend::start("").await;
    for (target, body) in [
        ("/v1/runs", json!({ "id": "replay", "command": ["true"] })),
        (
            "/v1/cards",
            json!({ "id": "archive", "title": "t", "command": ["true"] }),
        ),
    ] {
        let answer = backend.post(target, &body).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(
            answer.text().contains("the name of a route"),
            "{}",
            answer.text()
        );
    }
}
