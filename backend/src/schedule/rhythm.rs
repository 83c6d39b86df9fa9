//! A cron expression in a time zone: which moment is next.
//!
//! On the days when clocks are set:
//! * Where the hour is `*` or `*/n` the wall clock is followed as it goes: what it skips is not
//!   made up, what it shows twice happens twice.
//! * Else a time that the wall clock skips happens at the end of the gap, and one that it shows
//!   twice happens the first time only: a nightly run happens once in every night.

use chrono::{Datelike as _, NaiveDate, NaiveDateTime, Timelike as _};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    SignedDuration, Timestamp,
    civil::DateTime,
    tz::{AmbiguousOffset, Offset, TimeZone},
};

/// Steps to the next moment, at most: a fold and a gap take one each.
const STEPS: usize = 1_000;

/// When something happens again and again.
#[derive(Debug, Clone)]
pub struct Rhythm {
    cron: Cron,
    zone: TimeZone,
    /// Whether it follows the wall clock through every hour.
    every_hour: bool,
}

/// Why there is no such rhythm; for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl Rhythm {
    /// The rhythm of a cron expression of five fields (minute, hour, day, month, weekday) or a name
    /// such as `@daily`, in an IANA time zone.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, Invalid> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let parsed = parser.parse(cron).map_err(|error| {
            Invalid(format!(
                "`cron` is not five fields (minute hour day month weekday) or a name such as \
                 @daily: {error}"
            ))
        })?;
        if let Some(day) = cron.split_whitespace().nth(4).and_then(no_last_day) {
            return Err(Invalid(format!(
                "`cron` has {day} as a weekday, which is none: write SUNL or 0L for the last Sunday \
                 of a month, MONL or 1L for the last Monday, and so on"
            )));
        }
        let zone = TimeZone::get(zone).map_err(|_| {
            Invalid(format!(
                "`time_zone` {zone:?} is not known here: write an IANA name such as Europe/Berlin; \
                 the host needs its time zone data"
            ))
        })?;
        let hour = cron.split_whitespace().nth(1);
        let every_hour = match hour {
            Some(hour) => hour.starts_with('*'),
            None => cron.trim().eq_ignore_ascii_case("@hourly"),
        };
        let rhythm = Self {
            cron: parsed,
            zone,
            every_hour,
        };
        // Looked for from a fixed moment: the answer must not depend on when it is asked.
        if rhythm.next(Timestamp::UNIX_EPOCH).is_none() {
            return Err(Invalid(
                "`cron` names a day that never comes, such as 30 February".to_owned(),
            ));
        }
        Ok(rhythm)
    }

    /// The first moment after `after`; `None`: never again.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        if self.every_hour {
            self.next_shown(after)
        } else {
            self.next_once(after)
        }
    }

    /// The wall clock as it goes: within a stretch of one offset, then within the next.
    fn next_shown(&self, after: Timestamp) -> Option<Timestamp> {
        let mut from = after;
        let mut inclusive = false;
        for _ in 0..STEPS {
            let offset = self.zone.to_offset(from);
            let local = self.local_next(offset.to_datetime(from), inclusive)?;
            let found = offset.to_timestamp(local).ok()?;
            let turn = self.zone.following(from).next();
            match turn {
                // The clock is set before that: the time is looked for as the clock goes on.
                Some(turn) if turn.timestamp() <= found => {
                    (from, inclusive) = (turn.timestamp(), true);
                }
                Some(_) | None => return Some(found),
            }
        }
        None
    }

    /// Each local time once.
    fn next_once(&self, after: Timestamp) -> Option<Timestamp> {
        // In the second pass of a fold the wall clock shows what was before; behind a gap, what it
        // skipped is not over until its end.
        let mut local = self.zone.to_offset(after).to_datetime(after);
        for _ in 0..STEPS {
            local = self.local_next(local, false)?;
            let moment = match self.zone.to_ambiguous_zoned(local).offset() {
                AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok()?,
                AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok()?,
                AmbiguousOffset::Gap { before, after } => {
                    end_of_gap(&self.zone, local, before, after)?
                }
            };
            if moment > after {
                return Some(moment);
            }
        }
        None
    }

    /// The next local time of the expression, as if no clock was ever set.
    fn local_next(&self, local: DateTime, inclusive: bool) -> Option<DateTime> {
        let start = to_chrono(local)?.and_utc();
        let found = self.cron.find_next_occurrence(&start, inclusive).ok()?;
        from_chrono(found.naive_utc())
    }
}

/// The day of a weekday field that the parser takes for the last of its kind and that never comes:
/// beside others it would be left out in silence.
fn no_last_day(weekdays: &str) -> Option<&str> {
    const NONE: [&str; 3] = ["L", "7L", "7#L"];
    let is_none = |day: &&str| NONE.iter().any(|none| day.eq_ignore_ascii_case(none));
    weekdays.split(',').find(is_none)
}

/// The moment at which a gap that `local` lies in is over.
fn end_of_gap(
    zone: &TimeZone,
    local: DateTime,
    before: Offset,
    after: Offset,
) -> Option<Timestamp> {
    // Read with the offset of afterwards, a skipped time lies before the gap.
    let early = after.to_timestamp(local).ok()?;
    let late = before.to_timestamp(local).ok()?;
    let start = early.checked_sub(SignedDuration::from_secs(1)).ok()?;
    zone.following(start)
        .next()
        .map(|turn| turn.timestamp())
        .filter(|turn| *turn <= late)
}

