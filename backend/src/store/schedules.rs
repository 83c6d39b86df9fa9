//! Schedules: their record, and making the runs of their times, each time once.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Listing, StoreError,
    idempotency::{Answer, Idempotency, KeyReused, Once},
};
use crate::{
    plan::Rules,
    schedule::{Due, Missed, Overlap},
    work::Work,
};

/// A schedule as stored.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Its place in the order of making.
    pub seq: i64,
    /// What was asked for.
    pub new: NewSchedule,
    /// Since when it is paused.
    pub paused_at: Option<Timestamp>,
    /// The next time; `None` while it is paused.
    pub next_at: Option<Timestamp>,
    /// What the clock showed when that was found; `None`: nobody knows.
    pub planned_at: Option<Timestamp>,
    /// The newest time that a run was made for.
    pub last_at: Option<Timestamp>,
    /// That run.
    pub last_run: Option<String>,
    /// Why the newest time has no run.
    pub last_error: Option<String>,
    /// How many runs it has made.
    pub made: i64,
    /// How many times have no run.
    pub passed_over: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed by somebody.
    pub updated_at: Timestamp,
}

/// A schedule to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSchedule {
    /// Its id.
    pub id: String,
    /// When, see [`crate::schedule::rhythm`].
    pub cron: String,
    /// In which time zone.
    pub time_zone: String,
    /// What becomes of missed times.
    pub missed: Missed,
    /// What happens while a run of it has not ended.
    pub overlap: Overlap,
    /// Missed times made up at once, at most.
    pub catch_up: u32,
    /// What its runs do.
    pub subject: Scheduled,
    /// The queue its runs wait in.
    pub queue: String,
    /// The build its runs belong to.
    pub build_id: Option<String>,
    /// Who made it.
    pub actor: String,
}

/// What the runs of a schedule do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scheduled {
    /// A card's command, as it is then.
    Card {
        /// The card.
        card: String,
    },
    /// A command of its own.
    Command {
        /// The command.
        command: Work,
        /// 0 to 9, larger first.
        priority: i64,
    },
}

/// Why a schedule is not made or changed. Nothing has changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ScheduleError {
    /// A schedule of that id exists.
    #[error("A schedule with the id {0} exists already. Nothing was changed.")]
    Exists(String),
    /// There is no such schedule.
    #[error("There is no such schedule.")]
    Unknown,
    /// There is no such card.
    #[error("There is no card {0}.")]
    UnknownCard(String),
    /// The same idempotency key came with another request.
    #[error(transparent)]
    KeyReused(#[from] KeyReused),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of the times of a schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fired {
    /// Runs that were made.
    pub made: Vec<String>,
    /// Runs that have to be ended for them.
    pub canceling: Vec<String>,
}

/// How a schedule is to be from now on.
#[derive(Debug, Clone)]
pub struct Reform {
    /// Its content; id and actor are not looked at.
    pub to: NewSchedule,
    /// Whether it is paused; `None`: as it was.
    pub paused: Option<bool>,
    /// The next time, for a schedule that is not paused.
    pub next: Option<Timestamp>,
}

/// Schedules, and the runs of their times.
#[async_trait]
pub trait ScheduleStore: Send + Sync {
    /// Makes a schedule, once for each idempotency key.
    async fn create_schedule(
        &self,
        now: Timestamp,
        new: NewSchedule,
        next: Option<Timestamp>,
        idempotency: Option<Idempotency>,
        answer: Answer<Schedule>,
    ) -> Result<Once<Schedule>, ScheduleError>;

    /// Changes a schedule that is still as `seen`; `None`: it is not, look again.
    async fn change_schedule(
        &self,
        now: Timestamp,
        seen: Schedule,
        reform: Reform,
    ) -> Result<Option<Schedule>, ScheduleError>;

    /// Removes a schedule. Its runs stay, and those that wait go on.
    async fn delete_schedule(&self, now: Timestamp, id: String) -> Result<(), ScheduleError>;

    /// The schedule of that id.
    async fn schedule(&self, id: String) -> Result<Option<Schedule>, StoreError>;

    /// Schedules, newest first, those before the one of number `before`.
    async fn schedules(
        &self,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Listing<Schedule>, StoreError>;

    /// The schedules whose next time has come or was found by a clock that was far
    /// [ahead](crate::schedule::was_ahead), and when the next of the others is.
    async fn due_schedules(
        &self,
        now: Timestamp,
    ) -> Result<(Vec<Schedule>, Option<Timestamp>), StoreError>;

    /// Makes the runs of a schedule's times and moves on to the next time, in one transition: no
    /// time is acted on twice. A schedule that is not as `seen` any more is left alone.
    async fn fire_schedule(
        &self,
        now: Timestamp,
        seen: Schedule,
        due: Due,
        rules: Arc<Rules>,
    ) -> Result<Fired, StoreError>;
}
