//! Budgets: who spends what, in which order, and what the answers say about it.

mod announced;
mod connections;
mod descriptors;
mod failures;
mod flood;
mod held;
mod memory;
mod shadow;
mod spending;
