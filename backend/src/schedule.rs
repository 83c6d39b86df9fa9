//! The pure core of schedules: when runs are due by a cron expression in a time zone, and what
//! becomes of times that nobody was there for. No I/O, no clock.
//!
//! Next: [`rhythm`] for the expression, its zone and the days on which clocks are set.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub mod rhythm;

use rhythm::Rhythm;

/// How late a time may be acted on before it counts as missed: less than the shortest distance
/// between two.
const LATE: SignedDuration = SignedDuration::from_secs(30);
/// Times looked at one after the other at most; where there are more only the last [`FAR_BACK`]
/// are.
const LOOKED_AT: usize = 5_000;
/// How far back times are looked for, where there are too many.
const FAR_BACK: SignedDuration = SignedDuration::from_hours(24);
/// How far ahead of now a clock may have been when the next time was found: as far as events are told
/// later than they happened. Within that no time comes twice when the clock is set back; beyond it a
/// schedule would be silent for longer than anybody takes for an error.
const AHEAD: SignedDuration = SignedDuration::from_hours(24);
/// Missed times that are made up at once, at most.
pub const MADE_UP_MOST: u32 = 100;
/// With [`Overlap::Queue`]: where so many runs of a schedule wait behind the one that has not ended, the
/// next time has none. A run that hangs must not fill the queue for everybody.
pub const WAITING_MOST: usize = 10;

/// What becomes of times at which no backend was there, or the clock jumped over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Nothing: the next one counts.
    Skip,
    /// One run for all of them.
    Once,
    /// A run for each, the newest ones up to `catch_up`, one after the other whatever `overlap` says.
    All,
}

/// What happens when a run of the schedule has not ended at the next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// No run is made for this time.
    Skip,
    /// The new run waits for the end of the one before. Where 10 wait already, none is made.
    Queue,
    /// The one before is canceled, and the new run starts when it has ended.
    Cancel,
}

impl Missed {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Skip, Self::Once, Self::All];

    /// Its name, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|missed| missed.as_str() == name)
    }
}

impl Overlap {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Skip, Self::Queue, Self::Cancel];

    /// Its name, as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::Cancel => "cancel",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|overlap| overlap.as_str() == name)
    }
}

/// What is to be done at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The times to make runs for, oldest first.
    pub fire: Vec<Timestamp>,
    /// How many times are passed over. Where very many were missed, only those of the last day are
    /// counted.
    pub passed_over: i64,
    /// The next time; `None`: there is none any more.
    pub next: Option<Timestamp>,
}

/// The latest moment by which a next time that stands at `now` may have been found.
pub fn latest_plan(now: Timestamp) -> Timestamp {
    now.saturating_add(AHEAD).unwrap_or(Timestamp::MAX)
}

/// Whether the next time was found, at `planned_at`, by a clock that was more than a day ahead of `now`:
/// it says nothing, and [`anew`] does.
pub fn was_ahead(planned_at: Option<Timestamp>, now: Timestamp) -> bool {
    planned_at.is_some_and(|at| at > latest_plan(now))
}

/// What is due at `now` of a schedule that begins anew: nothing, and the first time after it is next.
pub fn anew(rhythm: &Rhythm, now: Timestamp) -> Due {
    Due {
        fire: Vec::new(),
        passed_over: 0,
        next: rhythm.next(now),
    }
}

/// What is due at `now` of a schedule whose next time was `planned`. Nothing is due before that,
/// also when the clock was set back behind times that have been acted on.
pub fn due(
    rhythm: &Rhythm,
    planned: Timestamp,
    now: Timestamp,
    missed: Missed,
    catch_up: u32,
) -> Due {
    if now < planned {
        return Due {
            fire: Vec::new(),
            passed_over: 0,
            next: Some(planned),
        };
    }
    let (times, next) = between(rhythm, planned, now);
    let all = times.len();
    let on_time = times
        .last()
        .is_some_and(|last| now.duration_since(*last) <= LATE);
    let wanted = match missed {
        Missed::Skip => usize::from(on_time),
        Missed::Once => 1,
        Missed::All => {
            let made_up = usize::try_from(catch_up.min(MADE_UP_MOST)).unwrap_or(0);
            made_up + usize::from(on_time)
        }
    };
    let fire = times
        .into_iter()
        .skip(all.saturating_sub(wanted))
        .collect::<Vec<_>>();
    Due {
        passed_over: i64::try_from(all - fire.len()).unwrap_or(i64::MAX),
        fire,
        next,
    }
}

