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

pub(super) const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// A backend whose clock can be set; `None`, said loudly, where that cannot be had.
pub(super) async fn with_a_clock(config: &str) -> Option<Backend> {
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
    std::fs::write(place.join("moved"), [0; 16]).unwrap();
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
pub(super) fn set(backend: &Backend, seconds: i64) {
    write(backend, &seconds.to_ne_bytes());
}

/// Lets time go on: the clock, which is so many seconds from what it is outside then, and the one that
/// nobody sets.
fn run_on(backend: &Backend, seconds: i64, since_boot: i64) {
    write(
        backend,
        &[seconds.to_ne_bytes(), since_boot.to_ne_bytes()].concat(),
    );
}

fn write(backend: &Backend, moved: &[u8]) {
    use std::os::unix::fs::FileExt as _;
    let place = backend.dir().join("clock/moved");
    let file = std::fs::OpenOptions::new().write(true).open(place).unwrap();
    file.write_all_at(moved, 0).unwrap();
}

/// What the backend's clock shows.
pub(super) async fn now(backend: &Backend) -> Timestamp {
    let heartbeat = backend.get("/v1/system/heartbeat").await.json();
    heartbeat["timestamp"].as_str().unwrap().parse().unwrap()
}

pub(super) const WAITS: &str = "while [ ! -e go ]; do sleep 0.02; done";

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

/// How often the backend has said since its last start that nothing is removed for now.
fn doubts(backend: &Backend) -> usize {
    backend.output().matches("\"retention_waits\"").count()
}

async fn doubted(backend: &Backend, times: usize) {
    let what = format!("it doubts the clock for the {times}. time");
    eventually(&what, DEADLINE, || async { doubts(backend) >= times }).await;
}

#[tokio::test]
async fn nothing_is_removed_by_a_clock_that_was_set_a_moment_ago() {
    let Some(mut backend) = with_a_clock("[retention]\nperiod = \"100ms\"\n").await else {
        return;
    };
    for id in ["old", "new"] {
        submit(&backend, &order(id, "true", &json!({}))).await;
        ended(&backend, id).await;
    }
    let place = backend.database();
    let in_the_store = |sql: &str| {
        let store = Connection::open(&place).unwrap();
        store.query_row(sql, [], |row| row.get::<_, i64>(0))
    };
    eventually("the clock was looked at", DEADLINE, || async {
        in_the_store("SELECT count(course_machine) FROM boot").unwrap() == 1
    })
    .await;
    let status =
        async |backend: &Backend, id: &str| backend.get(&format!("/v1/runs/{id}")).await.status;
    let gone = async |backend: &Backend, id: &str| {
        eventually(id, DEADLINE, async || status(backend, id).await == 404).await;
    };
    backend.kill().await;
    set(&backend, 40 * DAY);
    let aged = format!(
        "UPDATE runs SET ended_at = ended_at - {} * 1000000 WHERE id = 'old' RETURNING 1",
        31 * DAY
    );
    in_the_store(&aged).unwrap();
    // A restart forgets no doubt.
    for _ in 0..2 {
        backend.restart().await;
        doubted(&backend, 1).await;
    }
    // Set right again: nothing was lost, and what is old goes when the clock was steady for an hour.
    set(&backend, 0);
    doubted(&backend, 2).await;
    for id in ["old", "new"] {
        assert_eq!(status(&backend, id).await, 200, "{id}");
    }
    run_on(&backend, 61 * 60, 61 * 60);
    gone(&backend, "old").await;
    assert_eq!(status(&backend, "new").await, 200);
    // Ahead for good.
    run_on(&backend, 40 * DAY, 61 * 60);
    doubted(&backend, 3).await;
    assert_eq!(status(&backend, "new").await, 200);
    run_on(&backend, 40 * DAY + 61 * 60, 122 * 60);
    gone(&backend, "new").await;
}

#[tokio::test]
async fn the_age_of_what_waits_is_not_that_of_the_clock() {
    let Some(backend) = with_a_clock("[runs]\nconcurrency = 1\ngrace = \"300ms\"\n").await else {
        return;
    };
    submit(&backend, &order("lives", WAITS, &json!({}))).await;
    reaches(&backend, "lives", "running").await;
    submit(&backend, &order("waits", "true", &json!({}))).await;
    set(&backend, 2 * HOUR);
    submit(&backend, &order("after", "true", &json!({}))).await;
    let age = backend
        .metric("queue_oldest_seconds{queue=\"default\"}")
        .await;
    assert!(age < HOUR.unsigned_abs(), "{age}");
    let queues = backend.get("/v1/queues").await.json();
    let oldest = queues["items"][0]["oldest_queued_at"].as_str().unwrap();
    let oldest: Timestamp = oldest.parse().unwrap();
    let waited = now(&backend).await.duration_since(oldest);
    assert!(waited.as_secs() < HOUR, "{queues}");
}

#[tokio::test]
async fn a_schedule_goes_on_after_a_clock_that_was_days_ahead() {
    let Some(mut backend) = with_a_clock("").await else {
        return;
    };
    let start: Timestamp = "2031-05-06T10:30:00Z".parse().unwrap();
    let days = |days: i64| jiff::SignedDuration::from_hours(24 * days);
    set_to(&mut backend, start).await;
    let body =
        json!({ "id": "hourly", "cron": "0 * * * *", "missed": "skip", "command": ["true"] });
    schedule(&backend, &body).await;
    // It passes over what it missed, and looks ahead from there.
    set_to(&mut backend, start + days(5)).await;
    dealt(&backend, "hourly").await;
    set_to(&mut backend, start).await;
    eventually("it comes back", DEADLINE, || async {
        let schedule = backend.get("/v1/schedules/hourly").await.json();
        schedule["next"][0] == "2031-05-06T11:00:00Z"
    })
    .await;
    assert_eq!(fired(&backend, "hourly"), [""; 0]);
    set_to(&mut backend, "2031-05-06T11:00:02Z".parse().unwrap()).await;
    dealt(&backend, "hourly").await;
    assert_eq!(fired(&backend, "hourly"), ["2031-05-06T11:00:00Z"]);
}

#[tokio::test]
async fn a_schedule_that_is_alone_fires_again_and_again() {
    let Some(mut backend) = with_a_clock("").await else {
        return;
    };
    set_to(&mut backend, "2031-05-06T10:00:58Z".parse().unwrap()).await;
    let body = json!({ "id": "alone", "cron": "* * * * *", "command": ["true"] });
    schedule(&backend, &body).await;
    // Nothing wakes it but its own time; it looks at the clock twice a minute.
    for times in 1..=2 {
        let what = format!("it fires for the {times}. time");
        eventually(&what, 3 * DEADLINE, || async {
            fired(&backend, "alone").len() >= times
        })
        .await;
    }
}
