//! What an operator sees of the spool and may do with it, through the control socket. Every act is an audit record.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Item, Outlook, Spool,
    entry::{Charged, Tries, Why},
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
    #[error("it is on its way to the upstream at this moment; look again when it is settled")]
    InHand,
    /// The same delivery is done or waits.
    #[error("the same delivery is done or waits already; drop this one")]
    Known,
    /// There is no room among what waits.
    #[error("the spool is full: drop something first, or raise [spool]")]
    Full,
    /// Neither an id nor what else was given.
    #[error("say which: an id, or all")]
    Nothing,
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
                    let outlook = if at == 0 { Some(&lane.outlook) } else { None };
                    line(item, outlook)
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
                    tracing::warn!(target: "audit", event = "spool_retry", ids = ids.join(", "), error = %e, "not all dead letters were taken back");
                    break;
                }
            }
        }
        self.policy_changed();
        tracing::info!(target: "audit", event = "spool_retry", id = what.id, dead = what.dead, taken_back = ids.len(), "the operator asked for what waits to be sent again");
        let message = format!(
            "{} dead letter(s) taken back; what waits is sent now",
            ids.len()
        );
        Ok(Acted { ids, message })
    }

    fn revive(&self, item: Item, bounds: SpoolBounds) -> Result<(), ActError> {
        let head = &item.head;
        if head.remember && self.replay.knows(&head.source, &head.upstream, &head.key) {
            return Err(ActError::Known);
        }
        let order = {
            let mut shelf = self.shelf.lock();
            if shelf.entries + 1 > bounds.entries || shelf.bytes + item.bytes > bounds.bytes {
                return Err(ActError::Full);
            }
            // Whoever else acts on it finds it gone.
            if shelf.dead.remove(&item.order).is_none() {
                return Err(ActError::Unknown);
            }
            shelf.dead_bytes = shelf.dead_bytes.saturating_sub(item.bytes);
            self.next_order()
        };
        let tries = Tries {
            why: Why::InTurn,
            charged: Charged::No,
            since_ms: Timestamp::now().as_millisecond(),
            ..item.tries
        };
        let moved = self
            .store
            .revive(&item.name(), &tries, &name_of(order, &head.id));
        if let Err(e) = moved {
            let _ = self.shelf.lock().add_dead(item, bounds);
            return Err(ActError::Disk(e.to_string()));
        }
        self.take_in(vec![Item {
            order,
            tries,
            ..item
        }]);
        Ok(())
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
                all.iter()
                    .map(|id| self.drop_one(id))
                    .collect::<Result<_, _>>()?
            }
            (Some(_), true) | (None, false) => return Err(ActError::Nothing),
        };
        let message = format!("{} dropped", ids.len());
        Ok(Acted { ids, message })
    }

    fn drop_one(&self, id: &str) -> Result<String, ActError> {
        let dead = {
            let shelf = self.shelf.lock();
            shelf.dead.values().find(|i| i.head.id == id).cloned()
        };
        let (item, place) = match dead {
            Some(item) => (item, Place::Dead),
            None => (self.waiting_to_drop(id)?, Place::Waiting),
        };
        self.store
            .remove(place, &item.name())
            .map_err(|e| ActError::Disk(e.to_string()))?;
        match place {
            Place::Waiting => {
                self.take_out(&item.head.source, item.order);
            }
            Place::Dead => {
                let mut shelf = self.shelf.lock();
                if shelf.dead.remove(&item.order).is_some() {
                    shelf.dead_bytes = shelf.dead_bytes.saturating_sub(item.bytes);
                }
            }
        }
        self.policy_changed();
        tracing::warn!(
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

    fn waiting_to_drop(&self, id: &str) -> Result<Item, ActError> {
        let shelf = self.shelf.lock();
        for lane in shelf.lanes.values() {
            for (at, item) in lane.queue.values().enumerate() {
                if item.head.id == id {
                    return if at == 0 && lane.outlook == Outlook::InHand {
                        Err(ActError::InHand)
                    } else {
                        Ok(item.clone())
                    };
                }
            }
        }
        Err(ActError::Unknown)
    }
}

fn line(item: &Item, outlook: Option<&Outlook>) -> Line {
    let head = &item.head;
    let time = |ms: i64| Timestamp::from_millisecond(ms).unwrap_or_default();
    let (why, next_attempt) = match outlook {
        Some(Outlook::Blocked(reason)) => (*reason, None),
        Some(Outlook::InHand) => ("on_its_way", None),
        Some(Outlook::Again(at)) => (item.tries.why.word(), Some(time(*at))),
        Some(Outlook::Now) | None => (item.tries.why.word(), None),
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
