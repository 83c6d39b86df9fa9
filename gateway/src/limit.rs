//! Budgets: GCRA per key over a table that cannot grow without bound.
//!
//! The arithmetic is governor's; the table is ours, because it has to be bounded. When it is full,
//! entries that have fully recovered are dropped (they are worth exactly as much as no entry). If none has,
//! newcomers of that shard share one overflow entry: they are limited together, never let through
//! unlimited, and nobody who is already in the table loses anything.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::StateInformationMiddleware,
    nanos::Nanos,
    state::StateStore,
};
use parking_lot::Mutex;

/// How often something may happen: `count` times in `period`, at most `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many in one period.
    pub count: NonZeroU32,
    /// The period.
    pub period: Duration,
    /// How many at once after a rest.
    pub burst: NonZeroU32,
}

impl Rate {
    /// The time after which one spent unit is back.
    pub fn interval(&self) -> Duration {
        (self.period / self.count.get()).max(Duration::from_nanos(1))
    }

    fn quota(&self) -> Option<Quota> {
        Quota::with_period(self.interval()).map(|q| q.allow_burst(self.burst))
    }
}

/// How a caller stands after a decision; what the `RateLimit` headers say
/// (draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The limit's id.
    pub policy: Arc<str>,
    /// How many are allowed in one window.
    pub quota: u32,
    /// The window in seconds, rounded up.
    pub window: u64,
    /// How many are allowed now, at once.
    pub remaining: u32,
    /// Seconds until the budget is whole again, or until one unit is back after a refusal.
    pub reset: u64,
}

impl Standing {
    /// The value of `RateLimit-Policy`.
    pub fn policy_header(&self) -> String {
        format!("\"{}\";q={};w={}", self.policy, self.quota, self.window)
    }

    /// The value of `RateLimit`.
    pub fn header(&self) -> String {
        format!("\"{}\";r={};t={}", self.policy, self.remaining, self.reset)
    }
}

/// A budget that is used up: come back after `retry_after`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// The exact time until the next unit is back.
    pub retry_after: Duration,
    /// How the caller stands.
    pub standing: Standing,
}

const SHARDS: usize = 16;

/// The most entries, at most `capacity`, of which a table keeps room for a third more: three quarters of its buckets, which
/// are a power of two. The eighth between that and what a table takes before it grows (seven eighths) is for the marks that
/// forgotten entries leave behind, so that a table is made anew only once so many were forgotten.
const fn entries_of(capacity: usize) -> usize {
    let per_shard = capacity / SHARDS;
    let mut buckets = 8;
    while buckets * 2 / 4 * 3 <= per_shard {
        buckets *= 2;
    }
    buckets / 4 * 3
}

#[derive(Debug)]
struct Shard<K> {
    entries: HashMap<K, Nanos>,
    /// The shared state of all keys that found no place.
    overflow: Option<Nanos>,
    /// Nothing recovers before this moment, so there is no point in looking earlier.
    next_sweep: u64,
}

impl<K: Hash + Eq> Shard<K> {
    /// Forgets what has recovered by `now`, and makes the table anew where it would grow before it is full again: a table
    /// that grows takes twice the memory and never gives it back.
    fn sweep(&mut self, now: u64, capacity: usize) {
        self.entries.retain(|_, tat| tat.as_u64() > now);
        if self.entries.capacity() < capacity {
            let mut anew = HashMap::with_capacity(capacity.max(self.entries.len()));
            anew.extend(self.entries.drain());
            self.entries = anew;
        }
        let earliest = self.entries.values().map(|t| t.as_u64()).min().unwrap_or(0);
        self.next_sweep = earliest.max(now.saturating_add(1_000_000));
    }
}

#[derive(Debug)]
struct BoundedStore<K> {
    shards: Vec<Mutex<Shard<K>>>,
    hasher: RandomState,
    capacity_per_shard: AtomicUsize,
    start: Instant,
}

impl<K: Hash + Eq + Clone> BoundedStore<K> {
    fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS)
                .map(|_| {
                    Mutex::new(Shard {
                        entries: HashMap::new(),
                        overflow: None,
                        next_sweep: 0,
                    })
                })
                .collect(),
            hasher: RandomState::new(),
            capacity_per_shard: AtomicUsize::new(entries_of(capacity)),
            start: Instant::now(),
        }
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K>> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "only spreads over the shards"
        )]
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        &self.shards[index]
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().entries.len()).sum()
    }

    fn capacity_per_shard(&self) -> usize {
        self.capacity_per_shard.load(Ordering::Relaxed)
    }

    /// The theoretical arrival time kept for `key`, in nanoseconds since the limiter was made.
    fn arrival_time(&self, key: &K) -> Option<u64> {
        let shard = self.shard(key).lock();
        match shard.entries.get(key) {
            Some(tat) => Some(tat.as_u64()),
            None if shard.entries.len() >= self.capacity_per_shard() => {
                shard.overflow.map(Nanos::as_u64)
            }
            None => None,
        }
    }
}

