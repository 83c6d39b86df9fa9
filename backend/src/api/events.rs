//! Every state change as it happens, numbered: server-sent events and a WebSocket.
//!
//! A reader holds a position in the feed. One that is slow falls behind alone and is cut off when
//! it takes nothing for a while; who comes back says where it was and misses nothing.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::stream;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::{sync::watch, time::MissedTickBehavior};

use super::{
    ApiError, App,
    extract::{self, Query},
};
use crate::store::feed::Event;

/// How often a stream shows that it lives.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// How long a WebSocket's peer may take to read what is sent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events read at once.
const BATCH: usize = 256;

/// Where to begin.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventQuery {
    /// Only events after this number; without it, those from now on.
    after: Option<i64>,
}

/// The position a reader asks for: `Last-Event-ID`, which a resuming client sends, before `after`.
pub(super) fn position(headers: &HeaderMap, after: Option<i64>) -> Result<Option<i64>, ApiError> {
    let position = match extract::text(headers, "last-event-id")? {
        Some(text) => Some(text.trim().parse().map_err(|_| {
            ApiError::invalid("`Last-Event-ID` is not the number of an event of ours")
        })?),
        None => after,
    };
    match position {
        Some(number) if number < 0 => Err(ApiError::invalid("`after` must not be negative")),
        position => Ok(position),
    }
}

/// A reader of the feed.
struct Reader {
    app: App,
    after: i64,
    ready: VecDeque<Arc<Event>>,
    newest: watch::Receiver<i64>,
}

impl Reader {
    fn new(app: App, after: Option<i64>) -> Self {
        let newest = app.store.feed().watch();
        let now = *newest.borrow();
        // A number beyond the newest is of another store: begin with what comes next.
        let after = after.map_or(now, |after| after.min(now));
        Self {
            app,
            after,
            ready: VecDeque::new(),
            newest,
        }
    }

    /// The next event; `None` when the backend stops or the store fails. Fine to drop half-way.
    async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.seq;
                return Some(event);
            }
            self.newest.borrow_and_update();
            self.ready = self
                .app
                .store
                .events_after(self.after, BATCH)
                .await
                .ok()?
                .into();
            if self.ready.is_empty() {
                let stop = self.app.stop.clone();
                tokio::select! {
                    () = stop.stopped() => return None,
                    changed = self.newest.changed() => changed.ok()?,
                }
            }
        }
    }
}

/// Every state change, as server-sent events; `id` is its number. A comment every 15 seconds
/// shows that the stream lives.
#[utoipa::path(get, path = "/v1/events", tag = "events",
    params(EventQuery, ("Last-Event-ID" = Option<i64>, Header, description = "As `after`, when a stream is resumed.")),
    responses(
        (status = 200, description = "Events, each with its kind as `event` and an Event as `data`.", body = Event, content_type = "text/event-stream"),
        (status = 400, body = super::openapi::Problem),
))]
pub(super) async fn sse(
    State(app): State<App>,
    headers: HeaderMap,
    Query(query): Query<EventQuery>,
) -> Result<Response, ApiError> {
    let reader = Reader::new(app, position(&headers, query.after)?);
    let stream = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        let shown = sse::Event::default()
            .id(event.seq.to_string())
            .event(&event.kind)
            .json_data(&*event)
            .ok()?;
        Some((Ok::<_, Infallible>(shown), reader))
    });
    Ok(Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE))
        .into_response())
}

/// Every state change, as JSON messages of a WebSocket: an Event each. A ping every 15 seconds
/// shows that it lives. What a client sends is not read.
#[utoipa::path(get, path = "/ws/events", tag = "events", params(EventQuery), responses(
    (status = 101, description = "Messages follow, each an Event.", body = Event),
    (status = 400, description = "No WebSocket handshake, or the query does not fit.", body = super::openapi::Problem),
))]
pub(super) async fn websocket(
    State(app): State<App>,
    headers: HeaderMap,
    Query(query): Query<EventQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let after = position(&headers, query.after)?;
    let upgrade = upgrade.map_err(|error| {
        let status = error.into_response().status();
        let status = if status.is_client_error() {
            status
        } else {
            StatusCode::BAD_REQUEST
        };
        ApiError::new(
            status,
            "not_a_websocket",
            "This address speaks WebSocket only.",
        )
    })?;
    let reader = Reader::new(app, after);
    Ok(upgrade
        .max_message_size(64 * 1024)
        .on_upgrade(move |socket| async move {
            converse(socket, reader).await;
        }))
}

async fn converse(mut socket: WebSocket, mut reader: Reader) {
    let mut life = tokio::time::interval(SIGN_OF_LIFE);
    life.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            event = reader.next() => match event.map(|event| serde_json::to_string(&*event)) {
                Some(Ok(text)) => Message::Text(text.into()),
                Some(Err(_)) | None => break,
            },
            _ = life.tick() => Message::Ping("".into()),
            // Read for the pongs and the close only.
            received = socket.recv() => match received {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        match tokio::time::timeout(PATIENCE, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::debug!("a reader of events takes nothing and is cut off");
                return;
            }
        }
    }
    // Going away: the peer learns why where it still listens.
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.send(Message::Close(None))).await;
}
