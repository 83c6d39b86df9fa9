//! What has waited or lasted too long.

use std::time::Duration;

use jiff::Timestamp;

use super::{Bounds, after};
use crate::run::{State, Step};

/// Which bound is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The wait in the queue.
    Waiting,
    /// One attempt.
    Attempt,
    /// From submission to the end.
    Total,
    /// Time without output.
    Silence,
}

impl Bound {
    /// All bounds.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Attempt, Self::Total, Self::Silence];

    /// The bound of that reason.
    pub fn parse(reason: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bound| bound.reason() == reason)
    }

    /// The reason that a run gets which has overstepped it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Waiting => "waited_too_long",
            Self::Attempt => "timeout",
            Self::Total => "total_timeout",
            Self::Silence => "silence",
        }
    }

    /// The same for people.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Waiting => "it waited in its queue for longer than it may",
            Self::Attempt => "the command outlived its timeout and was ended",
            Self::Total => "it was not done within its total time, waiting and retries included",
            Self::Silence => "the command wrote nothing for longer than it may and was ended",
        }
    }

    /// Whether another attempt may help.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Attempt | Self::Silence => true,
            Self::Waiting | Self::Total => false,
        }
    }
}

/// When the whole run has to be over.
pub fn total(created: Timestamp, bounds: &Bounds) -> Option<Timestamp> {
    bounds.total_ms.map(|ms| after(created, ms))
}

/// When a run that came into `state` at `since` is given up, and over which bound. A retry that
/// waits for its time, and a run that waits for others, wait in no queue.
pub fn given_up(
    state: State,
    since: Timestamp,
    created: Timestamp,
    bounds: &Bounds,
) -> Option<(Timestamp, Bound)> {
    let total = total(created, bounds).map(|at| (at, Bound::Total));
    let waiting = bounds
        .waiting_ms
        .map(|ms| (after(since, ms), Bound::Waiting));
    match state {
        State::Queued => [waiting, total]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at),
        State::Scheduled => total,
        State::Running
        | State::Canceling
        | State::Succeeded
        | State::Failed
        | State::TimedOut
        | State::Canceled
        | State::Lost => None,
    }
}

/// Whether a run goes on with the wait it was in after this step: an attempt that never came to life
/// has not ended it.
pub fn is_same_wait(step: Step) -> bool {
    matches!(step, Step::Claim | Step::Unclaim)
}

/// Whether a retry, scheduled at `since` for `due`, may go on. A clock that was set back behind the
/// moment of scheduling says nothing about how long is left: it goes on at once rather than late.
pub fn is_due(since: Timestamp, due: Timestamp, now: Timestamp) -> bool {
    due <= now || now < since
}

/// How long an attempt claimed at `claimed` may last, and which bound that is.
pub fn attempt(
    claimed: Timestamp,
    created: Timestamp,
    timeout: Duration,
    bounds: &Bounds,
) -> (Duration, Bound) {
    let left = total(created, bounds)
        .map(|end| Duration::try_from(end.duration_since(claimed)).unwrap_or(Duration::ZERO));
    match left {
        // A timeout of nothing is none: the attempt gets a moment, and is ended then.
        Some(left) if left < timeout => (left.max(Duration::from_millis(1)), Bound::Total),
        Some(_) | None => (timeout, Bound::Attempt),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_nearer_bound_counts() {
        let bounds = |waiting, total| Bounds {
            waiting_ms: waiting,
            total_ms: total,
            ..Bounds::default()
        };
        let given_up = |state, bounds: &Bounds| given_up(state, at(100), at(90), bounds);
        assert_eq!(given_up(State::Queued, &Bounds::default()), None);
        let both = bounds(Some(5_000), Some(20_000));
        assert_eq!(
            given_up(State::Queued, &both),
            Some((at(105), Bound::Waiting))
        );
        let near = bounds(Some(50_000), Some(20_000));
        assert_eq!(
            given_up(State::Queued, &near),
            Some((at(110), Bound::Total))
        );
        assert_eq!(
            given_up(State::Scheduled, &both),
            Some((at(110), Bound::Total))
        );
        for state in State::ALL {
            let waits = matches!(state, State::Queued | State::Scheduled);
            assert_eq!(given_up(state, &both).is_some(), waits, "{state:?}");
        }
        let endless = bounds(Some(u64::MAX), None);
        assert_eq!(
            given_up(State::Queued, &endless),
            Some((Timestamp::MAX, Bound::Waiting))
        );
    }

    #[test]
    fn a_clock_set_back_holds_no_retry() {
        assert!(!is_due(at(100), at(105), at(104)));
        assert!(is_due(at(100), at(105), at(105)));
        assert!(is_due(at(100), at(105), at(99)));
    }

    #[test]
    fn an_attempt_ends_with_the_total_time() {
        let second = Duration::from_secs;
        let bounds = Bounds {
            total_ms: Some(60_000),
            ..Bounds::default()
        };
        let of = |claimed, timeout| attempt(at(claimed), at(0), second(timeout), &bounds);
        assert_eq!(of(10, 20), (second(20), Bound::Attempt));
        assert_eq!(of(50, 20), (second(10), Bound::Total));
        assert_eq!(of(61, 20), (Duration::from_millis(1), Bound::Total));
        let none = Bounds::default();
        assert_eq!(
            attempt(at(10), at(0), second(20), &none),
            (second(20), Bound::Attempt)
        );
    }
}
