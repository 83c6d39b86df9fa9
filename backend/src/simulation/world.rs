//! A backend, a machine and the people who ask, each doing what it does when it is drawn; and the
//! laws that hold whatever was drawn.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Ledger, Order};
use crate::{
    plan::{Bounds, QueueRule, Rules, claim::Lane, dependency::Need},
    run::State,
};
use machine::{AttemptId, Message, Process};
pub(super) use tally::Tally;

mod laws;
mod machine;
mod tally;

const QUEUES: [&str; 3] = ["default", "slow", "wide"];
const KEYS: [&str; 4] = ["", "a", "b", "c"];
const HOUR_MS: i64 = 3_600_000;

/// The limits of the world.
pub(super) fn rules() -> Arc<Rules> {
    let rule = |concurrency, key_concurrency| QueueRule {
        concurrency,
        key_concurrency,
        length: None,
    };
    Arc::new(Rules {
        concurrency: 5,
        queue_limit: 40,
        queues: BTreeMap::from([
            ("slow".to_owned(), rule(Some(1), None)),
            ("wide".to_owned(), rule(Some(4), Some(2))),
        ]),
        bounds: Bounds {
            retry_delay_ms: Some(500),
            retry_delay_most_ms: Some(60_000),
            ..Bounds::default()
        },
    })
}

pub(super) struct World<L> {
    ledger: L,
    rng: StdRng,
    /// What a steady clock shows, in milliseconds.
    steady: i64,
    /// What the wall clock shows beside it.
    offset: i64,
    mail: Vec<(i64, Message)>,
    machine: BTreeMap<AttemptId, Process>,
    /// Attempts that were given up before they began: nothing starts them any more.
    abandoned: BTreeSet<AttemptId>,
    paused: BTreeSet<String>,
    results: BTreeMap<String, State>,
    orders: BTreeMap<String, Order>,
    /// When each was submitted, in steady time; empty when nobody can tell.
    submitted: BTreeMap<String, i64>,
    served: BTreeMap<Lane, u64>,
    tally: Tally,
}

impl<L: Ledger> World<L> {
    pub(super) fn new(seed: u64, ledger: L) -> Self {
        Self {
            ledger,
            rng: StdRng::seed_from_u64(seed),
            steady: 0,
            offset: 1_800_000_000_000,
            mail: Vec::new(),
            machine: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            paused: BTreeSet::new(),
            results: BTreeMap::new(),
            orders: BTreeMap::new(),
            submitted: BTreeMap::new(),
            served: BTreeMap::new(),
            tally: Tally::default(),
        }
    }

    /// Lets so many events happen, then everything come to its end.
    pub(super) fn play(mut self, events: usize) -> Result<Tally, String> {
        for _ in 0..events {
            self.event()?;
            self.look()?;
        }
        self.end()?;
        Ok(self.tally)
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.steady + self.offset).unwrap()
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.rng.random_range(0..below)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.draw(100) < percent
    }

    fn delay(&mut self) -> i64 {
        i64::try_from(self.draw(3_000)).unwrap()
    }

    fn event(&mut self) -> Result<(), String> {
        match self.draw(100) {
            0..30 => {
                self.submit();
                self.claim()
            }
            30..70 => self.time_passes(),
            70..80 => {
                self.cancel();
                Ok(())
            }
            80..85 => {
                self.lose_a_supervisor();
                Ok(())
            }
            85..90 => {
                self.crash();
                self.settle()
            }
            90..93 => {
                self.set_clock();
                Ok(())
            }
            93..97 => {
                let queue = QUEUES[usize::try_from(self.draw(3)).unwrap()];
                self.paused.insert(queue.to_owned());
                self.ledger.pause(self.now(), queue);
                Ok(())
            }
            _ => self.resume_all(),
        }
    }

    fn submit(&mut self) {
        let pick = |rng: &mut StdRng, of: &[&str]| of[rng.random_range(0..of.len())].to_owned();
        let lane = Lane {
            queue: pick(&mut self.rng, &QUEUES),
            key: pick(&mut self.rng, &KEYS),
        };
        let known: Vec<String> = self.orders.keys().cloned().collect();
        let mut needs = Vec::new();
        if !known.is_empty() && self.chance(20) {
            let place = usize::try_from(self.draw(known.len() as u64)).unwrap();
            let need = Need::ALL[usize::try_from(self.draw(2)).unwrap()];
            needs.push((known[place].clone(), need));
        }
        let order = Order {
            id: format!("r{:04}", self.orders.len()),
            lane,
            priority: i64::try_from(self.draw(3)).unwrap(),
            retries: u32::try_from(self.draw(4)).unwrap(),
            bounds: Bounds {
                waiting_ms: self.chance(20).then_some(20_000),
                total_ms: self.chance(20).then_some(60_000),
                ..Bounds::default()
            },
            needs,
        };
        if self.ledger.submit(self.now(), &order) {
            self.tally.accepted += 1;
            self.submitted.insert(order.id.clone(), self.steady);
            self.orders.insert(order.id.clone(), order);
        } else {
            self.tally.refused += 1;
        }
    }

    /// Lets the steady clock run on, and everything happen that is due by then.
    fn time_passes(&mut self) -> Result<(), String> {
        let until = self.steady + self.delay();
        while let Some(at) = self.next_event().filter(|at| *at <= until) {
            self.run_to(at)?;
            self.look()?;
        }
        self.steady = until;
        Ok(())
    }

    /// Somebody sets the clock. After a restart of the machine nobody can tell by how much.
    fn set_clock(&mut self) {
        let jump = if self.chance(50) { HOUR_MS } else { -HOUR_MS };
        self.offset += jump;
        self.tally.jumps += 1;
        if self.chance(80) {
            self.ledger.clock_was_set(SignedDuration::from_millis(jump));
        } else {
            self.submitted.clear();
        }
    }

    fn cancel(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let place = usize::try_from(self.draw(self.orders.len() as u64)).unwrap();
        let id = self.orders.keys().nth(place).unwrap().clone();
        if self.ledger.cancel(self.now(), &id) == Some(State::Canceling) {
            self.end_processes(&id);
        }
    }

    fn resume_all(&mut self) -> Result<(), String> {
        for queue in std::mem::take(&mut self.paused) {
            self.ledger.resume(self.now(), &queue);
        }
        self.claim()
    }
}
