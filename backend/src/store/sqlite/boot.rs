//! What a backend writes down when it opens the store: that a new boot began, and by which clock.
//!
//! On a full disk that cannot be written. The boot is owed then: nothing is stored before it is, and
//! nobody else can take its number, as long as the lock is ours.

use orket_shared::id;
use rusqlite::Connection;

use super::{StoreError, clock::Clock};
use crate::crash_point::CrashPoint;

/// The boot of this process.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    /// Which one it is on this store, counted from 1.
    pub(super) epoch: i64,
    /// The random id of the store.
    pub(super) instance: String,
    /// The machine's clock; `None` where it cannot be followed.
    pub(super) clock: Option<Clock>,
    /// Whether it still has to be written down.
    pub(super) owed: bool,
}

impl Boot {
    /// Begins a boot: the next one on this store.
    pub(super) fn begin(conn: &Connection) -> Result<Self, StoreError> {
        let (epoch, instance): (i64, Option<String>) =
            conn.query_row("SELECT epoch + 1, instance FROM boot", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let mut boot = Self {
            epoch,
            instance: instance.unwrap_or_else(id::new_ulid),
            clock: None,
            owed: true,
        };
        let tx = conn.unchecked_transaction()?;
        match boot.write_down(&tx).and_then(|()| Ok(tx.commit()?)) {
            Ok(()) => {
                boot.owed = false;
                CrashPoint::BootEpochTaken.reached();
            }
            Err(StoreError::Full) => {
                tracing::warn!(
                    event = "store_full",
                    "the disk of the store is full: nothing is stored until there is room"
                );
            }
            Err(error) => return Err(error),
        }
        Ok(boot)
    }

    /// Writes it down inside a transaction, with what its clock moves along.
    pub(super) fn write_down(&mut self, tx: &Connection) -> Result<(), StoreError> {
        tx.prepare_cached("UPDATE boot SET epoch = ?1, instance = ?2")?
            .execute((self.epoch, &self.instance))?;
        self.clock = Clock::begin(tx)?;
        Ok(())
    }
}
