//! The output of runs: in pages, or as it is written.

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use axum::{
    Json,
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{Stream, stream};
use http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

use super::{
    ApiError, App,
    events::{self, Watching},
    extract::{self, Id, Query},
    page, runs,
    websocket::{self, Story},
};
use crate::{run::State as RunState, store::output::OutputRow};

/// A piece of output. Its boundaries are those of the reads, not of lines.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct LogItem {
    /// Its number within the run.
    seq: i64,
    /// `stdout`, `stderr` or `system` (remarks of the supervisor).
    stream: String,
    /// When it was written (RFC 3339, UTC).
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// What was written, where that is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// What was written, in Base64, where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_b64: Option<String>,
}

impl From<OutputRow> for LogItem {
    fn from(row: OutputRow) -> Self {
        let (text, data_b64) = match String::from_utf8(row.bytes) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        Self {
            seq: row.seq,
            stream: row.stream,
            time: row.time,
            text,
            data_b64,
        }
    }
}

/// A page of output.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Logs {
    /// Pieces of output, oldest first.
    items: Vec<LogItem>,
    /// What to give as `after` to go on; there may be nothing yet.
    next: Option<i64>,
    /// When the output was removed because its time was up (RFC 3339, UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    removed_at: Option<Timestamp>,
}

/// What a follower is told.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Told {
    /// A piece of output.
    Output(LogItem),
    /// The output was removed because its time was up.
    Removed { removed_at: Timestamp },
    /// There will be no more.
    End {
        state: RunState,
        reason: Option<String>,
    },
}

impl Told {
    /// The same as a server-sent event: the number of a piece as `id`.
    fn sse(&self) -> Option<sse::Event> {
        let event = sse::Event::default();
        match self {
            Self::Output(item) => {
                let event = event.event("output").id(item.seq.to_string());
                event.json_data(item).ok()
            }
            Self::Removed { removed_at } => {
                let data = serde_json::json!({ "removed_at": removed_at });
                event.event("removed").json_data(data).ok()
            }
            Self::End { state, reason } => {
                let data = serde_json::json!({ "state": state, "reason": reason });
                event.event("end").json_data(data).ok()
            }
        }
    }
}

/// Which output to read.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// Whether to go on as more is written, as server-sent events.
    #[serde(default)]
    follow: bool,
    /// Only what comes after this number.
    after: Option<i64>,
    /// How many items at most, 1 to 500; a page also ends at about 256 KiB.
    limit: Option<i64>,
}

/// The output of a run, oldest first. As server-sent events with `follow=true` or
/// `Accept: text/event-stream`: `output` for each piece, `end` with the run's state at last. As messages
/// of a WebSocket when one is asked for: the same, each with its kind as `event`. Output that was
/// removed (`[retention]`) is told by `removed`.
#[utoipa::path(get, path = "/v1/runs/{id}/logs", tag = "runs",
    params(("id" = String, Path), LogQuery, ("Last-Event-ID" = Option<i64>, Header, description = "As `after`, when a stream is resumed.")),
    responses((status = 200, body = Logs), (status = 101, description = "Messages follow."), (status = 400, body = super::openapi::Problem), (status = 404, body = super::openapi::Problem)))]
pub(super) async fn logs(
    State(app): State<App>,
    Id(id): Id,
    headers: HeaderMap,
    Query(query): Query<LogQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let run = runs::find(&app, id.clone()).await?;
    let after = events::position(&headers, query.after)?.unwrap_or(0);
    let limit = page::limit(query.limit)?;
    if let Ok(upgrade) = upgrade {
        let follow = Follow::new(app, id, after, "logs_websocket");
        return Ok(websocket::tell(upgrade, follow));
    }
    if query.follow || extract::wants_stream(&headers) {
        let follow = Follow::new(app, id, after, "logs_sse");
        return Ok(Sse::new(follow.stream())
            .keep_alive(KeepAlive::new().interval(events::SIGN_OF_LIFE))
            .into_response());
    }
    let rows = app.store.output(id, after, limit).await?;
    let next = rows.last().map(|row| row.seq).or(query.after);
    Ok(Json(Logs {
        items: rows.into_iter().map(LogItem::from).collect(),
        next,
        removed_at: run.logs_removed_at,
    })
    .into_response())
}

/// A reader of one run's output. It holds positions, not a queue.
struct Follow {
    app: App,
    id: String,
    after: i64,
    ready: VecDeque<Told>,
    wake: broadcast::Receiver<Arc<str>>,
    /// Runs that are canceled while they wait have no output to wake anyone.
    changes: watch::Receiver<i64>,
    seen: i64,
    ended: bool,
    _watching: Watching,
}

impl Story for Follow {
    async fn next_message(&mut self) -> Option<String> {
        let told = self.next().await?;
        serde_json::to_string(&told).ok()
    }
}

impl Follow {
    fn new(app: App, id: String, after: i64, kind: &'static str) -> Self {
        // Before anything is looked at: what happens from now on wakes us.
        let wake = app.scheduler.watch_output();
        let changes = app.store.feed().watch();
        let seen = *changes.borrow();
        let ready = VecDeque::new();
        Self {
            _watching: Watching::new(&app, kind),
            app,
            id,
            after,
            ready,
            wake,
            changes,
            seen,
            ended: false,
        }
    }

    fn stream(self) -> impl Stream<Item = Result<sse::Event, Infallible>> {
        stream::unfold(self, |mut follow| async move {
            let event = follow.next().await?.sse()?;
            Some((Ok(event), follow))
        })
    }

    /// What comes next; `None` at the end. Fine to drop half-way.
    async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            // The state first: what is written before a run's end is stored before it, too.
            let run = self.app.store.run(self.id.clone()).await.ok().flatten()?;
            let store = &self.app.store;
            let rows = store.output(self.id.clone(), self.after, 100).await.ok()?;
            if let Some(last) = rows.last() {
                self.after = last.seq;
                let items = rows.into_iter().map(LogItem::from);
                self.ready.extend(items.map(Told::Output));
                continue;
            }
            if run.state.is_final() {
                self.ended = true;
                self.ready.extend(
                    run.logs_removed_at
                        .map(|removed_at| Told::Removed { removed_at }),
                );
                self.ready.push_back(Told::End {
                    state: run.state,
                    reason: run.reason,
                });
                continue;
            }
            self.wait().await?;
        }
    }

    /// Waits until there may be more; `None` when the backend stops.
    async fn wait(&mut self) -> Option<()> {
        let stop = self.app.stop.clone();
        loop {
            tokio::select! {
                () = stop.stopped() => return None,
                woken = self.wake.recv() => match woken {
                    Ok(id) if *id == *self.id => return Some(()),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => return Some(()),
                    Err(RecvError::Closed) => return None,
                },
                changed = self.changes.changed() => {
                    changed.ok()?;
                    if self.has_changed().await? {
                        return Some(());
                    }
                }
            }
        }
    }

    /// Whether one of the new events is about this run.
    async fn has_changed(&mut self) -> Option<bool> {
        loop {
            let events = self.app.store.events_after(self.seen, 256).await.ok()?;
            let Some(last) = events.last() else {
                return Some(false);
            };
            self.seen = last.seq;
            if events.iter().any(|event| event.subject == self.id) {
                return Some(true);
            }
        }
    }
}
