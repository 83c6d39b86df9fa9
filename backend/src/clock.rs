//! The clock that nobody sets, and how far the one that is set can be gone by.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How long the time of day has to go on without being set before anything is removed by it.
pub const STEADY_FOR: Duration = Duration::from_hours(1);
/// By how much the time of day may be set, in microseconds, without being in doubt: what is removed
/// is days old.
const LITTLE: u64 = 60_000_000;

/// The time since the machine's boot, sleep included; `None` where the kernel does not tell. It is the
/// kernel's own, in a container as outside.
pub fn since_boot() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .ok()
        .map(Duration::from)
}

/// The time of day as it has gone on beside the clock that nobody sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// The boot of the machine by whose clock this is.
    pub machine: String,
    /// Time of day less the time since that boot, in microseconds.
    pub offset: i64,
    /// Since when it is so, in microseconds since that boot. Below zero: since before it, or for as
    /// long as anybody knows.
    pub since: i64,
}

impl Course {
    /// The course at a moment that shows this time of day at this time since the machine's boot, both
    /// in microseconds. One that is known of `before` goes on unless the time of day was set by a
    /// minute or more, or the machine was restarted: then it begins anew. Where none is known there
    /// is nothing to doubt.
    pub fn at(before: Option<Self>, machine: &str, of_day: i64, since_boot: i64) -> Self {
        let offset = of_day.saturating_sub(since_boot);
        match before {
            Some(course)
                if course.machine == machine && course.offset.abs_diff(offset) < LITTLE =>
            {
                course
            }
            known => Self {
                machine: machine.to_owned(),
                offset,
                since: if known.is_some() {
                    since_boot
                } else {
                    since_boot.saturating_sub_unsigned(micros(STEADY_FOR))
                },
            },
        }
    }

    /// For how much longer it is in doubt, at this time since the machine's boot in microseconds; zero:
    /// it has been steady for [`STEADY_FOR`].
    pub fn doubtful_for(&self, since_boot: i64) -> Duration {
        let steady = since_boot.saturating_sub(self.since).max(0).unsigned_abs();
        STEADY_FOR.saturating_sub(Duration::from_micros(steady))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const HOUR: i64 = 3600 * SECOND;
    const DAY: i64 = 24 * HOUR;

    /// How long the clock is in doubt after it has shown these: machine, time of day less that since
    /// boot, time since boot.
    fn after(seen: &[(&str, i64, i64)]) -> Option<Duration> {
        let mut course = None;
        let mut doubtful = None;
        for (machine, offset, since_boot) in seen {
            let next = Course::at(course, machine, offset + since_boot, *since_boot);
            doubtful = Some(next.doubtful_for(*since_boot));
            course = Some(next);
        }
        doubtful
    }

    #[test]
    fn a_clock_is_gone_by_once_it_was_steady_for_an_hour() {
        let steady = Some(Duration::ZERO);
        // Nothing is known of before.
        assert_eq!(after(&[("a", DAY, 5)]), steady);
        assert_eq!(after(&[("a", DAY, 5), ("a", DAY, 9)]), steady);
        // It is adjusted a little.
        assert_eq!(after(&[("a", DAY, 5), ("a", DAY + 59 * SECOND, 9)]), steady);
        for set in [30 * DAY, -30 * DAY, 60 * SECOND] {
            let (before, set) = (("a", DAY, 0), DAY + set);
            let doubt = |since_boot| after(&[before, ("a", set, HOUR), ("a", set, since_boot)]);
            assert_eq!(doubt(HOUR), Some(STEADY_FOR));
            assert_eq!(doubt(2 * HOUR - SECOND), Some(Duration::from_secs(1)));
            assert_eq!(doubt(2 * HOUR), steady);
            // Set right again: that is setting it, too.
            let back = after(&[before, ("a", set, HOUR), ("a", DAY, 3 * HOUR)]);
            assert_eq!(back, Some(STEADY_FOR));
        }
        // Another boot of the machine: nobody knows what its clock did meanwhile.
        assert_eq!(
            after(&[("a", DAY, 9 * HOUR), ("b", DAY, 5)]),
            Some(STEADY_FOR)
        );
    }
}
