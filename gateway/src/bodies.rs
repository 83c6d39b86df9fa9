//! The bodies of webhooks in memory: how much they take in all, what share of it one address and one source may have, and
//! how long those of an address that fails a lot may take to arrive.
//!
//! A body counts from its first byte until nobody needs it: while it is read it is unproven, then proven until its request has
//! ended and, where it is kept, the disk has it. Both count against one total, [`limits.webhook_memory`](crate::policy::Limits).
//! Of it one address may hold a quarter unproven and a half proven, one source a half: a forge whose
//! upstream is slow is not shut out by what it has proven, and who has one secret cannot take all. Memory is counted as bytes
//! arrive, never as they are announced.
//!
//! What is unproven leaves room, so that a few addresses without any secret cannot shut out who has one: all addresses that
//! hold more than [`LITTLE`] together have a half of what is not proven, those with less three quarters of it, and the rest is
//! for exempt addresses. See [`open_to`].
//!
//! A forge sends its body at once. So a body that is already there, or arrives within
//! [`PROMPT`], needs nobody's leave even from a failing address; what comes more slowly takes one of a few
//! slots, and not for long.

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

/// How much memory all bodies of webhooks may take by default, in bytes.
pub const MEMORY: usize = 256 * 1024 * 1024;

/// The part of the memory that unproven bodies of one address may take: one in so many. No body may be larger.
pub const UNPROVEN_PART: usize = 4;

/// The part of the memory that proven bodies of one address, and those of one source, may take: one in so many.
pub const PROVEN_PART: usize = 2;

/// What one address may hold unproven, in bytes, and still find room where others have taken theirs.
pub const LITTLE: usize = 64 * 1024;

/// How many bytes the unproven bodies of all addresses that are not exempt may take, where this much of `room` is proven: a half of
/// what is left, or three quarters for one that holds no more than [`LITTLE`]. The largest body always finds a share where nothing else
/// is unproven.
pub fn open_to(room: usize, proven: usize, held: usize) -> usize {
    let left = room.saturating_sub(proven);
    let part = if held > LITTLE {
        left / 2
    } else {
        left / 4 * 3
    };
    part.max(room / UNPROVEN_PART)
}

/// How long a body of a failing address may take before it needs a slot.
pub const PROMPT: Duration = Duration::from_millis(250);

/// How many slow bodies of one failing address are waited for at once.
pub const SLOTS: usize = 8;

/// How long each of them is waited for.
pub const SLOT_TIME: Duration = Duration::from_secs(1);

/// All bodies.
#[derive(Debug, Default)]
pub struct Bodies(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    unproven: usize,
    /// Of the unproven, what addresses hold that are not exempt.
    strangers: usize,
    proven: usize,
    addresses: HashMap<IpAddr, Held>,
    /// Proven bytes.
    sources: HashMap<Arc<str>, usize>,
}

/// What one address holds.
#[derive(Debug, Default)]
struct Held {
    passes: usize,
    unproven: usize,
    proven: usize,
    slots: usize,
}

/// Why there is no room for a body. There may be in a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// All of the memory is taken, or all that is open to whoever sends it.
    #[error("all of the memory for webhook bodies that is open to the sender is taken")]
    All,
    /// The address, or the source, has its share.
    #[error("the sender has its share of the memory for webhook bodies")]
    Share,
    /// The failing address has its slots.
    #[error("the failing address has its slots")]
    Slots,
}

impl Bodies {
    /// How many bytes of unproven bodies are held.
    pub fn unproven(&self) -> usize {
        self.0.lock().unproven
    }

    /// How many bytes of proven bodies are held.
    pub fn proven(&self) -> usize {
        self.0.lock().proven
    }

    /// The right to read one body from this address, where all bodies may take `room` bytes.
    pub fn enter(this: &Arc<Self>, address: IpAddr, sender: Sender, room: usize) -> BodyPass {
        this.0.lock().addresses.entry(address).or_default().passes += 1;
        BodyPass {
            bodies: this.clone(),
            address,
            sender,
            room,
            bytes: AtomicUsize::new(0),
            slot: AtomicBool::new(false),
            withheld: AtomicBool::new(false),
        }
    }
}

impl Books {
    /// These unproven bytes are no longer held by a sender like this.
    fn take_off(&mut self, bytes: usize, sender: Sender) {
        self.unproven -= bytes;
        if sender != Sender::Exempt {
            self.strangers -= bytes;
        }
    }

