//! The machine's clock is set, by an hour or to another season, while all that runs sees it: the
//! backend, its supervisors, their commands.
//!
//! The real programs run with `clock.c` loaded before them, in a mount namespace in which the loader
//! is told so: only the time of day is moved, not the clocks that run on.

use std::{path::Path, process::Command};

use jiff::Timestamp;
use orket_tests::{Backend, DEADLINE, Request, convergence::invariants, eventually, wait::obtain};
use rusqlite::Connection;
use rustix::process::geteuid;
use serde_json::{Value, json};

use super::{exists, order};
use crate::backend_runs::{ended, reaches, submit};

const HOUR: i64 = 3600;

/// A backend whose clock can be set; `None`, said loudly, where that cannot be had.
async fn with_a_clock(config: &str) -> Option<Backend> {
    let probe = tempfile::TempDir::new().unwrap();
    let mut there = Command::new("unshare");
    there.args([
        "-m",
        "sh",
        "-c",
        "mount -t overlay overlay -o lowerdir=$0:/etc /etc",
    ]);
    there.arg(probe.path());
    let can_mount = there.output().is_ok_and(|output| output.status.success());
    if !geteuid().is_root() || !can_mount {
        eprintln!("SKIPPED: only root, on a kernel with overlays, can give programs another clock");
        return None;
    }
    Some(Backend::start_under(config, prepare).await)
}

/// Builds what moves the clock; the command that starts a program under it.
fn prepare(dir: &Path) -> Vec<String> {
    let place = dir.join("clock");
    std::fs::create_dir_all(place.join("etc")).unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/backend_faults/clock.c");
    let library = place.join("clock.so");
    std::fs::write(place.join("moved"), 0_i64.to_ne_bytes()).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1"])
        .arg(format!(
            "-DMOVED_BY={:?}",
            place.join("moved").display().to_string()
        ))
        .arg("-o")
        .arg(&library)
        .arg(source)
        .output()
        .expect("a C compiler, which building needs as well");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let preload = place.join("etc/ld.so.preload");
    std::fs::write(preload, format!("{}\n", library.display())).unwrap();
    let etc = place.join("etc").display().to_string();
    let script = format!("mount -t overlay overlay -o lowerdir={etc}:/etc /etc && exec \"$@\"");
    ["unshare", "-m", "sh", "-c", &script, "sh"]
        .map(str::to_owned)
        .to_vec()
}

/// Sets the clock: so many seconds from what it is outside.
fn set(backend: &Backend, seconds: i64) {
    use std::os::unix::fs::FileExt as _;
    let place = backend.dir().join("clock/moved");
    let file = std::fs::OpenOptions::new().write(true).open(place).unwrap();
    file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
}

/// What the backend's clock shows.
async fn now(backend: &Backend) -> Timestamp {
    let heartbeat = backend.get("/v1/system/heartbeat").await.json();
    heartbeat["timestamp"].as_str().unwrap().parse().unwrap()
}

const WAITS: &str = "while [ ! -e go ]; do sleep 0.02; done";

#[tokio::test]
async fn the_clock_of_all_that_runs_is_set() {
    let Some(backend) = with_a_clock("").await else {
        return;
    };
    let before = Timestamp::now();
    set(&backend, -HOUR);
    let shown = now(&backend).await;
    assert!(shown < before, "{shown} is not before {before}");
    // Supervisors and commands inherit no variable, and see the same clock.
    let body = json!({ "command": ["date", "+%s"] });
    let id = submit(&backend, &body).await;
    ended(&backend, &id).await;
    let logs = backend.get(&format!("/v1/runs/{id}/logs")).await.json();
    let seen: i64 = logs["items"][0]["text"]
        .as_str()
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(seen < before.as_second(), "{seen}");
    let time: Timestamp = logs["items"][0]["time"].as_str().unwrap().parse().unwrap();
    assert!(time < before, "{time}");
}