/// The times from `planned`, which is one, to `now`, and the one after it.
fn between(
    rhythm: &Rhythm,
    planned: Timestamp,
    now: Timestamp,
) -> (Vec<Timestamp>, Option<Timestamp>) {
    let mut times = vec![planned];
    let mut next = rhythm.next(planned);
    while let Some(time) = next.filter(|time| *time <= now) {
        if times.len() == LOOKED_AT {
            let from = now.checked_sub(FAR_BACK).unwrap_or(planned).max(time);
            times.clear();
            next = rhythm.next(from);
            continue;
        }
        times.push(time);
        next = rhythm.next(time);
    }
    (times, next)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn hourly() -> Rhythm {
        Rhythm::parse("0 * * * *", "UTC").unwrap()
    }

    fn of(missed: Missed, now: &str) -> (Vec<String>, i64, String) {
        let due = due(&hourly(), at("2026-03-01T10:00:00Z"), at(now), missed, 3);
        (
            due.fire.iter().map(ToString::to_string).collect(),
            due.passed_over,
            due.next.unwrap().to_string(),
        )
    }

    #[test]
    fn on_time_is_on_time_whatever_the_policy() {
        for missed in Missed::ALL {
            assert_eq!(
                of(missed, "2026-03-01T10:00:29Z"),
                (
                    vec!["2026-03-01T10:00:00Z".into()],
                    0,
                    "2026-03-01T11:00:00Z".into()
                )
            );
            assert_eq!(
                of(missed, "2026-03-01T09:59:59Z"),
                (vec![], 0, "2026-03-01T10:00:00Z".into())
            );
        }
    }

    #[test]
    fn what_was_missed_is_skipped_made_up_once_or_made_up_within_bounds() {
        let now = "2026-03-01T15:30:00Z";
        let next = "2026-03-01T16:00:00Z".to_owned();
        assert_eq!(of(Missed::Skip, now), (vec![], 6, next.clone()));
        let last = "2026-03-01T15:00:00Z".to_owned();
        assert_eq!(of(Missed::Once, now), (vec![last.clone()], 5, next.clone()));
        let three = ["2026-03-01T13:00:00Z", "2026-03-01T14:00:00Z", &last];
        let three = three.map(str::to_owned).to_vec();
        assert_eq!(of(Missed::All, now), (three, 3, next.clone()));
        // Back just in time for one of them.
        let now = "2026-03-01T15:00:10Z";
        assert_eq!(of(Missed::Skip, now), (vec![last.clone()], 5, next.clone()));
        assert_eq!(of(Missed::Once, now), (vec![last], 5, next.clone()));
        let (fire, passed_over, _) = of(Missed::All, now);
        assert_eq!((fire.len(), passed_over), (4, 2));
    }

    #[test]
    fn a_clock_that_is_set_back_repeats_nothing_and_one_set_forward_misses() {
        let rhythm = hourly();
        let mut planned = at("2026-03-01T10:00:00Z");
        let mut fired = Vec::new();
        for now in [
            "2026-03-01T10:00:00Z",
            "2026-03-01T09:00:00Z",
            "2026-03-01T10:00:05Z",
            "2026-03-01T11:00:01Z",
            "2026-03-01T13:30:00Z",
            "2026-03-01T12:30:00Z",
            "2026-03-01T14:00:00Z",
        ] {
            let due = due(&rhythm, planned, at(now), Missed::Skip, 0);
            fired.extend(due.fire.iter().map(ToString::to_string));
            planned = due.next.unwrap();
        }
        let expected = ["10", "11", "14"].map(|hour| format!("2026-03-01T{hour}:00:00Z"));
        assert_eq!(fired, expected);
    }

    #[test]
    fn a_clock_that_was_far_ahead_holds_no_schedule_up() {
        let now = at("2026-03-01T10:30:00Z");
        assert!(!was_ahead(None, now));
        assert!(!was_ahead(Some(at("2026-02-01T10:30:00Z")), now));
        assert!(!was_ahead(Some(at("2026-03-02T10:30:00Z")), now));
        assert!(was_ahead(Some(at("2026-03-02T10:30:01Z")), now));
        let again = anew(&hourly(), now);
        assert_eq!((again.fire, again.passed_over), (vec![], 0));
        assert_eq!(again.next, Some(at("2026-03-01T11:00:00Z")));
    }

    #[test]
    fn years_of_minutes_are_not_counted_one_by_one() {
        let rhythm = Rhythm::parse("* * * * *", "UTC").unwrap();
        let now = at("2026-03-01T10:00:30Z");
        let due = due(&rhythm, at("2000-01-01T00:00:00Z"), now, Missed::All, 1_000);
        assert_eq!(due.fire.len(), 101, "the bound holds");
        assert_eq!(due.fire.last(), Some(&at("2026-03-01T10:00:00Z")));
        assert_eq!(due.next, Some(at("2026-03-01T10:01:00Z")));
    }
}
