//! What becomes of what is waited for when the clock that shows it is set.
//!
//! When a run is given up, or a sandbox removed, is stored as a time of day, which people can read and
//! a restart does not lose. What is meant is a time from then on: so when the clock is set, all of
//! them are moved along. Schedules mean the time of day itself and are left alone.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// What a clock may differ from one that nobody sets before it counts as set: more than one that is
/// slewed loses between two looks.
pub const TOLERANCE: Duration = Duration::from_secs(1);

/// How long somebody may take between looking at the time of day and asking by it.
const MOMENT: Duration = Duration::from_secs(1);

/// By how many microseconds a clock was set: `before` and `now` are what it showed more than the one
/// that nobody sets, in microseconds. `None` when it was not.
pub fn set_by(before: i64, now: i64) -> Option<i64> {
    let by = now.saturating_sub(before);
    (u128::from(by.unsigned_abs()) >= TOLERANCE.as_micros()).then_some(by)
}

/// A time that is waited for, or waited from, after the clock was set by so many microseconds; the
/// first or the last of all times where there is no such.
pub fn moved(time: Timestamp, by: i64) -> Timestamp {
    let edge = if by < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    time.checked_add(SignedDuration::from_micros(by))
        .unwrap_or(edge)
}

/// Whether somebody who asked at `asked` may have looked at the clock before it was found to be set at
/// `set`, both by a clock that nobody sets. What waits was moved along since: by such a look nothing
/// is given up and nothing is due; whoever asks again does so by the clock as it is now.
pub fn in_doubt<T>(asked: T, set: T) -> bool
where
    T: Copy + PartialOrd + std::ops::Add<Duration, Output = T>,
{
    asked <= set + MOMENT
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn a_clock_that_is_slewed_was_not_set() {
        assert_eq!(set_by(5, 5), None);
        assert_eq!(set_by(0, 999_999), None);
        assert_eq!(set_by(0, 1_000_000), Some(1_000_000));
        assert_eq!(set_by(7_200_000_000, 3_600_000_000), Some(-3_600_000_000));
        assert_eq!(set_by(i64::MIN, i64::MAX), Some(i64::MAX));
    }

    #[test]
    fn times_are_moved_and_stay_times() {
        let time = Timestamp::from_second(1_000).unwrap();
        assert_eq!(moved(time, -1_000_000).as_second(), 999);
        assert_eq!(moved(Timestamp::MAX, 1), Timestamp::MAX);
        assert_eq!(moved(Timestamp::MIN, -1), Timestamp::MIN);
        assert_eq!(moved(time, i64::MAX), Timestamp::MAX);
    }

    #[test]
    fn who_may_have_looked_before_is_in_doubt() {
        let second = Duration::from_secs;
        assert!(in_doubt(second(9), second(10)));
        assert!(in_doubt(second(11), second(10)));
        assert!(!in_doubt(second(12), second(10)));
    }
}
