//! What an operator sees of the spool and may do with it, through the control socket. Every act is an audit record.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    KeepError, Spool,
    entry::{Charged, Tries, Why},
    shelf::{Item, More, Outlook, Shelf},
    store::{Place, name_of},
};
use crate::policy::SpoolBounds;

/// Most lines of one list.
const LINES: usize = 1000;

/// The spool as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// How many wait.
    pub waiting_total: usize,
    /// How many bytes they take.
    pub waiting_bytes: u64,
    /// The first of them, in their order for each source.
    pub waiting: Vec<Line>,
    /// How many failed for good.
    pub dead_total: usize,
    /// The first of them.
    pub dead: Vec<Line>,
    /// How many entries could not be read and lie in `spool/unreadable`.
    pub unreadable: usize,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its id, as its sender was told.
    pub id: String,
    /// Its source.
    pub source: String,
    /// Its route.
    pub route: String,
    /// The upstream it was meant for when it came.
    pub upstream: String,
    /// The event.
    pub event: Option<String>,
    /// The sender's own id.
    pub delivery: Option<String>,
    /// The id of the request it came with.
    pub request_id: String,
    /// The idempotency key.
    pub key: String,
    /// When it was proven.
    pub received: Timestamp,
    /// What it takes.
    pub bytes: u64,
    /// How often it was sent.
    pub attempts: u32,
    /// When it was sent last.
    pub last_attempt: Option<Timestamp>,
    /// What the upstream answered last.
    pub last_status: Option<u16>,
    /// Why it is not done.
    pub why: String,
    /// When it is sent next, as far as is known: only for the first of a source.
    pub next_attempt: Option<Timestamp>,
}

/// What to send again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// This one; a dead letter goes back to the end of what waits.
    pub id: Option<String>,
    /// All dead letters, too.
    #[serde(default)]
    pub dead: bool,
}

/// What to forget.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drop {
    /// This one.
    pub id: Option<String>,
    /// All dead letters.
    #[serde(default)]
    pub dead: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acted {
    /// The ids it was done to.
    pub ids: Vec<String>,
    /// What was done, for a person.
    pub message: String,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActError {
    /// No entry has this id.
    #[error("there is no such entry; orket-gateway spool list shows them")]
    Unknown,
    /// It is being sent at this moment.
    #[error(
        "it is being handed over: it is on its way to the upstream at this moment; look again when it is settled"
    )]
    InHand,
    /// The same delivery is done or waits.
    #[error("the same delivery is done or waits already; drop this one")]
    Known,
    /// There is no room among what waits.
    #[error("the spool is full: drop something first, or raise [spool]")]
    Full,
    /// There is no room for more of its source.
    #[error(
        "its source has its share of the spool: drop something of it first, or raise [spool] source_share"
    )]
    ShareFull,
    /// Neither an id nor what else was given.
    #[error("say which: {{\"id\": \"…\"}}, or all dead letters: {{\"dead\": true}}")]
    Nothing,
    /// What was asked for cannot be read. It is not repeated.
    #[error(
        "this is not understood: send {{\"id\": \"…\"}}, or for all dead letters {{\"dead\": true}}, and nothing else"
    )]
    Unread,
    /// The disk does not take it.
    #[error("the disk does not take it: {0}")]
    Disk(String),
}

impl Spool {
    /// Everything, up to a bound.
    pub fn list(&self) -> List {
        let shelf = self.shelf.lock();
        let mut lanes: Vec<_> = shelf.lanes.iter().collect();
        lanes.sort_by_key(|(source, _)| (*source).clone());
        let waiting = lanes
            .into_iter()
            .flat_map(|(_, lane)| {
                lane.queue.values().enumerate().map(|(at, item)| {
                    let shown = at == 0 || lane.outlook == Outlook::InHand(item.order);
                    line(item, shown.then_some(&lane.outlook))
                })
            })
            .take(LINES)
            .collect();
        List {
            waiting_total: shelf.entries,
            waiting_bytes: shelf.bytes,
            waiting,
            dead_total: shelf.dead.len(),
            dead: shelf
                .dead
                .values()
                .take(LINES)
                .map(|item| line(item, None))
                .collect(),
            unreadable: shelf.unreadable,
        }
    }

