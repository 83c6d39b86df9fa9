//! Named places at which a test lets the backend be killed, as the kernel or a person would: at once
//! and without a word.
//!
//! They exist in debug builds only. In any other build [`CrashPoint::reached`] is empty, nothing reads
//! the variable, and its name is not in the program: `tests/tests/guards/crash_points.rs` and
//! `make release-smoke` look.
//!
//! `ORKET_BACKEND_CRASH_AT=run_claimed` kills the process when it is there for the first time,
//! `run_claimed:3` the third time, `any:57` at the 57th of all places it passes.

/// A place, between two steps of which a crash must not tear apart what was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// A step of the schema is committed.
    SchemaStepCommitted,
    /// This boot has its epoch.
    BootEpochTaken,
    /// Requests were executed, and their commit is due.
    CommitDue,
    /// They are committed, and nobody was told.
    Committed,
    /// A submission is committed and not answered.
    SubmissionCommitted,
    /// A run is claimed, and its supervisor is not started.
    RunClaimed,
    /// The files of an attempt are there, and no supervisor.
    AttemptPrepared,
    /// A supervisor lives, and the store does not know it.
    SupervisorSpawned,
    /// The store knows that an attempt has started.
    AttemptStarted,
    /// An attempt of an earlier boot is found, and not followed yet.
    AttemptAdopted,
    /// Output is taken in.
    OutputTaken,
    /// The end of an attempt is read and not recorded.
    ExitRead,
    /// The end of an attempt is recorded, and its files are there.
    AttemptSettled,
    /// An attempt failed, and another one is planned.
    RetryPlanned,
    /// A run feels that one it waits for has ended; not committed.
    DependencyReleased,
    /// A cancel is asked for and not recorded.
    CancelAsked,
    /// A cancel is recorded, and nothing was done about it.
    CancelCommitted,
    /// A supervisor is about to be told to end its tree.
    TermDue,
    /// It was told; whoever does not listen is not killed yet.
    TermSent,
    /// The time of a schedule has come, and nothing is recorded.
    TickDue,
    /// The runs of a schedule are recorded.
    TickCommitted,
    /// A delivery has come in, and nothing is recorded.
    DeliveryReceived,
    /// It is recorded with what it causes, and not answered.
    DeliveryCommitted,
    /// One of several cards is archived; not committed.
    CardArchived,
    /// A queue is paused, and nobody was told.
    QueuePaused,
    /// One of several runs is replayed; not committed.
    RunReplayed,
    /// A sandbox is recorded, and nothing of it exists.
    SandboxRecorded,
    /// One service of a sandbox is started; not recorded.
    ServiceSpawned,
    /// All services of a sandbox are started, and nobody looks after them.
    SandboxStarted,
    /// All processes of a sandbox are gone; not recorded.
    SandboxEnded,
    /// All files of a sandbox are gone; not recorded.
    SandboxCleared,
    /// A stop waits for the runs to end.
    Draining,
}

impl CrashPoint {
    /// All places.
    pub const ALL: [Self; 32] = [
        Self::SchemaStepCommitted,
        Self::BootEpochTaken,
        Self::CommitDue,
        Self::Committed,
        Self::SubmissionCommitted,
        Self::RunClaimed,
        Self::AttemptPrepared,
        Self::SupervisorSpawned,
        Self::AttemptStarted,
        Self::AttemptAdopted,
        Self::OutputTaken,
        Self::ExitRead,
        Self::AttemptSettled,
        Self::RetryPlanned,
        Self::DependencyReleased,
        Self::CancelAsked,
        Self::CancelCommitted,
        Self::TermDue,
        Self::TermSent,
        Self::TickDue,
        Self::TickCommitted,
        Self::DeliveryReceived,
        Self::DeliveryCommitted,
        Self::CardArchived,
        Self::QueuePaused,
        Self::RunReplayed,
        Self::SandboxRecorded,
        Self::ServiceSpawned,
        Self::SandboxStarted,
        Self::SandboxEnded,
        Self::SandboxCleared,
        Self::Draining,
    ];

