//! The pure core with lists for a store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{Claimed, Ledger, Order, Row};
use crate::{
    plan::{
        Rules,
        attempt::{self, Current, Facts, Report},
        claim::{Head, Lane, Usage, next},
        clock, deadline,
        dependency::{Effect, Need},
    },
    run::{State, Step},
};

/// What is wrong with a store on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Nothing.
    None,
    /// No fence: whoever reports is believed.
    Fence,
    /// What waits is not moved along when the clock is set.
    Clock,
}

struct Entry {
    order: Order,
    seq: i64,
    state: State,
    epoch: i64,
    is_open: bool,
    spent: i64,
    created: Timestamp,
    since: Timestamp,
    not_before: Option<Timestamp>,
    holds: Vec<(String, Need)>,
}

pub(super) struct Model {
    flaw: Flaw,
    rules: Arc<Rules>,
    runs: BTreeMap<String, Entry>,
    served: BTreeMap<Lane, i64>,
    paused: BTreeSet<String>,
}

impl Model {
    pub(super) fn new(flaw: Flaw) -> Self {
        Self {
            flaw,
            rules: super::world::rules(),
            runs: BTreeMap::new(),
            served: BTreeMap::new(),
            paused: BTreeSet::new(),
        }
    }

    fn step(&mut self, now: Timestamp, id: &str, step: Step) -> Option<State> {
        let entry = self.runs.get_mut(id)?;
        let to = entry.state.after(step).ok()?;
        if to == entry.state {
            return Some(to);
        }
        (entry.state, entry.not_before) = (to, None);
        if !deadline::is_same_wait(step) {
            entry.since = now;
        }
        if let Some(ending) = to.ending() {
            let waiting: Vec<(String, Need)> = self
                .runs
                .values()
                .flat_map(|other| {
                    let holds = other.holds.iter().filter(|(needs, _)| needs == id);
                    holds.map(|(_, need)| (other.order.id.clone(), *need))
                })
                .collect();
            for (other, need) in waiting {
                let entry = self.runs.get_mut(&other)?;
                entry.holds.retain(|(needs, _)| needs != id);
                let free = entry.holds.is_empty();
                match need.met_by(ending) {
                    Effect::Released if free => self.step(now, &other, Step::Due),
                    Effect::Released => None,
                    Effect::Forsaken => self.step(now, &other, Step::Forsake),
                };
            }
        }
        Some(to)
    }

    fn current(&self, id: &str, epoch: i64) -> Option<Current> {
        let entry = self.runs.get(id)?;
        match self.flaw {
            Flaw::None | Flaw::Clock => attempt::fence(entry.epoch, epoch, entry.is_open),
            Flaw::Fence => Some(Current::believed()),
        }
    }

    fn heads(&self) -> Vec<Head> {
        let mut heads: BTreeMap<&Lane, &Entry> = BTreeMap::new();
        for entry in self.runs.values().filter(|e| e.state == State::Queued) {
            let first = heads.entry(&entry.order.lane).or_insert(entry);
            if (-entry.order.priority, entry.seq) < (-first.order.priority, first.seq) {
                *first = entry;
            }
        }
        heads
            .into_iter()
            .map(|(lane, entry)| Head {
                lane: lane.clone(),
                run: entry.order.id.clone(),
                priority: entry.order.priority,
                served: self.served.get(lane).copied().unwrap_or(0),
            })
            .collect()
    }

    fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for entry in self.runs.values().filter(|e| e.state.is_active()) {
            usage.add(&entry.order.lane, 1);
        }
        usage
    }

    fn move_on(&mut self, now: Timestamp) {
        let late = |entry: &Entry| {
            deadline::given_up(entry.state, entry.since, entry.created, &entry.order.bounds)
                .is_some_and(|(at, _)| at <= now)
        };
        let mut given_up: Vec<(Timestamp, String)> = self
            .runs
            .values()
            .filter(|entry| late(entry))
            .filter_map(|entry| {
                let bounds = &entry.order.bounds;
                let (at, _) = deadline::given_up(entry.state, entry.since, entry.created, bounds)?;
                Some((at, entry.order.id.clone()))
            })
            .collect();
        given_up.sort();
        for (_, id) in given_up {
            self.step(now, &id, Step::Expire);
        }
        let due = |entry: &Entry| {
            entry.state == State::Scheduled
                && entry
                    .not_before
                    .is_some_and(|due| deadline::is_due(entry.since, due, now))
        };
        let due: Vec<String> = self
            .runs
            .values()
            .filter(|entry| due(entry))
            .map(|entry| entry.order.id.clone())
            .collect();
        for id in due {
            self.step(now, &id, Step::Due);
        }
    }
}

