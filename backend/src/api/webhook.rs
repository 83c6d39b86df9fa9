//! Deliveries coming in. The gateway has proven them; here they are stored with what they cause.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use orket_shared::{
    header::{WEBHOOK_DELIVERY, WEBHOOK_EVENT, WEBHOOK_KEY, WEBHOOK_PROVIDER, WEBHOOK_SOURCE},
    id,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ApiError, App, Caller,
    extract::{self, Body, Id},
};
use crate::{
    crash_point::CrashPoint,
    store::deliveries::{Answer, Intent, NewDelivery},
    webhook,
};

/// The source whose deliveries are made by hand.
/// Where deliveries come in.
pub(super) const PATH: &str = "/webhook/{source}";
const TEST: &str = "test";
const KEY_MOST: usize = 512;

/// How a delivery is answered. The same key again gets the first answer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DeliveryAnswer {
    /// `accepted`, or `ignored` when it caused nothing.
    status: String,
    /// What it caused, or why nothing.
    message: String,
    /// The delivery's id with us.
    delivery_id: String,
    /// The card it moved.
    card_id: Option<String>,
    /// The run it queued.
    run_id: Option<String>,
}

/// A delivery made by hand, for `/webhook/test`.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestDelivery {
    /// The event, as Gitea names its type, e.g. `pull_request`.
    event: String,
    /// The action; the payload's own when absent, and equal to it otherwise.
    action: Option<String>,
    /// The payload, as Gitea would send it.
    #[serde(default)]
    #[schema(value_type = Object)]
    payload: Value,
}

/// Takes in a proven delivery: stores it under its key and acts on it in one transaction.
#[utoipa::path(post, path = "/webhook/{source}", tag = "webhooks",
    params(
        ("source" = String, Path, description = "The source, or `test` for a TestDelivery."),
        ("X-Orket-Webhook-Key" = String, Header, description = "The idempotency key."),
        ("X-Orket-Webhook-Source" = Option<String>, Header, description = "The source; that of the path when absent."),
        ("X-Orket-Webhook-Provider" = Option<String>, Header, description = "The kind of sender; the source's name when absent."),
        ("X-Orket-Webhook-Event" = Option<String>, Header, description = "The event; for Gitea its event type."),
        ("X-Orket-Webhook-Delivery" = Option<String>, Header, description = "The sender's own id."),
    ),
    request_body(content = Object, description = "The sender's JSON; for `test` a TestDelivery."),
    responses(
        (status = 202, description = "Stored, and work was caused.", body = DeliveryAnswer),
        (status = 200, description = "Stored, and nothing was caused.", body = DeliveryAnswer),
        (status = 400, description = "Not JSON where JSON is read, no key, or no name for a source.", body = super::openapi::Problem),
        (status = 404, description = "The path names nothing that could be a source.", body = super::openapi::Problem),
        (status = 413, body = super::openapi::Problem),
        (status = 429, description = "The queue is full. Nothing was stored.", body = super::openapi::Problem),
))]
pub(super) async fn receive(
    State(app): State<App>,
    Id(path_source): Id,
    caller: Caller,
    headers: HeaderMap,
    Body(bytes): Body,
) -> Result<Response, ApiError> {
    let key = extract::text(&headers, WEBHOOK_KEY)?.ok_or_else(|| {
        ApiError::invalid(format!("The header {WEBHOOK_KEY} is missing: deliveries come through the gateway, which stamps it."))
    })?;
    if key.len() > KEY_MOST {
        let text = format!("The header {WEBHOOK_KEY} is longer than {KEY_MOST} bytes.");
        return Err(ApiError::invalid(text));
    }
    // The gateway says whose delivery it is: several routes of one forge name one source.
    let source = extract::text(&headers, WEBHOOK_SOURCE)?.unwrap_or_else(|| path_source.clone());
    if !id::is_name(&source) {
        return Err(ApiError::invalid(format!(
            "The header {WEBHOOK_SOURCE} is not a name."
        )));
    }
    let invalid_payload = || {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_payload",
            "Invalid payload",
        )
    };
    let provider = extract::text(&headers, WEBHOOK_PROVIDER)?;
    let kind = provider.as_deref().unwrap_or(&source);
    // Slack, for one, sends forms: what nobody here reads is stored as it came.
    let payload: Value = match serde_json::from_slice(&bytes) {
        Ok(payload) => payload,
        Err(_) if provider.is_some() && !webhook::is_read(kind) => Value::Null,
        Err(_) => return Err(invalid_payload()),
    };
    let header_event = extract::text(&headers, WEBHOOK_EVENT)?;
    let by_hand = provider
        .as_deref()
        .map_or(path_source == TEST, |provider| provider == TEST);
    let (provider, event, intent) = if by_hand {
        let test = test_delivery(payload).map_err(|error| {
            let detail = format!("A test delivery is {{event, action, payload}}: {error}.");
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_payload", detail)
        })?;
        let payload = with_action(test.payload, test.action).ok_or_else(|| {
            let detail = "`action` and the payload's own `action` differ: leave one of them out.";
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_payload", detail)
        })?;
        let intent = interpret(&app, TEST, &test.event, &payload);
        (TEST.to_owned(), test.event, intent)
    } else {
        let provider = provider.unwrap_or_else(|| source.clone());
        let event = header_event.unwrap_or_default();
        let intent = interpret(&app, &provider, &event, &payload);
        (provider, event, intent)
    };
    let new = NewDelivery {
        id: id::new_ulid(),
        source,
        key,
        provider,
        event,
        sender_delivery: extract::text(&headers, WEBHOOK_DELIVERY)?,
        actor: caller.actor(),
        request_id: caller.request_id,
        replay_of: None,
    };
    let rules = app.settings.runs.rules.clone();
    CrashPoint::DeliveryReceived.reached();
    let delivered = app
        .store
        .deliver(Timestamp::now(), new, bytes, intent, rules)
        .await?;
    CrashPoint::DeliveryCommitted.reached();
    Ok(respond(delivered))
}