    /// Its name, as the variable has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SchemaStepCommitted => "schema_step_committed",
            Self::BootEpochTaken => "boot_epoch_taken",
            Self::CommitDue => "commit_due",
            Self::Committed => "committed",
            Self::SubmissionCommitted => "submission_committed",
            Self::RunClaimed => "run_claimed",
            Self::AttemptPrepared => "attempt_prepared",
            Self::SupervisorSpawned => "supervisor_spawned",
            Self::AttemptStarted => "attempt_started",
            Self::AttemptAdopted => "attempt_adopted",
            Self::OutputTaken => "output_taken",
            Self::ExitRead => "exit_read",
            Self::AttemptSettled => "attempt_settled",
            Self::RetryPlanned => "retry_planned",
            Self::DependencyReleased => "dependency_released",
            Self::CancelAsked => "cancel_asked",
            Self::CancelCommitted => "cancel_committed",
            Self::TermDue => "term_due",
            Self::TermSent => "term_sent",
            Self::TickDue => "tick_due",
            Self::TickCommitted => "tick_committed",
            Self::DeliveryReceived => "delivery_received",
            Self::DeliveryCommitted => "delivery_committed",
            Self::CardArchived => "card_archived",
            Self::QueuePaused => "queue_paused",
            Self::RunReplayed => "run_replayed",
            Self::SandboxRecorded => "sandbox_recorded",
            Self::ServiceSpawned => "service_spawned",
            Self::SandboxStarted => "sandbox_started",
            Self::SandboxEnded => "sandbox_ended",
            Self::SandboxCleared => "sandbox_cleared",
            Self::Draining => "draining",
        }
    }

    /// The process is there: in a debug build that was told to end here, this does not return.
    #[inline]
    pub fn reached(self) {
        #[cfg(debug_assertions)]
        armed::reached(self);
    }
}

/// What this process was told to be killed at, if it was; an error when that names no place.
pub fn armed() -> Result<Option<String>, String> {
    #[cfg(debug_assertions)]
    return armed::text();
    #[cfg(not(debug_assertions))]
    Ok(None)
}

#[cfg(debug_assertions)]
mod armed {
    use std::{
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
        thread,
    };

    use rustix::process::{Signal, getpid, kill_process};

    use super::CrashPoint;

    const VARIABLE: &str = "ORKET_BACKEND_CRASH_AT";

    struct Armed {
        text: String,
        /// `None`: at any place.
        at: Option<CrashPoint>,
        /// How often it has to be passed, the last time included.
        left: AtomicU64,
    }

    static ARMED: LazyLock<Result<Option<Armed>, String>> = LazyLock::new(|| {
        let Ok(text) = std::env::var(VARIABLE) else {
            return Ok(None);
        };
        let (name, times) = text.split_once(':').unwrap_or((&text, "1"));
        let at = CrashPoint::ALL.into_iter().find(|at| at.name() == name);
        let left = times.parse::<u64>().ok().filter(|left| *left > 0);
        match (at, left) {
            (None, _) if name != "any" => Err(format!("{VARIABLE}: there is no place {name:?}")),
            (_, None) => Err(format!("{VARIABLE}: {times:?} is no number of times")),
            (at, Some(left)) => Ok(Some(Armed {
                at,
                left: left.into(),
                text,
            })),
        }
    });

    pub(super) fn text() -> Result<Option<String>, String> {
        match &*ARMED {
            Ok(armed) => Ok(armed.as_ref().map(|armed| armed.text.clone())),
            Err(error) => Err(error.clone()),
        }
    }

    pub(super) fn reached(point: CrashPoint) {
        let Ok(Some(armed)) = &*ARMED else { return };
        if armed.at.is_some_and(|at| at != point) || armed.left.fetch_sub(1, Ordering::SeqCst) != 1
        {
            return;
        }
        while kill_process(getpid(), Signal::KILL).is_ok() {
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CrashPoint;

    #[test]
    fn every_place_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> =
            CrashPoint::ALL.iter().map(|at| at.name()).collect();
        assert_eq!(names.len(), CrashPoint::ALL.len());
        assert!(!names.contains("any"));
    }
}
