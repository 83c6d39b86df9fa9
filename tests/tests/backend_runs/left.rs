//! Clients that leave before they are answered: what they asked for and is on disk is carried out.

use std::time::Duration;

use orket_tests::{Backend, Connection, Request, convergence};
use serde_json::json;

use super::{ended, reaches, submit};

/// Sends a request, and leaves after `patience` without having read a byte.
async fn ask_and_leave(backend: &Backend, request: &Request, patience: Duration) {
    let mut connection = Connection::open(backend.address()).await;
    connection.send(&request.bytes(backend.address())).await;
    // How long somebody waits is what differs; every answer to it has to be the same.
    tokio::time::sleep(patience).await;
}

#[tokio::test]
async fn a_cancel_is_carried_out_when_who_asked_has_left() {
    let mut backend = Backend::start("[runs]\nconcurrency = 64\n").await;
    let mut ids = Vec::new();
    for _ in 0..48 {
        ids.push(submit(&backend, &json!({ "command": ["sleep", "3600"] })).await);
    }
    for id in &ids {
        reaches(&backend, id, "running").await;
    }
    for (id, number) in ids.iter().zip(0..) {
        let cancel = Request::post_json(&format!("/v1/runs/{id}/cancel"), &json!({}));
        ask_and_leave(
            &backend,
            &cancel,
            Duration::from_micros(250) * (number % 16),
        )
        .await;
    }
    let mut unheard = 0;
    for id in &ids {
        let state = super::run(&backend, id).await["state"].clone();
        // Who left before anything was read has asked for nothing.
        if state == "running" {
            unheard += 1;
            super::cancel(&backend, id).await;
        }
        assert_eq!(ended(&backend, id).await["state"], "canceled");
    }
    assert!(unheard < ids.len(), "nobody was heard");
    convergence::settled(&mut backend).await;
}
