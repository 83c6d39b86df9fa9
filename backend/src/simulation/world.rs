//! A backend, a machine and the people who ask, each doing what it does when it is drawn; and the
//! laws that hold whatever was drawn.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Ledger, Order, Row};
use crate::{
    plan::{Bounds, QueueRule, Rules, attempt::Report, claim::Lane, dependency::Need},
    run::{Ending, State},
};

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

/// What happened, so that a history in which nothing did is noticed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    accepted: u64,
    refused: u64,
    attempts: u64,
    retries: u64,
    crashes: u64,
    lost: u64,
    stale: u64,
    taken_back: u64,
    jumps: u64,
    ends: BTreeMap<State, u64>,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
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
    pub(super) fn is_eventful(&self) -> bool {
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

type AttemptId = (String, i64);

/// What is on its way within a backend.
#[derive(Debug, Clone)]
enum Message {
    /// Start the process of an attempt.
    Start(AttemptId),
    /// Tell the store how an attempt ended.
    Finish(AttemptId, Ending),
    /// Look into the waiting runs: a retry, or a bound of waiting, is due.
    Wake,
}

/// A supervisor with its command.
#[derive(Debug, Clone)]
struct Process {
    is_alive: bool,
    /// When it ends by itself, in steady time.
    ends: i64,
    ending: Ending,
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
                let jump = if self.chance(50) { HOUR_MS } else { -HOUR_MS };
                self.offset += jump;
                self.tally.jumps += 1;
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

    fn next_event(&self) -> Option<i64> {
        let ends = self.machine.values().filter(|process| process.is_alive);
        let mail = self.mail.iter().map(|(at, _)| *at);
        ends.map(|process| process.ends).chain(mail).min()
    }

    fn run_to(&mut self, at: i64) -> Result<(), String> {
        self.steady = self.steady.max(at);
        let over = |process: &Process| process.is_alive && process.ends <= at;
        let ended: Vec<AttemptId> = self
            .machine
            .iter()
            .filter(|(_, process)| over(process))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ended {
            self.end_process(&id, None);
        }
        let due = self.mail.iter().position(|(time, _)| *time <= at);
        if let Some(place) = due {
            let (_, message) = self.mail.remove(place);
            self.receive(message)?;
        }
        Ok(())
    }

    /// A process is gone; whoever follows it will tell.
    fn end_process(&mut self, id: &AttemptId, ending: Option<Ending>) {
        let delay = self.delay();
        let process = self.machine.get_mut(id).unwrap();
        process.is_alive = false;
        process.ending = ending.unwrap_or(process.ending);
        let message = Message::Finish(id.clone(), process.ending);
        self.mail.push((self.steady + delay, message));
    }

    fn receive(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::Start(id) => {
                self.start(&id);
                Ok(())
            }
            Message::Finish((run, epoch), ending) => {
                let report = Report {
                    ending,
                    hopeless: ending == Ending::Failed && self.chance(10),
                };
                match self.ledger.finish(self.now(), &run, epoch, report) {
                    None => self.tally.stale += 1,
                    Some(State::Scheduled) => self.tally.retries += 1,
                    Some(_) => {}
                }
                self.claim()
            }
            Message::Wake => self.claim(),
        }
    }

    fn start(&mut self, id: &AttemptId) {
        if self.abandoned.contains(id) || self.machine.contains_key(id) {
            return;
        }
        let ending = match self.draw(10) {
            0..5 => Ending::Succeeded,
            5..8 => Ending::Failed,
            8 => Ending::TimedOut,
            _ => Ending::Lost,
        };
        let ends = self.steady + self.delay() * 3;
        let process = Process {
            is_alive: true,
            ends,
            ending,
        };
        self.machine.insert(id.clone(), process);
        self.tally.attempts += 1;
        // A cancel that came before has found nobody to tell.
        let canceling = |row: &Row| row.id == id.0 && row.state == State::Canceling;
        if self.ledger.rows().iter().any(canceling) {
            self.end_process(id, Some(Ending::Canceled));
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

    fn end_processes(&mut self, run: &str) {
        let living: Vec<AttemptId> = self
            .machine
            .iter()
            .filter(|(id, process)| id.0 == run && process.is_alive)
            .map(|(id, _)| id.clone())
            .collect();
        for id in living {
            self.end_process(&id, Some(Ending::Canceled));
        }
    }

    fn lose_a_supervisor(&mut self) {
        let living: Vec<AttemptId> = self
            .machine
            .iter()
            .filter(|(_, process)| process.is_alive)
            .map(|(id, _)| id.clone())
            .collect();
        if !living.is_empty() {
            let place = usize::try_from(self.draw(living.len() as u64)).unwrap();
            self.end_process(&living[place], Some(Ending::Lost));
            self.tally.lost += 1;
        }
    }

    /// The backend dies. What it was about to say is lost, or was said and arrives late.
    fn crash(&mut self) {
        self.tally.crashes += 1;
        for (at, message) in std::mem::take(&mut self.mail) {
            if self.chance(40) {
                let late = at + self.delay() * 4;
                self.mail.push((late, message));
            }
        }
    }

    /// The next boot looks at every attempt whose end is not recorded.
    fn settle(&mut self) -> Result<(), String> {
        for (run, epoch) in self.ledger.open_attempts() {
            let id = (run, epoch);
            match self.machine.get(&id).cloned() {
                Some(process) if process.is_alive => {
                    let canceling = |row: &Row| row.id == id.0 && row.state == State::Canceling;
                    if self.ledger.rows().iter().any(canceling) {
                        self.end_process(&id, Some(Ending::Canceled));
                    }
                }
                Some(process) => {
                    let at = self.steady + self.delay();
                    self.mail.push((at, Message::Finish(id, process.ending)));
                }
                None => {
                    self.abandoned.insert(id.clone());
                    self.tally.taken_back += 1;
                    let back = self.ledger.take_back(self.now(), &id.0, id.1);
                    if back.is_none() {
                        return Err(format!("{id:?} could not be taken back"));
                    }
                }
            }
        }
        self.claim()
    }

    fn resume_all(&mut self) -> Result<(), String> {
        for queue in std::mem::take(&mut self.paused) {
            self.ledger.resume(self.now(), &queue);
        }
        self.claim()
    }

    /// Claims, and holds the choice against the law of turns.
    fn claim(&mut self) -> Result<(), String> {
        let claimed = self.ledger.claim(self.now());
        // What the claim itself queued or ended is seen in the rows after it.
        let mut rows = self.ledger.rows();
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
            let needs = self.orders[run].needs.clone();
            for (needed, need) in needs {
                let ending = rows
                    .iter()
                    .find(|row| row.id == needed)
                    .unwrap()
                    .state
                    .ending();
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
    fn look(&mut self) -> Result<(), String> {
        let rows = self.ledger.rows();
        let rules = rules();
        let mut queues: BTreeMap<&str, i64> = BTreeMap::new();
        let mut lanes: BTreeMap<&Lane, i64> = BTreeMap::new();
        let mut alive: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for ((run, epoch), _) in self.machine.iter().filter(|(_, process)| process.is_alive) {
            alive.entry(run).or_default().push(*epoch);
        }
        for row in &rows {
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
    fn end(&mut self) -> Result<(), String> {
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
