//! All budgets of one policy: who may fail how often, and who may do how much.
//!
//! Budgets outlive the policy they were made for: a reload keeps every limiter whose id, owner and rate
//! are unchanged, so that reloading is no way to a fresh budget.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use crate::{
    bodies::{Bodies, BodyPass, Sender},
    limit::{Exceeded, Limiter, Rate, Standing},
    metrics::LimiterKind,
    policy::{Policy, RateLimit, address::budget_address},
};

/// Most keys one limiter remembers: 6 144 in each of its 16 tables, which have 8 192 buckets of 33 bytes. So it takes 4.1 MiB.
pub const LIMITER_CAPACITY: usize = 98_304;

/// Most keys that all limiters of a policy remember together; 33 MiB. Where there are many limiters, each remembers fewer.
pub const ALL_LIMITERS_CAPACITY: usize = 8 * LIMITER_CAPACITY;

/// Limiters that are there without a policy naming them.
const UNNAMED_LIMITERS: usize = 2;

/// How many bytes of unproven bodies are checked a second for an address over its failure budget, in
/// KiB: a hundredth of a core, whatever is sent.
const ALLOWANCE_KIB: NonZeroU32 = NonZeroU32::new(8 * 1024).unwrap();

/// Whose budget is spent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    /// An API key or a webhook source or a route, by its id.
    Named(Arc<str>),
    /// A client address (an IPv6 client by its /64).
    Address(IpAddr),
}

/// A named limiter with what it was made from.
#[derive(Debug)]
pub struct NamedLimiter {
    spec: RateLimit,
    limiter: Limiter<Owner>,
}

impl NamedLimiter {
    /// Whether this is the budget of that limit. Its mode is no part of it: a limit that is no longer in shadow
    /// mode begins with what was spent in it.
    fn has_budget_of(&self, spec: &RateLimit) -> bool {
        let RateLimit {
            id,
            by,
            rate,
            mode: _,
        } = &self.spec;
        (id, by, rate) == (&spec.id, &spec.by, &spec.rate)
    }

    /// Its limiter.
    pub fn limiter(&self) -> &Limiter<Owner> {
        &self.limiter
    }
}

/// How full the table of one limiter is.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// The limiter's id.
    pub id: &'a str,
    /// Where it comes from.
    pub kind: LimiterKind,
    /// How many owners it remembers.
    pub entries: usize,
    /// The most it remembers.
    pub capacity: usize,
}

impl<'a> Table<'a> {
    fn of<K: std::hash::Hash + Eq + Clone>(limiter: &'a Limiter<K>, kind: LimiterKind) -> Self {
        Self {
            id: limiter.id(),
            kind,
            entries: limiter.len(),
            capacity: limiter.capacity(),
        }
    }
}

/// All budgets of one policy.
#[derive(Debug)]
pub struct Budgets {
    failures: Option<Arc<Limiter<IpAddr>>>,
    allowance: Option<Arc<Limiter<IpAddr>>>,
    bodies: Arc<Bodies>,
    /// How many bytes all bodies of webhooks may take.
    room: usize,
    named: Vec<Arc<NamedLimiter>>,
    spending: Spending,
}

/// Whether judging costs anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spending {
    /// As for live requests.
    Spend,
    /// Budgets are looked at as they stand.
    Look,
}

impl Budgets {
    /// The budgets of a policy, taking over what is unchanged from those before. `None` when a rate is
    /// none, which a loaded policy never holds.
    pub fn of(policy: &Policy, before: Option<&Self>) -> Option<Self> {
        let limiters = policy.rate_limits.len() + UNNAMED_LIMITERS;
        let capacity = LIMITER_CAPACITY.min(ALL_LIMITERS_CAPACITY / limiters);
        let failures = match policy.limits.failures_per_address {
            None => None,
            Some(rate) => {
                let kept = before
                    .and_then(|b| b.failures.clone())
                    .filter(|l| l.rate() == rate);
                Some(match kept {
                    Some(same) => same,
                    None => Arc::new(Limiter::new("failures-per-address", rate, capacity)?),
                })
            }
        };
        let allowance_rate = Rate {
            count: ALLOWANCE_KIB,
            period: Duration::from_secs(1),
            burst: ALLOWANCE_KIB,
        };
        let allowance = match before.and_then(|b| b.allowance.clone()) {
            Some(same) => Some(same),
            None => Some(Arc::new(Limiter::new(
                "webhook-allowance",
                allowance_rate,
                capacity,
            )?)),
        };
        let named = policy
            .rate_limits
            .iter()
            .map(|spec| {
                let same = before
                    .and_then(|b| b.named.iter().find(|n| n.has_budget_of(spec)))
                    .cloned();
                match same {
                    Some(same) => Some(same),
                    None => Limiter::new(spec.id.as_str(), spec.rate, capacity).map(|limiter| {
                        Arc::new(NamedLimiter {
                            spec: spec.clone(),
                            limiter,
                        })
                    }),
                }
            })
            .collect::<Option<Vec<_>>>()?;
        let bodies = before.map_or_else(Arc::default, |b| b.bodies.clone());
        // What is taken over is as large as what is new.
        for built_in in failures.iter().chain(&allowance) {
            built_in.hold(capacity);
        }
        for named in &named {
            let named: &NamedLimiter = named;
            named.limiter.hold(capacity);
        }
        Some(Self {
            failures,
            allowance,
            bodies,
            room: policy.limits.webhook_memory,
            named,
            spending: Spending::Spend,
        })
    }

