//! Times as a person gives them: a moment (RFC 3339), or a span from now such as `30d`.

use std::time::Duration;

use jiff::Timestamp;

/// `90s`, `15min`, `24h`, `30d`, `2w`; `0s` is none at all. A day is 24 hours.
pub(super) fn span(text: &str) -> Result<Duration, String> {
    let expected = || {
        format!(
            "`{text}` is not a span of time; write e.g. \"90s\", \"15min\", \"24h\", \"30d\" or \"2w\""
        )
    };
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(expected)?;
    let (number, unit) = text.split_at(at);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number
        .checked_mul(seconds)
        // A hundred years: beyond it somebody has mistaken the unit.
        .filter(|s| *s <= 100 * 366 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is longer than a hundred years"))
}

/// A moment, or a span from now. Whole seconds, as they stand in the file.
pub(super) fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return whole_second(at);
    }
    let span = span(text).map_err(|_| {
        format!("`{text}` is no time; write e.g. \"2027-01-01T00:00:00Z\" or a span from now such as \"30d\"")
    })?;
    after(now, span)
}

/// This long after now.
pub(super) fn after(now: Timestamp, span: Duration) -> Result<Timestamp, String> {
    now.checked_add(span)
        .map_err(|_| "this lies beyond all calendars".to_owned())
        .and_then(whole_second)
}

fn whole_second(at: Timestamp) -> Result<Timestamp, String> {
    Timestamp::from_second(at.as_second()).map_err(|e| e.to_string())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn spans_and_moments_are_read() {
        let now: Timestamp = "2026-01-01T00:00:00.7Z".parse().unwrap();
        for (text, expected) in [
            ("30d", "2026-01-31T00:00:00Z"),
            ("2w", "2026-01-15T00:00:00Z"),
            ("15min", "2026-01-01T00:15:00Z"),
            ("0s", "2026-01-01T00:00:00Z"),
            ("2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("2027-01-01T01:00:00+01:00", "2027-01-01T00:00:00Z"),
        ] {
            assert_eq!(moment(text, now).unwrap().to_string(), expected, "{text}");
        }
        for wrong in [
            "",
            "d",
            "30",
            "-1d",
            "1.5h",
            "30 days",
            "99999999999999999999d",
            "200000w",
            "2027-01-01",
            "tomorrow",
        ] {
            assert!(moment(wrong, now).is_err(), "{wrong}");
        }
    }
}
