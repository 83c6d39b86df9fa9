//! What an attempt's word counts, and what its end means for its run.

use jiff::Timestamp;

use super::{Bounds, after, deadline, retry};
use crate::run::{Ending, Illegal, State, Step};

/// The proof that an attempt is the newest of its run and has not ended: only then is anything it
/// says taken in. Made by [`fence`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current(());

/// The fence: whether the attempt `epoch` may still speak for a run whose newest is `newest`.
pub fn fence(newest: i64, epoch: i64, is_open: bool) -> Option<Current> {
    (newest == epoch && is_open).then_some(Current(()))
}

#[cfg(test)]
impl Current {
    /// What a store without a fence would believe: for the simulation that has to catch it.
    pub(crate) fn believed() -> Self {
        Self(())
    }
}

/// What there is to know of a run when its attempt ends.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Its id.
    pub run: &'a str,
    /// Where it is.
    pub state: State,
    /// How many attempts came to life, this one included.
    pub spent: i64,
    /// How often it may run again.
    pub retries: i64,
    /// When it was submitted.
    pub created: Timestamp,
    /// Its bounds.
    pub bounds: &'a Bounds,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Seen from the run.
    pub ending: Ending,
    /// Whether no retry can help.
    pub hopeless: bool,
}

/// What follows for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The step it takes.
    pub step: Step,
    /// Where that leads.
    pub state: State,
    /// When it is due, where it runs again.
    pub due: Option<Timestamp>,
}

/// The end of an attempt: the end of its run, or another attempt later. A retry that would only
/// begin after the run's total time is over is not waited for.
pub fn finish(
    _: Current,
    facts: &Facts<'_>,
    report: Report,
    now: Timestamp,
) -> Result<Settled, Illegal> {
    let due = after(now, retry::delay_ms(facts.run, facts.spent, facts.bounds));
    let in_time = deadline::total(facts.created, facts.bounds).is_none_or(|end| due < end);
    let again =
        report.ending.is_retryable() && !report.hopeless && facts.spent <= facts.retries && in_time;
    let step = if again {
        Step::RetryLater
    } else {
        Step::End(report.ending)
    };
    let state = facts.state.after(step)?;
    let due = (state == State::Scheduled).then_some(due);
    Ok(Settled { step, state, due })
}

/// Taking back an attempt that never came to life: nothing is spent.
pub fn take_back(_: Current, state: State) -> Result<State, Illegal> {
    state.after(Step::Unclaim)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn settle(state: State, spent: i64, retries: i64, report: Report) -> Result<State, Illegal> {
        let facts = Facts {
            run: "r",
            state,
            spent,
            retries,
            created: at(0),
            bounds: &Bounds::default(),
        };
        finish(Current(()), &facts, report, at(10)).map(|settled| {
            assert_eq!(settled.due.is_some(), settled.state == State::Scheduled);
            settled.state
        })
    }

    fn report(ending: Ending) -> Report {
        Report {
            ending,
            hopeless: false,
        }
    }

    #[test]
    fn only_the_newest_open_attempt_passes_the_fence() {
        assert!(fence(2, 2, true).is_some());
        assert!(fence(2, 1, true).is_none());
        assert!(fence(1, 2, true).is_none());
        assert!(fence(2, 2, false).is_none());
    }

    #[test]
    fn a_retry_is_spent_only_where_it_may_help() {
        let of = |ending, spent, retries, hopeless| {
            let report = Report { ending, hopeless };
            settle(State::Running, spent, retries, report).unwrap()
        };
        assert_eq!(of(Ending::Failed, 1, 1, false), State::Scheduled);
        assert_eq!(of(Ending::Failed, 2, 1, false), State::Failed);
        assert_eq!(of(Ending::Failed, 1, 1, true), State::Failed);
        assert_eq!(of(Ending::Succeeded, 1, 9, false), State::Succeeded);
        assert_eq!(of(Ending::Lost, 1, 0, false), State::Lost);
        assert_eq!(of(Ending::TimedOut, 1, 1, false), State::Scheduled);
    }

    #[test]
    fn a_cancel_wins_and_what_has_ended_is_not_ended_again() {
        for ending in [Ending::Succeeded, Ending::Failed, Ending::Lost] {
            let canceled = settle(State::Canceling, 1, 9, report(ending));
            assert_eq!(canceled.unwrap(), State::Canceled);
            let twice = settle(State::Succeeded, 1, 9, report(ending));
            assert!(twice.is_err(), "{twice:?}");
        }
    }

    #[test]
    fn no_retry_begins_after_the_total_time() {
        let bounds = Bounds {
            total_ms: Some(20_000),
            retry_delay_ms: Some(4_000),
            ..Bounds::default()
        };
        let of = |now| {
            let facts = Facts {
                run: "r",
                state: State::Running,
                spent: 1,
                retries: 5,
                created: at(0),
                bounds: &bounds,
            };
            finish(Current(()), &facts, report(Ending::Failed), at(now))
                .unwrap()
                .state
        };
        assert_eq!(of(10), State::Scheduled);
        assert_eq!(of(19), State::Failed);
    }
}
