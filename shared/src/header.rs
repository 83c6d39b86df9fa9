//! Names of the headers the gateway stamps and the backend reads. All lower case, as they are
//! compared and as HTTP/2 wants them.
//!
//! The gateway removes every one of them from what a client sent before it writes its own.

/// The id of one request, made by the gateway; a ULID. Every answer carries it.
pub const REQUEST_ID: &str = "x-request-id";

/// Who was admitted: `key:<id>`, `webhook:<source>`, `test-webhook` or `anonymous`.
pub const ACTOR: &str = "x-orket-actor";

/// The source a proven delivery belongs to (the route's `source`, or its id).
pub const WEBHOOK_SOURCE: &str = "x-orket-webhook-source";

/// The kind of sender that was proven, e.g. `gitea`: tells the backend how to read the body.
pub const WEBHOOK_PROVIDER: &str = "x-orket-webhook-provider";

/// The event as the sender names it; for Gitea its `X-Gitea-Event-Type`.
pub const WEBHOOK_EVENT: &str = "x-orket-webhook-event";

/// The sender's own delivery id. Covered by the signature for some senders only: for people, never for decisions.
pub const WEBHOOK_DELIVERY: &str = "x-orket-webhook-delivery";

/// The idempotency key of a proven delivery, unique per source.
pub const WEBHOOK_KEY: &str = "x-orket-webhook-key";

/// The client's address as the gateway judged it (de facto standard, one value only).
pub const FORWARDED_FOR: &str = "x-forwarded-for";

/// `http` or `https`, as the client spoke to the gateway (de facto standard).
pub const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The `Host` the client asked for (de facto standard).
pub const FORWARDED_HOST: &str = "x-forwarded-host";