fn to_chrono(time: DateTime) -> Option<NaiveDateTime> {
    let field = |value: i8| u32::try_from(value).ok();
    NaiveDate::from_ymd_opt(time.year().into(), field(time.month())?, field(time.day())?)?
        .and_hms_opt(
            field(time.hour())?,
            field(time.minute())?,
            field(time.second())?,
        )
}

fn from_chrono(time: NaiveDateTime) -> Option<DateTime> {
    let field = |value: u32| i8::try_from(value).ok();
    DateTime::new(
        i16::try_from(time.year()).ok()?,
        field(time.month())?,
        field(time.day())?,
        field(time.hour())?,
        field(time.minute())?,
        field(time.second())?,
        0,
    )
    .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    fn times(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let rhythm = Rhythm::parse(cron, zone).unwrap();
        let mut after: Timestamp = after.parse().unwrap();
        let mut times = Vec::new();
        for _ in 0..count {
            after = rhythm.next(after).unwrap();
            times.push(after.to_string());
        }
        times
    }

    // Europe/Berlin: 2026-03-29 01:00Z the clock goes from 02:00 to 03:00, 2026-10-25 01:00Z from
    // 03:00 to 02:00.

    #[test]
    fn a_nightly_time_that_is_skipped_happens_at_the_end_of_the_gap() {
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            [
                "2026-03-28T01:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-30T00:30:00Z"
            ]
        );
        // Several skipped times are one moment, and a time at its end is the same one.
        assert_eq!(
            times(
                "0,15,45 2,3 * * *",
                "Europe/Berlin",
                "2026-03-29T00:00:00Z",
                4
            ),
            [
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:15:00Z",
                "2026-03-29T01:45:00Z",
                "2026-03-30T00:00:00Z"
            ]
        );
    }

    #[test]
    fn a_nightly_time_that_is_shown_twice_happens_once() {
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        // Asked in the second pass: it has happened.
        assert_eq!(
            times("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1),
            ["2026-10-26T01:30:00Z"]
        );
    }

    #[test]
    fn every_hour_goes_on_through_gap_and_fold() {
        assert_eq!(
            times("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 3),
            [
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:30:00Z",
                "2026-03-29T02:30:00Z"
            ]
        );
        assert_eq!(
            times("*/30 * * * *", "Europe/Berlin", "2026-10-24T23:45:00Z", 6),
            [
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z",
                "2026-10-25T02:30:00Z"
            ]
        );
    }

    #[test]
    fn gaps_and_folds_of_half_an_hour_and_of_a_day() {
        // Lord Howe: half an hour, 2026-04-05 back at 15:00Z the day before.
        assert_eq!(
            times(
                "45 1 * * *",
                "Australia/Lord_Howe",
                "2026-04-04T00:00:00Z",
                2
            ),
            ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"]
        );
        // Samoa had no 30 December 2011.
        assert_eq!(
            times("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 2),
            ["2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"]
        );
    }

    #[test]
    fn moments_only_go_forward_whatever_the_zone() {
        for zone in [
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "UTC",
        ] {
            for cron in [
                "*/7 * * * *",
                "13 1-3 * * *",
                "0 */5 * * *",
                "30 2 * * SUN",
                "@daily",
            ] {
                let rhythm = Rhythm::parse(cron, zone).unwrap();
                let mut after: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
                let end: Timestamp = "2026-11-30T00:00:00Z".parse().unwrap();
                while after < end {
                    let next = rhythm.next(after).unwrap();
                    assert!(next > after, "{cron} in {zone}: {next} after {after}");
                    // Whoever asks a moment before gets the same answer.
                    let before = next.checked_sub(SignedDuration::from_secs(1)).unwrap();
                    assert_eq!(
                        rhythm.next(before.max(after)),
                        Some(next),
                        "{cron} in {zone}"
                    );
                    after = next;
                }
            }
        }
    }

    #[test]
    fn what_is_no_rhythm_is_refused_with_its_field() {
        for (cron, zone, word) in [
            ("", "UTC", "`cron`"),
            ("* * * *", "UTC", "`cron`"),
            ("* * * * * *", "UTC", "`cron`"),
            ("61 * * * *", "UTC", "`cron`"),
            ("0 0 30 2 *", "UTC", "never comes"),
            ("0 0 * * 7L", "UTC", "7L as a weekday"),
            ("0 0 * * 1,7l", "UTC", "SUNL or 0L"),
            ("0 0 * * 7#L", "UTC", "7#L as a weekday"),
            ("0 0 * * L", "UTC", "MONL or 1L"),
            ("@hourly", "Mars/Olympus", "`time_zone`"),
            ("@hourly", "../etc/passwd", "`time_zone`"),
        ] {
            let refused = Rhythm::parse(cron, zone).unwrap_err().to_string();
            assert!(refused.contains(word), "{cron} {zone}: {refused}");
        }
        assert!(Rhythm::parse("0 0 29 2 *", "UTC").is_ok());
        assert!(Rhythm::parse("@weekly", "Asia/Kathmandu").is_ok());
        for good in ["0 0 * * 0L", "0 0 L * *", "0 0 * * 7", "0 0 * * 7#2,MONL"] {
            assert!(Rhythm::parse(good, "UTC").is_ok(), "{good}");
        }
    }
}
