//! The caps on connections: in all, from each address, and by what the file descriptors allow.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    connection::Slot,
    edge::Edge,
    metrics::Cap,
    policy::{
        Policy,
        address::{budget_address, plain},
    },
};

/// How many client connections the file descriptors allow, after the soft limit was raised to the hard
/// one: half of them, for each may need another towards the upstream.
pub(super) fn connections_possible() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    match limit.current {
        None => usize::MAX,
        Some(n) => usize::try_from(n / 2).unwrap_or(usize::MAX).max(1),
    }
}

/// How many connections there are, in all and from each address.
#[derive(Debug)]
pub(super) struct Caps {
    open: Mutex<Open>,
    possible: usize,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Caps {
    pub(super) fn of(possible: usize) -> Self {
        Self {
            open: Mutex::default(),
            possible,
        }
    }

    /// Takes a place for a connection from `peer`, within the limits of the policy in force, or says which cap
    /// is reached.
    pub(super) fn enter(
        this: &Arc<Self>,
        peer: IpAddr,
        policy: &Policy,
        edge: &Arc<Edge>,
    ) -> Result<Place, Cap> {
        let address = budget_address(peer);
        let mut open = this.open.lock();
        if open.all >= policy.limits.connections.min(this.possible) {
            return Err(Cap::All);
        }
        let here = open.by_address.get(&address).copied().unwrap_or(0);
        if here >= policy.limits.connections_per_address
            && !policy.trusted_proxies.contains(plain(peer))
        {
            return Err(Cap::Address);
        }
        open.by_address.insert(address, here + 1);
        open.all += 1;
        edge.metrics.connections.inc();
        edge.metrics.connections_accepted.inc();
        Ok(Place {
            caps: this.clone(),
            address,
            edge: edge.clone(),
        })
    }
}

/// A place among the connections.
#[derive(Debug)]
pub(super) struct Place {
    caps: Arc<Caps>,
    address: IpAddr,
    edge: Arc<Edge>,
}

impl Slot for Place {}

impl Drop for Place {
    fn drop(&mut self) {
        self.edge.metrics.connections.dec();
        let mut open = self.caps.open.lock();
        open.all = open.all.saturating_sub(1);
        if let Some(here) = open.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}