    /// Sends again now what waits; takes dead letters back where it is asked to.
    pub fn retry(&self, what: &Retry, bounds: SpoolBounds) -> Result<Acted, ActError> {
        let dead: Vec<Item> = {
            let shelf = self.shelf.lock();
            match &what.id {
                None if what.dead => shelf.dead.values().cloned().collect(),
                None => Vec::new(),
                Some(id) => {
                    let found = shelf.dead.values().find(|item| item.head.id == *id);
                    let waits = shelf
                        .lanes
                        .values()
                        .any(|lane| lane.queue.values().any(|item| item.head.id == *id));
                    if found.is_none() && !waits {
                        return Err(ActError::Unknown);
                    }
                    found.into_iter().cloned().collect()
                }
            }
        };
        let mut ids = Vec::new();
        for item in dead {
            let id = item.head.id.clone();
            match self.revive(item, bounds) {
                Ok(()) => ids.push(id),
                // Of many, those that can be taken back are.
                Err(ActError::Known) if what.id.is_none() => {}
                Err(e) if ids.is_empty() => return Err(e),
                Err(e) => {
                    tracing::warn!(name: "act", target: "audit", event = "spool_retry", ids = ids.join(", "), error = %e, "not all dead letters were taken back");
                    break;
                }
            }
        }
        self.policy_changed();
        tracing::info!(name: "act", target: "audit", event = "spool_retry", id = what.id, dead = what.dead, taken_back = ids.len(), "the operator asked for what waits to be sent again");
        let message = format!(
            "{} dead letter(s) taken back; what waits is sent now",
            ids.len()
        );
        Ok(Acted { ids, message })
    }

    fn revive(&self, item: Item, bounds: SpoolBounds) -> Result<(), ActError> {
        let head = &item.head;
        // Known as waiting from here on, so that nobody else keeps the same meanwhile.
        if head.remember && !self.replay.waits(&head.source, &head.upstream, &head.key) {
            return Err(ActError::Known);
        }
        let taken = self.take_dead(&item, bounds).and_then(|order| {
            let tries = Tries {
                why: Why::InTurn,
                charged: Charged::No,
                since_ms: Timestamp::now().as_millisecond(),
                ..item.tries
            };
            let moved = self
                .store
                .revive(&item.name(), &tries, &name_of(order, &head.id));
            match moved {
                Ok(()) => Ok((order, tries)),
                Err(e) => {
                    self.shelf.lock().add_dead(item.clone());
                    Err(ActError::Disk(e.to_string()))
                }
            }
        });
        match taken {
            Ok((order, tries)) => {
                self.shelve(Item {
                    order,
                    tries,
                    ..item
                });
                Ok(())
            }
            Err(e) => {
                self.waits_no_longer(&item);
                Err(e)
            }
        }
    }

    /// Takes a dead letter out of the books, if there is room for it among what waits: its new place in the order.
    fn take_dead(&self, item: &Item, bounds: SpoolBounds) -> Result<u64, ActError> {
        let mut shelf = self.shelf.lock();
        let one = More::default().and(item.bytes);
        shelf
            .has_room(&item.head.source, one, one, bounds)
            .map_err(|e| match e {
                KeepError::ShareFull => ActError::ShareFull,
                KeepError::Full | KeepError::Unavailable => ActError::Full,
            })?;
        shelf.take_dead(item.order).ok_or(ActError::Unknown)?;
        Ok(self.next_order())
    }

