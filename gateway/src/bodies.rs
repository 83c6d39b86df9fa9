//! Webhook bodies that are not proven yet: how much memory they take, and how long those of an address
//! that fails a lot may take to arrive.
//!
//! A forge sends its body at once. So a body that is already there, or arrives within
//! [`PROMPT`], needs nobody's leave even from a failing address; what comes more slowly takes one of a few
//! slots, and not for long. Memory is counted as bytes arrive, never as they are announced.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::limit::{Exceeded, Standing};

/// Most bytes of unproven bodies in all.
pub const MEMORY: usize = 256 * 1024 * 1024;

/// Most bytes of unproven bodies from one address.
pub const MEMORY_PER_ADDRESS: usize = 64 * 1024 * 1024;

/// How long a body of a failing address may take before it needs a slot.
pub const PROMPT: Duration = Duration::from_millis(250);

/// How many slow bodies of one failing address are waited for at once.
pub const SLOTS: usize = 8;

/// How long each of them is waited for.
pub const SLOT_TIME: Duration = Duration::from_secs(1);

/// All unproven bodies.
#[derive(Debug, Default)]
pub struct Bodies {
    bytes: AtomicUsize,
    addresses: Mutex<HashMap<IpAddr, Held>>,
}

/// What one address holds.
#[derive(Debug, Default)]
struct Held {
    passes: usize,
    bytes: usize,
    slots: usize,
}

impl Bodies {
    /// How many bytes of unproven bodies are held.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The right to read one body from this address.
    pub fn enter(this: &Arc<Self>, address: IpAddr, sender: Sender) -> BodyPass {
        this.addresses.lock().entry(address).or_default().passes += 1;
        BodyPass {
            bodies: this.clone(),
            address,
            sender,
            bytes: AtomicUsize::new(0),
            slot: AtomicBool::new(false),
        }
    }
}

/// What is known of whoever sends a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// Its address is exempt from counting.
    Exempt,
    /// Its address is within its failure budget.
    Fair,
    /// Its address is over it.
    Failing,
}

/// The right to read one body; all it holds is given back when dropped.
#[derive(Debug)]
pub struct BodyPass {
    bodies: Arc<Bodies>,
    address: IpAddr,
    sender: Sender,
    bytes: AtomicUsize,
    slot: AtomicBool,
}

impl BodyPass {
    /// What is known of the sender.
    pub fn sender(&self) -> Sender {
        self.sender
    }

    /// The address it was given to.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes memory for bytes that have arrived.
    pub fn grow(&self, bytes: usize) -> Result<(), Exceeded> {
        let mut addresses = self.bodies.addresses.lock();
        let held = addresses.entry(self.address).or_default();
        let over = self.bodies.bytes() + bytes > MEMORY
            || (self.sender != Sender::Exempt && held.bytes + bytes > MEMORY_PER_ADDRESS);
        if over {
            return Err(full());
        }
        held.bytes += bytes;
        self.bodies.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a slot for a body that is slow to arrive.
    pub fn take_slot(&self) -> Result<(), Exceeded> {
        let mut addresses = self.bodies.addresses.lock();
        let held = addresses.entry(self.address).or_default();
        if held.slots >= SLOTS {
            return Err(full());
        }
        held.slots += 1;
        self.slot.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for BodyPass {
    fn drop(&mut self) {
        let bytes = self.bytes();
        self.bodies.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let mut addresses = self.bodies.addresses.lock();
        if let Some(held) = addresses.get_mut(&self.address) {
            held.passes -= 1;
            held.bytes -= bytes;
            held.slots -= usize::from(self.slot.load(Ordering::Relaxed));
            if held.passes == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

/// There is no room; there may be in a moment.
fn full() -> Exceeded {
    let standing = Standing {
        policy: "webhook-allowance".into(),
        quota: 1,
        window: 1,
        remaining: 0,
        reset: 1,
    };
    Exceeded {
        retry_after: Duration::from_secs(1),
        standing,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn memory_and_slots_are_bounded_and_given_back() {
        let bodies = Arc::new(Bodies::default());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let passes: Vec<_> = (0..70)
            .map(|_| Bodies::enter(&bodies, address, Sender::Failing))
            .collect();
        let grown = passes
            .iter()
            .filter(|p| p.grow(1024 * 1024).is_ok())
            .count();
        assert_eq!(grown, 64, "one address has its share");
        let other = Bodies::enter(&bodies, "192.0.2.2".parse().unwrap(), Sender::Fair);
        assert!(other.grow(1024).is_ok(), "another has its own");
        assert_eq!(
            passes.iter().filter(|p| p.take_slot().is_ok()).count(),
            SLOTS
        );
        assert!(other.take_slot().is_ok());
        drop((passes, other));
        assert_eq!(bodies.bytes(), 0);
        assert!(bodies.addresses.lock().is_empty());
    }

    #[test]
    fn the_bound_in_all_holds_for_exempt_addresses_too() {
        let bodies = Arc::new(Bodies::default());
        let pass = Bodies::enter(&bodies, "192.0.2.1".parse().unwrap(), Sender::Exempt);
        assert!(pass.grow(MEMORY).is_ok());
        assert!(pass.grow(1).is_err());
    }
}
