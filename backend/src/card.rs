//! The pure core of cards: units of work, their states and what may follow what. No I/O, no clock.

use serde::{Deserialize, Serialize};

/// Where a card is in its life.
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
pub enum Status {
    /// Waits to be run.
    Ready,
    /// A run of it is on its way.
    InProgress,
    /// A pull request for it is open.
    CodeReview,
    /// Its run succeeded.
    Done,
    /// Its run did not succeed; someone has to look.
    Blocked,
    /// Its run was canceled, or it is not wanted any more.
    Canceled,
    /// Put away; its history is kept.
    Archived,
}

/// What happens to a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A run of it was submitted.
    Start,
    /// That run ended.
    RunEnded(crate::run::Ending),
    /// A pull request that names it was opened or got new commits.
    Review,
    /// A person puts it into a state.
    Set(Status),
    /// It is put away.
    Archive,
}

/// A step that the card's status does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a card that is {} cannot take the step {step:?}", from.as_str())]
pub struct Illegal {
    /// The status it has.
    pub from: Status,
    /// What was tried.
    pub step: Step,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 15] = {
        use crate::run::Ending;
        [
            Self::Start,
            Self::RunEnded(Ending::Succeeded),
            Self::RunEnded(Ending::Failed),
            Self::RunEnded(Ending::TimedOut),
            Self::RunEnded(Ending::Canceled),
            Self::RunEnded(Ending::Lost),
            Self::Review,
            Self::Set(Status::Ready),
            Self::Set(Status::InProgress),
            Self::Set(Status::CodeReview),
            Self::Set(Status::Done),
            Self::Set(Status::Blocked),
            Self::Set(Status::Canceled),
            Self::Set(Status::Archived),
            Self::Archive,
        ]
    };
}

impl Status {
    /// All statuses.
    pub const ALL: [Self; 7] = [
        Self::Ready,
        Self::InProgress,
        Self::CodeReview,
        Self::Done,
        Self::Blocked,
        Self::Canceled,
        Self::Archived,
    ];

    /// The status after `step`, or why there is none.
    pub fn after(self, step: Step) -> Result<Self, Illegal> {
        use crate::run::Ending;
        let illegal = Err(Illegal { from: self, step });
        match (self, step) {
            // Nothing happens to what was put away, and archiving it again changes nothing.
            (_, Step::Archive) => Ok(Self::Archived),
            (Self::Archived, _) => illegal,
            (_, Step::Start) => Ok(Self::InProgress),
            (Self::InProgress, Step::RunEnded(ending)) => Ok(match ending {
                Ending::Succeeded => Self::Done,
                Ending::Failed | Ending::TimedOut | Ending::Lost => Self::Blocked,
                Ending::Canceled => Self::Canceled,
            }),
            // Someone moved it while the run was on its way: their word holds.
            (
                Self::Ready | Self::CodeReview | Self::Done | Self::Blocked | Self::Canceled,
                Step::RunEnded(_),
            ) => Ok(self),
            (
                Self::Ready | Self::InProgress | Self::CodeReview | Self::Done | Self::Blocked,
                Step::Review,
            ) => Ok(Self::CodeReview),
            (Self::Canceled, Step::Review) => illegal,
            (_, Step::Set(status)) => match status {
                Self::Ready | Self::CodeReview | Self::Done | Self::Blocked | Self::Canceled => {
                    Ok(status)
                }
                // Only a run puts a card in progress, and archiving has a way of its own.
                Self::InProgress if self == Self::InProgress => Ok(self),
                Self::InProgress | Self::Archived => illegal,
            },
        }
    }

    /// Its name, as stored and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::InProgress => "in_progress",
            Self::CodeReview => "code_review",
            Self::Done => "done",
            Self::Blocked => "blocked",
            Self::Canceled => "canceled",
            Self::Archived => "archived",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use std::fmt::Write as _;

    use super::*;
    use crate::run::Ending;

    #[test]
    fn the_whole_table() {
        let endings = [
            Ending::Succeeded,
            Ending::Failed,
            Ending::TimedOut,
            Ending::Canceled,
            Ending::Lost,
        ];
        let mut steps = vec![Step::Start, Step::Review, Step::Archive];
        steps.extend(endings.map(Step::RunEnded));
        steps.extend(Status::ALL.map(Step::Set));
        let mut table = String::new();
        for from in Status::ALL {
            for step in &steps {
                let to = from.after(*step).map_or("-", Status::as_str);
                writeln!(table, "{} {step:?} {to}", from.as_str()).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_name_leads_back_to_its_status() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
    }
}