async fn no_bound_is_overstepped(jumps: &[i64], off_meanwhile: bool) {
    let config = "[runs]\nconcurrency = 1\nretry_delay = \"100ms\"\ngrace = \"300ms\"\n";
    let Some(mut backend) = with_a_clock(config).await else {
        return;
    };
    let bounds = json!({ "waiting": "5m", "total": "10m", "silence": "5m" });
    let bounded = json!({ "bounds": bounds, "timeout": "5m", "retries": 1 });
    submit(&backend, &order("lives", WAITS, &bounded)).await;
    reaches(&backend, "lives", "running").await;
    exists(&backend.workspace().join("effects")).await;
    submit(
        &backend,
        &order(
            "waits",
            "echo \"$0\"; [ -e retried ] || { touch retried; exit 1; }",
            &bounded,
        ),
    )
    .await;
    for (n, jump) in jumps.iter().enumerate() {
        if off_meanwhile {
            backend.kill().await;
            set(&backend, *jump);
            backend.restart().await;
        } else {
            set(&backend, *jump);
        }
        // Something is written, so the clock is looked at.
        let id = format!("jump-{n}");
        submit(&backend, &order(&id, "true", &bounded)).await;
        for id in ["lives", "waits", id.as_str()] {
            let state = backend.get(&format!("/v1/runs/{id}")).await.json()["state"].clone();
            let expected = if id == "lives" { "running" } else { "queued" };
            assert_eq!(state, expected, "{id} after the clock was set by {jump}");
        }
    }
    std::fs::write(backend.workspace().join("go"), "").unwrap();
    for id in ["lives", "waits"] {
        let run = ended(&backend, id).await;
        assert_eq!(run["state"], "succeeded", "{run}");
    }
    invariants(&mut backend, &["lives".into(), "waits".into()]).await;
    let by_state = backend.get("/v1/system/metrics").await.json()["runs"].clone();
    assert_eq!(by_state["timed_out"], 0, "{by_state}");
    assert_eq!(by_state["succeeded"], 2 + jumps.len(), "{by_state}");
}

#[tokio::test]
async fn no_run_times_out_because_the_clock_was_set() {
    no_bound_is_overstepped(&[HOUR, 0, -HOUR, HOUR], false).await;
}

#[tokio::test]
async fn nor_because_it_was_set_while_the_backend_was_off() {
    no_bound_is_overstepped(&[HOUR, -HOUR], true).await;
}

#[tokio::test]
async fn bounds_hold_under_a_clock_that_was_set_back() {
    let Some(mut backend) = with_a_clock("[runs]\nconcurrency = 1\ngrace = \"300ms\"\n").await
    else {
        return;
    };
    submit(
        &backend,
        &order("lives", WAITS, &json!({ "timeout": "3s" })),
    )
    .await;
    reaches(&backend, "lives", "running").await;
    let waits = json!({ "bounds": { "waiting": "1s" } });
    submit(&backend, &order("waits", "true", &waits)).await;
    set(&backend, -HOUR);
    submit(&backend, &order("after", "true", &json!({}))).await;
    for (id, reason) in [("waits", "waited_too_long"), ("lives", "timeout")] {
        let run = ended(&backend, id).await;
        assert_eq!(
            (&run["state"], &run["reason"]),
            (&json!("timed_out"), &json!(reason)),
            "{run}"
        );
    }
    invariants(
        &mut backend,
        &["lives".into(), "waits".into(), "after".into()],
    )
    .await;
}

#[tokio::test]
async fn a_sandbox_lives_for_its_time_whatever_the_clock_shows() {
    let ports = "[sandboxes]\ngrace = \"300ms\"\n";
    let Some(mut backend) = with_a_clock(ports).await else {
        return;
    };
    let services = json!([{ "name": "idle", "command": ["sleep", "1000"] }]);
    let body = json!({ "services": services, "ttl": "30m" });
    let made = backend.post("/v1/sandboxes", &body).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let target = format!("/v1/sandboxes/{}", made.json()["id"].as_str().unwrap());
    let state = async |backend: &Backend| backend.get(&target).await.json()["state"].clone();
    eventually("it runs", DEADLINE, || async {
        state(&backend).await == "running"
    })
    .await;
    set(&backend, HOUR);
    // It is looked for expired ones twice a second: two looks and it would be gone.
    submit(&backend, &order("nap", "sleep 1.5", &json!({}))).await;
    ended(&backend, "nap").await;
    assert_eq!(state(&backend).await, "running");
    super::no_sandboxes(&backend).await;
    invariants(&mut backend, &["nap".into()]).await;
}

/// The times that a schedule made runs for, in order.
fn fired(backend: &Backend, id: &str) -> Vec<String> {
    let store = Connection::open(backend.database()).unwrap();
    let mut statement = store
        .prepare(
            "SELECT data ->> 'time' FROM events WHERE kind = 'schedule.fired' AND subject = ?1 \
             ORDER BY seq",
        )
        .unwrap();
    statement
        .query_map([id], |row| row.get(0))
        .and_then(Iterator::collect)
        .unwrap()
}

