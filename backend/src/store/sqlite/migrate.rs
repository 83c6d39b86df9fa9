//! The schema, step by step, forward only. A step that was released is never edited.

use rusqlite::{Connection, ErrorCode};

use super::OpenError;
use crate::crash_point::CrashPoint;

/// Marks a database file as Orket's (`ORKT` in ASCII): a foreign file is never touched.
const APPLICATION_ID: i32 = 0x4f52_4b54;

/// Every step in order; its place in the list, counted from 1, is its version.
const MIGRATIONS: &[(&str, &str)] = &[
    ("core", include_str!("migrations/0001_core.sql")),
    ("sandboxes", include_str!("migrations/0002_sandboxes.sql")),
    (
        "dropped output",
        include_str!("migrations/0003_dropped_output.sql"),
    ),
    ("queues", include_str!("migrations/0004_queues.sql")),
    ("schedules", include_str!("migrations/0005_schedules.sql")),
    ("retention", include_str!("migrations/0006_retention.sql")),
    (
        "supervisors",
        include_str!("migrations/0007_supervisors.sql"),
    ),
    (
        "steps of the clock",
        include_str!("migrations/0008_steps_of_the_clock.sql"),
    ),
    ("engine", include_str!("migrations/0009_engine.sql")),
    (
        "age of deliveries",
        include_str!("migrations/0010_age_of_deliveries.sql"),
    ),
    (
        "course of the clock",
        include_str!("migrations/0011_course_of_the_clock.sql"),
    ),
    ("waiting", include_str!("migrations/0012_waiting.sql")),
    ("lanes", include_str!("migrations/0013_lanes.sql")),
    (
        "runs of queues",
        include_str!("migrations/0014_runs_of_queues.sql"),
    ),
];

/// Brings the schema up to this program's version.
pub(super) fn run(conn: &mut Connection) -> Result<(), OpenError> {
    let application: i32 = conn.query_row("PRAGMA application_id", [], |r| r.get(0))?;
    let found: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    let tables: i64 = conn.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table'",
        [],
        |r| r.get(0),
    )?;
    if application != APPLICATION_ID && (application != 0 || tables > 0) {
        return Err(OpenError::Foreign);
    }
    let newest = MIGRATIONS
        .iter()
        .zip(1_i64..)
        .map(|(_, version)| version)
        .max()
        .unwrap_or(0);
    if found > newest {
        return Err(OpenError::Newer {
            found,
            known: newest,
        });
    }
    for ((name, sql), version) in MIGRATIONS.iter().zip(1_i64..).filter(|(_, v)| *v > found) {
        let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)?;
        tx.execute_batch(sql).map_err(|error| {
            // The disk's doing, not the content's.
            if let Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) =
                error.sqlite_error_code()
            {
                return OpenError::Engine(error);
            }
            let reason = error.to_string();
            OpenError::Migration { name, reason }
        })?;
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", version)?;
        tx.commit()?;
        CrashPoint::SchemaStepCommitted.reached();
        tracing::info!(step = name, version, "store schema migrated");
    }
    Ok(())
}
