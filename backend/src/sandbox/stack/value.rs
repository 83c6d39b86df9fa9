//! Values of a compose file, from what is written to what is meant. An error says what was expected.

use std::time::Duration;

use super::yaml::{Node, Value};

/// A whole number in a range.
pub(super) fn whole(node: &Node, least: i64, most: i64) -> Result<i64, String> {
    let number = match &node.value {
        Value::Int(number) => Some(*number),
        Value::Text(text) => text.parse().ok().filter(|n: &i64| n.to_string() == *text),
        Value::Map(_) | Value::List(_) | Value::Fraction(_) | Value::Bool(_) | Value::Null => None,
    };
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("a whole number from {least} to {most} is expected"))
}

/// Text, or a number as it is written.
pub(super) fn text(node: &Node) -> Result<String, String> {
    match &node.value {
        Value::Text(text) => Ok(text.clone()),
        Value::Int(number) => Ok(number.to_string()),
        other @ (Value::Map(_)
        | Value::List(_)
        | Value::Fraction(_)
        | Value::Bool(_)
        | Value::Null) => Err(format!(
            "text is expected, and this is {}: put it in quotes",
            other.kind()
        )),
    }
}

/// `true` or `false`.
pub(super) fn truth(node: &Node) -> Result<bool, String> {
    match node.value {
        Value::Bool(truth) => Ok(truth),
        Value::Map(_)
        | Value::List(_)
        | Value::Text(_)
        | Value::Int(_)
        | Value::Fraction(_)
        | Value::Null => Err("`true` or `false` is expected".to_owned()),
    }
}

/// Words of a command: a list, or text that every reader cuts alike.
pub(super) fn words(node: &Node) -> Result<Vec<String>, String> {
    let words = match &node.value {
        Value::List(items) => items.iter().map(text).collect::<Result<Vec<_>, _>>()?,
        Value::Text(line) => {
            let odd = |c: char| "'\"\\`;|&<>()#*?[]{}~!".contains(c) || c.is_control();
            if line.contains(odd) {
                return Err("text with quotes or signs of a shell is cut in several ways: write a list of words".to_owned());
            }
            line.split_whitespace().map(str::to_owned).collect()
        }
        Value::Map(_) | Value::Int(_) | Value::Fraction(_) | Value::Bool(_) | Value::Null => {
            return Err("a list of words is expected".to_owned());
        }
    };
    if words.first().is_none_or(String::is_empty) {
        return Err("at least one word is expected".to_owned());
    }
    Ok(words)
}

/// Mebibytes of memory without which the engine makes no container.
const LEAST_MIB: u64 = 6;

/// A size such as `512m` or `1g`, at least [`LEAST_MIB`].
pub(super) fn size(node: &Node) -> Result<u64, String> {
    let wrong = || format!("a size such as `256m` or `1g` is expected, at least `{LEAST_MIB}m`");
    let text = text(node).map_err(|_| wrong())?;
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let factor: u64 = match unit {
        "" | "b" => 1,
        "k" | "kb" | "K" | "KB" => 1 << 10,
        "m" | "mb" | "M" | "MB" => 1 << 20,
        "g" | "gb" | "G" | "GB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let bytes = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(factor));
    bytes
        .filter(|bytes| *bytes >= LEAST_MIB << 20)
        .ok_or_else(wrong)
}

/// Processors in thousandths.
pub(super) fn processors(node: &Node) -> Result<u64, String> {
    let wrong = || "a number of processors such as `0.5` is expected".to_owned();
    let text = match &node.value {
        Value::Fraction(text) => text.clone(),
        Value::Map(_)
        | Value::List(_)
        | Value::Text(_)
        | Value::Int(_)
        | Value::Bool(_)
        | Value::Null => text(node).map_err(|_| wrong())?,
    };
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let figures = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 4 || rest.len() > 3 || !figures(whole) || !figures(rest) {
        return Err(wrong());
    }
    let number = format!("{whole}{rest:0<3}").parse().map_err(|_| wrong())?;
    if number < 10 {
        Err(wrong())
    } else {
        Ok(number)
    }
}

/// A duration such as `30s` or `1m30s`, from `least` to 10 minutes.
pub(super) fn duration(node: &Node, least: Duration) -> Result<Duration, String> {
    let wrong = || {
        let least = least.as_secs();
        format!("a duration such as `30s` or `1m30s` is expected, from {least} s to 10 m")
    };
    let text = text(node).map_err(|_| wrong())?;
    let mut rest = text.as_str();
    let mut total = Duration::ZERO;
    let mut units = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)].iter();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let end = behind.find(|c: char| c.is_ascii_digit());
        let (unit, behind) = behind.split_at(end.unwrap_or(behind.len()));
        let (_, ms) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = number.checked_mul(*ms).ok_or_else(wrong)?;
        total = total.saturating_add(Duration::from_millis(part));
        rest = behind;
    }
    if text.is_empty() || total < least || total > Duration::from_mins(10) {
        return Err(wrong());
    }
    Ok(total)
}

/// A place in a container: absolute, of plain names, none of the kernel's.
pub(super) fn place(text: &str) -> Result<String, String> {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let good = text.len() <= 200
        && text
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(plain));
    let kernel = ["/proc", "/sys", "/dev", "/run/secrets"];
    let within = |top: &&str| {
        text.strip_prefix(*top)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if !good || text == "/run" || kernel.iter().any(within) {
        return Err("an absolute path of plain names in the container is expected, outside of /proc, /sys, /dev and /run/secrets".to_owned());
    }
    Ok(text.to_owned())
}

/// A name of a volume or network: 1 to 40 lower-case letters, digits, `-` and `_`.
pub(super) fn name(text: &str) -> Result<String, String> {
    if super::super::spec::is_label(text) {
        return Ok(text.to_owned());
    }
    Err("a name is 1 to 40 lower-case letters, digits, `-` and `_`, beginning with a letter".into())
}

/// A port in a container.
pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse::<u16>()
        .ok()
        .filter(|port| *port > 0 && port.to_string() == text)
        .ok_or_else(|| "one port from 1 to 65535 is expected".to_owned())
}
