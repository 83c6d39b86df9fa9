//! What a history held.

use std::collections::BTreeMap;

use crate::run::State;

/// What happened, so that a history in which nothing did is noticed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::simulation) struct Tally {
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) attempts: u64,
    pub(super) retries: u64,
    pub(super) crashes: u64,
    pub(super) lost: u64,
    pub(super) stale: u64,
    pub(super) taken_back: u64,
    pub(super) jumps: u64,
    pub(super) ends: BTreeMap<State, u64>,
}

impl Tally {
    pub(in crate::simulation) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.attempts += other.attempts;
        self.retries += other.retries;
        self.crashes += other.crashes;
        self.lost += other.lost;
        self.stale += other.stale;
        self.taken_back += other.taken_back;
        self.jumps += other.jumps;
        for (state, count) in &other.ends {
            *self.ends.entry(*state).or_default() += count;
        }
    }

    /// Whether everything that can happen did.
    pub(in crate::simulation) fn is_eventful(&self) -> bool {
        let all = [
            self.accepted,
            self.refused,
            self.retries,
            self.crashes,
            self.lost,
            self.stale,
            self.taken_back,
            self.jumps,
        ];
        all.iter().all(|count| *count > 0) && self.ends.len() == 5
    }
}
