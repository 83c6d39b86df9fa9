//! What is done about what the records say and what the engine holds: one table, complete and pure.
//!
//! The engine's side is only what carries the label of our store. Everything else is nobody's
//! business here and is not even listed.

/// What the store says of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// There is no record of that id, or the label is no id at all.
    None,
    /// It waits for a place, or is being started.
    Creating,
    /// It is meant to live, and was well once (`running` or `unhealthy`).
    Living,
    /// Its end was begun (`stopping`, or `failed` with containers not yet seen gone).
    Ending,
    /// Its containers were seen stopped, and nobody asked for its removal (`stopped` or `failed`).
    Ended,
    /// The same, and its removal was asked for.
    Removing,
    /// All of it was seen gone.
    Deleted,
}

/// What the engine holds of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// It cannot be said: the engine does not answer.
    Unknown,
    /// Nothing.
    Nothing,
    /// A network or a volume, and no container.
    Remains,
    /// Fewer containers than services, or some that do not run.
    Partly,
    /// A container for each service, none of which runs.
    Down,
    /// A running container for each service.
    Up,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing: it is as it should be.
    Keep,
    /// Nothing yet: the next look may see more.
    Wait,
    /// What was begun goes on.
    GoOn,
    /// It ends as failed: what it needs is not there.
    Fail,
    /// What runs is ended once more.
    EndAgain,
    /// A leak: removed, warned of and counted.
    Reclaim,
    /// Left alone and named for a person to look at.
    Quarantine,
}

impl Record {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Creating,
        Self::Living,
        Self::Ending,
        Self::Ended,
        Self::Removing,
        Self::Deleted,
    ];
}

impl Holding {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Unknown,
        Self::Nothing,
        Self::Remains,
        Self::Partly,
        Self::Down,
        Self::Up,
    ];
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Keep,
        Self::Wait,
        Self::GoOn,
        Self::Fail,
        Self::EndAgain,
        Self::Reclaim,
        Self::Quarantine,
    ];
}

/// The table.
pub fn decide(record: Record, holding: Holding) -> Action {
    use Holding::{Down, Nothing, Partly, Remains, Unknown, Up};
    match (record, holding) {
        // What cannot be seen is neither ended nor gone.
        (_, Unknown) => Action::Wait,
        (Record::None | Record::Deleted, Nothing) => Action::Keep,
        // The label says that it is ours and the store does not know it: a store that was set back,
        // or a label that somebody else wrote. Removing it could destroy what cannot be had again.
        (Record::None, Remains | Partly | Down | Up) => Action::Quarantine,
        (Record::Creating, Nothing | Remains | Partly | Down | Up) => Action::GoOn,
        (Record::Living, Nothing | Remains | Partly | Down) => Action::Fail,
        (Record::Living, Up) => Action::Keep,
        (Record::Ending, Nothing | Remains | Partly | Down | Up) => Action::GoOn,
        (Record::Ended, Nothing | Remains | Down) => Action::Keep,
        // Somebody started it by hand; its ports may belong to another one by now.
        (Record::Ended, Partly | Up) => Action::EndAgain,
        (Record::Removing, Nothing | Remains | Partly | Down | Up) => Action::GoOn,
        // Made by the engine after it was asked by a backend that was killed.
        (Record::Deleted, Remains | Partly | Down | Up) => Action::Reclaim,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for record in Record::ALL {
            for holding in Holding::ALL {
                let action = decide(record, holding);
                writeln!(table, "{record:?} {holding:?} {action:?}").ok();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn only_what_is_recorded_as_gone_is_taken_away_and_only_what_is_seen_is_judged() {
        for record in Record::ALL {
            for holding in Holding::ALL {
                let action = decide(record, holding);
                if action == Action::Reclaim {
                    assert_eq!(record, Record::Deleted, "{holding:?}");
                }
                if holding == Holding::Unknown {
                    assert_eq!(action, Action::Wait, "{record:?}");
                }
                if record == Record::None {
                    let touched = [
                        Action::Reclaim,
                        Action::EndAgain,
                        Action::Fail,
                        Action::GoOn,
                    ];
                    assert!(!touched.contains(&action), "{holding:?}");
                }
            }
        }
    }
}