impl<K: Hash + Eq + Clone> StateStore for BoundedStore<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut shard = self.shard(key).lock();
        if let Some(old) = shard.entries.get_mut(key) {
            let (outcome, new) = f(Some(*old))?;
            *old = new;
            return Ok(outcome);
        }
        let capacity = self.capacity_per_shard();
        if shard.entries.len() >= capacity {
            let now = self.now();
            if now >= shard.next_sweep {
                shard.sweep(now, capacity);
            }
            if shard.entries.len() >= capacity {
                let (outcome, new) = f(shard.overflow)?;
                shard.overflow = Some(new);
                return Ok(outcome);
            }
        }
        let (outcome, new) = f(None)?;
        shard.entries.insert(key.clone(), new);
        Ok(outcome)
    }
}

/// One budget per `K`, all of the same [`Rate`].
#[derive(Debug)]
pub struct Limiter<K: Hash + Eq + Clone> {
    id: Arc<str>,
    rate: Rate,
    inner: RateLimiter<K, SharedStore<K>, MonotonicClock, StateInformationMiddleware>,
    store: Arc<BoundedStore<K>>,
}

#[derive(Debug)]
struct SharedStore<K: Hash + Eq + Clone>(Arc<BoundedStore<K>>);

impl<K: Hash + Eq + Clone> StateStore for SharedStore<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, f)
    }
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    /// A limiter named `id` with at most `capacity` entries, and down to half as many: [`Self::capacity`] says. `None` when the rate is not one
    /// (a period of zero), which a loaded policy never holds.
    pub fn new(id: impl Into<Arc<str>>, rate: Rate, capacity: usize) -> Option<Self> {
        let store = Arc::new(BoundedStore::new(capacity));
        let inner = RateLimiter::new(rate.quota()?, SharedStore(store.clone()), MonotonicClock);
        Some(Self {
            id: id.into(),
            rate,
            inner,
            store,
        })
    }

    /// The rate it was made with.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// The id it was made with.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How many keys it remembers at most.
    pub fn capacity(&self) -> usize {
        self.store.capacity_per_shard() * SHARDS
    }

    /// From now on it takes no new key while it has more than about `capacity`. Who is in the table keeps a budget.
    pub fn hold(&self, capacity: usize) {
        let entries = entries_of(capacity);
        self.store
            .capacity_per_shard
            .store(entries, Ordering::Relaxed);
    }

    /// How many keys it remembers.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Spends one unit of `key`'s budget, or says when one is back.
    pub fn spend(&self, key: &K) -> Result<Standing, Exceeded> {
        match self.inner.check_key(key) {
            Ok(snapshot) => Ok(self.standing(snapshot.remaining_burst_capacity())),
            Err(not_until) => {
                let retry_after = not_until.wait_time_from(MonotonicClock.now());
                Err(self.exceeded(retry_after))
            }
        }
    }

    /// What [`spend`](Self::spend) would say, without spending anything.
    pub fn look(&self, key: &K) -> Result<Standing, Exceeded> {
        self.peek(key)?;
        let now = self.store.start.elapsed();
        let interval = self.rate.interval();
        let arrival = self
            .store
            .arrival_time(key)
            .map_or(now, Duration::from_nanos);
        let whole = now.saturating_add(interval.saturating_mul(self.rate.burst.get()));
        let left = whole.saturating_sub(arrival.max(now).saturating_add(interval));
        let units = left.as_nanos() / interval.as_nanos().max(1);
        Ok(self.standing(u32::try_from(units).unwrap_or(u32::MAX)))
    }

    /// Whether `key` has a unit left, without spending it.
    pub fn peek(&self, key: &K) -> Result<(), Exceeded> {
        let Some(arrival) = self.store.arrival_time(key) else {
            return Ok(());
        };
        let tolerance = self.rate.interval() * (self.rate.burst.get() - 1);
        let earliest = Duration::from_nanos(arrival).saturating_sub(tolerance);
        let now = self.store.start.elapsed();
        if now >= earliest {
            Ok(())
        } else {
            Err(self.exceeded(earliest.saturating_sub(now)))
        }
    }

    /// Spends `units` of `key`'s budget whether they are there or not. The debt is at most one period's
    /// worth, so that nobody is shut out for longer.
    pub fn debit(&self, key: &K, units: u32) {
        let interval = self.rate.interval();
        let most = interval * (self.rate.burst.get() - 1) + self.rate.period;
        let _: Result<(), ()> = self.store.measure_and_replace(key, |arrival| {
            let now = self.store.now();
            let arrival = arrival.map_or(now, Nanos::as_u64).max(now);
            let after =
                Duration::from_nanos(arrival).saturating_add(interval.saturating_mul(units));
            let after = after.min(Duration::from_nanos(now).saturating_add(most));
            Ok((
                (),
                Nanos::new(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)),
            ))
        });
    }

    fn standing(&self, remaining: u32) -> Standing {
        let spent = self.rate.burst.get().saturating_sub(remaining);
        Standing {
            policy: self.id.clone(),
            quota: self.rate.count.get(),
            window: seconds_up(self.rate.period),
            remaining,
            reset: seconds_up(self.rate.interval() * spent),
        }
    }

    fn exceeded(&self, retry_after: Duration) -> Exceeded {
        let mut standing = self.standing(0);
        standing.reset = seconds_up(retry_after).max(1);
        Exceeded {
            retry_after,
            standing,
        }
    }
}

