//! The engine's side of [`crate::store::idempotency`].

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::StoreError;
pub(super) use crate::store::idempotency::*;

/// How long a key is remembered at least: until it is [forgotten](forget) after that.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What is kept of a request: enough to tell another one, and nothing of what it says.
fn digest(body: &[u8]) -> Vec<u8> {
    Sha256::digest(body).to_vec()
}

/// The time before which keys are forgotten.
fn forgotten(now: Timestamp) -> i64 {
    now.checked_sub(KEPT)
        .unwrap_or(Timestamp::MIN)
        .as_microsecond()
}

/// Makes something inside a transaction, unless its key was here before. What is refused is not
/// remembered.
pub(super) fn once<T, E>(
    tx: &Connection,
    now: Timestamp,
    idempotency: Option<Idempotency>,
    answer: Answer<T>,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<Once<T>, E>
where
    E: From<StoreError> + From<KeyReused>,
{
    let Some(idempotency) = idempotency else {
        return make().map(Once::New);
    };
    if let Some(first) = answered::<E>(tx, &idempotency)? {
        return Ok(Once::Before(first));
    }
    let made = make()?;
    remember(tx, now, &idempotency, &answer(&made))?;
    Ok(Once::New(made))
}

/// What was answered before to the same key and request.
pub(super) fn answered<E>(conn: &Connection, asked: &Idempotency) -> Result<Option<Value>, E>
where
    E: From<StoreError> + From<KeyReused>,
{
    let Some((seen, first)) = remembered(conn, asked)? else {
        return Ok(None);
    };
    // Rows of earlier versions hold the body itself.
    if seen != digest(&asked.body) && seen != asked.body {
        return Err(KeyReused.into());
    }
    Ok(Some(first))
}

fn remembered(
    conn: &Connection,
    idempotency: &Idempotency,
) -> Result<Option<(Vec<u8>, Value)>, StoreError> {
    let found: Option<(Vec<u8>, String)> = conn
        .prepare_cached("SELECT body, answer FROM idempotency WHERE actor = ?1 AND key = ?2")?
        .query_row((&idempotency.actor, &idempotency.key), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    found
        .map(|(seen, answer)| Ok((seen, serde_json::from_str(&answer)?)))
        .transpose()
}

fn remember(
    tx: &Connection,
    now: Timestamp,
    idempotency: &Idempotency,
    answer: &Value,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO idempotency (actor, key, body, answer, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        &idempotency.actor,
        &idempotency.key,
        digest(&idempotency.body),
        answer.to_string(),
        now.as_microsecond(),
    ))?;
    Ok(())
}

/// Removes keys past their time, `most` of them; how many.
pub(super) fn forget(tx: &Connection, now: Timestamp, most: i64) -> Result<u64, StoreError> {
    let removed = tx
        .prepare_cached(
            "DELETE FROM idempotency WHERE (actor, key) IN (SELECT actor, key FROM idempotency \
             WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)",
        )?
        .execute((forgotten(now), most))?;
    Ok(removed as u64)
}
