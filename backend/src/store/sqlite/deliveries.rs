//! The engine's side of [`crate::store::deliveries`].

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row};
use serde_json::json;

use super::{
    Database, StoreError, cards, feed,
    runs::Cause,
    select::Conditions,
    submissions::{self, NewRun, Subject, SubmitError},
    time,
};
use crate::plan::Rules;
use crate::store::Listing;
pub(super) use crate::store::deliveries::*;

#[async_trait]
impl DeliveryStore for Database {
    async fn deliver(
        &self,
        now: Timestamp,
        new: NewDelivery,
        body: Bytes,
        intent: Intent,
        rules: Arc<Rules>,
    ) -> Result<Answer, SubmitError> {
        self.write(move |tx| {
            if let Some(answer) = first_answer(tx, &new.source, &new.key)? {
                return Ok(answer);
            }
            let effect = act(tx, now, &new, &intent, &rules)?;
            let mut answer = json!({
                "status": effect.status, "message": effect.message, "delivery_id": new.id,
            });
            if let (Some(card_id), Some(run_id)) = (&effect.card_id, &effect.run_id) {
                answer["card_id"] = json!(card_id);
                answer["run_id"] = json!(run_id);
            }
            tx.prepare_cached(
                "INSERT INTO deliveries (id, source, key, provider, event, sender_delivery, actor, \
                 request_id, received_at, body, http_status, answer, card_id, run_id, replay_of) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )?
            .execute(rusqlite::params![
                new.id,
                new.source,
                new.key,
                new.provider,
                new.event,
                new.sender_delivery,
                new.actor,
                new.request_id,
                now.as_microsecond(),
                &body[..],
                effect.http_status,
                answer.to_string(),
                effect.card_id,
                effect.run_id,
                new.replay_of,
            ])?;
            let data = json!({
                "source": new.source, "event": new.event, "status": effect.status,
                "card_id": effect.card_id, "run_id": effect.run_id,
            });
            feed::append(
                tx,
                now,
                &format!("delivery.{}", effect.status),
                &new.id,
                &data,
            )?;
            Ok(Answer {
                http_status: effect.http_status,
                body: answer,
            })
        })
        .await
    }

    async fn delivery(&self, id: String) -> Result<Option<(Delivery, Vec<u8>)>, StoreError> {
        self.read(move |conn| {
            let sql = format!("SELECT {COLUMNS}, body FROM deliveries WHERE id = ?1");
            let found = conn
                .prepare_cached(&sql)?
                .query_row([id], |row| Ok((read(row), row.get(16)?)))
                .optional()?;
            found
                .map(|(delivery, body)| Ok((delivery?, body)))
                .transpose()
        })
        .await
    }

    async fn deliveries(
        &self,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Listing<Delivery>, StoreError> {
        self.read(move |conn| {
            let mut wanted = Conditions::default();
            wanted.also("seq < ?", before);
            wanted.listing(
                conn,
                &format!("SELECT {COLUMNS} FROM deliveries"),
                limit,
                read,
            )
        })
        .await
    }
}

const COLUMNS: &str = "seq, id, source, key, provider, event, sender_delivery, actor, request_id, \
     received_at, length(body), http_status, answer, card_id, run_id, replay_of";

fn read(row: &Row<'_>) -> Result<Delivery, StoreError> {
    Ok(Delivery {
        seq: row.get(0)?,
        new: NewDelivery {
            id: row.get(1)?,
            source: row.get(2)?,
            key: row.get(3)?,
            provider: row.get(4)?,
            event: row.get(5)?,
            sender_delivery: row.get(6)?,
            actor: row.get(7)?,
            request_id: row.get(8)?,
            replay_of: row.get(15)?,
        },
        received_at: time(row.get(9)?)?,
        body_bytes: row.get(10)?,
        http_status: row.get(11)?,
        answer: serde_json::from_str(&row.get::<_, String>(12)?)?,
        card_id: row.get(13)?,
        run_id: row.get(14)?,
    })
}

fn first_answer(tx: &Connection, source: &str, key: &str) -> Result<Option<Answer>, StoreError> {
    let found: Option<(u16, String)> = tx
        .prepare_cached(
            "SELECT http_status, answer FROM deliveries WHERE source = ?1 AND key = ?2",
        )?
        .query_row((source, key), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((http_status, answer)) = found else {
        return Ok(None);
    };
    Ok(Some(Answer {
        http_status,
        body: serde_json::from_str(&answer)?,
    }))
}

/// What a delivery did, and how to answer it.
struct Effect {
    http_status: u16,
    status: &'static str,
    message: String,
    card_id: Option<String>,
    run_id: Option<String>,
}

impl Effect {
    fn ignored(message: String) -> Self {
        Self {
            http_status: 200,
            status: "ignored",
            message,
            card_id: None,
            run_id: None,
        }
    }
}

fn act(
    tx: &Connection,
    now: Timestamp,
    new: &NewDelivery,
    intent: &Intent,
    rules: &Rules,
) -> Result<Effect, SubmitError> {
    let (card_ids, run_id) = match intent {
        Intent::Ignore(why) => return Ok(Effect::ignored(why.clone())),
        Intent::Review { card_ids, run_id } => (card_ids, run_id),
    };
    let mut card = None;
    for id in card_ids {
        card = cards::find(tx, id)?;
        if card.is_some() {
            break;
        }
    }
    let Some(cards::Card { id: card_id, .. }) = card else {
        return Ok(Effect::ignored(format!(
            "There is no card {}.",
            card_ids.join(" or ")
        )));
    };
    let subject = Subject::Card {
        id: card_id.clone(),
        exclusive: false,
    };
    let run = NewRun::new(run_id, Cause::Review, &new.actor, &new.request_id, subject);
    match submissions::submit(tx, now, &run, rules) {
        Ok(run) => Ok(Effect {
            http_status: 202,
            status: "accepted",
            message: format!(
                "Card {card_id} is in code_review, run {} is queued.",
                run.id
            ),
            card_id: Some(card_id.clone()),
            run_id: Some(run.id),
        }),
        // Both are found out before anything is written.
        Err(error @ (SubmitError::UnknownCard(_) | SubmitError::CardNotStartable { .. })) => {
            Ok(Effect::ignored(error.to_string()))
        }
        Err(error) => Err(error),
    }
}
