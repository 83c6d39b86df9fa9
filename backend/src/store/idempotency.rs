//! Asking twice and being served once: a key of the caller's own, kept with the answer for 7 days.

use serde_json::Value;

/// An idempotency key and what it came with.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// Whose key it is.
    pub actor: String,
    /// The key.
    pub key: String,
    /// The request: its body byte for byte, and its route where that is not the one of runs.
    pub body: Vec<u8>,
}

/// What became of a request to make something.
#[derive(Debug, Clone)]
pub enum Once<T> {
    /// It was made just now.
    New(T),
    /// The same key and request were here before: the first answer.
    Before(Value),
}

/// The same key came with another request. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("This Idempotency-Key was used with another request. Use a new key for a new request.")]
pub struct KeyReused;

/// How what was made is answered, and answered again.
pub type Answer<T> = fn(&T) -> Value;
