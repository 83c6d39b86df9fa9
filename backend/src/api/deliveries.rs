//! Deliveries that came in: what they were, what they caused, and doing them again.

use axum::{Json, extract::State, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use orket_shared::id;
use serde::Serialize;
use serde_json::Value;

use super::{
    ApiError, App, Caller,
    extract::{Id, Query},
    page::{self, Page, PageQuery},
    webhook,
};
use crate::store::deliveries::{Delivery, NewDelivery};

/// A delivery.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DeliveryView {
    /// Its id with us.
    id: String,
    /// Where it came from.
    source: String,
    /// The idempotency key, unique per source.
    key: String,
    /// The kind of sender.
    provider: String,
    /// The event as the sender names it.
    event: String,
    /// The sender's own id of it.
    sender_delivery: Option<String>,
    /// When it came in (RFC 3339, UTC).
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// The status it was answered with.
    http_status: u16,
    /// The answer.
    #[schema(value_type = Object)]
    answer: Value,
    /// The card it moved.
    card_id: Option<String>,
    /// The run it caused.
    run_id: Option<String>,
    /// The delivery it repeats.
    replay_of: Option<String>,
    /// The size of its body.
    body_bytes: i64,
}

impl From<&Delivery> for DeliveryView {
    fn from(delivery: &Delivery) -> Self {
        let new = delivery.new.clone();
        Self {
            id: new.id,
            source: new.source,
            key: new.key,
            provider: new.provider,
            event: new.event,
            sender_delivery: new.sender_delivery,
            received_at: delivery.received_at,
            http_status: delivery.http_status,
            answer: delivery.answer.clone(),
            card_id: delivery.card_id.clone(),
            run_id: delivery.run_id.clone(),
            replay_of: new.replay_of,
            body_bytes: delivery.body_bytes,
        }
    }
}

/// A delivery and its body.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DeliveryDetail {
    #[serde(flatten)]
    delivery: DeliveryView,
    /// The body, where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body in Base64, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_b64: Option<String>,
}

/// Deliveries, newest first.
#[utoipa::path(get, path = "/v1/deliveries", tag = "webhooks", params(PageQuery), responses(
    (status = 200, body = Page<DeliveryView>),
    (status = 400, description = "The query does not fit.", body = super::openapi::Problem),
))]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<DeliveryView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let before = page::cursor(query.cursor.as_deref())?;
    let found = app.store.deliveries(before, limit).await?;
    Ok(Json(Page::of(found, |d| d.seq, |d| DeliveryView::from(&d))))
}

async fn find(app: &App, id: String) -> Result<(Delivery, Vec<u8>), ApiError> {
    app.store
        .delivery(id)
        .await?
        .ok_or_else(|| ApiError::unknown("delivery"))
}

/// A delivery with its body.
#[utoipa::path(get, path = "/v1/deliveries/{id}", tag = "webhooks", params(("id" = String, Path)),
    responses((status = 200, body = DeliveryDetail), (status = 404, body = super::openapi::Problem)))]
pub(super) async fn detail(
    State(app): State<App>,
    Id(id): Id,
) -> Result<Json<DeliveryDetail>, ApiError> {
    let (found, body) = find(&app, id).await?;
    let delivery = DeliveryView::from(&found);
    let (body, body_b64) = match String::from_utf8(body) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
    };
    Ok(Json(DeliveryDetail {
        delivery,
        body,
        body_b64,
    }))
}

/// Acts on a delivery once more, as if it had come in now; under a key of its own.
#[utoipa::path(post, path = "/v1/deliveries/{id}/replay", tag = "webhooks",
    params(("id" = String, Path)),
    responses(
        (status = 202, description = "Work was caused.", body = webhook::DeliveryAnswer),
        (status = 200, description = "Nothing was caused.", body = webhook::DeliveryAnswer),
        (status = 404, body = super::openapi::Problem),
        (status = 429, description = "The queue is full.", body = super::openapi::Problem),
))]
pub(super) async fn replay(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let (first, body) = find(&app, id).await?;
    let new_id = id::new_ulid();
    let intent = webhook::reinterpret(&app, &first.new.provider, &first.new.event, &body);
    let new = NewDelivery {
        key: format!("replay:{new_id}"),
        id: new_id,
        actor: caller.actor(),
        request_id: caller.request_id,
        replay_of: Some(first.new.id.clone()),
        ..first.new
    };
    let rules = app.settings.runs.rules.clone();
    Ok(webhook::respond(
        app.store
            .deliver(Timestamp::now(), new, body.into(), intent, rules)
            .await?,
    ))
}
