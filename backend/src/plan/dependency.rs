//! What the end of a run means for the runs that wait for it.
//!
//! The rule: a run that needs another's success goes on when that has succeeded, and is canceled
//! (`dependency_failed`) when it ended in any other way; what needs this one in turn is canceled
//! with it. A run that only comes after another goes on however that ended.

use crate::run::Ending;

/// What a run wants of a run before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// That it has succeeded.
    Success,
    /// That it has ended.
    End,
}

/// What happens to the run that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It waits for one run less.
    Released,
    /// It will never be able to start.
    Forsaken,
}

impl Need {
    /// All needs.
    pub const ALL: [Self; 2] = [Self::Success, Self::End];

    /// What the end of the run before it does.
    pub fn met_by(self, ending: Ending) -> Effect {
        match (self, ending) {
            (Self::End, _) | (Self::Success, Ending::Succeeded) => Effect::Released,
            (
                Self::Success,
                Ending::Failed | Ending::TimedOut | Ending::Canceled | Ending::Lost,
            ) => Effect::Forsaken,
        }
    }

    /// Its name, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::End => "end",
        }
    }

    /// The need of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|need| need.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_releases_what_needs_it() {
        let endings = [
            Ending::Succeeded,
            Ending::Failed,
            Ending::TimedOut,
            Ending::Canceled,
            Ending::Lost,
        ];
        for ending in endings {
            assert_eq!(Need::End.met_by(ending), Effect::Released);
            let effect = Need::Success.met_by(ending);
            assert_eq!(effect == Effect::Released, ending == Ending::Succeeded);
        }
        for need in Need::ALL {
            assert_eq!(Need::parse(need.as_str()), Some(need));
        }
    }
}