async fn schedule(backend: &Backend, body: &Value) {
    let answer = backend.post("/v1/schedules", body).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
}

/// Sets the clock to this moment, and has the schedules looked at.
async fn set_to(backend: &mut Backend, moment: Timestamp) {
    set(backend, moment.as_second() - Timestamp::now().as_second());
    // They look at the clock at least twice a minute; a start is quicker.
    backend.restart().await;
}

/// Waits until a schedule has dealt with what was due.
async fn dealt(backend: &Backend, id: &str) {
    obtain("the schedule looks ahead", DEADLINE, || async {
        let now = now(backend).await;
        let schedule = backend.get(&format!("/v1/schedules/{id}")).await.json();
        let next: Timestamp = schedule["next"][0].as_str()?.parse().ok()?;
        (next > now).then_some(())
    })
    .await;
}

#[tokio::test]
async fn schedules_follow_the_clock_by_their_rules_and_no_time_comes_twice() {
    let Some(mut backend) = with_a_clock("[runs]\nconcurrency = 4\n").await else {
        return;
    };
    // A moment of a year to come, just after a full hour.
    let start: Timestamp = "2031-05-06T10:00:03Z".parse().unwrap();
    set_to(&mut backend, start).await;
    for missed in ["skip", "once", "all"] {
        let body = json!({ "id": missed, "cron": "*/10 * * * *", "missed": missed,
            "overlap": "queue", "command": ["true"] });
        schedule(&backend, &body).await;
    }
    let hour = jiff::SignedDuration::from_hours(1);
    set_to(&mut backend, start + hour).await;
    for id in ["skip", "once", "all"] {
        dealt(&backend, id).await;
    }
    // The one of the full hour is a few seconds late: not missed.
    let full = ["2031-05-06T11:00:00Z"];
    let expected: [(&str, &[&str]); 3] = [
        ("skip", &full),
        ("once", &full),
        (
            "all",
            &[
                "2031-05-06T10:10:00Z",
                "2031-05-06T10:20:00Z",
                "2031-05-06T10:30:00Z",
                "2031-05-06T10:40:00Z",
                "2031-05-06T10:50:00Z",
                "2031-05-06T11:00:00Z",
            ],
        ),
    ];
    let first: Vec<_> = expected.iter().map(|(id, _)| fired(&backend, id)).collect();
    // Back by two hours, and forwards again: what was acted on does not come again.
    set_to(&mut backend, start - hour).await;
    set_to(&mut backend, start + hour).await;
    let again: Vec<_> = expected.iter().map(|(id, _)| fired(&backend, id)).collect();
    assert_eq!(first, again, "a time came twice");
    for (id, times) in expected {
        assert_eq!(fired(&backend, id), times, "{id}");
    }
    invariants(&mut backend, &[]).await;
}

#[tokio::test]
async fn a_night_in_which_clocks_are_changed_has_one_of_what_is_nightly() {
    let Some(mut backend) = with_a_clock("").await else {
        return;
    };
    if Path::new("/usr/share/zoneinfo/Europe/Berlin").exists() {
        // Forwards at 01:00 UTC: there is no 02:30. Back at 01:00 UTC: there are two.
        for (id, eve, expected) in [
            ("spring", "2031-03-29T23:00:00Z", "2031-03-30T01:00:00Z"),
            ("autumn", "2031-10-25T23:00:00Z", "2031-10-26T00:30:00Z"),
        ] {
            let eve: Timestamp = eve.parse().unwrap();
            set_to(&mut backend, eve).await;
            let body = json!({ "id": id, "cron": "30 2 * * *", "time_zone": "Europe/Berlin",
                "missed": "all", "overlap": "queue", "command": ["true"] });
            schedule(&backend, &body).await;
            // Through the night, hour by hour.
            for hours in 1..6 {
                set_to(&mut backend, eve + jiff::SignedDuration::from_hours(hours)).await;
                dealt(&backend, id).await;
            }
            assert_eq!(fired(&backend, id), [expected], "{id}");
            let remove = Request::new("DELETE", &format!("/v1/schedules/{id}"));
            assert_eq!(remove.send(backend.address()).await.status, 204);
        }
        invariants(&mut backend, &[]).await;
    } else {
        eprintln!("SKIPPED: this machine has no time zones");
    }
}
