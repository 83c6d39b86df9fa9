//! The engine's side of [`crate::store::replays`].

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};

use super::{
    Database, StoreError,
    runs::{self, Run},
    select::Conditions,
    submissions::{NewRun, Subject, SubmitError, submit},
};
pub(super) use crate::store::replays::*;
use crate::{crash_point::CrashPoint, plan::Rules, run::State};

#[async_trait]
impl ReplayStore for Database {
    async fn replay_runs(
        &self,
        now: Timestamp,
        selection: Selection,
        actor: String,
        request_id: String,
        rules: Arc<Rules>,
    ) -> Result<Replayed, StoreError> {
        self.write(move |tx| {
            let mut replayed = Replayed {
                up_to: up_to(tx, &selection)?,
                ..Replayed::default()
            };
            let found = select(tx, &selection, replayed.up_to)?;
            let is_page = found.len() == LOOKED_AT && selection.ids.is_empty();
            let last = found.last().map(|(seq, _)| *seq).filter(|_| is_page);
            replayed.next = last;
            let mut seen = 0;
            for (seq, id) in found {
                // By id, all of them are answered for.
                if replayed.made.len() >= selection.limit && selection.ids.is_empty() {
                    replayed.next = Some(seen);
                    break;
                }
                seen = seq;
                let Some(run) = runs::find(tx, &id)? else {
                    replayed
                        .skipped
                        .push((id, "There is no such run.".to_owned()));
                    continue;
                };
                match replay(tx, now, &run, &actor, &request_id, &rules)? {
                    Ok(made) => replayed.made.push((id, made)),
                    Err(why) => replayed.skipped.push((id, why)),
                }
            }
            Ok(replayed)
        })
        .await
    }
}

/// Runs that are looked at in one transition: nobody else writes meanwhile.
const LOOKED_AT: usize = 500;

fn up_to(tx: &Connection, selection: &Selection) -> Result<i64, StoreError> {
    if let Some(number) = selection.up_to {
        return Ok(number);
    }
    let newest = "SELECT coalesce(max(seq), 0) FROM runs";
    Ok(tx.prepare_cached(newest)?.query_row([], |row| row.get(0))?)
}

/// What to look at, with its number; those that are named have none.
fn select(
    tx: &Connection,
    selection: &Selection,
    up_to: i64,
) -> Result<Vec<(i64, String)>, StoreError> {
    if !selection.ids.is_empty() {
        return Ok(selection.ids.iter().map(|id| (0, id.clone())).collect());
    }
    let mut wanted = Conditions::default();
    // Replayed ones do not fill the page, or the rest would never be reached.
    wanted.raw("NOT EXISTS (SELECT 1 FROM runs AS again WHERE again.replay_of = runs.id)");
    let states: Vec<_> = selection
        .states
        .iter()
        .map(|state| state.as_str())
        .collect();
    wanted.one_of("state", &states);
    wanted.also("card_id = ?", selection.card_id.clone());
    wanted.also("build_id = ?", selection.build_id.clone());
    wanted.also("queue = ?", selection.queue.clone());
    wanted.also("reason = ?", selection.reason.clone());
    wanted.also(
        "ended_at >= ?",
        selection.since.map(Timestamp::as_microsecond),
    );
    wanted.also("seq > ?", Some(selection.after));
    wanted.also("seq <= ?", Some(up_to));
    wanted.oldest(
        tx,
        "SELECT seq, id FROM runs",
        i64::try_from(LOOKED_AT).unwrap_or(i64::MAX),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// The run made for `run`, or why there is none.
fn replay(
    tx: &Connection,
    now: Timestamp,
    run: &Run,
    actor: &str,
    request_id: &str,
    rules: &Rules,
) -> Result<Result<String, String>, StoreError> {
    if !run.state.is_final() {
        return Ok(Err(format!(
            "It has not ended: it is {}.",
            run.state.as_str()
        )));
    }
    if run.state == State::Succeeded {
        return Ok(Err("It has succeeded.".to_owned()));
    }
    let before: Option<String> = tx
        .prepare_cached("SELECT id FROM runs WHERE replay_of = ?1 ORDER BY seq DESC LIMIT 1")?
        .query_row([&run.id], |row| row.get(0))
        .optional()?;
    if let Some(before) = before {
        return Ok(Err(format!("It was replayed as {before} already.")));
    }
    let subject = match &run.card_id {
        Some(card) => Subject::Again {
            card: card.clone(),
            work: run.work.clone(),
            priority: run.priority,
        },
        None => Subject::Command {
            work: run.work.clone(),
            priority: run.priority,
        },
    };
    let new = NewRun {
        build_id: run.build_id.clone(),
        queue: run.lane.queue.clone(),
        replay_of: Some(run.id.clone()),
        schedule_id: run.schedule_id.clone(),
        ..NewRun::new(
            &orket_shared::id::new_ulid(),
            run.cause,
            actor,
            request_id,
            subject,
        )
    };
    // A submission that is refused half way leaves nothing behind.
    tx.execute_batch("SAVEPOINT replay")?;
    match submit(tx, now, &new, rules) {
        Ok(made) => {
            tx.execute_batch("RELEASE replay")?;
            CrashPoint::RunReplayed.reached();
            Ok(Ok(made.id))
        }
        Err(SubmitError::Store(error)) => Err(error),
        Err(refused) => {
            tx.execute_batch("ROLLBACK TO replay; RELEASE replay")?;
            Ok(Err(refused.to_string()))
        }
    }
}
