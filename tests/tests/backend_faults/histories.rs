//! Histories that nobody would think of: submissions, cancels, pauses, replays and schedules, while
//! the backend, its supervisors, their commands and what those started are killed, stopped and
//! continued, all drawn from a seed.
//!
//! The seed is printed and draws the same history again; when each thing happens within it is the
//! machine's choice. `ORKET_FAULT_SEED=…` plays one, `ORKET_FAULT_SCHEDULES=1000` as many.

use std::time::Duration;

use orket_tests::{Backend, convergence::invariants, program::processes_under, wait::obtain};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{config, order};

/// Histories in CI, over all parts.
const SCHEDULES: u64 = 200;
/// Tests that share them, so that they use several processors.
const PARTS: u64 = 4;
/// Histories over one store: later ones stand on what earlier ones left.
const OVER_ONE_STORE: u64 = 10;

#[tokio::test]
async fn first_part() {
    play_part(0).await;
}

#[tokio::test]
async fn second_part() {
    play_part(1).await;
}

#[tokio::test]
async fn third_part() {
    play_part(2).await;
}

#[tokio::test]
async fn fourth_part() {
    play_part(3).await;
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

async fn play_part(part: u64) {
    let seeds: Vec<u64> = match number("ORKET_FAULT_SEED") {
        Some(seed) if part == 0 => vec![seed],
        Some(_) => Vec::new(),
        None => {
            let first = u64::from(rand::random::<u32>());
            let all = number("ORKET_FAULT_SCHEDULES").unwrap_or(SCHEDULES);
            (first..first + all.div_ceil(PARTS)).collect()
        }
    };
    let ports = 27_000 + 10 * u16::try_from(part).unwrap();
    for some in seeds.chunks(usize::try_from(OVER_ONE_STORE).unwrap()) {
        let mut backend = Backend::start(&config(ports)).await;
        // Its time comes when a history says so.
        let schedule = json!({ "id": "yearly", "cron": "0 0 1 1 *", "missed": "once",
            "overlap": "queue", "command": ["true"] });
        assert_eq!(backend.post("/v1/schedules", &schedule).await.status, 201);
        for seed in some {
            eprintln!("ORKET_FAULT_SEED={seed}");
            History::new(*seed).play(&mut backend).await;
        }
    }
}

struct History {
    seed: u64,
    rng: StdRng,
    /// Ids that were submitted, accepted or not.
    asked: Vec<String>,
    accepted: Vec<String>,
}

impl History {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            asked: Vec::new(),
            accepted: Vec::new(),
        }
    }

    async fn play(mut self, backend: &mut Backend) {
        for _ in 0..self.rng.random_range(8..16) {
            self.event(backend).await;
            if !backend.is_running() {
                backend.restart().await;
            }
            let pause = self.rng.random_range(0..15);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        for pid in processes_under(backend.dir()) {
            signal(pid, Signal::CONT);
        }
        // One that was told to crash later would do so at any time from now on.
        backend.restart().await;
        backend.post("/v1/queues/side/resume", &json!({})).await;
        invariants(backend, &self.accepted).await;
    }

    async fn event(&mut self, backend: &mut Backend) {
        match self.rng.random_range(0..100) {
            0..45 => self.submit(backend).await,
            45..57 => {
                if let Some(id) = self.any_run() {
                    let target = format!("/v1/runs/{id}/cancel");
                    backend.attempt(&target, &json!({})).await;
                }
            }
            57..60 => {
                backend.attempt("/v1/queues/side/pause", &json!({})).await;
            }
            60..63 => {
                backend.attempt("/v1/queues/side/resume", &json!({})).await;
            }
            63..66 => {
                let states = json!({ "states": ["failed", "lost", "timed_out"], "limit": 3 });
                backend.attempt("/v1/runs/replay", &states).await;
            }
            66..72 => self.restart(backend).await,
            72..78 => self.crash_later(backend).await,
            78..84 => self.strike(backend, true, Signal::KILL),
            84..91 => self.strike(backend, false, Signal::KILL),
            91..95 => {
                let is_supervisor = self.rng.random_bool(0.5);
                self.strike(backend, is_supervisor, Signal::STOP);
            }
            95..98 => {
                for pid in processes_under(backend.dir()) {
                    signal(pid, Signal::CONT);
                }
            }
            _ => {
                let own = backend.program().pid();
                signal(own, Signal::STOP);
                let stopped = self.rng.random_range(1..40);
                tokio::time::sleep(Duration::from_millis(stopped)).await;
                signal(own, Signal::CONT);
            }
        }
    }

    fn any_run(&mut self) -> Option<String> {
        if self.asked.is_empty() {
            return None;
        }
        let place = self.rng.random_range(0..self.asked.len());
        Some(self.asked[place].clone())
    }

    async fn submit(&mut self, backend: &Backend) {
        let id = format!("h{}-{}", self.seed, self.asked.len());
        let millis = self.rng.random_range(0..150);
        let nap = format!("sleep 0.{millis:03}");
        let script = match self.rng.random_range(0..8) {
            0 | 1 => nap,
            2 => format!("{nap}; exit 1"),
            3 => format!("trap '' TERM; {nap}; {nap}"),
            4 => format!("(setsid sleep 20 &); {nap}"),
            5 => format!("sh -c 'sh -c \"setsid sleep 20\" & sleep 20' & {nap}"),
            6 => format!("head -c 100000 /dev/zero | tr '\\0' x; {nap}"),
            _ => format!("exec >&- 2>&-; {nap}"),
        };
        let mut more = json!({ "timeout": "3s", "retries": self.rng.random_range(0..3) });
        if self.rng.random_bool(0.2) {
            more["queue"] = json!("side");
        }
        if self.rng.random_bool(0.3) {
            more["build_id"] = json!(["a", "b"][self.rng.random_range(0..2)]);
        }
        if let Some(before) = self.accepted.last().filter(|_| millis % 5 == 0) {
            more["depends_on"] = json!([before]);
        }
        self.asked.push(id.clone());
        let body: Value = order(&id, &script, &more);
        let Some(answer) = backend.attempt("/v1/runs", &body).await else {
            return;
        };
        // What it needs may have failed by now.
        assert!([201, 409].contains(&answer.status), "{}", answer.text());
        if answer.status == 201 {
            self.accepted.push(id);
        }
    }

    /// Killed at whatever moment this is, and off for a while in which a schedule was due.
    async fn restart(&mut self, backend: &mut Backend) {
        backend.kill().await;
        if self.rng.random_bool(0.5) {
            let store = Connection::open(backend.database()).unwrap();
            let due = jiff::Timestamp::now().as_microsecond() - 60_000_000;
            let moved = store.execute("UPDATE schedules SET next_at = ?1", [due]);
            assert!(moved.is_ok(), "{moved:?}");
        }
        backend.restart().await;
    }

    /// Killed at the so-and-so-many-th of all named places that it passes.
    async fn crash_later(&mut self, backend: &mut Backend) {
        let steps = self.rng.random_range(1..120);
        backend.restart_to_crash(&format!("any:{steps}")).await;
    }

    /// Sends a signal to one of the supervisors, or to one of the processes below them.
    fn strike(&mut self, backend: &mut Backend, at_supervisors: bool, what: Signal) {
        let own = backend.program().pid();
        let all: Vec<u32> = processes_under(backend.dir())
            .into_iter()
            .filter(|pid| *pid != own && is_supervisor(*pid) == at_supervisors)
            .collect();
        if !all.is_empty() {
            signal(all[self.rng.random_range(0..all.len())], what);
        }
    }
}

