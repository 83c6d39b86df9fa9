//! All budgets of one policy: who may fail how often, and who may do how much.
//!
//! Budgets outlive the policy they were made for: a reload keeps every limiter whose id, owner and rate
//! are unchanged, so that reloading is no way to a fresh budget.

use std::{collections::HashMap, net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::{
    limit::{Exceeded, Limiter, Rate},
    policy::{Policy, RateLimit, address::budget_address},
};

/// Most keys one limiter remembers: about 100 bytes each.
pub const LIMITER_CAPACITY: usize = 100_000;

/// How many webhook bodies of one address are read at once while it is over its failure budget.
pub const ALLOWANCE_CONCURRENCY: u32 = 8;

/// How long each of them may take: a forge sends its body at once, and whoever drips one would keep a
/// slot from a signed sender of the same address.
pub const ALLOWANCE_DEADLINE: Duration = Duration::from_secs(1);

/// How many of its wrong signatures a second are checked while it is over its failure budget.
const ALLOWANCE_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();

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
    /// Its limiter.
    pub fn limiter(&self) -> &Limiter<Owner> {
        &self.limiter
    }
}

/// All budgets of one policy.
#[derive(Debug)]
pub struct Budgets {
    failures: Option<Arc<Limiter<IpAddr>>>,
    allowance: Option<Arc<Limiter<IpAddr>>>,
    bodies: Arc<BodiesInFlight>,
    named: Vec<Arc<NamedLimiter>>,
}

impl Budgets {
    /// The budgets of a policy, taking over what is unchanged from those before. `None` when a rate is
    /// none, which a loaded policy never holds.
    pub fn of(policy: &Policy, before: Option<&Self>) -> Option<Self> {
        let failures = match policy.limits.failures_per_address {
            None => None,
            Some(rate) => {
                let kept = before
                    .and_then(|b| b.failures.clone())
                    .filter(|l| l.rate() == rate);
                Some(match kept {
                    Some(same) => same,
                    None => Arc::new(Limiter::new(
                        "failures-per-address",
                        rate,
                        LIMITER_CAPACITY,
                    )?),
                })
            }
        };
        let allowance_rate = Rate {
            count: ALLOWANCE_PER_SECOND,
            period: Duration::from_secs(1),
            burst: ALLOWANCE_PER_SECOND,
        };
        let allowance = match before.and_then(|b| b.allowance.clone()) {
            Some(same) => Some(same),
            None => Some(Arc::new(Limiter::new(
                "webhook-allowance",
                allowance_rate,
                LIMITER_CAPACITY,
            )?)),
        };
        let named = policy
            .rate_limits
            .iter()
            .map(|spec| {
                let same = before
                    .and_then(|b| b.named.iter().find(|n| n.spec == *spec))
                    .cloned();
                match same {
                    Some(same) => Some(same),
                    None => {
                        Limiter::new(spec.id.as_str(), spec.rate, LIMITER_CAPACITY).map(|limiter| {
                            Arc::new(NamedLimiter {
                                spec: spec.clone(),
                                limiter,
                            })
                        })
                    }
                }
            })
            .collect::<Option<Vec<_>>>()?;
        let bodies = before.map_or_else(Arc::default, |b| b.bodies.clone());
        Some(Self {
            failures,
            allowance,
            bodies,
            named,
        })
    }

    /// The named limiters, in the order of the policy.
    pub fn named(&self) -> &[Arc<NamedLimiter>] {
        &self.named
    }

    /// How many addresses have failed lately.
    pub fn failing_addresses(&self) -> usize {
        self.failures.as_ref().map_or(0, |f| f.len())
    }

    /// Counts a failed proof against an address. `Err` when its budget is used up.
    pub fn count_failure(&self, client: IpAddr) -> Result<(), Exceeded> {
        match &self.failures {
            Some(failures) => failures.spend(&budget_address(client)).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Asks to read a webhook's body. An address within its failure budget may; one over it only within
    /// its small allowance, never zero. What proves itself costs no allowance.
    pub fn enter_body(&self, client: IpAddr) -> Result<BodyPass, Exceeded> {
        let address = budget_address(client);
        let Some(failures) = &self.failures else {
            return Ok(BodyPass::Free);
        };
        if failures.peek(&address).is_ok() {
            return Ok(BodyPass::Free);
        }
        if let Some(allowance) = &self.allowance {
            allowance.peek(&address)?;
        }
        let slot = BodiesInFlight::enter(&self.bodies, address).ok_or_else(|| Exceeded {
            retry_after: Duration::from_secs(1),
            standing: crate::limit::Standing {
                policy: "webhook-allowance".into(),
                quota: ALLOWANCE_CONCURRENCY,
                window: 1,
                remaining: 0,
                reset: 1,
            },
        })?;
        Ok(BodyPass::Allowance { slot, address })
    }

    /// Charges the allowance after a body did not prove itself.
    pub fn charge(&self, pass: &BodyPass) {
        if let (BodyPass::Allowance { address, .. }, Some(allowance)) = (pass, &self.allowance) {
            // Whether the allowance was already spent by another does not matter: it is spent.
            let _ = allowance.spend(address);
        }
    }
}

/// The right to read one webhook body.
#[derive(Debug)]
pub enum BodyPass {
    /// The address is within its failure budget.
    Free,
    /// The address is over it: one of its few slots is held until this is dropped.
    Allowance {
        /// The slot.
        slot: BodySlot,
        /// Whose it is.
        address: IpAddr,
    },
}

/// How many bodies of failing addresses are being read.
#[derive(Debug, Default)]
struct BodiesInFlight(Mutex<HashMap<IpAddr, u32>>);

impl BodiesInFlight {
    fn enter(this: &Arc<Self>, address: IpAddr) -> Option<BodySlot> {
        let mut map = this.0.lock();
        let count = map.entry(address).or_insert(0);
        if *count >= ALLOWANCE_CONCURRENCY {
            return None;
        }
        *count += 1;
        Some(BodySlot {
            of: this.clone(),
            address,
        })
    }
}

/// One slot; given back when dropped.
#[derive(Debug)]
pub struct BodySlot {
    of: Arc<BodiesInFlight>,
    address: IpAddr,
}

impl Drop for BodySlot {
    fn drop(&mut self) {
        let mut map = self.of.0.lock();
        if let Some(count) = map.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                map.remove(&self.address);
            }
        }
    }
}
