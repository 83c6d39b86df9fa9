//! The writer's transactions, and who may open a store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail"
)]
use super::*;
use crate::store::feed::EventStore as _;

fn now() -> jiff::Timestamp {
    jiff::Timestamp::from_second(1).unwrap()
}

#[tokio::test]
async fn an_error_undoes_one_request_alone() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("o.db")).unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let db = db.clone();
            tokio::spawn(async move {
                db.write(move |tx| {
                    feed::append(tx, now(), "test", &n.to_string(), &serde_json::json!({}))?;
                    assert!(n % 7 != 0, "a panic is one request's own");
                    if n % 2 == 0 {
                        Err(StoreError::Fault("no".into()))
                    } else {
                        Ok(n)
                    }
                })
                .await
            })
        })
        .collect();
    let mut kept = Vec::new();
    for task in tasks {
        kept.extend(task.await.unwrap().ok());
    }
    let events = db.events_after(0, 1000).await.unwrap();
    assert_eq!(events.len(), kept.len());
    assert!(kept.iter().all(|n| n % 2 == 1 && n % 7 != 0));
    assert_eq!(db.feed().newest(), events.last().unwrap().seq);
}

#[derive(Debug, PartialEq)]
enum Refusal {
    Taken,
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

#[tokio::test]
async fn what_ends_a_transaction_is_told_to_all_of_it_as_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let db = Database::open(&dir.path().join("o.db")).unwrap();
    // All three go into one transaction: they are asked while the writer is held up.
    let (begun, held) = (
        Arc::new(std::sync::Barrier::new(2)),
        Arc::new(std::sync::Barrier::new(2)),
    );
    let hold = {
        let (db, begun, held) = (db.clone(), begun.clone(), held.clone());
        tokio::spawn(async move {
            db.write(move |_| {
                begun.wait();
                held.wait();
                Ok::<_, StoreError>(())
            })
            .await
        })
    };
    tokio::task::spawn_blocking(move || begun.wait())
        .await
        .unwrap();
    let refused = db.write(|_| Err::<(), _>(Refusal::Taken));
    let failing = db.write(|tx| {
        // As the engine does itself on an I/O error.
        tx.execute_batch("ROLLBACK").map_err(StoreError::from)?;
        let io = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
        Err::<(), _>(Refusal::Store(
            rusqlite::Error::SqliteFailure(io, None).into(),
        ))
    });
    let kept = db.write(|_| Ok::<_, Refusal>(()));
    let release = async {
        tokio::task::spawn_blocking(move || held.wait())
            .await
            .unwrap();
    };
    let (refused, failing, kept, ()) = tokio::join!(refused, failing, kept, release);
    hold.await.unwrap().unwrap();
    for answer in [refused, failing, kept] {
        let answer = answer.unwrap_err();
        assert!(
            matches!(answer, Refusal::Store(StoreError::Io(_))),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_second_owner_is_refused_and_a_new_boot_has_a_higher_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/o.db");
    let first = Database::open(&path).unwrap();
    let refused = Database::open(&path).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    assert!(
        refused
            .to_string()
            .contains(&std::process::id().to_string()),
        "{refused}"
    );
    assert_eq!(first.epoch(), 1);
    drop(first);
    assert_eq!(Database::open(&path).unwrap().epoch(), 2);
}

#[test]
fn newer_and_foreign_files_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.db");
    drop(Database::open(&path).unwrap());
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    assert!(matches!(
        Database::open(&path),
        Err(OpenError::Newer { found: 99, .. })
    ));
    let path = dir.path().join("f.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    assert!(matches!(Database::open(&path), Err(OpenError::Foreign)));
}
