//! A revoked key is refused at once, whatever the file says, and stays refused.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orket_tests::gateway::API_KEY;
use orket_tests::{Connection, DEADLINE, Gateway, Request, Upstream, assert_refused, eventually};

use super::{OTHER_KEY, control, metrics, reload, revoke, status, two_keys};

const NEW_KEY: &str = "ork-newer-3Rt6Yh8Uj2Ik4Ol9PaSdFg1Z";

#[tokio::test]
async fn it_is_refused_at_once_and_through_reloads_and_restarts_until_it_has_a_new_secret() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    assert_eq!(status(&gateway, API_KEY).await, 200);
    let mut kept = Connection::open(gateway.address()).await;
    let ask = Request::get("/v1/version")
        .key(API_KEY)
        .bytes(gateway.address());
    kept.send(&ask).await;
    assert_eq!(kept.answer().await.status, 200);

    let said = revoke(&gateway, "ci").await;
    assert_eq!(
        (&said["known"], &said["secrets"]),
        (&true.into(), &1.into()),
        "{said}"
    );
    assert_eq!(said["not_kept"], serde_json::Value::Null);
    kept.send(&ask).await;
    assert_refused(&kept.answer().await, 403, "Could not validate credentials");
    assert_eq!(
        status(&gateway, OTHER_KEY).await,
        200,
        "the other key still opens"
    );
    eventually("the audit record is there", DEADLINE, || async {
        let log = gateway.output();
        log.contains("\"key_revoked\"") && log.contains("api_key_revoked")
    })
    .await;
    let list = gateway.dir().join("state/revoked-keys");
    let mode = std::fs::metadata(&list).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let said = revoke(&gateway, "ci").await;
    assert_eq!(
        (&said["secrets"], &said["before"]),
        (&0.into(), &1.into()),
        "{said}"
    );

    reload(&gateway, |text| text).await;
    assert_eq!(
        status(&gateway, API_KEY).await,
        403,
        "a reload brings no key back"
    );
    gateway.restart().await;
    assert_eq!(
        status(&gateway, API_KEY).await,
        403,
        "a restart brings no key back"
    );
    assert_eq!(status(&gateway, OTHER_KEY).await, 200);
    assert!(
        metrics(&gateway)
            .await
            .contains("key_live_secrets{key=\"ci\"} 0")
    );

    let digest = |key: &str| orket_tests::gitea::sha256(key.as_bytes());
    let (old, new) = (digest(API_KEY), digest(NEW_KEY));
    reload(&gateway, |text| text.replace(&old, &new)).await;
    assert_eq!(
        status(&gateway, NEW_KEY).await,
        200,
        "a new secret is not revoked"
    );
    reload(&gateway, |text| text.replace(&new, &old)).await;
    assert_eq!(
        status(&gateway, API_KEY).await,
        403,
        "the old one is, for good"
    );
}

#[tokio::test]
async fn it_works_while_the_file_does_not_load() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    std::fs::write(gateway.dir().join("gateway.toml"), "no policy at all").unwrap();
    assert_eq!(revoke(&gateway, "ci").await["known"], true);
    assert_eq!(status(&gateway, API_KEY).await, 403);
    assert_eq!(status(&gateway, OTHER_KEY).await, 200);
}

#[tokio::test]
async fn what_names_no_key_revokes_nothing() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    assert_eq!(revoke(&gateway, "nobody").await["known"], false);
    for body in [
        "",
        "{}",
        "[]",
        r#"{"id":1}"#,
        r#"{"id":"ci","all":true}"#,
        r#"{"id":"ci","secrets":["sha256:12"]}"#,
    ] {
        let request = Request::post("/keys/revoke", body);
        assert_eq!(control(&gateway, &request).await.status, 400, "{body}");
    }
    assert_eq!(
        control(&gateway, &Request::get("/keys/revoke"))
            .await
            .status,
        405
    );
    assert_eq!(status(&gateway, API_KEY).await, 200);
}

