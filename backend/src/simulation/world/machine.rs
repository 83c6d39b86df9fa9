//! The machine: supervisors with their commands, messages on their way, and what breaks.

use super::{
    super::{Ledger, Row},
    World,
};
use crate::{
    plan::attempt::Report,
    run::{Ending, State},
};

pub(super) type AttemptId = (String, i64);

/// What is on its way within a backend.
#[derive(Debug, Clone)]
pub(super) enum Message {
    /// Start the process of an attempt.
    Start(AttemptId),
    /// Tell the store how an attempt ended.
    Finish(AttemptId, Ending),
    /// Look into the waiting runs: a retry, or a bound of waiting, is due.
    Wake,
}

/// A supervisor with its command.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) is_alive: bool,
    /// When it ends by itself, in steady time.
    pub(super) ends: i64,
    pub(super) ending: Ending,
}

impl<L: Ledger> World<L> {
    pub(super) fn next_event(&self) -> Option<i64> {
        let ends = self.machine.values().filter(|process| process.is_alive);
        let mail = self.mail.iter().map(|(at, _)| *at);
        ends.map(|process| process.ends).chain(mail).min()
    }

    pub(super) fn run_to(&mut self, at: i64) -> Result<(), String> {
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

    pub(super) fn end_processes(&mut self, run: &str) {
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

    pub(super) fn lose_a_supervisor(&mut self) {
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
    pub(super) fn crash(&mut self) {
        self.tally.crashes += 1;
        for (at, message) in std::mem::take(&mut self.mail) {
            if self.chance(40) {
                let late = at + self.delay() * 4;
                self.mail.push((late, message));
            }
        }
    }

    /// The next boot looks at every attempt whose end is not recorded.
    pub(super) fn settle(&mut self) -> Result<(), String> {
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
}
