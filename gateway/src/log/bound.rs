//! How much of a flood is written down: nobody without proof may fill the disk.
//!
//! What proved itself always has its record: budgets bound it. Of everything else each address has
//! [`PER_ADDRESS`] and all together [`IN_ALL`]; what is beyond is counted by route and reason, and the counts are
//! written once a second. So nothing is refused without a trace, and the trace is bounded.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    limit::{Limiter, Rate},
    policy::address::budget_address,
};

const fn per_second(count: u32, burst: u32) -> Rate {
    let (Some(count), Some(burst)) = (NonZeroU32::new(count), NonZeroU32::new(burst)) else {
        unreachable!()
    };
    Rate {
        count,
        period: Duration::from_secs(1),
        burst,
    }
}

/// Records of one address: 20 a second, 200 at once.
pub const PER_ADDRESS: Rate = per_second(20, 200);

/// Records of all addresses: 200 a second, 2 000 at once. With two records of about 350 bytes each, under 13 GB a day.
pub const IN_ALL: Rate = per_second(200, 2_000);

/// How many addresses are told apart.
const ADDRESSES: usize = 20_000;

/// How often what was left out is stated.
const EVERY: Duration = Duration::from_secs(1);

/// How many addresses are counted for one statement; beyond, the busiest of these is named.
const COUNTED: usize = 64;

/// What a request or connection came to, as far as it is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) route: Option<Arc<str>>,
    pub(super) reason: &'static str,
}

/// So many of one kind were left out.
#[derive(Debug)]
pub(super) struct LeftOut {
    pub(super) kind: Kind,
    pub(super) count: u64,
    /// The address that most of them came from.
    pub(super) client: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Tally {
    count: u64,
    clients: HashMap<IpAddr, u64>,
}

/// Decides what is written down.
#[derive(Debug)]
pub(super) struct Bound {
    by_address: Option<Limiter<IpAddr>>,
    in_all: Option<Limiter<()>>,
    left_out: HashMap<Kind, Tally>,
    stated: Instant,
}

impl Bound {
    pub(super) fn new() -> Self {
        Self {
            by_address: Limiter::new("log-per-address", PER_ADDRESS, ADDRESSES),
            in_all: Limiter::new("log", IN_ALL, 1),
            left_out: HashMap::new(),
            stated: Instant::now(),
        }
    }

    /// Whether one more of this kind is written down; if not, it is counted.
    pub(super) fn admits(&mut self, client: Option<IpAddr>, kind: &Kind) -> bool {
        let address = client.map(budget_address);
        let own = match (&self.by_address, &address) {
            (Some(limiter), Some(address)) => limiter.spend(address).is_ok(),
            (None, _) | (_, None) => true,
        };
        if own && self.in_all.as_ref().is_none_or(|l| l.spend(&()).is_ok()) {
            return true;
        }
        let tally = self.left_out.entry(kind.clone()).or_default();
        tally.count += 1;
        if let Some(address) = address
            && (tally.clients.len() < COUNTED || tally.clients.contains_key(&address))
        {
            *tally.clients.entry(address).or_default() += 1;
        }
        false
    }

    /// What has been left out, once a second.
    pub(super) fn statement(&mut self) -> Vec<LeftOut> {
        if self.left_out.is_empty() || self.stated.elapsed() < EVERY {
            return Vec::new();
        }
        self.everything_left_out()
    }

    /// What has been left out and was not stated yet.
    pub(super) fn everything_left_out(&mut self) -> Vec<LeftOut> {
        self.stated = Instant::now();
        self.left_out
            .drain()
            .map(|(kind, tally)| LeftOut {
                kind,
                count: tally.count,
                client: tally
                    .clients
                    .into_iter()
                    .max_by_key(|(_, count)| *count)
                    .map(|(address, _)| address),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(reason: &'static str) -> Kind {
        Kind {
            route: None,
            reason,
        }
    }

    #[test]
    fn one_busy_address_is_bounded_counted_and_takes_nothing_from_another() {
        let mut bound = Bound::new();
        let busy = Some(IpAddr::from([192, 0, 2, 1]));
        let written = (0..50_000)
            .filter(|_| bound.admits(busy, &kind("route_not_found")))
            .count();
        assert!((200..2_000).contains(&written), "{written}");
        assert!(bound.admits(Some(IpAddr::from([192, 0, 2, 2])), &kind("head_malformed")));
        let left_out = bound.everything_left_out();
        assert_eq!(left_out.len(), 1);
        assert_eq!(left_out[0].count, 50_000 - written as u64);
        assert_eq!(left_out[0].client, busy);
        assert!(bound.everything_left_out().is_empty());
    }

    #[test]
    fn many_addresses_are_bounded_together() {
        let mut bound = Bound::new();
        let written = (0..100_000u32)
            .filter(|n| bound.admits(Some(IpAddr::from(n.to_be_bytes())), &kind("x")))
            .count();
        assert!((2_000..20_000).contains(&written), "{written}");
    }
}
