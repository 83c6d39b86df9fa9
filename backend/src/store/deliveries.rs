//! Deliveries: what came in, and what it caused, stored in one transaction under its key.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use super::{Listing, StoreError, submissions::SubmitError};
use crate::plan::Rules;

/// A proven delivery to be stored.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// Its id with us.
    pub id: String,
    /// Where it came from; with `key` it names the delivery.
    pub source: String,
    /// The idempotency key the gateway stamped.
    pub key: String,
    /// The kind of sender.
    pub provider: String,
    /// The event as the sender names it.
    pub event: String,
    /// The sender's own id of it: for people only.
    pub sender_delivery: Option<String>,
    /// Who it came from, as the gateway said.
    pub actor: String,
    /// The request it came with.
    pub request_id: String,
    /// The delivery this one repeats on request.
    pub replay_of: Option<String>,
}

/// What a delivery is to cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// Nothing, and why.
    Ignore(String),
    /// A card goes to review and its command is run.
    Review {
        /// The ids that the pull request may name: the first one that a card has counts.
        card_ids: Vec<String>,
        /// The id of the run to make.
        run_id: String,
    },
}

/// A delivery as stored, without its body: that may be large.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its place in the order of arrival.
    pub seq: i64,
    /// What was stored of it.
    pub new: NewDelivery,
    /// When it came in.
    pub received_at: Timestamp,
    /// The size of its body.
    pub body_bytes: i64,
    /// The status it was answered with.
    pub http_status: u16,
    /// The answer.
    pub answer: Value,
    /// The card it moved.
    pub card_id: Option<String>,
    /// The run it caused.
    pub run_id: Option<String>,
}

/// The answer to a delivery.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub http_status: u16,
    /// The body.
    pub body: Value,
}

/// Deliveries, each stored and acted on once.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// Stores a delivery and what it causes in one transaction, or gives the first answer again.
    async fn deliver(
        &self,
        now: Timestamp,
        new: NewDelivery,
        body: Bytes,
        intent: Intent,
        rules: Arc<Rules>,
    ) -> Result<Answer, SubmitError>;

    /// The delivery of that id, and its body, byte for byte.
    async fn delivery(&self, id: String) -> Result<Option<(Delivery, Vec<u8>)>, StoreError>;

    /// Deliveries, newest first, those before the one of number `before`.
    async fn deliveries(
        &self,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Listing<Delivery>, StoreError>;
}
