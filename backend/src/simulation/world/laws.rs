//! The laws, and claims, which are held against them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use super::{
    super::{Ledger, Order, Row},
    World,
    machine::Message,
    rules,
};
use crate::{
    plan::{claim::Lane, dependency::Need},
    run::{Ending, State},
};

impl<L: Ledger> World<L> {
    /// Claims, and holds the choice against the law of turns.
    pub(super) fn claim(&mut self) -> Result<(), String> {
        let claimed = self.ledger.claim(self.now());
        // What the claim itself queued or ended is seen in the rows after it.
        let mut rows = self.ledger.rows();
        self.nothing_is_overdue(&rows)?;
        let claimed_now: BTreeSet<&String> = claimed.runs.iter().map(|(id, _)| id).collect();
        for row in rows.iter_mut().filter(|row| claimed_now.contains(&row.id)) {
            if row.state == State::Running {
                row.state = State::Queued;
            }
        }
        for (run, epoch) in &claimed.runs {
            let expected = self.whose_turn(&rows);
            if expected.as_ref() != Some(run) {
                return Err(format!(
                    "{run} was claimed, and it was the turn of {expected:?}"
                ));
            }
            for row in rows.iter_mut().filter(|row| row.id == *run) {
                row.state = State::Running;
                let turn =
                    self.served.len() as u64 + self.served.values().max().copied().unwrap_or(0) + 1;
                self.served.insert(row.lane.clone(), turn);
            }
            self.needs_are_met(run, &rows)?;
            let at = self.steady + self.delay();
            self.mail.push((at, Message::Start((run.clone(), *epoch))));
        }
        if let Some(idle) = self.whose_turn(&rows) {
            return Err(format!("{idle} waits although it may run"));
        }
        if let Some(due) = claimed.next_due {
            let wait = due.duration_since(self.now()).max(SignedDuration::ZERO);
            let wait = i64::try_from(wait.as_millis()).unwrap().min(30_000);
            self.mail
                .retain(|(_, message)| !matches!(message, Message::Wake));
            self.mail.push((self.steady + wait + 1, Message::Wake));
        }
        Ok(())
    }

    fn needs_are_met(&self, run: &str, rows: &[Row]) -> Result<(), String> {
        for (needed, need) in &self.orders[run].needs {
            let row = rows.iter().find(|row| row.id == *needed).unwrap();
            let ending = row.state.ending();
            let met = match need {
                Need::Success => ending == Some(Ending::Succeeded),
                Need::End => ending.is_some(),
            };
            if !met {
                return Err(format!(
                    "{run} was claimed before {needed} had ended for it"
                ));
            }
        }
        Ok(())
    }

    /// How long ago a run was submitted, by a clock that nobody sets.
    fn age(&self, row: &Row) -> Option<u64> {
        let age = self.steady - self.submitted.get(&row.id)?;
        u64::try_from(age).ok()
    }

    /// What has waited for longer than it may was given up, however the clock was set.
    fn nothing_is_overdue(&self, rows: &[Row]) -> Result<(), String> {
        for row in rows {
            let Order { bounds, needs, .. } = &self.orders[&row.id];
            let may_wait = match row.state {
                State::Queued if row.epoch == 0 && needs.is_empty() => {
                    [bounds.waiting_ms, bounds.total_ms]
                }
                State::Queued | State::Scheduled => [None, bounds.total_ms],
                State::Running
                | State::Canceling
                | State::Succeeded
                | State::Failed
                | State::TimedOut
                | State::Canceled
                | State::Lost => [None, None],
            };
            let most = may_wait.into_iter().flatten().min();
            if let (Some(age), Some(most)) = (self.age(row), most)
                && age >= most
            {
                return Err(format!("{row:?} waits for {age} ms and may for {most}"));
            }
        }
        Ok(())
    }

    /// What is given up before it began has waited for as long as it may.
    fn is_not_given_up_early(&self, row: &Row) -> Result<(), String> {
        if row.state != State::TimedOut || row.spent > 0 || self.results.contains_key(&row.id) {
            return Ok(());
        }
        let bounds = &self.orders[&row.id].bounds;
        let least = [bounds.waiting_ms, bounds.total_ms]
            .into_iter()
            .flatten()
            .min();
        match (self.age(row), least) {
            (Some(age), Some(least)) if age < least => Err(format!(
                "{row:?} was given up after {age} ms and may wait for {least}"
            )),
            _ => Ok(()),
        }
    }