    /// A pass of this address is given back.
    fn leave(&mut self, address: IpAddr, give_back: impl FnOnce(&mut Held)) {
        if let Some(held) = self.addresses.get_mut(&address) {
            give_back(held);
            held.passes -= 1;
            if held.passes == 0 {
                self.addresses.remove(&address);
            }
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
    room: usize,
    bytes: AtomicUsize,
    slot: AtomicBool,
    withheld: AtomicBool,
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

    /// The body did not come whole: it timed out, or its sender went away. That is a failed proof.
    pub fn note_withheld(&self) {
        self.withheld.store(true, Ordering::Relaxed);
    }

    /// Whether the body did not come whole.
    pub fn is_withheld(&self) -> bool {
        self.withheld.load(Ordering::Relaxed)
    }

    /// Takes memory for bytes that have arrived.
    pub fn grow(&self, bytes: usize) -> Result<(), NoRoom> {
        let mut books = self.bodies.0.lock();
        if books.unproven + books.proven + bytes > self.room {
            return Err(NoRoom::All);
        }
        let (strangers, proven) = (books.strangers, books.proven);
        let held = books.addresses.entry(self.address).or_default();
        if self.sender != Sender::Exempt {
            let holding = held.unproven + bytes;
            if holding > self.room / UNPROVEN_PART {
                return Err(NoRoom::Share);
            }
            if strangers + bytes > open_to(self.room, proven, holding) {
                return Err(NoRoom::All);
            }
        }
        held.unproven += bytes;
        books.unproven += bytes;
        if self.sender != Sender::Exempt {
            books.strangers += bytes;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a slot for a body that is slow to arrive.
    pub fn take_slot(&self) -> Result<(), NoRoom> {
        let mut books = self.bodies.0.lock();
        let held = books.addresses.entry(self.address).or_default();
        if held.slots >= SLOTS {
            return Err(NoRoom::Slots);
        }
        held.slots += 1;
        self.slot.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The body is proven to be this source's: from now on it counts as such. An exempt address is held to its source's
    /// share alone.
    pub fn prove(self, source: &Arc<str>) -> Result<ProvenPass, NoRoom> {
        let bytes = self.bytes();
        let share = self.room / PROVEN_PART;
        let mut books = self.bodies.0.lock();
        if books.sources.get(source).map_or(0, |held| *held) + bytes > share {
            return Err(NoRoom::Share);
        }
        let held = books.addresses.entry(self.address).or_default();
        if self.sender != Sender::Exempt && held.proven + bytes > share {
            return Err(NoRoom::Share);
        }
        held.passes += 1;
        held.proven += bytes;
        held.unproven -= bytes;
        books.take_off(bytes, self.sender);
        books.proven += bytes;
        *books.sources.entry(source.clone()).or_default() += bytes;
        drop(books);
        self.bytes.store(0, Ordering::Relaxed);
        Ok(ProvenPass {
            bodies: self.bodies.clone(),
            address: self.address,
            source: source.clone(),
            bytes,
        })
    }
}

impl Drop for BodyPass {
    fn drop(&mut self) {
        let (bytes, slot) = (self.bytes(), self.slot.load(Ordering::Relaxed));
        let mut books = self.bodies.0.lock();
        books.take_off(bytes, self.sender);
        books.leave(self.address, |held| {
            held.unproven -= bytes;
            held.slots -= usize::from(slot);
        });
    }
}

/// The memory of one proven body; given back when dropped.
#[derive(Debug)]
pub struct ProvenPass {
    bodies: Arc<Bodies>,
    address: IpAddr,
    source: Arc<str>,
    bytes: usize,
}

impl Drop for ProvenPass {
    fn drop(&mut self) {
        let mut books = self.bodies.0.lock();
        books.proven -= self.bytes;
        if let Some(held) = books.sources.get_mut(&self.source) {
            *held -= self.bytes;
            if *held == 0 {
                books.sources.remove(&self.source);
            }
        }
        books.leave(self.address, |held| held.proven -= self.bytes);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn address(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    fn enter(bodies: &Arc<Bodies>, n: u8, sender: Sender) -> BodyPass {
        Bodies::enter(bodies, address(n), sender, MEMORY)
    }

    /// A body of this size, read and proven.
    fn proven(
        bodies: &Arc<Bodies>,
        n: u8,
        source: &str,
        bytes: usize,
    ) -> Result<ProvenPass, NoRoom> {
        let pass = enter(bodies, n, Sender::Fair);
        pass.grow(bytes)?;
        pass.prove(&source.into())
    }

    fn assert_empty(bodies: &Bodies) {
        let books = bodies.0.lock();
        assert_eq!((books.unproven, books.strangers, books.proven), (0, 0, 0));
        assert!(books.addresses.is_empty() && books.sources.is_empty());
    }

    #[test]
    fn memory_and_slots_are_bounded_and_given_back() {
        let bodies = Arc::new(Bodies::default());
        let passes: Vec<_> = (0..70)
            .map(|_| enter(&bodies, 1, Sender::Failing))
            .collect();
        let grown = passes.iter().filter(|p| p.grow(MIB).is_ok()).count();
        assert_eq!(grown, 64, "one address has its share");
        let other = enter(&bodies, 2, Sender::Fair);
        assert!(other.grow(1024).is_ok(), "another has its own");
        assert_eq!(
            passes.iter().filter(|p| p.take_slot().is_ok()).count(),
            SLOTS
        );
        assert!(other.take_slot().is_ok());
        drop((passes, other));
        assert_empty(&bodies);
    }

    #[test]
    fn the_bound_in_all_holds_for_exempt_addresses_too() {
        let bodies = Arc::new(Bodies::default());
        let pass = enter(&bodies, 1, Sender::Exempt);
        assert_eq!(pass.grow(MEMORY), Ok(()));
        assert_eq!(pass.grow(1), Err(NoRoom::All));
    }

    #[test]
    fn what_is_unproven_leaves_room_for_small_bodies_and_exempt_addresses() {
        let bodies = Arc::new(Bodies::default());
        let large: Vec<_> = (0..200).map(|n| enter(&bodies, n, Sender::Fair)).collect();
        let grown = large.iter().filter(|p| p.grow(MIB).is_ok()).count();
        assert_eq!(grown, 128, "a half");
        let small = enter(&bodies, 201, Sender::Fair);
        assert_eq!(small.grow(LITTLE), Ok(()));
        assert_eq!(small.grow(1), Err(NoRoom::All));
        let many: Vec<_> = (0..=u16::MAX)
            .map(|n| {
                let [high, low] = n.to_be_bytes();
                let address = [10, 0, high, low].into();
                let pass = Bodies::enter(&bodies, address, Sender::Fair, MEMORY);
                let taken = pass.grow(LITTLE).is_ok();
                (pass, taken)
            })
            .collect();
        assert_eq!(bodies.unproven(), 192 * MIB, "three quarters");
        let exempt = enter(&bodies, 202, Sender::Exempt);
        assert_eq!(exempt.grow(64 * MIB), Ok(()));
        assert_eq!(exempt.grow(1), Err(NoRoom::All));
        drop((large, small, many, exempt));
        assert_empty(&bodies);
    }

    #[test]
    fn what_is_proven_leaves_the_share_of_the_unproven() {
        let bodies = Arc::new(Bodies::default());
        let held: Vec<_> = (0..64)
            .map(|_| proven(&bodies, 1, "forge", MIB).unwrap())
            .collect();
        assert_eq!((bodies.unproven(), bodies.proven()), (0, 64 * MIB));
        let more = enter(&bodies, 1, Sender::Fair);
        assert_eq!(more.grow(64 * MIB), Ok(()), "its own slow upstream");
        assert_eq!(more.grow(1), Err(NoRoom::Share));
        drop((held, more));
        assert_empty(&bodies);
    }

    #[test]
    fn neither_an_address_nor_a_source_takes_all_with_proof() {
        let bodies = Arc::new(Bodies::default());
        // One address with many sources; one source from many addresses.
        for by_address in [true, false] {
            let part = |n: u8| {
                let (address, source) = if by_address { (1, n) } else { (n, 1) };
                proven(&bodies, address, &source.to_string(), 32 * MIB)
            };
            let held: Vec<_> = (0..9).filter_map(|n| part(n).ok()).collect();
            assert_eq!(held.len(), 4, "a half");
            assert!(matches!(part(9), Err(NoRoom::Share)));
            let other = proven(&bodies, 77, "other", 32 * MIB);
            assert!(other.is_ok(), "{other:?}");
            drop((held, other));
            assert_empty(&bodies);
        }
        // Exempt from the share of addresses is not exempt from that of sources.
        let exempt = |source: &str| {
            let pass = enter(&bodies, 1, Sender::Exempt);
            pass.grow(64 * MIB)
                .and_then(|()| pass.prove(&source.into()))
        };
        let held: Vec<_> = ["a", "a", "b"].map(|s| exempt(s).unwrap()).into();
        assert!(matches!(exempt("a"), Err(NoRoom::Share)));
        assert!(exempt("b").is_ok());
        drop(held);
        assert_empty(&bodies);
    }
}