fn is_supervisor(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.starts_with(b"orket-supervisor\0")
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

#[tokio::test]
async fn a_broken_promise_is_noticed() {
    // The laws have teeth: a result that is recorded twice, and a run that is lost.
    for (damage, law) in [
        (
            "UPDATE events SET kind = 'run.succeeded' WHERE kind = 'run.running'",
            "one result",
        ),
        ("DELETE FROM attempts", "began 1 times in 0"),
        (
            "UPDATE events SET time = time - 60000000 WHERE kind = 'run.succeeded'",
            "backwards",
        ),
    ] {
        let mut backend = Backend::start("").await;
        let body = order("one", "true", &json!({}));
        assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
        obtain("it has ended", orket_tests::DEADLINE, || async {
            let run = backend.get("/v1/runs/one").await.json();
            (run["state"] == "succeeded").then_some(())
        })
        .await;
        backend.kill().await;
        Connection::open(backend.database())
            .unwrap()
            .execute(damage, [])
            .unwrap();
        backend.restart().await;
        let judged = tokio::spawn(async move {
            invariants(&mut backend, &["one".to_owned()]).await;
        });
        let noticed = judged.await.unwrap_err().into_panic();
        let text = noticed.downcast_ref::<String>().unwrap();
        assert!(text.contains(law), "{law}: {text}");
    }
}