    /// Forgets one, or all dead letters.
    pub fn drop_entries(&self, what: &Drop) -> Result<Acted, ActError> {
        let ids = match (&what.id, what.dead) {
            (Some(id), false) => vec![self.drop_one(id)?],
            (None, true) => {
                let all: Vec<String> = {
                    let shelf = self.shelf.lock();
                    shelf.dead.values().map(|i| i.head.id.clone()).collect()
                };
                let mut dropped = Vec::new();
                for id in all {
                    match self.drop_one(&id) {
                        Ok(id) => dropped.push(id),
                        // Someone else has acted on it meanwhile.
                        Err(ActError::Unknown | ActError::InHand) => {}
                        Err(e) => return Err(e),
                    }
                }
                dropped
            }
            (Some(_), true) | (None, false) => return Err(ActError::Nothing),
        };
        let message = format!("{} dropped", ids.len());
        Ok(Acted { ids, message })
    }

    fn drop_one(&self, id: &str) -> Result<String, ActError> {
        // Out of the books first: whoever else would act on it finds it gone.
        let (item, place) = self.shelf.lock().take_to_drop(id)?;
        if let Err(e) = self.store.remove_for_good(place, &item.name()) {
            let mut shelf = self.shelf.lock();
            match place {
                Place::Waiting => shelf.add(item),
                Place::Dead => shelf.add_dead(item),
            }
            return Err(ActError::Disk(e.to_string()));
        }
        if place == Place::Waiting {
            self.waits_no_longer(&item);
        }
        self.policy_changed();
        tracing::warn!(
            name: "act",
            target: "audit",
            event = "spool_drop",
            source = item.head.source,
            id = item.head.id,
            request_id = item.head.request_id,
            idempotency_key = item.head.key,
            attempts = item.tries.attempts,
            "the operator dropped a delivery"
        );
        Ok(item.head.id.clone())
    }
}

impl Shelf {
    /// Takes an entry out, unless it is being handed over.
    fn take_to_drop(&mut self, id: &str) -> Result<(Item, Place), ActError> {
        let dead = self.dead.values().find(|item| item.head.id == id);
        if let Some(order) = dead.map(|item| item.order) {
            let item = self.take_dead(order).ok_or(ActError::Unknown)?;
            return Ok((item, Place::Dead));
        }
        let found = self.lanes.iter().find_map(|(source, lane)| {
            let at = lane.queue.values().position(|item| item.head.id == id)?;
            let order = *lane.queue.keys().nth(at)?;
            let in_hand = lane.outlook == Outlook::InHand(order);
            Some((source.clone(), order, in_hand))
        });
        match found {
            None => Err(ActError::Unknown),
            Some((_, _, true)) => Err(ActError::InHand),
            Some((source, order, false)) => self
                .remove(&source, order)
                .map(|item| (item, Place::Waiting))
                .ok_or(ActError::Unknown),
        }
    }
}

fn line(item: &Item, outlook: Option<&Outlook>) -> Line {
    let head = &item.head;
    let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or_default();
    let (why, next_attempt) = match outlook {
        Some(Outlook::Blocked(reason)) => (*reason, None),
        Some(Outlook::InHand(order)) if *order == item.order => ("on_its_way", None),
        Some(Outlook::Again(at)) => (item.tries.why.word(), Some(time(*at))),
        Some(Outlook::Now | Outlook::InHand(_)) | None => (item.tries.why.word(), None),
    };
    Line {
        id: head.id.clone(),
        source: head.source.clone(),
        route: head.route.clone(),
        upstream: head.upstream.clone(),
        event: head.event.clone(),
        delivery: head.delivery.clone(),
        request_id: head.request_id.clone(),
        key: head.key.clone(),
        received: time(head.received_ms),
        bytes: item.bytes,
        attempts: item.tries.attempts,
        last_attempt: (item.tries.last_ms > 0).then(|| time(item.tries.last_ms)),
        last_status: (item.tries.status > 0).then_some(item.tries.status),
        why: why.to_owned(),
        next_attempt,
    }
}
