//! Durations and sizes as people write them.

use std::time::Duration;

/// A duration such as `500ms`, `30s`, `5m`, `1h` or `2d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write e.g. \"30s\", \"5m\" or \"1h\"");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

/// A number of bytes such as `512B`, `64KiB`, `16MiB` or `1GiB`.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size: write e.g. \"64KiB\" or \"16MiB\"");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match &text[digits..] {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_needed_and_nonsense_is_refused() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(size("16MiB"), Ok(16 << 20));
        for bad in [
            "",
            "s",
            "30",
            "-1s",
            "1 s",
            "1.5h",
            "99999999999999999999s",
            "1w",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "16",
            "16MB",
            "99999999999999999999GiB",
            "18446744073709551615KiB",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
