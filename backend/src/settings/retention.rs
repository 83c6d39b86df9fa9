//! `[retention]` as meant.

use std::time::Duration;

use toml::Spanned;

use super::Reading;
use crate::config::{self, diagnostic::Diagnostic, unit};

/// How long what is done with is kept; `None`: for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Runs that have ended, with their attempts and their output, from their end.
    pub finished_runs: Option<Duration>,
    /// The output of runs that have ended, from their end.
    pub logs: Option<Duration>,
    /// Events, from when they happened.
    pub events: Option<Duration>,
    /// Deliveries, from when they came: a repetition of a forgotten one acts again.
    pub deliveries: Option<Duration>,
    /// Cards, from when they were archived.
    pub archived_cards: Option<Duration>,
    /// The records of sandboxes that are deleted, from their end.
    pub deleted_sandboxes: Option<Duration>,
    /// How often it is looked at.
    pub period: Duration,
}

const DAY: Duration = Duration::from_hours(24);
/// How long idempotency keys are remembered.
const KEYS: Duration = Duration::from_hours(7 * 24);

impl Reading {
    pub(super) fn retention(&mut self, written: config::Retention) -> Retention {
        let month = Some(30 * DAY);
        let place = written.finished_runs.as_ref().map(Spanned::span);
        let finished_runs = self.kept(written.finished_runs, month);
        if finished_runs.is_some_and(|kept| kept < KEYS) {
            let message = "`finished_runs` is shorter than idempotency keys live (7d): the same key makes no second run, but may be \
                           answered with one that is gone";
            self.warnings.push(Diagnostic::warning(place, message));
        }
        Retention {
            finished_runs,
            logs: self.kept(written.logs, Some(14 * DAY)),
            events: self.kept(written.events, month),
            deliveries: self.kept(written.deliveries, month),
            archived_cards: self.kept(written.archived_cards, None),
            deleted_sandboxes: self.kept(written.deleted_sandboxes, month),
            period: self.value(written.period, Duration::from_mins(10), |text| {
                let period = unit::duration(&text)?;
                if period.is_zero() {
                    return Err("`period` must be more than 0".to_owned());
                }
                Ok(period)
            }),
        }
    }

    fn kept(
        &mut self,
        field: Option<Spanned<String>>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        self.value(field, default, |text| {
            if text == "never" {
                return Ok(None);
            }
            let time = unit::duration(&text).map_err(|error| format!("{error}, or \"never\""))?;
            if time.is_zero() {
                return Err("it must be more than 0: nothing could be looked at".to_owned());
            }
            Ok(Some(time))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::{super::Settings, *};

    #[test]
    fn what_is_kept_can_be_shortened_or_kept_for_ever() {
        let text = "[retention]\nevents = \"never\"\nlogs = \"1h\"\narchived_cards = \"90d\"\n";
        let retention = Settings::load(text).unwrap().settings.retention;
        assert_eq!(retention.events, None);
        assert_eq!(retention.logs, Some(Duration::from_hours(1)));
        assert_eq!(retention.archived_cards, Some(90 * DAY));
        assert_eq!(retention.finished_runs, Some(30 * DAY));
        for (kept, warnings) in [("6d", 1), ("7d", 0), ("never", 0)] {
            let text = format!("[retention]\nfinished_runs = \"{kept}\"\n");
            assert_eq!(Settings::load(&text).unwrap().warnings.len(), warnings);
        }
        for wrong in [
            "logs = \"0s\"",
            "events = \"soon\"",
            "period = \"0s\"",
            "log = \"1d\"",
        ] {
            let text = format!("[retention]\n{wrong}\n");
            assert!(Settings::load(&text).is_err(), "{wrong}");
        }
    }
}
