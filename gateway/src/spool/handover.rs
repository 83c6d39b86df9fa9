//! Hands over what waits: each source strictly in order, sources independent of each other.
//!
//! It asks with the policy in force, spends the source's budget, and backs off while the upstream does not take anything.
//! It stops between deliveries; one that is cut short stays where it is, under the same key.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::Timestamp;
use pingora_core::server::ShutdownWatch;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Item, Outlook, Spool,
    courier::{self, Outcome, Setback},
    entry::{Charged, Tries, Why},
    labels_of,
    letter::Letter,
    store::{Place, Unread},
};
use crate::{
    budget::Owner,
    edge::Edge,
    limit::Exceeded,
    pipeline::Snapshot,
    policy::{Auth, BudgetOf, Mode, Route, SpoolBounds, Upstream},
};

/// The pause after the first setback; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that the upstream did not ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// The shortest pause, also when the upstream is heard to answer others.
const QUIET: Duration = Duration::from_millis(500);
/// How long a delivery that arrived earlier may take to be tried and written.
const ARRIVING: Duration = Duration::from_secs(5);
/// How often what the policy has no way for is looked at again.
const BLOCKED: Duration = Duration::from_secs(30);
/// How long a delivery on its way is waited for when the gateway stops.
const LAST_TRY: Duration = Duration::from_secs(3);

/// Hands over until told to stop.
pub async fn run(edge: Arc<Edge>, spool: Arc<Spool>, mut stopping: ShutdownWatch) {
    let mut lanes: JoinSet<Arc<str>> = JoinSet::new();
    let mut running: HashSet<Arc<str>> = HashSet::new();
    loop {
        for source in spool.sources() {
            if running.insert(source.clone()) {
                let (edge, spool, stopping) = (edge.clone(), spool.clone(), stopping.clone());
                lanes.spawn(async move {
                    Lane {
                        edge,
                        spool,
                        source: source.clone(),
                        stopping,
                        setbacks: 0,
                        paid_for: None,
                    }
                    .run()
                    .await;
                    source
                });
            }
        }
        tokio::select! {
            () = told(&mut stopping) => break,
            () = spool.changed.notified() => {}
            Some(ended) = lanes.join_next() => match ended {
                Ok(source) => { running.remove(&source); }
                Err(e) => {
                    // Which one is not known: all that are idle are begun again.
                    tracing::error!(event = "fault", error = %e, "handing over a source's deliveries ended in a fault");
                    lanes.shutdown().await;
                    running.clear();
                }
            },
        }
    }
    while lanes.join_next().await.is_some() {}
}

async fn told(stopping: &mut ShutdownWatch) {
    let _ = stopping.wait_for(|told| *told).await;
}

/// One source's deliveries, one after the other.
struct Lane {
    edge: Arc<Edge>,
    spool: Arc<Spool>,
    source: Arc<str>,
    stopping: ShutdownWatch,
    /// In a row.
    setbacks: u32,
    /// The delivery for which the budget is charged already.
    paid_for: Option<u64>,
}

/// What comes after looking at the first delivery.
enum Next {
    /// It is settled: on to the one behind it.
    GoOn,
    /// Look again after this time, or when woken. Whose answers wake it.
    Pause(Duration, Option<String>),
    /// The gateway stops.
    Stop,
}

/// The first of a lane.
pub(super) enum First {
    /// Nothing waits.
    None,
    /// One that arrived earlier is still being tried or written.
    Arriving,
    /// This one.
    Item(Item),
}

impl Lane {
    async fn run(mut self) {
        while !*self.stopping.borrow() {
            let next = match self.spool.first(&self.source) {
                First::None => return,
                First::Arriving => {
                    self.wait_for_arrivals().await;
                    continue;
                }
                First::Item(item) => self.try_first(item).await,
            };
            match next {
                Next::GoOn => self.setbacks = 0,
                Next::Pause(time, listens_to) => self.pause(time, listens_to).await,
                Next::Stop => return,
            }
        }
    }

    async fn wait_for_arrivals(&mut self) {
        let Some(settled) = self.spool.settled(&self.source) else {
            return;
        };
        tokio::select! {
            _ = timeout(ARRIVING, settled.notified()) => {}
            () = told(&mut self.stopping) => {}
        }
    }