impl Ledger for Model {
    fn submit(&mut self, now: Timestamp, order: &Order) -> bool {
        let waits = |state: State| matches!(state, State::Queued | State::Scheduled);
        let waiting = self.runs.values().filter(|e| waits(e.state)).count();
        if i64::try_from(waiting).unwrap() >= self.rules.queue_limit {
            return false;
        }
        let mut holds = Vec::new();
        for (needs, need) in &order.needs {
            match self.runs[needs].state.ending().map(|e| need.met_by(e)) {
                Some(Effect::Released) => {}
                Some(Effect::Forsaken) => return false,
                None => holds.push((needs.clone(), *need)),
            }
        }
        let state = if holds.is_empty() {
            State::Queued
        } else {
            State::Scheduled
        };
        let entry = Entry {
            order: Order {
                bounds: order.bounds.or(self.rules.bounds),
                ..order.clone()
            },
            seq: i64::try_from(self.runs.len()).unwrap() + 1,
            state,
            epoch: 0,
            is_open: false,
            spent: 0,
            created: now,
            since: now,
            not_before: None,
            holds,
        };
        self.runs.insert(order.id.clone(), entry);
        true
    }

    fn claim(&mut self, now: Timestamp) -> Claimed {
        self.move_on(now);
        let mut claimed = Claimed::default();
        let rules = Arc::clone(&self.rules);
        loop {
            let heads = self.heads();
            let Some(place) = next(&heads, &self.usage(), &rules, &self.paused) else {
                break;
            };
            let head = &heads[place];
            let turn = self.served.values().max().copied().unwrap_or(0) + 1;
            self.served.insert(head.lane.clone(), turn);
            self.step(now, &head.run, Step::Claim).unwrap();
            let entry = self.runs.get_mut(&head.run).unwrap();
            (entry.epoch, entry.is_open) = (entry.epoch + 1, true);
            entry.spent += 1;
            claimed.runs.push((head.run.clone(), entry.epoch));
        }
        claimed.next_due = self
            .runs
            .values()
            .flat_map(|entry| {
                let bounds = &entry.order.bounds;
                let late = deadline::given_up(entry.state, entry.since, entry.created, bounds);
                [late.map(|(at, _)| at), entry.not_before]
            })
            .flatten()
            .min();
        claimed
    }

    fn finish(&mut self, now: Timestamp, id: &str, epoch: i64, report: Report) -> Option<State> {
        let current = self.current(id, epoch)?;
        let entry = self.runs.get_mut(id)?;
        let facts = Facts {
            run: id,
            state: entry.state,
            spent: entry.spent,
            retries: i64::from(entry.order.retries),
            created: entry.created,
            bounds: &entry.order.bounds,
        };
        let settled = attempt::finish(current, &facts, report, now).ok()?;
        entry.is_open = false;
        let state = self.step(now, id, settled.step)?;
        self.runs.get_mut(id)?.not_before = settled.due;
        Some(state)
    }

    fn take_back(&mut self, now: Timestamp, id: &str, epoch: i64) -> Option<State> {
        let current = self.current(id, epoch)?;
        let entry = self.runs.get_mut(id)?;
        attempt::take_back(current, entry.state).ok()?;
        entry.is_open = false;
        entry.spent -= 1;
        self.step(now, id, Step::Unclaim)
    }

    fn cancel(&mut self, now: Timestamp, id: &str) -> Option<State> {
        self.step(now, id, Step::Cancel)
    }

    fn pause(&mut self, _: Timestamp, queue: &str) {
        self.paused.insert(queue.to_owned());
    }

    fn resume(&mut self, _: Timestamp, queue: &str) {
        self.paused.remove(queue);
    }

    fn clock_was_set(&mut self, by: SignedDuration) {
        if self.flaw == Flaw::Clock {
            return;
        }
        let by = i64::try_from(by.as_micros()).unwrap();
        for entry in self.runs.values_mut().filter(|e| !e.state.is_final()) {
            entry.since = clock::moved(entry.since, by);
            entry.created = clock::moved(entry.created, by);
            entry.not_before = entry.not_before.map(|due| clock::moved(due, by));
        }
    }

    fn open_attempts(&self) -> Vec<(String, i64)> {
        let open = self.runs.values().filter(|entry| entry.is_open);
        open.map(|e| (e.order.id.clone(), e.epoch)).collect()
    }

    fn rows(&self) -> Vec<Row> {
        let row = |entry: &Entry| Row {
            id: entry.order.id.clone(),
            seq: entry.seq,
            lane: entry.order.lane.clone(),
            priority: entry.order.priority,
            state: entry.state,
            epoch: entry.epoch,
            spent: entry.spent,
        };
        self.runs.values().map(row).collect()
    }
}
