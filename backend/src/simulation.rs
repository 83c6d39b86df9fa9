//! Histories that nobody would think of: the scheduler's decisions under crashes of the backend,
//! lost supervisors, late and repeated reports, and clocks that jump, drawn from a seed.
//!
//! The same world is run over the pure core alone ([`model`]) and over the real engine
//! ([`engine`]). After every event the laws of [`world`] are looked at; a broken one is reported
//! with the seed that leads there: `ORKET_SIMULATION_SEED=… cargo test -p orket-backend simulation`.
//! `ORKET_SIMULATION_SCHEDULES` says how many histories are tried.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail"
)]

mod engine;
mod model;
mod world;

use jiff::{SignedDuration, Timestamp};

use crate::{
    plan::{Bounds, attempt::Report, claim::Lane, dependency::Need},
    run::State,
};
use model::{Flaw, Model};
use world::World;

/// Histories in CI, over the pure core.
const SCHEDULES: u64 = 200;
/// Histories in CI over the engine, which writes to a disk.
const ENGINE_SCHEDULES: u64 = 4;
/// Events of one history before everything is left to come to its end.
const EVENTS: usize = 300;

/// A run to be submitted.
#[derive(Debug, Clone)]
struct Order {
    id: String,
    lane: Lane,
    priority: i64,
    retries: u32,
    bounds: Bounds,
    needs: Vec<(String, Need)>,
}

/// A run as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    id: String,
    seq: i64,
    lane: Lane,
    priority: i64,
    state: State,
    epoch: i64,
    spent: i64,
}

/// What a claim gave.
#[derive(Debug, Default)]
struct Claimed {
    /// Runs with their new epochs, in the order of the claims.
    runs: Vec<(String, i64)>,
    next_due: Option<Timestamp>,
}

/// A store, as the world uses it. `None` and `false`: refused, nothing has changed.
trait Ledger {
    fn submit(&mut self, now: Timestamp, order: &Order) -> bool;
    fn claim(&mut self, now: Timestamp) -> Claimed;
    fn finish(&mut self, now: Timestamp, id: &str, epoch: i64, report: Report) -> Option<State>;
    fn take_back(&mut self, now: Timestamp, id: &str, epoch: i64) -> Option<State>;
    fn cancel(&mut self, now: Timestamp, id: &str) -> Option<State>;
    fn pause(&mut self, now: Timestamp, queue: &str);
    fn resume(&mut self, now: Timestamp, queue: &str);
    fn clock_was_set(&mut self, by: SignedDuration);
    fn open_attempts(&self) -> Vec<(String, i64)>;
    fn rows(&self) -> Vec<Row>;
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The seeds to try: one that was asked for, or so many from a fresh one on.
fn seeds(schedules: u64) -> std::ops::Range<u64> {
    if let Some(seed) = number("ORKET_SIMULATION_SEED") {
        return seed..seed + 1;
    }
    let first = rand::random::<u32>().into();
    first..first + number("ORKET_SIMULATION_SCHEDULES").unwrap_or(schedules)
}

fn play(seed: u64, ledger: impl Ledger) -> Result<world::Tally, String> {
    World::new(seed, ledger)
        .play(EVENTS)
        .map_err(|broken| format!("seed {seed}: {broken}"))
}

#[test]
fn every_history_keeps_the_laws() {
    let seeds = seeds(SCHEDULES);
    eprintln!("simulation: seeds {seeds:?}");
    let mut all = world::Tally::default();
    for seed in seeds.clone() {
        match play(seed, Model::new(Flaw::None)) {
            Ok(tally) => all.add(&tally),
            Err(broken) => panic!("{broken}"),
        }
    }
    eprintln!("simulation: {all:?}");
    // A world in which nothing happens proves nothing.
    if seeds.end - seeds.start >= SCHEDULES {
        assert!(all.is_eventful(), "{all:?}");
    }
}

#[test]
fn the_engine_keeps_the_laws_and_decides_as_the_core_does() {
    let seeds = seeds(ENGINE_SCHEDULES);
    eprintln!("simulation over the engine: seeds {seeds:?}");
    for seed in seeds {
        let engine = play(seed, engine::Engine::new());
        let core = play(seed, Model::new(Flaw::None));
        assert_eq!(engine, core, "seed {seed}");
        assert!(engine.is_ok(), "{engine:?}");
    }
}

/// What the laws say of a store with this flaw.
fn caught(flaw: Flaw) -> Vec<String> {
    let broken = (0..SCHEDULES)
        .filter_map(|seed| play(seed, Model::new(flaw)).err())
        .collect::<Vec<_>>();
    assert!(
        broken.len() > 20,
        "only {} of {SCHEDULES} histories noticed",
        broken.len()
    );
    broken
}

#[test]
fn a_store_without_a_fence_is_caught() {
    let broken = caught(Flaw::Fence);
    let believed = |text: &String| {
        ["lives twice", "second result", "has a process of"]
            .iter()
            .any(|law| text.contains(law))
    };
    assert!(broken.iter().any(believed), "{broken:#?}");
}

#[test]
fn a_store_that_does_not_follow_the_clock_is_caught() {
    let broken = caught(Flaw::Clock);
    let ill_timed = |text: &String| text.contains("given up after") || text.contains("waits for");
    assert!(broken.iter().all(ill_timed), "{broken:#?}");
}

#[test]
fn a_seed_is_a_history() {
    let once = || play(7, Model::new(Flaw::None));
    assert_eq!(once(), once());
}
