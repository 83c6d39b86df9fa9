//! Exactly once: what the gateway remembers of deliveries, and what it keeps while the inside is away.

mod remembered;
