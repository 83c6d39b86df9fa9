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

/// Descriptors that connections of clients never take: for the listeners, the control socket and whoever asks there, the admin listener,
/// logs, the spool with its own connection to the inside, and the files a reload reads.
const RESERVE: usize = 64;

/// What a worker has open without a connection: its runtime's own descriptors.
const PER_WORKER: usize = 4;

/// The most kept upstream connections of one worker.
const KEPT_PER_WORKER: usize = 256;

/// How the descriptors of this process are dealt out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// How many client connections there can be, each with one towards its upstream.
    pub(super) connections: usize,
    /// How many idle upstream connections a worker keeps.
    pub(super) kept: usize,
}

impl Descriptors {
    /// Raises the soft limit of open files to the hard one, and deals out what that gives.
    pub(super) fn claim(workers: usize) -> Self {
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
        let open_files = limit
            .current
            .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        Self::of(open_files, workers)
    }

    fn of(open_files: usize, workers: usize) -> Self {
        let workers = workers.max(1);
        let free = open_files.saturating_sub(RESERVE + workers * PER_WORKER);
        let kept = (free / 8 / workers).clamp(1, KEPT_PER_WORKER);
        Self {
            connections: (free.saturating_sub(kept * workers) / 2).max(1),
            kept,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_what_is_kept_leave_the_reserve() {
        for workers in [1, 2, 64] {
            for open_files in [512, 1024, 65_536, 1_048_576] {
                let Descriptors { connections, kept } = Descriptors::of(open_files, workers);
                let taken = 2 * connections + kept * workers;
                assert!(taken + RESERVE + PER_WORKER * workers <= open_files);
                assert!(taken >= (open_files - RESERVE - PER_WORKER * workers) / 2);
            }
        }
        let least = Descriptors {
            connections: 1,
            kept: 1,
        };
        assert_eq!(Descriptors::of(8, 4), least);
    }
}