    async fn pause(&mut self, time: Duration, listens_to: Option<String>) {
        let Some(wake) = self.spool.wake(&self.source, listens_to.clone()) else {
            return;
        };
        tokio::select! {
            () = sleep(time.min(QUIET)) => {}
            () = told(&mut self.stopping) => {}
        }
        tokio::select! {
            () = sleep(time.saturating_sub(QUIET)) => {}
            () = wake.notified() => {}
            () = told(&mut self.stopping) => {}
        }
        if listens_to.is_some() {
            self.spool.listening.fetch_sub(1, Ordering::Relaxed);
        }
        self.spool.stop_listening(&self.source);
    }

    async fn try_first(&mut self, item: Item) -> Next {
        let snapshot = self.edge.snapshot();
        let bounds = snapshot.policy.spool;
        let left = age_left(&item, bounds);
        if left.is_zero() {
            let tries = Tries {
                why: Why::Expired,
                ..item.tries
            };
            return self.bury(&item, tries, bounds);
        }
        let (route, upstream) = match way(&snapshot, &item) {
            Ok(way) => way,
            Err(blocked) => {
                self.spool.look(&self.source, Outlook::Blocked(blocked));
                return Next::Pause(BLOCKED.min(left), None);
            }
        };
        if let Err(e) = self.charge(&snapshot, route, &item) {
            self.spool.held_back(&item, Why::OverBudget);
            return self.again(e.retry_after.min(left), None);
        }
        let letter = match self.spool.store.read(&item.name()) {
            Ok(entry) => Letter {
                head: entry.head,
                body: entry.body,
            },
            Err(Unread::Damaged(why)) => {
                self.spool.set_aside(&item, &why);
                return Next::GoOn;
            }
            Err(Unread::Now(e)) => {
                tracing::error!(event = "spool_not_read", error = %e, id = item.head.id, "a delivery of the spool cannot be read now; it is tried again");
                let pause = self.backoff(None);
                return self.again(pause.min(left), None);
            }
        };
        let Ok(request) = letter.stamped(route, upstream) else {
            self.spool.set_aside(&item, "what it holds is no request");
            return Next::GoOn;
        };
        self.spool.look(&self.source, Outlook::InHand);
        let patience = upstream.connect_timeout + upstream.response_timeout;
        let outcome = tokio::select! {
            outcome = courier::send(upstream, request, letter.body, patience) => outcome,
            () = async { told(&mut self.stopping).await; sleep(LAST_TRY).await } => return Next::Stop,
        };
        self.settle(&item, outcome, upstream, bounds)
    }

    fn settle(
        &mut self,
        item: &Item,
        outcome: Outcome,
        upstream: &Upstream,
        bounds: SpoolBounds,
    ) -> Next {
        self.spool
            .metrics
            .spool_attempts
            .inc(&labels_of(&self.source));
        match outcome {
            Outcome::Done(answer) => {
                self.spool.heard(&upstream.id);
                self.spool.finish(item, answer.status.as_u16());
                Next::GoOn
            }
            Outcome::Refused(answer) => {
                self.spool.heard(&upstream.id);
                let tries = Tries {
                    why: Why::Refused,
                    ..tried(item.tries, answer.status.as_u16())
                };
                self.bury(item, tries, bounds)
            }
            Outcome::Later(setback) => {
                self.spool.set_back(item, setback);
                let pause = self.backoff(setback.retry_after);
                let listens_to = match setback.why {
                    Why::Unreachable | Why::Timeout | Why::BrokeOff => Some(upstream.id.clone()),
                    Why::InTurn
                    | Why::Failed
                    | Why::Throttled
                    | Why::OverBudget
                    | Why::Refused
                    | Why::Expired => None,
                };
                tracing::debug!(
                    event = "hand_over_set_back",
                    source = &*self.source,
                    id = item.head.id,
                    why = setback.why.word(),
                    status = setback.status,
                    "a delivery of the spool was not taken"
                );
                self.again(pause.min(age_left(item, bounds)), listens_to)
            }
        }
    }

    fn again(&self, pause: Duration, listens_to: Option<String>) -> Next {
        let pause_ms = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        let at = now_ms().saturating_add(pause_ms);
        self.spool.look(&self.source, Outlook::Again(at));
        Next::Pause(pause, listens_to)
    }

