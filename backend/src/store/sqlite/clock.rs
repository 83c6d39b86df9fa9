//! Looks at the machine's clock, and moves along what is waited for when it was set, before anything
//! else of that transaction is decided. What that means is decided in [`crate::plan::clock`].

use std::{
    cell::Cell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use rusqlite::Connection;

use super::StoreError;
use crate::{
    clock::since_boot,
    plan::clock::{self, TOLERANCE},
    supervisor::identity::boot_id,
};

/// The clock of this machine as it was last looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// Time of day less the time since the machine's boot, in microseconds.
    offset: i64,
    of_day: SystemTime,
    steady: Instant,
    /// When it was last found to be set.
    set: Option<Instant>,
}

thread_local! {
    /// What the clock showed when it was found to be set, while a request is carried out that may go by a time of
    /// day of before.
    static SET: Cell<Option<(SystemTime, Instant)>> = const { Cell::new(None) };
}

/// Says of the request that comes next whether its time of day is in doubt: by which look it was found that the clock
/// was set.
pub(super) fn doubt(set: Option<Clock>) {
    SET.set(set.map(|clock| (clock.of_day, clock.steady)));
}

/// The time of day to decide by, where a request was asked at `now`. Where that may be of before the clock was set, it
/// is what the clock shows since: what waits was moved along by just that.
pub(super) fn certain(now: Timestamp) -> Timestamp {
    let shown = SET
        .get()
        .and_then(|(of_day, steady)| of_day.checked_add(steady.elapsed()));
    shown
        .and_then(|shown| Timestamp::try_from(shown).ok())
        .unwrap_or(now)
}

/// A time that was reckoned from `now`, as it is when it is reckoned from the [certain] one.
pub(super) fn reckoned(time: Timestamp, now: Timestamp) -> Timestamp {
    let moved = certain(now).duration_since(now);
    time.checked_add(moved).unwrap_or(time)
}

impl Clock {
    /// Looks at it; `None` when the time since the machine's boot cannot be read.
    fn look() -> Option<Self> {
        // Not /proc/uptime: in containers that begins anew with each of them.
        let uptime = micros(since_boot()?);
        let of_day = SystemTime::now();
        let since = of_day.duration_since(UNIX_EPOCH).ok()?;
        Some(Self {
            offset: micros(since) - uptime,
            of_day,
            steady: Instant::now(),
            set: None,
        })
    }

    /// Looks at it when a boot begins, inside a transaction. Set while no backend ran, it moves what
    /// waits, unless the machine was restarted meanwhile: then nobody can tell.
    pub(super) fn begin(tx: &Connection) -> Result<Option<Self>, StoreError> {
        let (Some(clock), Ok(machine)) = (Self::look(), boot_id()) else {
            return Ok(None);
        };
        let before: (Option<String>, Option<i64>) =
            tx.query_row("SELECT machine, clock FROM boot", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        if let (Some(of), Some(offset)) = before
            && of == machine
            && let Some(by) = clock::set_by(offset, clock.offset)
        {
            move_along(tx, by)?;
        }
        tx.execute(
            "UPDATE boot SET machine = ?1, clock = ?2",
            (machine, clock.offset),
        )?;
        Ok(Some(clock))
    }

    /// Looks again, inside a transaction: when it was set, moves along what waits and says what is to
    /// be remembered once that is committed.
    pub(super) fn follow(self, tx: &Connection) -> Result<Option<Self>, StoreError> {
        let steady = self.steady.elapsed();
        let differs = match self.of_day.elapsed() {
            Ok(of_day) => of_day.abs_diff(steady) >= TOLERANCE,
            Err(_) => true,
        };
        let Some(clock) = differs.then(Self::look).flatten() else {
            return Ok(None);
        };
        if let Some(by) = clock::set_by(self.offset, clock.offset) {
            move_along(tx, by)?;
        }
        tx.prepare_cached("UPDATE boot SET clock = ?1")?
            .execute([clock.offset])?;
        Ok(Some(Self {
            set: Some(clock.steady),
            ..clock
        }))
    }

    /// Whether it was set after this moment, or so shortly before that somebody who asked then may have looked at it
    /// earlier.
    pub(super) fn was_set_after(&self, asked: Instant) -> bool {
        self.set.is_some_and(|set| clock::in_doubt(asked, set))
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// Moves along everything that waits for a time, by so many microseconds: as [`clock::moved`], in one
/// statement for each table.
pub(super) fn move_along(tx: &Connection, by: i64) -> Result<(), StoreError> {
    tracing::warn!(
        event = "clock_set",
        seconds = by / 1_000_000,
        "the machine's clock was set: what is waited for is moved along"
    );
    let (first, last) = (
        Timestamp::MIN.as_microsecond(),
        Timestamp::MAX.as_microsecond(),
    );
    for sql in [
        "UPDATE runs SET since = min(max(since + ?1, ?2), ?3), \
         give_up_at = min(max(give_up_at + ?1, ?2), ?3), \
         not_before = min(max(not_before + ?1, ?2), ?3), stepped = stepped + ?1 \
         WHERE state IN ('scheduled', 'queued', 'running', 'canceling')",
        "UPDATE sandboxes SET expires_at = min(max(expires_at + ?1, ?2), ?3) \
         WHERE state <> 'deleted'",
        "UPDATE sandbox_ports SET released_at = min(max(released_at + ?1, ?2), ?3) \
         WHERE released_at IS NOT NULL",
    ] {
        tx.execute(sql, (by, first, last))?;
    }
    Ok(())
}
