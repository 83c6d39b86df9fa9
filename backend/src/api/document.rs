//! Pieces of documents that several resources share.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use utoipa::openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type};

use super::ApiError;
use crate::{config::unit, confine::Network, plan::Bounds, work::Work, workspace::Workspace};

/// A duration: a number of seconds, or text such as `30s`, `5m`, `1h`. Answered in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seconds {
    /// The same in milliseconds.
    pub(super) ms: u64,
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.ms.is_multiple_of(1000) {
            return serializer.serialize_u64(self.ms / 1000);
        }
        let ms = u32::try_from(self.ms).unwrap_or(u32::MAX);
        serializer.serialize_f64(f64::from(ms) / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecondsVisitor)
    }
}

struct SecondsVisitor;

impl de::Visitor<'_> for SecondsVisitor {
    type Value = Seconds;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration: a number of seconds, or text such as \"30s\"")
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Seconds, E> {
        let ms = seconds
            .checked_mul(1000)
            .ok_or_else(|| E::custom("the duration is too long"))?;
        Ok(Seconds { ms })
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Seconds, E> {
        let whole = std::time::Duration::try_from_secs_f64(seconds)
            .map_err(|_| E::custom("a duration cannot be negative or endless"))?;
        let ms =
            u64::try_from(whole.as_millis()).map_err(|_| E::custom("the duration is too long"))?;
        Ok(Seconds { ms })
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Seconds, E> {
        Err(E::custom("a duration cannot be negative"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Seconds, E> {
        let duration = unit::duration(text).map_err(E::custom)?;
        let ms = u64::try_from(duration.as_millis())
            .map_err(|_| E::custom("the duration is too long"))?;
        Ok(Seconds { ms })
    }
}

/// How [`Seconds`] is described.
pub(super) fn seconds_schema() -> RefOr<Schema> {
    let number = ObjectBuilder::new()
        .schema_type(Type::Number)
        .minimum(Some(0))
        .description(Some("seconds"));
    let text = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("a number and a unit: ms, s, m, h or d"))
        .examples([serde_json::json!("30s")]);
    OneOfBuilder::new().item(number).item(text).into()
}

/// A command: a list of program and arguments, or, with `shell`, also one string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Program and arguments, or a script and its parameters.
    List(Vec<String>),
    /// A script.
    Script(String),
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CommandVisitor)
    }
}

struct CommandVisitor;

impl<'de> de::Visitor<'de> for CommandVisitor {
    type Value = Command;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`command` as a list of strings")
    }

    fn visit_str<E: de::Error>(self, script: &str) -> Result<Command, E> {
        Ok(Command::Script(script.to_owned()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Command, A::Error> {
        let mut arguments = Vec::new();
        while let Some(argument) = list.next_element()? {
            arguments.push(argument);
        }
        Ok(Command::List(arguments))
    }
}

/// How [`Command`] is described.
pub(super) fn command_schema() -> RefOr<Schema> {
    use utoipa::openapi::ArrayBuilder;
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let list = ArrayBuilder::new()
        .items(text())
        .min_items(Some(1))
        .description(Some(
            "program and arguments; with `shell` a script and its parameters",
        ));
    let script = text().description(Some("a script for /bin/sh: only with `shell`"));
    OneOfBuilder::new().item(list).item(script).into()
}

/// What a document says of work, before it is checked.
#[derive(Debug, Default)]
pub(super) struct WorkFields {
    pub(super) command: Option<Command>,
    pub(super) shell: Option<bool>,
    pub(super) env: Option<BTreeMap<String, String>>,
    pub(super) workdir: Option<String>,
    pub(super) timeout: Option<Seconds>,
    pub(super) retries: Option<u32>,
    pub(super) stack: Option<String>,
    pub(super) bounds: Option<BoundsView>,
    pub(super) network: Option<Network>,
}

/// What bounds a run beside the timeout of an attempt. What is absent or `null` is as configured
/// when the run is submitted.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BoundsView {
    /// The longest wait in the queue; then it is `timed_out`, reason `waited_too_long`.
    #[schema(schema_with = seconds_schema)]
    waiting: Option<Seconds>,
    /// The longest time from submission to the end, waiting and retries included; reason
    /// `total_timeout`.
    #[schema(schema_with = seconds_schema)]
    total: Option<Seconds>,
    /// The longest time that an attempt may write nothing; reason `silence`.
    #[schema(schema_with = seconds_schema)]
    silence: Option<Seconds>,
    /// The delay before the second attempt; it doubles from one to the next, and up to half of it
    /// is left out at random.
    #[schema(schema_with = seconds_schema)]
    retry_delay: Option<Seconds>,
    /// The longest delay before an attempt.
    #[schema(schema_with = seconds_schema)]
    retry_delay_most: Option<Seconds>,
}

impl From<Bounds> for BoundsView {
    fn from(bounds: Bounds) -> Self {
        let seconds = |ms: Option<u64>| ms.map(|ms| Seconds { ms });
        Self {
            waiting: seconds(bounds.waiting_ms),
            total: seconds(bounds.total_ms),
            silence: seconds(bounds.silence_ms),
            retry_delay: seconds(bounds.retry_delay_ms),
            retry_delay_most: seconds(bounds.retry_delay_most_ms),
        }
    }
}

impl From<BoundsView> for Bounds {
    fn from(view: BoundsView) -> Self {
        let ms = |seconds: Option<Seconds>| seconds.map(|seconds| seconds.ms);
        Self {
            waiting_ms: ms(view.waiting),
            total_ms: ms(view.total),
            silence_ms: ms(view.silence),
            retry_delay_ms: ms(view.retry_delay),
            retry_delay_most_ms: ms(view.retry_delay_most),
        }
    }
}

/// What is to be run.
pub(super) enum Chosen {
    /// A card, by what may be its id.
    Card(String),
    /// A command of its own, and its priority.
    Command(Work, i64),
}

/// What was chosen: either a card, which says all of the work, or a command.
pub(super) fn chosen(
    card: Option<String>,
    work: WorkFields,
    asked: Option<i64>,
    workspace: &Workspace,
) -> Result<Chosen, ApiError> {
    match card {
        Some(_) if !work.is_empty() || asked.is_some() => Err(ApiError::invalid(
            "With `card_id` nothing else of the work may be given: the card says the rest.",
        )),
        Some(card) => Ok(Chosen::Card(card)),
        None if work.command.is_none() => {
            Err(ApiError::invalid("Give either `card_id` or `command`."))
        }
        None => Ok(Chosen::Command(work.work(workspace)?, priority(asked)?)),
    }
}

impl WorkFields {
    /// Whether nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        self.command.is_none()
            && self.shell.is_none()
            && self.env.is_none()
            && self.workdir.is_none()
            && self.timeout.is_none()
            && self.retries.is_none()
            && self.stack.is_none()
            && self.bounds.is_none()
            && self.network.is_none()
    }

    /// The work they describe, checked.
    pub(super) fn work(self, workspace: &Workspace) -> Result<Work, ApiError> {
        let shell = self.shell.unwrap_or(false);
        let command = match (self.command, shell) {
            (Some(Command::List(list)), _) => list,
            (Some(Command::Script(script)), true) => vec![script],
            (Some(Command::Script(_)), false) => {
                return Err(ApiError::invalid(
                    "`command` must be a list of program and arguments; a single string is a \
                     shell script and needs `shell: true`",
                ));
            }
            (None, _) => return Err(ApiError::invalid("`command` is missing")),
        };
        let work = Work {
            command,
            shell,
            env: self.env.unwrap_or_default(),
            workdir: self.workdir,
            timeout_ms: self.timeout.map(|timeout| timeout.ms),
            retries: self.retries.unwrap_or(0),
            stack: self.stack,
            bounds: self.bounds.map(Bounds::from).unwrap_or_default(),
            network: self.network,
        };
        check(&work, workspace)?;
        Ok(work)
    }
}

