//! Whether anybody uses a sandbox: who is, or was within the last minute, connected to its ports.
//!
//! The kernel keeps a closed connection for a minute, so that a look every now and then misses
//! none that was closed in order. Our own probes are told apart by their ports.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long the port of a probe is remembered: longer than the kernel keeps its connection.
const KEPT: Duration = Duration::from_mins(2);
/// How the kernel writes 127.0.0.1 and a socket that listens.
const LOOPBACK: &str = "0100007F";
const LISTENING: &str = "0A";

/// The local ports of our own connections to services.
#[derive(Debug, Default)]
pub(super) struct Probes(Mutex<HashMap<u16, Instant>>);

impl Probes {
    pub(super) fn note(&self, port: u16) {
        self.0.lock().insert(port, Instant::now());
    }

    fn recent(&self) -> BTreeSet<u16> {
        let mut noted = self.0.lock();
        noted.retain(|_, at| at.elapsed() < KEPT);
        noted.keys().copied().collect()
    }
}

/// The ports of 127.0.0.1 that somebody else than our probes is or was connected to.
pub(super) fn used_ports(probes: &Probes) -> io::Result<BTreeSet<u16>> {
    // The table first: whatever probe is in it has been noted by the time that those are read, or
    // counts as use this once.
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    Ok(used(&table, &probes.recent()))
}

fn used(table: &str, probes: &BTreeSet<u16>) -> BTreeSet<u16> {
    let end = |text: &str| {
        let (address, port) = text.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (address == LOOPBACK).then_some(port)
    };
    let mut ports = BTreeSet::new();
    for line in table.lines().skip(1) {
        let mut words = line.split_whitespace().skip(1);
        let ends = words.next().and_then(end).zip(words.next().and_then(end));
        let (Some((here, there)), Some(state)) = (ends, words.next()) else {
            continue;
        };
        if state != LISTENING && !probes.contains(&here) && !probes.contains(&there) {
            ports.extend([here, there]);
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_client_is_seen_and_a_probe_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let probes = Probes::default();
        assert!(!used_ports(&probes).unwrap().contains(&port));
        let probe = TcpStream::connect(("127.0.0.1", port)).unwrap();
        probes.note(probe.local_addr().unwrap().port());
        assert!(!used_ports(&probes).unwrap().contains(&port));
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(used_ports(&probes).unwrap().contains(&port));
    }

    #[test]
    fn only_the_loopback_counts() {
        let table = "head\n 0: 0100007F:1F41 0100007F:C000 06 x\n 1: 010011AC:1F42 020011AC:1F43 01 x\n \
                     2: 0100007F:1F44 00000000:0000 0A x\n";
        assert_eq!(
            used(table, &BTreeSet::new()),
            BTreeSet::from([8001, 0xC000])
        );
        assert_eq!(used(table, &BTreeSet::from([0xC000])), BTreeSet::new());
    }
}
