//! Values that TOML has no type for: durations, sizes, rates, addresses. Each is written as a string
//! with its unit, so that no number stands without one. A message says what is wrong and, behind `; `, what to do.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    time::Duration,
};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

/// A rate as written: `120/min`, or `none` to switch the limit off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateWritten {
    /// No limit.
    None,
    /// So many in a period.
    Of {
        /// How many.
        count: NonZeroU32,
        /// In what time.
        period: Duration,
    },
}

/// The longest duration a setting may have: far beyond what any of them is for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..at].parse().ok()?, text[at..].trim()))
}

/// `300ms`, `10s`, `5min`, `2h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected =
        || format!("`{text}` is not a duration; write e.g. \"300ms\", \"10s\", \"5min\" or \"2h\"");
    let (n, unit) = split_unit(text).ok_or_else(expected)?;
    let d = match unit {
        "ms" => Duration::from_millis(n),
        "s" => Duration::from_secs(n),
        "m" | "min" => Duration::from_secs(n.saturating_mul(60)),
        "h" => Duration::from_secs(n.saturating_mul(3600)),
        _ => return Err(expected()),
    };
    if d > LONGEST {
        return Err("this is longer than 24h; write at most \"24h\"".into());
    }
    if d.is_zero() {
        Err("a duration of zero would refuse everything; write e.g. \"10s\"".into())
    } else {
        Ok(d)
    }
}

/// `300ms`, `2h`, `7d`: how old something may become, up to a year.
pub fn age(text: &str) -> Result<Duration, String> {
    let Some((days, "d")) = split_unit(text) else {
        return duration(text);
    };
    match days {
        0 => Err("an age of zero would let nothing wait; write e.g. \"7d\"".into()),
        1..=366 => Ok(Duration::from_secs(days * 86_400)),
        _ => Err("this is longer than 366d; write at most \"366d\"".into()),
    }
}

/// `64B`, `16KiB`, `1MiB`, `1GiB`.
pub fn size(text: &str) -> Result<Size, String> {
    let expected = || format!("`{text}` is not a size; write e.g. \"512B\", \"16KiB\" or \"1MiB\"");
    let (n, unit) = split_unit(text).ok_or_else(expected)?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(expected()),
    };
    n.checked_mul(factor)
        .and_then(|b| usize::try_from(b).ok())
        .map(Size)
        .ok_or_else(expected)
}

/// `60/s`, `600/min`, `1000/h`, `none`.
pub fn rate(text: &str) -> Result<RateWritten, String> {
    if text == "none" {
        return Ok(RateWritten::None);
    }
    let expected = || {
        format!("`{text}` is not a rate; write e.g. \"10/s\", \"600/min\", \"5000/h\" or \"none\"")
    };
    let (count, period) = text.split_once('/').ok_or_else(expected)?;
    let count: u32 = count.trim().parse().map_err(|_| expected())?;
    let count = NonZeroU32::new(count)
        .ok_or("a rate of 0 would refuse everything; `none` switches a limit off")?;
    let period = match period.trim() {
        "s" | "sec" => Duration::from_secs(1),
        "m" | "min" => Duration::from_secs(60),
        "h" | "hour" => Duration::from_secs(3600),
        "d" | "day" => Duration::from_secs(86_400),
        _ => return Err(expected()),
    };
    Ok(RateWritten::Of { count, period })
}

/// `127.0.0.1:8080`, `[::1]:8080`. Names are not looked up.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address; write e.g. \"127.0.0.1:8080\" or \"[::1]:8080\"")
    })
}

/// `192.0.2.1`, `2001:db8::1`.
pub fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not an address; write e.g. \"192.0.2.1\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_asked_for() {
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(duration("10").is_err() && duration("0s").is_err() && duration("ten s").is_err());
        assert_eq!(size("16KiB"), Ok(Size(16384)));
        assert_eq!(age("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(age("90min"), Ok(Duration::from_secs(5400)));
        assert!(age("0d").is_err() && age("367d").is_err() && age("7").is_err());
        assert!(size("16").is_err() && size("99999999999GiB").is_err());
        assert_eq!(rate("none"), Ok(RateWritten::None));
        assert!(rate("0/min").is_err() && rate("5/fortnight").is_err() && rate("min").is_err());
    }
}