    /// The run that is to be claimed next, found by looking at every run.
    fn whose_turn(&self, rows: &[Row]) -> Option<String> {
        let rules = rules();
        let (mut all, mut queues, mut lanes) = (0, BTreeMap::new(), BTreeMap::new());
        for row in rows.iter().filter(|row| row.state.is_active()) {
            all += 1;
            *queues.entry(row.lane.queue.as_str()).or_insert(0) += 1;
            *lanes.entry(&row.lane).or_insert(0) += 1;
        }
        let below = |most: Option<i64>, count: Option<&i64>| {
            most.is_none_or(|most| count.copied().unwrap_or(0) < most)
        };
        let may = |row: &Row| {
            let rule = rules.queue(&row.lane.queue).unwrap();
            row.state == State::Queued
                && !self.paused.contains(&row.lane.queue)
                && all < rules.concurrency
                && below(rule.concurrency, queues.get(row.lane.queue.as_str()))
                && (row.lane.key.is_empty() || below(rule.key_concurrency, lanes.get(&row.lane)))
        };
        let waiting: Vec<&Row> = rows.iter().filter(|row| may(row)).collect();
        let top = waiting.iter().map(|row| row.priority).max()?;
        waiting
            .into_iter()
            .filter(|row| row.priority == top)
            .min_by_key(|row| {
                let served = self.served.get(&row.lane).copied().unwrap_or(0);
                (served, row.lane.clone(), row.seq)
            })
            .map(|row| row.id.clone())
    }

    /// The laws that hold at every moment.
    pub(super) fn look(&mut self) -> Result<(), String> {
        let rows = self.ledger.rows();
        let rules = rules();
        let mut queues: BTreeMap<&str, i64> = BTreeMap::new();
        let mut lanes: BTreeMap<&Lane, i64> = BTreeMap::new();
        let mut alive: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for ((run, epoch), _) in self.machine.iter().filter(|(_, process)| process.is_alive) {
            alive.entry(run).or_default().push(*epoch);
        }
        for row in &rows {
            self.is_not_given_up_early(row)?;
            if row.state.is_active() {
                *queues.entry(&row.lane.queue).or_default() += 1;
                *lanes.entry(&row.lane).or_default() += 1;
            }
            let living = alive.get(row.id.as_str()).map_or(&[][..], Vec::as_slice);
            if living.len() > 1 {
                return Err(format!("{} lives twice: attempts {living:?}", row.id));
            }
            if let Some(epoch) = living.first()
                && (!row.state.is_active() || *epoch != row.epoch)
            {
                return Err(format!("{row:?} has a process of attempt {epoch}"));
            }
            if row.spent > i64::from(self.orders[&row.id].retries) + 1 {
                return Err(format!("{row:?} spent more than its retries"));
            }
            if row.state.is_final() {
                let first = *self.results.entry(row.id.clone()).or_insert(row.state);
                if first != row.state {
                    return Err(format!("{row:?} has a second result after {first:?}"));
                }
            } else if let Some(result) = self.results.get(&row.id) {
                return Err(format!(
                    "{row:?} lives again, a second result after {result:?}"
                ));
            }
        }
        if queues.values().sum::<i64>() > rules.concurrency {
            return Err(format!("too many run: {queues:?}"));
        }
        for (queue, count) in &queues {
            let most = rules.queue(queue).unwrap().concurrency;
            if most.is_some_and(|most| *count > most) {
                return Err(format!("too many of {queue} run: {count}"));
            }
        }
        for (lane, count) in &lanes {
            let most = rules.queue(&lane.queue).unwrap().key_concurrency;
            if !lane.key.is_empty() && most.is_some_and(|most| *count > most) {
                return Err(format!("too many of {lane:?} run: {count}"));
            }
        }
        Ok(())
    }

    /// Nothing is asked for any more and nothing breaks: everything comes to its end by itself.
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.resume_all()?;
        for _ in 0..100_000 {
            let Some(at) = self.next_event() else { break };
            self.run_to(at)?;
            self.look()?;
        }
        let rows = self.ledger.rows();
        if rows.len() != self.orders.len() {
            return Err(format!(
                "{} accepted, {} there",
                self.orders.len(),
                rows.len()
            ));
        }
        for row in rows {
            if !row.state.is_final() {
                return Err(format!("{row:?} never ends: nothing wakes anybody"));
            }
            *self.tally.ends.entry(row.state).or_default() += 1;
        }
        if let Some(id) = self.machine.iter().find(|(_, p)| p.is_alive) {
            return Err(format!("{id:?} is left"));
        }
        Ok(())
    }
}