fn seconds_up(d: Duration) -> u64 {
    d.as_secs() + u64::from(d.subsec_nanos() > 0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn rate(count: u32, secs: u64) -> Rate {
        let count = NonZeroU32::new(count).unwrap();
        Rate {
            count,
            period: Duration::from_secs(secs),
            burst: count,
        }
    }

    #[test]
    fn a_burst_is_allowed_then_refused_with_the_exact_wait() {
        let l = Limiter::new("x", rate(3, 3600), 100).unwrap();
        for left in [2, 1, 0] {
            assert_eq!(l.spend(&"a").unwrap().remaining, left);
        }
        let e = l.spend(&"a").unwrap_err();
        assert!(
            e.retry_after <= Duration::from_secs(1200) && e.retry_after > Duration::from_secs(1190),
            "{e:?}"
        );
        assert!(l.peek(&"a").is_err());
        assert!(l.peek(&"b").is_ok());
        assert_eq!(l.spend(&"b").expect("its own budget").remaining, 2);
    }

    #[test]
    fn looking_spends_nothing() {
        let l = Limiter::new("x", rate(1, 3600), 100).unwrap();
        for _ in 0..10 {
            assert!(l.peek(&1u32).is_ok());
        }
        assert!(l.spend(&1u32).is_ok());
        assert!(l.peek(&1u32).is_err());
    }

    #[test]
    fn looking_says_what_spending_says() {
        let l = Limiter::new("x", rate(7, 3600), 100).unwrap();
        for _ in 0..9 {
            let (seen, spent) = (l.look(&"a"), l.spend(&"a"));
            match (seen, spent) {
                (Ok(seen), Ok(spent)) => assert_eq!(seen, spent),
                (Err(seen), Err(spent)) => assert_eq!(seen.standing, spent.standing),
                (seen, spent) => unreachable!("{seen:?} {spent:?}"),
            }
        }
    }

    #[test]
    fn a_debt_is_bounded() {
        let l = Limiter::new("x", rate(10, 10), 100).unwrap();
        l.debit(&"a", 4);
        assert!(l.peek(&"a").is_ok());
        l.debit(&"a", u32::MAX);
        let wait = l.peek(&"a").unwrap_err().retry_after;
        assert!(wait <= Duration::from_secs(10), "{wait:?}");
    }

    #[test]
    fn a_table_of_the_bound_has_room_without_growing() {
        for (capacity, entries) in [(1, 6), (128, 6), (192, 12), (98_304, 6144), (131_071, 6144)] {
            assert_eq!(entries_of(capacity), entries, "{capacity}");
            let table: HashMap<u32, u32> = HashMap::with_capacity(entries);
            assert!(table.capacity() * 6 >= entries * 7, "{}", table.capacity());
        }
    }

    #[test]
    fn keys_that_come_and_go_leave_a_table_as_large_as_it_was() {
        let l = Limiter::new("x", rate(1000, 1), 16 * 192).unwrap();
        let room = |l: &Limiter<u32>| -> usize {
            let shards = l.store.shards.iter();
            shards.map(|s| s.lock().entries.capacity()).sum()
        };
        let whole = HashMap::<u32, u32>::with_capacity(192).capacity() * SHARDS;
        for k in 0..300_000 {
            let _ = l.spend(&k);
        }
        assert!(room(&l) <= whole, "{} of {whole}", room(&l));
        assert!(!l.is_empty());
    }

    #[test]
    fn a_table_that_is_held_takes_no_more() {
        let l = Limiter::new("x", rate(1, 3600), 16 * 192).unwrap();
        for k in 0..1000u32 {
            let _ = l.spend(&k);
        }
        l.hold(160);
        let before = l.len();
        for k in 1000..10_000u32 {
            let _ = l.spend(&k);
        }
        assert_eq!((l.len(), l.capacity()), (before, 96));
        assert!(l.spend(&0).is_err(), "who was in it keeps its budget");
    }

    #[test]
    fn a_full_table_limits_newcomers_together_and_stays_bounded() {
        let l = Limiter::new("x", rate(5, 3600), 160).unwrap();
        for k in 0..100_000u32 {
            let _ = l.spend(&k);
        }
        assert!(l.len() <= 160, "{}", l.len());
        // 16 shards share an overflow budget of 5 each: newcomers are refused, not let through.
        let let_through = (100_000..110_000u32).filter(|k| l.spend(k).is_ok()).count();
        assert!(let_through <= SHARDS * 5, "{let_through}");
        assert!(
            l.spend(&0).is_ok(),
            "who was in the table keeps a budget of its own"
        );
    }
}