#[tokio::test]
async fn a_list_of_revoked_keys_that_cannot_be_read_keeps_the_gateway_from_starting() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    revoke(&gateway, "ci").await;
    gateway.program().kill().await;
    let list = gateway.dir().join("state/revoked-keys");
    let text = std::fs::read_to_string(&list).unwrap();
    std::fs::write(&list, text.replace("sha256:", "sha265:")).unwrap();
    let started =
        orket_tests::gateway::run(gateway.dir(), &["serve", "--config", "gateway.toml"], &[]).await;
    assert!(!started.status.success());
    assert!(
        started.stderr.contains("is broken in line 2"),
        "{}",
        started.stderr
    );
}

#[tokio::test]
async fn a_list_of_revoked_keys_that_others_could_have_changed_keeps_the_gateway_from_starting() {
    let upstream = Upstream::tcp().await;
    let mut gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    revoke(&gateway, "ci").await;
    gateway.program().kill().await;
    let state = gateway.dir().join("state");
    let list = state.join("revoked-keys");
    let mode = |path: &std::path::Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let refused = async || {
        let serve = ["serve", "--config", "gateway.toml"];
        let started = orket_tests::gateway::run(gateway.dir(), &serve, &[]).await;
        assert!(!started.status.success(), "{}", started.output());
        assert!(
            started.stderr.contains("nobody knows which keys to refuse"),
            "{}",
            started.stderr
        );
    };
    mode(&list, 0o666);
    refused().await;
    mode(&list, 0o600);
    // A directory that cannot be used is not one without revocations.
    mode(&state, 0o777);
    refused().await;
    mode(&state, 0o700);
    gateway.restart().await;
    assert_eq!(status(&gateway, API_KEY).await, 403);
    assert_eq!(status(&gateway, OTHER_KEY).await, 200);
}

#[tokio::test]
async fn a_gateway_beside_the_owner_of_its_state_refuses_what_the_owner_revoked() {
    let upstream = Upstream::tcp().await;
    let owner = Gateway::with_policy(upstream.address(), &two_keys()).await;
    revoke(&owner, "ci").await;
    let second = Gateway::before(upstream.address())
        .env("ORKET_API_KEY", API_KEY)
        .env(
            "ORKET_STATE_DIR",
            owner.dir().join("state").to_str().unwrap(),
        )
        .start()
        .await;
    assert_eq!(status(&second, API_KEY).await, 403);
    assert_eq!(status(&owner, OTHER_KEY).await, 200);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_is_said_and_the_key_is_refused_all_the_same() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    std::fs::create_dir(gateway.dir().join("state/revoked-keys")).unwrap();
    let said = revoke(&gateway, "ci").await;
    assert!(
        said["not_kept"]
            .as_str()
            .unwrap()
            .contains("cannot be written"),
        "{said}"
    );
    assert_eq!(status(&gateway, API_KEY).await, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_that_begins_after_the_answer_gets_through_a_flood() {
    let upstream = Upstream::tcp().await;
    let gateway = Gateway::with_policy(upstream.address(), &two_keys()).await;
    let address = gateway.address().clone();
    let answered = Arc::new(AtomicBool::new(false));
    let flood: Vec<_> = (0..16)
        .map(|_| {
            let (address, answered) = (address.clone(), answered.clone());
            tokio::spawn(async move {
                let ask = Request::get("/v1/version").key(API_KEY).bytes(&address);
                let mut connection = Connection::open(&address).await;
                let (mut before, mut after) = (0, 0);
                while after < 20 {
                    let revoked = answered.load(Ordering::SeqCst);
                    connection.send(&ask).await;
                    let status = connection.answer().await.status;
                    if revoked {
                        assert!(matches!(status, 403 | 429), "{status} after the revocation");
                        after += 1;
                    }
                    before += usize::from(status == 200);
                }
                before
            })
        })
        .collect();
    upstream.arrived(100).await;
    assert_eq!(revoke(&gateway, "ci").await["known"], true);
    answered.store(true, Ordering::SeqCst);
    for task in flood {
        assert!(task.await.unwrap() > 0);
    }
}
