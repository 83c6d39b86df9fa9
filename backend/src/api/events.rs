//! Every state change as it happens, numbered: server-sent events and a WebSocket.
//!
//! A reader holds a position in the feed. One that is slow falls behind alone and is cut off when
//! it takes nothing for a while; who comes back says where it was and misses nothing.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt as _, stream};
use http::HeaderMap;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::watch;

use super::{
    ApiError, App,
    extract::{self, Query},
    websocket::{self, Story},
};
use crate::{
    metrics::{Metrics, ReaderLabels},
    store::feed::Event,
};

/// How often a stream shows that it lives.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
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

/// Somebody who watches, counted for as long as this lives.
pub(super) struct Watching {
    metrics: Arc<Metrics>,
    labels: ReaderLabels,
}

impl Watching {
    pub(super) fn new(app: &App, kind: &'static str) -> Self {
        let labels = ReaderLabels { kind };
        app.metrics.readers.inc(&labels);
        Self {
            metrics: Arc::clone(&app.metrics),
            labels,
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.metrics.readers.dec(&self.labels);
    }
}

/// A reader of the feed.
struct Reader {
    app: App,
    after: i64,
    ready: VecDeque<Arc<Event>>,
    newest: watch::Receiver<i64>,
    _watching: Watching,
}

impl Reader {
    fn new(app: App, after: Option<i64>, kind: &'static str) -> Self {
        let newest = app.store.feed().watch();
        let now = *newest.borrow();
        let mut ready = VecDeque::new();
        // A number beyond the newest is of another store: begin with what comes next.
        if let Some(after) = after.filter(|after| *after > now) {
            ready.push_back(gap(after, now));
        }
        Self {
            _watching: Watching::new(&app, kind),
            after: after.map_or(now, |after| after.min(now)),
            app,
            ready,
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
            let newest = *self.newest.borrow_and_update();
            let events = self.app.store.events_after(self.after, BATCH).await.ok()?;
            self.ready = events.into();
            // Numbers have no gaps: what is missing was removed.
            let last_missing = match self.ready.front() {
                Some(first) => first.seq - 1,
                None => newest,
            };
            if last_missing > self.after {
                self.ready.push_front(gap(self.after, last_missing));
            }
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

/// What a reader is told that asked for no position, so that it has one to come back with before
/// anything has happened.
fn begins(after: i64) -> Arc<Event> {
    Arc::new(Event {
        seq: after,
        time: Timestamp::now(),
        kind: "feed.position".to_owned(),
        subject: "feed".to_owned(),
        data: serde_json::json!({}),
    })
}

/// What a reader is told that was at `after` where the next event is the one behind `last`.
fn gap(after: i64, last: i64) -> Arc<Event> {
    Arc::new(Event {
        seq: last,
        time: Timestamp::now(),
        kind: "feed.gap".to_owned(),
        subject: "feed".to_owned(),
        data: serde_json::json!({ "after": after, "next": last + 1 }),
    })
}

/// Every state change, as server-sent events; `id` is its number. A comment every 15 seconds
/// shows that the stream lives. Where events after the asked position are gone (`[retention]`, or
/// another store), one of kind `feed.gap` comes first: `data.after` was asked for, `data.next` comes next.
/// The first that comes is an `id` alone: the position to come back with before anything has happened.
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
    let after = position(&headers, query.after)?;
    let reader = Reader::new(app, after, "events_sse");
    let position = sse::Event::default().id(reader.after.to_string());
    let position = stream::once(async { Ok::<_, Infallible>(position) });
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        let shown = sse::Event::default()
            .id(event.seq.to_string())
            .event(&event.kind)
            .json_data(&*event)
            .ok()?;
        Some((Ok::<_, Infallible>(shown), reader))
    });
    Ok(Sse::new(position.chain(events))
        .keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE))
        .into_response())
}

/// Every state change, as JSON messages of a WebSocket: an Event each. A ping every 15 seconds
/// shows that it lives. What a client sends is not read. A gap is told as by `GET /v1/events`. Without
/// `after` the first is of kind `feed.position`: its `seq` is the position to come back with.
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
    let upgrade = upgrade.map_err(websocket::refused)?;
    let mut reader = Reader::new(app, after, "events_websocket");
    if after.is_none() {
        reader.ready.push_back(begins(reader.after));
    }
    Ok(websocket::tell(upgrade, reader))
}

impl Story for Reader {
    async fn next_message(&mut self) -> Option<String> {
        let event = self.next().await?;
        serde_json::to_string(&*event).ok()
    }
}