    /// Twice the last pause, with a part left to chance so that sources do not ask in step.
    fn backoff(&mut self, asked_for: Option<Duration>) -> Duration {
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.setbacks.min(16))
            .min(LONGEST_PAUSE);
        self.setbacks += 1;
        let pause = pause.mul_f64(rand::random_range(0.5..=1.0));
        pause.max(asked_for.unwrap_or_default())
    }

    /// Charges the source's budget for a delivery, once. A later one that was charged when it came pays for an earlier one.
    fn charge(&mut self, snapshot: &Snapshot, route: &Route, item: &Item) -> Result<(), Exceeded> {
        if self.paid_for == Some(item.order) {
            return Ok(());
        }
        if !self.spool.use_credit(&self.source) {
            spend(snapshot, route, &self.source)?;
            self.spool.charged(item);
        }
        self.paid_for = Some(item.order);
        Ok(())
    }

    fn bury(&mut self, item: &Item, tries: Tries, bounds: SpoolBounds) -> Next {
        match self.spool.bury(item, tries, bounds) {
            Ok(()) => Next::GoOn,
            Err(e) => {
                tracing::error!(event = "spool_not_written", error = %e, id = item.head.id, "a delivery could not be put aside: mend the disk under [state] dir");
                let pause = self.backoff(None);
                self.again(pause, None)
            }
        }
    }
}

/// The way of an entry by the policy in force, or why there is none.
fn way<'a>(snapshot: &'a Snapshot, item: &Item) -> Result<(&'a Route, &'a Upstream), &'static str> {
    let policy = &snapshot.policy;
    let route = policy
        .routes
        .iter()
        .find(|route| *route.id == *item.head.route)
        .ok_or("route_gone")?;
    match &route.auth {
        Auth::Webhook(auth) if *auth.source == *item.head.source => {}
        Auth::Webhook(_) | Auth::ApiKey | Auth::TestWebhook(_) | Auth::None => {
            return Err("route_changed");
        }
    }
    let upstream = policy
        .upstreams
        .get(route.upstream)
        .ok_or("upstream_gone")?;
    Ok((route, upstream))
}