/// Checks work against its own rules and the real workspace.
pub(super) fn check(work: &Work, workspace: &Workspace) -> Result<(), ApiError> {
    work.check()?;
    workspace.place(work.workdir.as_deref())?;
    Ok(())
}

/// A field of a change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Field<T> {
    /// Not there: what was, stays.
    #[default]
    Absent,
    /// `null`: to nothing.
    Null,
    /// To this.
    Value(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Option::deserialize(deserializer)?;
        Ok(given.map_or(Self::Null, Self::Value))
    }
}

/// A field of a change that cannot be nothing: `null` is refused, not taken for absent.
pub(super) fn given<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

impl<T> Field<T> {
    /// What was, changed.
    pub(super) fn change(self, was: Option<T>) -> Option<T> {
        match self {
            Self::Absent => was,
            Self::Null => None,
            Self::Value(value) => Some(value),
        }
    }
}

/// A priority between 0 and 9.
pub(super) fn priority(asked: Option<i64>) -> Result<i64, ApiError> {
    match asked {
        None => Ok(0),
        Some(priority @ 0..=9) => Ok(priority),
        Some(_) => Err(ApiError::invalid("`priority` must be between 0 and 9")),
    }
}

/// Text of people within a length.
pub(super) fn text(field: &str, text: &str, most: usize) -> Result<(), ApiError> {
    if text.contains('\0') {
        return Err(ApiError::invalid(format!(
            "`{field}` contains a NUL character: take it out"
        )));
    }
    if text.trim().is_empty() || text.len() > most {
        let detail = format!("`{field}` must be 1 to {most} bytes of text, not blank");
        return Err(ApiError::invalid(detail));
    }
    Ok(())
}

/// An id someone chose for `field`.
pub(super) fn chosen_id(field: &str, id: &str) -> Result<(), ApiError> {
    /// Leaves room for what is appended to make names of files.
    const MOST: usize = 100;
    if orket_shared::id::is_name(id) && id.len() <= MOST {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "`{field}` must be 1 to {MOST} letters, digits, `-`, `_` or `.`, beginning with a letter or digit"
    )))
}

/// Checks the id of something new. One that is a route of its own could not be asked for under it.
pub(super) fn free_id(field: &str, id: &str, route: &str) -> Result<(), ApiError> {
    chosen_id(field, id)?;
    if id == route {
        return Err(ApiError::invalid(format!(
            "`{field}` may not be `{route}`: that is the name of a route"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn durations_are_numbers_or_text() {
        let read = |text: &str| serde_json::from_str::<Seconds>(text).map(|s| s.ms);
        assert_eq!(read("30").unwrap(), 30_000);
        assert_eq!(read("0.5").unwrap(), 500);
        assert_eq!(read("\"5m\"").unwrap(), 300_000);
        for bad in [
            "-1",
            "-0.5",
            "1e300",
            "\"soon\"",
            "true",
            "null",
            "[]",
            "18446744073709551615",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(serde_json::to_string(&Seconds { ms: 1500 }).unwrap(), "1.5");
        assert_eq!(
            serde_json::to_string(&Seconds { ms: 30_000 }).unwrap(),
            "30"
        );
    }
}
