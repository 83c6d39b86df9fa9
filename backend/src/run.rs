//! The pure core of runs: their states and what may follow what. No I/O, no clock.
//!
//! Every change of a run's state anywhere goes through [`State::after`]; what it does not allow is
//! an error value, never a repaired state.

use serde::{Deserialize, Serialize};

/// Where a run is in its life.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not yet: a retry that waits for its time, or a run that waits for others.
    Scheduled,
    /// Waits for a free slot.
    Queued,
    /// An attempt was claimed for it.
    Running,
    /// A cancel was asked for; its processes may still live.
    Canceling,
    /// The command ended with exit status 0.
    Succeeded,
    /// The command ended otherwise, or could not be started.
    Failed,
    /// The command outlived one of its bounds and was ended, or waited too long.
    TimedOut,
    /// Ended on request, and nothing of it lives any more; or what it needed did not succeed.
    Canceled,
    /// Nobody can say how it ended, and no retry was left.
    Lost,
}

/// What happens to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its time has come.
    Due,
    /// A slot is free and the scheduler takes it.
    Claim,
    /// Its newest attempt ended for good.
    End(Ending),
    /// Its newest attempt ended and another is allowed, later.
    RetryLater,
    /// Its attempt never came to life: back into the queue, nothing was spent.
    Unclaim,
    /// It has waited too long.
    Expire,
    /// A run that it needs did not succeed.
    Forsake,
    /// Someone wants it ended.
    Cancel,
}

/// How an attempt ended, seen from the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Exit status 0.
    Succeeded,
    /// Any other end of the command.
    Failed,
    /// Ended by its timeout.
    TimedOut,
    /// Ended on request; its tree was seen gone.
    Canceled,
    /// Nobody knows.
    Lost,
}

/// A step that the run's state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a run that is {} cannot take the step {step:?}", from.as_str())]
pub struct Illegal {
    /// The state it is in.
    pub from: State,
    /// What was tried.
    pub step: Step,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 12] = [
        Self::Due,
        Self::Claim,
        Self::End(Ending::Succeeded),
        Self::End(Ending::Failed),
        Self::End(Ending::TimedOut),
        Self::End(Ending::Canceled),
        Self::End(Ending::Lost),
        Self::RetryLater,
        Self::Unclaim,
        Self::Expire,
        Self::Forsake,
        Self::Cancel,
    ];
}

impl State {
    /// All states, in the order of a run's life.
    pub const ALL: [Self; 9] = [
        Self::Scheduled,
        Self::Queued,
        Self::Running,
        Self::Canceling,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Canceled,
        Self::Lost,
    ];

    /// The state after `step`, or why there is none.
    pub fn after(self, step: Step) -> Result<Self, Illegal> {
        let illegal = Err(Illegal { from: self, step });
        match (self, step) {
            (Self::Scheduled, Step::Due) | (Self::Running, Step::Unclaim) => Ok(Self::Queued),
            (Self::Queued, Step::Claim) => Ok(Self::Running),
            (Self::Running, Step::RetryLater) => Ok(Self::Scheduled),
            (Self::Scheduled | Self::Queued, Step::Cancel) | (Self::Scheduled, Step::Forsake) => {
                Ok(Self::Canceled)
            }
            (Self::Scheduled | Self::Queued, Step::Expire) => Ok(Self::TimedOut),
            (Self::Running | Self::Canceling, Step::Cancel) => Ok(Self::Canceling),
            // Whatever its end looked like: it was asked to end, and it did.
            (Self::Canceling, Step::End(_) | Step::Unclaim | Step::RetryLater) => {
                Ok(Self::Canceled)
            }
            (Self::Running, Step::End(ending)) => Ok(match ending {
                Ending::Succeeded => Self::Succeeded,
                Ending::Failed => Self::Failed,
                Ending::TimedOut => Self::TimedOut,
                Ending::Canceled => Self::Canceled,
                Ending::Lost => Self::Lost,
            }),
            (Self::Scheduled, Step::Claim | Step::End(_) | Step::RetryLater | Step::Unclaim)
            | (
                Self::Queued,
                Step::Due | Step::End(_) | Step::RetryLater | Step::Unclaim | Step::Forsake,
            )
            | (
                Self::Running | Self::Canceling,
                Step::Due | Step::Claim | Step::Expire | Step::Forsake,
            )
            | (Self::Succeeded | Self::Failed | Self::TimedOut | Self::Canceled | Self::Lost, _) => {
                illegal
            }
        }
    }

    /// Whether processes of it may live: what `active` counts.
    pub fn is_active(self) -> bool {
        match self {
            Self::Running | Self::Canceling => true,
            Self::Scheduled
            | Self::Queued
            | Self::Succeeded
            | Self::Failed
            | Self::TimedOut
            | Self::Canceled
            | Self::Lost => false,
        }
    }

    /// Whether nothing will ever happen to it again.
    pub fn is_final(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::TimedOut | Self::Canceled | Self::Lost => true,
            Self::Scheduled | Self::Queued | Self::Running | Self::Canceling => false,
        }
    }

    /// How it ended, once it has.
    pub fn ending(self) -> Option<Ending> {
        match self {
            Self::Succeeded => Some(Ending::Succeeded),
            Self::Failed => Some(Ending::Failed),
            Self::TimedOut => Some(Ending::TimedOut),
            Self::Canceled => Some(Ending::Canceled),
            Self::Lost => Some(Ending::Lost),
            Self::Scheduled | Self::Queued | Self::Running | Self::Canceling => None,
        }
    }

    /// Its name, as stored and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
            Self::Lost => "lost",
        }
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

impl Ending {
    /// Whether another attempt may help.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Failed | Self::TimedOut | Self::Lost => true,
            Self::Succeeded | Self::Canceled => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for from in State::ALL {
            for step in Step::ALL {
                let to = from.after(step).map_or("-", State::as_str);
                writeln!(table, "{} {step:?} {to}", from.as_str()).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn nothing_follows_a_final_state_and_everything_else_can_end() {
        for from in State::ALL {
            let next: Vec<_> = Step::ALL
                .iter()
                .filter_map(|step| from.after(*step).ok())
                .collect();
            assert_eq!(next.is_empty(), from.is_final(), "{from:?}");
        }
    }

    #[test]
    fn a_name_leads_back_to_its_state() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert_eq!(State::parse("Running"), None);
    }
}