/// Spends from the budgets that the source has on this route: from all of them or from none.
fn spend(snapshot: &Snapshot, route: &Route, source: &Arc<str>) -> Result<(), Exceeded> {
    let owner = Owner::Named(source.clone());
    let limiters: Vec<_> = route
        .budgets
        .iter()
        .filter(|index| {
            snapshot
                .policy
                .rate_limits
                .get(**index)
                .is_some_and(|limit| limit.by == BudgetOf::Source && limit.mode == Mode::Enforce)
        })
        .filter_map(|index| snapshot.budgets.named().get(*index))
        .collect();
    for named in &limiters {
        named.limiter().peek(&owner)?;
    }
    for named in &limiters {
        named.limiter().spend(&owner)?;
    }
    Ok(())
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

fn tried(tries: Tries, status: u16) -> Tries {
    Tries {
        attempts: tries.attempts.saturating_add(1),
        status,
        last_ms: now_ms(),
        ..tries
    }
}

fn age_left(item: &Item, bounds: SpoolBounds) -> Duration {
    let age = u64::try_from(now_ms().saturating_sub(item.tries.since_ms)).unwrap_or(0);
    bounds.age.saturating_sub(Duration::from_millis(age))
}

impl Spool {
    fn sources(&self) -> Vec<Arc<str>> {
        let shelf = self.shelf.lock();
        shelf
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.queue.is_empty())
            .map(|(source, _)| source.clone())
            .collect()
    }

    fn first(&self, source: &str) -> First {
        let shelf = self.shelf.lock();
        let Some(lane) = shelf.lanes.get(source) else {
            return First::None;
        };
        match (lane.queue.first_key_value(), lane.arriving.first()) {
            (None, _) => First::None,
            (Some((order, _)), Some(arriving)) if arriving < order => First::Arriving,
            (Some((_, item)), _) => First::Item(item.clone()),
        }
    }

    fn settled(&self, source: &str) -> Option<Arc<Notify>> {
        Some(self.shelf.lock().lanes.get(source)?.settled.clone())
    }

    /// What wakes a lane, which listens to an upstream from now on.
    fn wake(&self, source: &str, listens_to: Option<String>) -> Option<Arc<Notify>> {
        let mut shelf = self.shelf.lock();
        let lane = shelf.lanes.get_mut(source)?;
        if listens_to.is_some() {
            self.listening.fetch_add(1, Ordering::Relaxed);
        }
        lane.listens_to = listens_to;
        Some(lane.wake.clone())
    }

    fn stop_listening(&self, source: &str) {
        if let Some(lane) = self.shelf.lock().lanes.get_mut(source) {
            lane.listens_to = None;
        }
    }

    fn look(&self, source: &str, outlook: Outlook) {
        if let Some(lane) = self.shelf.lock().lanes.get_mut(source) {
            lane.outlook = outlook;
        }
    }

    fn use_credit(&self, source: &str) -> bool {
        let mut shelf = self.shelf.lock();
        match shelf.lanes.get_mut(source) {
            Some(lane) if lane.credit > 0 => {
                lane.credit -= 1;
                true
            }
            Some(_) | None => false,
        }
    }

    fn charged(&self, item: &Item) {
        self.rewrite(
            item,
            Tries {
                charged: Charged::Yes,
                ..item.tries
            },
        );
    }

    /// It was sent and not taken.
    fn set_back(&self, item: &Item, setback: Setback) {
        let tries = Tries {
            why: setback.why,
            ..tried(item.tries, setback.status)
        };
        self.rewrite(item, tries);
    }

    /// It was not sent.
    fn held_back(&self, item: &Item, why: Why) {
        self.rewrite(item, Tries { why, ..item.tries });
    }

    /// In the books, and on the disk where it takes it.
    fn rewrite(&self, item: &Item, tries: Tries) {
        let mut shelf = self.shelf.lock();
        let Some(kept) = shelf
            .lanes
            .get_mut(item.head.source.as_str())
            .and_then(|lane| lane.queue.get_mut(&item.order))
        else {
            return;
        };
        // Charged is charged, whoever writes.
        let charged = match kept.tries.charged {
            Charged::Yes => Charged::Yes,
            Charged::No => tries.charged,
        };
        kept.tries = Tries { charged, ..tries };
        let kept = kept.clone();
        drop(shelf);
        // How often it was tried may be forgotten.
        let _ = self.store.note(Place::Waiting, &kept.name(), &kept.tries);
    }

    /// It is done: known as such before it is gone from the disk.
    fn finish(&self, item: &Item, status: u16) {
        self.done(&item.head);
        self.take_out(&item.head.source, item.order);
        if let Err(e) = self.store.remove(Place::Waiting, &item.name()) {
            tracing::warn!(event = "spool_not_removed", error = %e, id = item.head.id, "a delivery that is done cannot be removed from the disk; after a restart it is sent again, under the same key");
        }
        self.metrics
            .spool_handed_over
            .inc(&labels_of(&item.head.source));
        tracing::info!(
            event = "handed_over",
            source = item.head.source,
            id = item.head.id,
            request_id = item.head.request_id,
            status,
            attempts = item.tries.attempts.saturating_add(1),
            "a delivery of the spool was handed over"
        );
    }

    /// It has failed for good: kept aside, and the oldest of those make room, loudly.
    pub(super) fn bury(
        &self,
        item: &Item,
        tries: Tries,
        bounds: SpoolBounds,
    ) -> std::io::Result<()> {
        self.store.bury(&item.name(), &tries)?;
        self.take_out(&item.head.source, item.order);
        self.metrics.spool_failed.inc(&labels_of(&item.head.source));
        tracing::warn!(
            target: "audit",
            event = "dead_letter",
            source = item.head.source,
            id = item.head.id,
            request_id = item.head.request_id,
            why = tries.why.word(),
            status = tries.status,
            "a delivery failed for good and is kept aside: orket-gateway spool list --dead"
        );
        let too_many = self.shelf.lock().add_dead(
            Item {
                tries,
                ..item.clone()
            },
            bounds,
        );
        for oldest in too_many {
            self.metrics
                .spool_dead_dropped
                .inc(&labels_of(&oldest.head.source));
            let removed = self.store.remove(Place::Dead, &oldest.name());
            tracing::warn!(
                target: "audit",
                event = "dead_letter_dropped",
                source = oldest.head.source,
                id = oldest.head.id,
                request_id = oldest.head.request_id,
                removed = removed.is_ok(),
                "there are more dead letters than [spool] allows: the oldest is gone"
            );
        }
        Ok(())
    }

    fn set_aside(&self, item: &Item, why: &str) {
        if self
            .store
            .set_aside(Place::Waiting, &item.name(), why)
            .is_err()
        {
            tracing::error!(target: "audit", event = "spool_unreadable", id = item.head.id, why, "an entry of the spool cannot be read, nor moved");
        }
        self.take_out(&item.head.source, item.order);
        self.shelf.lock().unreadable += 1;
    }
}
