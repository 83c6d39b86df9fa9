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
    up_to(conn, MIGRATIONS)
}

/// Takes those of these steps that are not taken yet.
fn up_to(conn: &mut Connection, steps: &[(&'static str, &str)]) -> Result<(), OpenError> {
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
    let newest = steps
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
    for ((name, sql), version) in steps.iter().zip(1_i64..).filter(|(_, v)| *v > found) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    fn rows(conn: &Connection, sql: &str) -> Vec<String> {
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_store_of_every_version_comes_to_the_same_schema() {
        let schema = |conn: &Connection| {
            rows(
                conn,
                "SELECT name || ': ' || coalesce(sql, '') FROM sqlite_schema ORDER BY 1",
            )
        };
        let mut new = Connection::open_in_memory().unwrap();
        run(&mut new).unwrap();
        for version in 0..MIGRATIONS.len() {
            let mut old = Connection::open_in_memory().unwrap();
            up_to(&mut old, &MIGRATIONS[..version]).unwrap();
            run(&mut old).unwrap();
            assert_eq!(schema(&old), schema(&new), "from {version}");
        }
    }

    #[test]
    fn turns_become_lanes_with_what_waits_in_them() {
        let mut conn = Connection::open_in_memory().unwrap();
        up_to(&mut conn, &MIGRATIONS[..12]).unwrap();
        for (id, state, key, priority) in [
            ("a", "queued", "b1", 3),
            ("b", "queued", "b1", 7),
            ("c", "queued", "b2", 0),
            ("d", "running", "b3", 9),
            ("e", "succeeded", "b4", 9),
        ] {
            conn.execute(
                "INSERT INTO runs (id, state, turn_key, priority, cause, actor, request_id, spec, retries, \
                 created_at) VALUES (?1, ?2, ?3, ?4, 'api', 'a', 'r', '{}', 0, 1)",
                (id, state, key, priority),
            )
            .unwrap();
        }
        let turns = "INSERT INTO turns (queue, turn_key, served) VALUES \
             ('default', 'b1', 5), ('default', 'b3', 6), ('default', 'idle', 4)";
        conn.execute_batch(turns).unwrap();
        run(&mut conn).unwrap();
        let lanes = "SELECT turn_key || ' ' || coalesce(priority, '-') || ' ' || served FROM lanes \
             ORDER BY turn_key";
        assert_eq!(
            rows(&conn, lanes),
            ["b1 7 5", "b2 0 0", "b3 - 6", "idle - 4"]
        );
        // The first of a lane is kept as runs come and go.
        for (change, expected) in [
            ("UPDATE runs SET state = 'running' WHERE id = 'b'", "b1 3 5"),
            ("UPDATE runs SET state = 'queued' WHERE id = 'b'", "b1 7 5"),
            ("DELETE FROM runs WHERE id = 'b'", "b1 3 5"),
            (
                "UPDATE runs SET state = 'canceled' WHERE id = 'a'",
                "b1 - 5",
            ),
        ] {
            conn.execute(change, []).unwrap();
            assert_eq!(rows(&conn, lanes)[0], expected, "{change}");
        }
        // One that was never served leaves nothing behind.
        let gone = "UPDATE runs SET state = 'canceled' WHERE id = 'c'";
        conn.execute(gone, []).unwrap();
        assert_eq!(rows(&conn, lanes), ["b1 - 5", "b3 - 6", "idle - 4"]);
    }
}