    /// The same budgets as they stand, of which nothing is spent.
    #[must_use]
    pub fn looking(&self) -> Self {
        Self {
            failures: self.failures.clone(),
            allowance: self.allowance.clone(),
            bodies: Arc::default(),
            room: self.room,
            named: self.named.clone(),
            spending: Spending::Look,
        }
    }

    /// Spends one unit of the budget that `owner` has in the limit at this place of the policy. `None` where
    /// there is no such limit.
    pub fn spend(&self, index: usize, owner: &Owner) -> Option<Result<Standing, Exceeded>> {
        let limiter = &self.named.get(index)?.limiter;
        Some(match self.spending {
            Spending::Spend => limiter.spend(owner),
            Spending::Look => limiter.look(owner),
        })
    }

    /// What [`spend`](Self::spend) would say, without spending anything.
    pub fn look(&self, index: usize, owner: &Owner) -> Option<Result<Standing, Exceeded>> {
        Some(self.named.get(index)?.limiter.look(owner))
    }

    /// The named limiters, in the order of the policy.
    pub fn named(&self) -> &[Arc<NamedLimiter>] {
        &self.named
    }

    /// How full the table of every limiter is.
    pub fn tables(&self) -> impl Iterator<Item = Table<'_>> {
        let built_in = self.failures.iter().chain(&self.allowance);
        let built_in = built_in.map(|l| Table::of(l, LimiterKind::BuiltIn));
        let named = self.named.iter();
        built_in.chain(named.map(|n| Table::of(&n.limiter, LimiterKind::Policy)))
    }

    /// Counts a failed proof against an address. `Err` when its budget is used up.
    pub fn count_failure(&self, client: IpAddr) -> Result<(), Exceeded> {
        let Some(failures) = &self.failures else {
            return Ok(());
        };
        let address = budget_address(client);
        match self.spending {
            Spending::Spend => failures.spend(&address).map(|_| ()),
            Spending::Look => failures.peek(&address),
        }
    }

    /// The bodies of webhooks that are held in memory.
    pub fn bodies(&self) -> &Bodies {
        &self.bodies
    }

    /// How many bytes they may take.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Asks to read a webhook's body. An address within its failure budget may; one over it only within
    /// its allowance, which is small but never zero. What proves itself costs no allowance.
    pub fn enter_body(&self, client: IpAddr, exempt: bool) -> Result<BodyPass, Exceeded> {
        let address = budget_address(client);
        let failing = self
            .failures
            .as_ref()
            .is_some_and(|f| f.peek(&address).is_err());
        let sender = match (exempt, failing) {
            (true, _) => Sender::Exempt,
            (false, false) => Sender::Fair,
            (false, true) => Sender::Failing,
        };
        if sender == Sender::Failing
            && let Some(allowance) = &self.allowance
        {
            allowance.peek(&address)?;
        }
        Ok(Bodies::enter(&self.bodies, address, sender, self.room))
    }

    /// Charges the allowance for a body that did not prove itself: by its size, as checking it cost. One that did not come whole is
    /// a failed proof.
    pub fn charge(&self, pass: &BodyPass) {
        if pass.is_withheld() && pass.sender() != Sender::Exempt {
            // Its answer says that it timed out, whatever is left of the budget.
            let _ = self.count_failure(pass.address());
        }
        if let (Sender::Failing, Some(allowance), Spending::Spend) =
            (pass.sender(), &self.allowance, self.spending)
        {
            let kib = u32::try_from(pass.bytes().div_ceil(1024)).unwrap_or(u32::MAX);
            allowance.debit(&pass.address(), kib.max(1));
        }
    }
}
