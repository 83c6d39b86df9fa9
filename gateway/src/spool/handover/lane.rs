//! One source's deliveries, one after the other.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use pingora_core::server::ShutdownWatch;
use tokio::time::{Instant, sleep, timeout};

use super::{
    super::{
        Spool,
        courier::{self, Outcome},
        entry::{Tries, Why},
        labels_of,
        letter::Letter,
        shelf::{Item, Outlook},
        store::Unread,
    },
    again_at, backoff,
    books::{First, tried},
    now_ms, told,
};
use crate::{
    bodies::PROVEN_PART,
    budget::Owner,
    edge::Edge,
    limit::Exceeded,
    pipeline::Snapshot,
    policy::{Auth, BudgetOf, Mode, Route, SpoolBounds, Upstream},
};

/// The shortest pause, also when the upstream is heard to answer others.
const QUIET: Duration = Duration::from_millis(500);
/// How long a delivery that arrived earlier may take to be tried and written.
const ARRIVING: Duration = Duration::from_secs(5);
/// How often what the policy has no way for is looked at again.
const BLOCKED: Duration = Duration::from_secs(30);
/// How long a delivery on its way is waited for when the gateway stops.
const LAST_TRY: Duration = Duration::from_secs(3);

/// See the [module](self).
pub(super) struct Lane {
    edge: Arc<Edge>,
    spool: Arc<Spool>,
    source: Arc<str>,
    stopping: ShutdownWatch,
    /// In a row.
    setbacks: u32,
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

impl Lane {
    pub(super) fn new(
        edge: &Arc<Edge>,
        spool: &Arc<Spool>,
        source: &Arc<str>,
        stopping: ShutdownWatch,
    ) -> Self {
        Self {
            edge: edge.clone(),
            spool: spool.clone(),
            source: source.clone(),
            stopping,
            setbacks: 0,
        }
    }

    /// Hands over until nothing waits, or until told to stop.
    pub(super) async fn run(mut self) {
        while !*self.stopping.borrow() {
            let next = match self.spool.first(&self.source) {
                First::None => return,
                First::Arriving => {
                    self.wait_for_arrivals().await;
                    continue;
                }
                First::Item(item) => self.take_in_hand(item).await,
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

    /// From here on nobody drops it, until it is settled or waits for another try.
    async fn take_in_hand(&mut self, item: Item) -> Next {
        let snapshot = self.edge.snapshot();
        let most = snapshot.policy.limits.webhook_memory / PROVEN_PART;
        let bytes = usize::try_from(item.bytes).unwrap_or(usize::MAX);
        let room = tokio::select! {
            room = self.spool.in_hand.take(bytes, most) => room,
            () = told(&mut self.stopping) => return Next::Stop,
        };
        let next = if self.spool.take_in_hand(&item) {
            self.try_first(&snapshot, item).await
        } else {
            // Dropped meanwhile.
            Next::GoOn
        };
        drop(room);
        next
    }

    async fn try_first(&mut self, snapshot: &Snapshot, item: Item) -> Next {
        if self.spool.is_done(&item.head) {
            // Its sender sent it again while it was being taken back, say.
            self.spool.forget_done(&item);
            return Next::GoOn;
        }
        let bounds = snapshot.policy.spool;
        let left = age_left(&item, bounds);
        if left.is_zero() {
            let tries = Tries {
                why: Why::Expired,
                ..item.tries
            };
            return self.bury(&item, tries, bounds);
        }
        let (route, upstream) = match way(snapshot, &item) {
            Ok(way) => way,
            Err(blocked) => {
                self.spool.look(&self.source, Outlook::Blocked(blocked));
                return Next::Pause(BLOCKED.min(left), None);
            }
        };
        if let Err(e) = self.charge(snapshot, route, &item) {
            self.spool.held_back(&item, Why::OverBudget);
            return self.again(e.retry_after.min(left), None);
        }
        let letter = match self.spool.store.read(&item.name()) {
            Ok(entry) => Letter {
                head: entry.head,
                body: entry.body,
                held: None,
            },
            Err(Unread::Damaged(why)) => {
                self.spool.set_aside(&item, &why);
                return Next::GoOn;
            }
            Err(Unread::Gone) => {
                self.spool.file_is_gone(&item);
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
        let until = Instant::now() + upstream.connect_timeout + upstream.response_timeout;
        let outcome = tokio::select! {
            outcome = courier::send(upstream, request, letter.body, until) => outcome,
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
                    | Why::Expired
                    | Why::Fault => None,
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
        self.spool
            .look(&self.source, Outlook::Again(again_at(pause)));
        Next::Pause(pause, listens_to)
    }

    /// The pause after one more setback in a row.
    fn backoff(&mut self, asked_for: Option<Duration>) -> Duration {
        let pause = backoff(self.setbacks);
        self.setbacks += 1;
        pause.max(asked_for.unwrap_or_default())
    }

    /// Charges the source's budget for a delivery, once. A later one that was charged when it came pays for an earlier one.
    fn charge(&self, snapshot: &Snapshot, route: &Route, item: &Item) -> Result<(), Exceeded> {
        if !self.spool.is_charged(item) {
            spend(snapshot, route, &self.source)?;
            self.spool.charged(item);
        }
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

fn age_left(item: &Item, bounds: SpoolBounds) -> Duration {
    let age = u64::try_from(now_ms().saturating_sub(item.tries.since_ms)).unwrap_or(0);
    bounds.age.saturating_sub(Duration::from_millis(age))
}
