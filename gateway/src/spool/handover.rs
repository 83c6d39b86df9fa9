//! Hands over what waits: each source strictly in order, sources independent of each other.
//!
//! It asks with the policy in force, spends the source's budget, and backs off while the upstream does not take anything.
//! It stops between deliveries; one that is cut short stays where it is, under the same key. A fault in one source's
//! hand-over is told, and that source goes on after a pause. `lane` hands over, `books` writes down what came of it.

mod books;
mod lane;

use std::{collections::HashSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use jiff::Timestamp;
use pingora_core::server::ShutdownWatch;
use tokio::{task::JoinSet, time::sleep};

use self::lane::Lane;
use super::Spool;
use crate::edge::Edge;

/// The pause after the first setback; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that the upstream did not ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Hands over until told to stop.
pub async fn run(edge: Arc<Edge>, spool: Arc<Spool>, mut stopping: ShutdownWatch) {
    let mut lanes: JoinSet<Arc<str>> = JoinSet::new();
    let mut running: HashSet<Arc<str>> = HashSet::new();
    loop {
        for source in spool.sources() {
            if running.insert(source.clone()) {
                let (edge, spool, stopping) = (edge.clone(), spool.clone(), stopping.clone());
                lanes.spawn(async move {
                    let lane = || Lane::new(&edge, &spool, &source, stopping.clone()).run();
                    despite_faults(&spool, &source, stopping.clone(), lane).await;
                    source
                });
            }
        }
        tokio::select! {
            () = told(&mut stopping) => break,
            () = spool.changed.notified() => {}
            Some(ended) = lanes.join_next() => match ended {
                Ok(source) => { running.remove(&source); }
                // Faults end in the lane, and nobody aborts one.
                Err(e) => tracing::error!(event = "fault", error = %e, "handing over a source's deliveries has ended"),
            },
        }
    }
    while lanes.join_next().await.is_some() {}
}

async fn told(stopping: &mut ShutdownWatch) {
    let _ = stopping.wait_for(|told| *told).await;
}

/// Runs a lane to its end. After a fault it is begun again, later with each further one.
async fn despite_faults<F: Future<Output = ()>>(
    spool: &Spool,
    source: &str,
    mut stopping: ShutdownWatch,
    lane: impl Fn() -> F,
) {
    let mut faults = 0;
    while AssertUnwindSafe(lane()).catch_unwind().await.is_err() {
        let pause = backoff(faults);
        faults += 1;
        let id = spool.faulted(source, again_at(pause));
        tracing::error!(
            event = "hand_over_fault",
            source,
            id,
            count = faults,
            "a fault ended the hand-over of a delivery; it is tried again after a pause: report it, or drop the delivery"
        );
        tokio::select! {
            () = sleep(pause) => {}
            () = told(&mut stopping) => return,
        }
    }
}

/// Twice the last pause, with a part left to chance so that sources do not ask in step.
fn backoff(setbacks: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << setbacks.min(16))
        .min(LONGEST_PAUSE)
        .mul_f64(rand::random_range(0.5..=1.0))
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// The moment after this pause, in milliseconds since 1970.
fn again_at(pause: Duration) -> i64 {
    now_ms().saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail, and a lane here has to"
)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::{sync::watch, time::Instant};

    use super::*;
    use crate::{
        metrics::Metrics,
        policy::SpoolBounds,
        replay::ReplayMemory,
        spool::{
            Turn,
            entry::{Charged, Head, Tries},
            letter::Letter,
            operator,
            shelf::Item,
        },
        state::StateDir,
    };

    const BOUNDS: SpoolBounds = SpoolBounds {
        entries: 10,
        bytes: 1 << 20,
        source_share: 100,
        age: Duration::from_secs(60),
        dead_entries: 1,
        dead_bytes: 1 << 20,
    };

    fn empty(dir: &std::path::Path) -> Arc<Spool> {
        let state = Arc::new(StateDir::open(&dir.join("state")).unwrap());
        let replay = Arc::new(ReplayMemory::new(9));
        Spool::open(state, replay, Arc::new(Metrics::new())).unwrap()
    }

    async fn keep(spool: &Spool, turn: &Turn, id: &str) {
        keep_so(spool, turn, id, Tries::default()).await;
    }

    /// Keeps a delivery of the source `forge`.
    async fn keep_so(spool: &Spool, turn: &Turn, id: &str, tries: Tries) {
        let letter = Letter {
            head: Head {
                id: id.into(),
                source: "forge".into(),
                provider: "gitea".into(),
                event: None,
                delivery: None,
                key: format!("key of {id}"),
                remember: true,
                route: "gitea".into(),
                upstream: "backend".into(),
                request_id: id.into(),
                client: "192.0.2.1".parse().unwrap(),
                host: "forge".into(),
                proto: "http".into(),
                method: "POST".into(),
                target: "/".into(),
                headers: Vec::new(),
                received_ms: now_ms(),
            },
            body: bytes::Bytes::from_static(b"{}"),
            held: None,
        };
        let until = Instant::now() + Duration::from_secs(30);
        let kept = spool.keep(turn, letter, tries, BOUNDS, until).await;
        assert!(kept.is_ok(), "{kept:?}");
    }

    #[tokio::test]
    async fn a_charge_is_given_to_an_earlier_one_once_and_a_restart_knows_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = empty(dir.path());
        let tries = |charged| Tries {
            charged,
            ..Tries::default()
        };
        for (id, charged) in [("a", Charged::No), ("b", Charged::Yes), ("c", Charged::No)] {
            let turn = first.arrive(&"forge".into());
            keep_so(&first, &turn, id, tries(charged)).await;
        }
        let items = |spool: &Spool| -> Vec<Item> {
            spool.shelf.lock().lanes["forge"]
                .queue
                .values()
                .cloned()
                .collect()
        };
        let charged = |spool: &Spool| -> Vec<bool> {
            let items = items(spool).into_iter();
            items
                .map(|item| item.tries.charged == Charged::Yes)
                .collect()
        };
        let waiting = items(&first);
        assert!(first.is_charged(&waiting[0]));
        assert_eq!(charged(&first), [true, false, false]);
        assert!(!first.is_charged(&waiting[1]), "it has given its charge");
        drop(first);
        let again = empty(dir.path());
        assert_eq!(charged(&again), [true, false, false]);
    }

    /// A spool in which one delivery of the source `forge` waits.
    async fn spool(dir: &std::path::Path) -> Arc<Spool> {
        let spool = empty(dir);
        let turn = spool.arrive(&"forge".into());
        keep(&spool, &turn, "01J").await;
        spool
    }

    #[tokio::test]
    async fn what_the_disk_took_late_does_not_hide_what_is_on_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let spool = empty(dir.path());
        let (late, timely) = (spool.arrive(&"forge".into()), spool.arrive(&"forge".into()));
        keep(&spool, &timely, "timely").await;
        let lane = |s: &Spool| {
            s.shelf.lock().lanes["forge"]
                .queue
                .values()
                .next_back()
                .cloned()
        };
        let in_hand = lane(&spool).unwrap();
        assert!(spool.take_in_hand(&in_hand));
        // Its sender was refused, and by now the disk has it.
        keep(&spool, &late, "late").await;
        let lines = || {
            let waiting = spool.list().waiting;
            let lines = waiting.into_iter().map(|line| (line.id, line.why));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(
            lines(),
            [("late", "in_turn"), ("timely", "on_its_way")].map(|(a, b)| (a.into(), b.into()))
        );
        let drop = |id: &str| {
            spool.drop_entries(&operator::Drop {
                id: Some(id.into()),
                dead: false,
            })
        };
        assert_eq!(drop("timely"), Err(operator::ActError::InHand));
        assert!(drop("late").is_ok());
        assert_eq!(drop("timely"), Err(operator::ActError::InHand));
        spool.finish(&in_hand, 200);
        assert!(lines().is_empty());
    }

    #[tokio::test]
    async fn after_a_fault_a_lane_is_begun_again_and_the_delivery_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path()).await;
        let (_stop, stopping) = watch::channel(false);
        let begun = AtomicU32::new(0);
        let first_begun = Instant::now();
        despite_faults(&spool, "forge", stopping, || {
            let before = begun.fetch_add(1, Ordering::Relaxed);
            async move { assert!(before >= 2, "a fault in the hand-over") }
        })
        .await;
        assert_eq!(begun.into_inner(), 3);
        // However slow the machine is: two pauses are longer than this.
        assert!(first_begun.elapsed() > FIRST_PAUSE);
        let waiting = spool.list().waiting;
        let line = waiting.first().unwrap();
        assert_eq!((line.why.as_str(), line.attempts), ("fault", 2));
        assert!(line.next_attempt.is_some(), "it is not tried again at once");
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_the_pause_after_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path()).await;
        let (stop, stopping) = watch::channel(false);
        let begun = AtomicU32::new(0);
        despite_faults(&spool, "forge", stopping, || {
            begun.fetch_add(1, Ordering::Relaxed);
            stop.send_replace(true);
            async { panic!("a fault in the hand-over") }
        })
        .await;
        assert_eq!(begun.into_inner(), 1);
    }
}
