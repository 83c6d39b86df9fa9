//! Levels: what is reached is said, what is asked for is held or refused.

use orket_tests::{Backend, eventually};
use serde_json::json;

use super::{OFF, WAYS, backend, is_root, run, skip};

#[tokio::test]
async fn every_run_says_what_level_it_reached() {
    for (way, confinement) in WAYS.into_iter().chain([("off", OFF)]) {
        let Some(mut backend) = backend(confinement).await else {
            continue;
        };
        let level = match way {
            "off" => "group",
            // Without a network of its own it is not more.
            "namespaces" => "confined",
            way => way,
        };
        let (run, said) = run(&backend, "id -u; id -G; cat /proc/self/status").await;
        assert_eq!(run["isolation"], level, "{run}");
        let own = rustix::process::geteuid().as_raw().to_string();
        let uid = if way == "user" { "65534" } else { &own };
        assert_eq!(said.lines().next(), Some(uid), "{way}");
        if way == "user" {
            assert_eq!(said.lines().nth(1), Some("65534"), "no other groups");
        }
        assert!(said.contains("NoNewPrivs:\t1"), "{said}");
        if way != "off" {
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert!(
                    said.contains(&format!("{set}:\t0000000000000000")),
                    "{way}: {said}"
                );
            }
            assert!(said.contains("Seccomp:\t2"), "{said}");
        }
        let metrics = backend.get("/v1/system/metrics").await.json();
        assert_eq!(metrics["isolation"], level);
        assert_eq!(metrics["confinement"]["level"], level);
        let found = metrics["confinement"]["self_test"].as_array().unwrap();
        assert!(found.len() > 15, "{found:?}");
        let store = found
            .iter()
            .find(|found| found["what"] == "the store")
            .unwrap();
        assert_eq!(store["reached"], way == "off", "{way}");
        let log = backend.output();
        assert!(
            log.contains("\"posture\"") && log.contains("self_test"),
            "{log}"
        );
        assert!(backend.terminate().await.success());
    }
}

#[tokio::test]
async fn a_hole_in_the_level_that_is_asked_for_keeps_it_from_starting() {
    let hole = "readable = [\"{dir}/open\"]\nkeep_out = [\"{dir}/open\"]\n";
    let dir = tempfile::TempDir::new().unwrap();
    let open = dir.path().join("open");
    std::fs::write(&open, "").unwrap();
    let hole = hole.replace("{dir}", &dir.path().to_string_lossy());
    let ended = Backend::refused(&format!("[confinement]\nlevel = \"confined\"\n{hole}")).await;
    let said = ended.output();
    assert!(
        said.contains("does not hold") && said.contains("/open"),
        "{said}"
    );

    let auto = Backend::start(&format!("[confinement]\nlevel = \"auto\"\n{hole}")).await;
    let metrics = auto.get("/v1/system/metrics").await.json();
    assert_eq!(metrics["confinement"]["level"], "group", "{metrics}");
    let notes = metrics["confinement"]["notes"].to_string();
    assert!(notes.contains("/open"), "{notes}");
}

#[tokio::test]
async fn what_runs_need_and_do_not_have_keeps_it_from_starting() {
    if !is_root() {
        skip("only root can make commands another user's");
        return;
    }
    // The workspace belongs to somebody else already, so it is not handed over.
    let dir = tempfile::TempDir::new().unwrap();
    let workspace = dir.path().join("w");
    std::fs::create_dir(&workspace).unwrap();
    std::os::unix::fs::chown(&workspace, Some(1), Some(1)).unwrap();
    let config = format!(
        "[workspace]\ndir = \"{}\"\n[confinement]\nrun_as = \"65534\"\n",
        workspace.display()
    );
    let said = Backend::refused(&config).await.output();
    assert!(said.contains("cannot write to"), "{said}");
}

#[tokio::test]
async fn services_of_sandboxes_are_confined_like_runs() {
    for (way, confinement) in WAYS.into_iter().chain([("off", OFF)]) {
        let Some(backend) = backend(confinement).await else {
            continue;
        };
        let store = backend.database().display().to_string();
        let script = format!(
            "echo x > made; cat \"$PASSWORD_FILE\" > /dev/null && echo CREDENTIAL; \
             cat {store} > /dev/null 2>&1 && echo STORE; \
             rm -rf {}/sandboxes; id -u; echo over; sleep 1000",
            backend.state_dir().display()
        );
        let body = json!({
            "name": "s", "credentials": ["password"],
            "services": [{ "name": "s", "command": ["sh", "-c", script] }],
        });
        let made = backend.post("/v1/sandboxes", &body).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let id = made.json()["id"].as_str().unwrap().to_owned();
        let level = if way == "off" { "group" } else { "confined" };
        assert_eq!(made.json()["isolation"], level, "{way}");
        if way == "off" {
            continue;
        }
        let logs = format!("/v1/sandboxes/{id}/logs?service=s");
        eventually("it has tried", orket_tests::DEADLINE, || async {
            backend.get(&logs).await.text().contains("over")
        })
        .await;
        let said = backend.get(&logs).await.text();
        assert!(
            said.contains("CREDENTIAL") && !said.contains("STORE"),
            "{way}: {said}"
        );
        assert!(!said.contains("Permission denied: made"), "{said}");
        assert!(backend.state_dir().join("sandboxes/attempts").exists());
        let answer = backend
            .post(&format!("/v1/sandboxes/{id}/stop"), &json!({}))
            .await;
        assert_eq!(answer.status, 202);
    }
}