fn test_delivery(payload: Value) -> Result<TestDelivery, serde_json::Error> {
    use serde::de::Error as _;
    // A list of the same values would do otherwise.
    if !payload.is_object() {
        return Err(serde_json::Error::custom("this is no JSON object"));
    }
    serde_json::from_value(payload)
}

/// What a stored delivery would cause now.
pub(super) fn reinterpret(app: &App, provider: &str, event: &str, body: &[u8]) -> Intent {
    let Ok(payload) = serde_json::from_slice::<Value>(body) else {
        return Intent::Ignore("Its body is not JSON.".to_owned());
    };
    if provider != TEST {
        return interpret(app, provider, event, &payload);
    }
    match test_delivery(payload) {
        Ok(test) => match with_action(test.payload, test.action) {
            Some(payload) => interpret(app, TEST, event, &payload),
            None => Intent::Ignore("Its two actions differ.".to_owned()),
        },
        Err(_) => Intent::Ignore("Its body is not a test delivery.".to_owned()),
    }
}

/// What a delivery shall cause, unless this host isolates too little for work from outside.
fn interpret(app: &App, provider: &str, event: &str, payload: &Value) -> Intent {
    let intent = webhook::intent(provider, event, payload, &app.settings.review);
    let (reached, needed) = (app.scheduler.isolation(), app.settings.runs.min_isolation);
    match intent {
        Intent::Review { .. } if reached < needed => Intent::Ignore(format!(
            "Refused: this host reaches the isolation level {}, and work from webhooks needs {} \
             ([runs] min_isolation).",
            reached.name(),
            needed.name()
        )),
        intent @ (Intent::Review { .. } | Intent::Ignore(_)) => intent,
    }
}

/// A payload with the action given beside it; `None` where the two differ.
fn with_action(mut payload: Value, action: Option<String>) -> Option<Value> {
    if let (Some(action), Some(object)) = (action, payload.as_object_mut()) {
        match object.get("action") {
            None => {
                object.insert("action".to_owned(), action.into());
            }
            Some(own) if own.as_str() == Some(&action) => {}
            Some(_) => return None,
        }
    }
    Some(payload)
}

/// The answer a delivery got, as a response.
pub(super) fn respond(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.http_status).unwrap_or(StatusCode::OK);
    (status, Json(answer.body)).into_response()
}
