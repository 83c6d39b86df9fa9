//! The output of sandboxes: its end as text, or as it is written.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    io,
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::{Stream as Flow, stream};
use http::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::{
    super::{events, extract},
    ApiError, App, Id, Problem,
};
use crate::{
    executor::OutputRecord,
    sandbox::driver::LogSource,
    store::sandboxes::{Sandbox, SandboxError},
};

/// Lines answered when nothing is said.
const DEFAULT_TAIL: usize = 200;
/// Lines answered at most.
const MAX_TAIL: usize = 10_000;
/// Bytes answered at most, whatever the length of lines.
const MAX_BYTES: usize = 4 << 20;
/// How long it may take to read to the present end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a followed file is looked at.
const FOLLOW_PERIOD: Duration = Duration::from_millis(200);
/// How long to wait before a source that is away is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Which output to read.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// The service; may be left out where there is only one.
    service: Option<String>,
    /// How many lines from the end, 1 to 10000; 200 when absent.
    tail: Option<usize>,
    /// Whether to go on as more is written, as server-sent events.
    #[serde(default)]
    follow: bool,
}

/// The end of a service's output.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Logs {
    /// Lines of both streams in the order of their writing; what is not UTF-8 is replaced.
    logs: String,
}

/// A piece of output as an event.
#[derive(Debug, Serialize)]
struct Piece {
    seq: u64,
    stream: &'static str,
    time: Timestamp,
    text: String,
}

/// The output of one service of a sandbox. As server-sent events with `follow=true` or
/// `Accept: text/event-stream`: `output` for each piece, `end` when nothing can follow.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/logs", tag = "sandboxes", params(("id" = String, Path), LogQuery),
    responses((status = 200, body = Logs), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, description = "The engine does not answer now.", body = Problem)))]
pub(super) async fn logs(
    State(app): State<App>,
    Id(id): Id,
    headers: HeaderMap,
    extract::Query(query): extract::Query<LogQuery>,
) -> Result<Response, ApiError> {
    let sandbox = app.sandboxes.find(&id).await?;
    let service = service(&sandbox, query.service.as_deref())?;
    let tail = query.tail.unwrap_or(DEFAULT_TAIL);
    if !(1..=MAX_TAIL).contains(&tail) {
        return Err(ApiError::invalid(format!(
            "`tail` must be between 1 and {MAX_TAIL}."
        )));
    }
    if !sandbox.state.is_active() {
        return Err(SandboxError::Illegal {
            id,
            from: sandbox.state,
        }
        .into());
    }
    let follow = query.follow || extract::wants_stream(&headers);
    let from = match app.sandboxes.logs(&sandbox, &service) {
        Ok(source) => Some(source),
        // Nothing was started yet, or nothing will be.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(ApiError::fault(format!("logs cannot be opened: {error}"))),
    };
    let (records, source) = match from {
        Some(source) => {
            let read = timeout(PATIENCE, read_tail(source, tail)).await;
            let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let (records, source) = read.map_err(|error| unreadable(&error))?;
            (records, Some(source))
        }
        None => (VecDeque::new(), None),
    };
    if follow {
        let follow = Follow {
            app,
            id,
            service,
            ready: records,
            source,
            done: false,
        };
        return Ok(Sse::new(follow.stream())
            .keep_alive(KeepAlive::new().interval(events::SIGN_OF_LIFE))
            .into_response());
    }
    Ok(Json(Logs {
        logs: last_lines(&records, tail),
    })
    .into_response())
}

/// Whether it may be read later.
fn is_away(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotConnected | io::ErrorKind::TimedOut
    )
}

fn unreadable(error: &io::Error) -> ApiError {
    if is_away(error) {
        let detail = format!("The output cannot be read now: {error}.");
        return ApiError::unavailable("engine_unreachable", detail, 5);
    }
    ApiError::fault(format!("logs cannot be read: {error}"))
}

/// The service that was named, or the only one there is.
pub(super) fn service(sandbox: &Sandbox, name: Option<&str>) -> Result<String, ApiError> {
    let names: BTreeSet<&str> = sandbox
        .services
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    match (name, sandbox.services.as_slice()) {
        (Some(name), _) if names.contains(name) => Ok(name.to_owned()),
        (None, [only]) => Ok(only.name.clone()),
        (Some(_) | None, _) => {
            let names: Vec<_> = names.into_iter().collect();
            Err(ApiError::invalid(format!(
                "`service` must be one of: {}.",
                names.join(", ")
            )))
        }
    }
}

/// Records that hold the last lines, and the source behind them.
type Tail = (VecDeque<OutputRecord>, Box<dyn LogSource>);

/// Reads a source to its present end, keeping only what the last `lines` lines need.
async fn read_tail(mut source: Box<dyn LogSource>, lines: usize) -> io::Result<Tail> {
    let mut kept: VecDeque<OutputRecord> = VecDeque::new();
    let (mut kept_lines, mut kept_bytes) = (0, 0);
    let breaks = |record: &OutputRecord| record.bytes.split(|byte| *byte == b'\n').count() - 1;
    loop {
        let batch = source.next().await?;
        for record in batch.records {
            kept_lines += breaks(&record);
            kept_bytes += record.bytes.len();
            kept.push_back(record);
            while let Some(first) = kept.front() {
                let enough = kept_lines - breaks(first) > lines;
                if kept.len() == 1 || !(enough || kept_bytes > MAX_BYTES) {
                    break;
                }
                kept_lines -= breaks(first);
                kept_bytes -= first.bytes.len();
                kept.pop_front();
            }
        }
        if batch.at_end {
            return Ok((kept, source));
        }
    }
}

fn last_lines(records: &VecDeque<OutputRecord>, lines: usize) -> String {
    let bytes: Vec<u8> = records
        .iter()
        .flat_map(|record| record.bytes.iter().copied())
        .collect();
    let text = String::from_utf8_lossy(&bytes);
    let body = text.strip_suffix('\n').unwrap_or(&text);
    let from = body
        .rmatch_indices('\n')
        .nth(lines - 1)
        .map_or(0, |(at, _)| at + 1);
    text[from..].to_owned()
}

/// A reader of one service's output. It holds a position in a file, not a queue.
struct Follow {
    app: App,
    id: String,
    service: String,
    ready: VecDeque<OutputRecord>,
    source: Option<Box<dyn LogSource>>,
    done: bool,
}

impl Follow {
    fn stream(self) -> impl Flow<Item = Result<sse::Event, Infallible>> {
        stream::unfold(self, |mut follow| async move {
            let event = follow.next().await?;
            Some((Ok(event), follow))
        })
    }

    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                let piece = Piece {
                    seq: record.seq,
                    stream: record.stream.name(),
                    time: record.time,
                    text: String::from_utf8_lossy(&record.bytes).into_owned(),
                };
                let event = sse::Event::default()
                    .event("output")
                    .id(record.seq.to_string());
                return event.json_data(piece).ok();
            }
            if self.done {
                return None;
            }
            // The state first: what is read after an end was seen is complete.
            let sandbox = self.app.sandboxes.find(&self.id).await.ok()?;
            let is_read = match self.read(&sandbox).await {
                Ok(()) => true,
                // What was written stays there: it goes on where it was.
                Err(error) if is_away(&error) => false,
                Err(error) => {
                    tracing::warn!(sandbox = self.id, %error, "logs cannot be followed any more");
                    return None;
                }
            };
            if !self.ready.is_empty() {
                continue;
            }
            if is_read && (sandbox.ended_at.is_some() || !sandbox.state.is_active()) {
                self.done = true;
                let end = serde_json::json!({ "state": sandbox.state, "reason": sandbox.reason });
                return sse::Event::default().event("end").json_data(end).ok();
            }
            tokio::select! {
                () = self.app.stop.stopped() => return None,
                () = sleep(if is_read { FOLLOW_PERIOD } else { PAUSE }) => {}
            }
        }
    }

    /// Takes in what is new.
    async fn read(&mut self, sandbox: &Sandbox) -> io::Result<()> {
        if self.source.is_none() {
            self.source = self.app.sandboxes.logs(sandbox, &self.service).ok();
        }
        if let Some(source) = &mut self.source {
            self.ready.extend(source.next().await?.records);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;
    use crate::{executor::Stream, sandbox::driver::Batch};

    struct Pieces(Vec<Vec<OutputRecord>>);

    #[async_trait::async_trait]
    impl LogSource for Pieces {
        async fn next(&mut self) -> io::Result<Batch> {
            let records = if self.0.is_empty() {
                Vec::new()
            } else {
                self.0.remove(0)
            };
            let at_end = self.0.is_empty();
            Ok(Batch { records, at_end })
        }
    }

    async fn tail(pieces: &[&str], lines: usize) -> String {
        let record = |(at, piece): (usize, &&str)| OutputRecord {
            seq: at as u64 + 1,
            stream: Stream::Stdout,
            time: Timestamp::UNIX_EPOCH,
            bytes: piece.as_bytes().to_vec(),
        };
        let batches = pieces
            .iter()
            .enumerate()
            .map(|piece| vec![record(piece)])
            .collect();
        let (records, _) = read_tail(Box::new(Pieces(batches)), lines).await.unwrap();
        last_lines(&records, lines)
    }

    #[tokio::test]
    async fn the_last_lines_are_whole_wherever_the_reads_fell() {
        assert_eq!(
            tail(&["on", "e\ntw", "o\nthr", "ee\n"], 2).await,
            "two\nthree\n"
        );
        assert_eq!(tail(&["one\ntwo\nthree\n"], 1).await, "three\n");
        assert_eq!(tail(&["one\n", "two\n", "thr"], 2).await, "two\nthr");
        assert_eq!(tail(&["one\n", "two\n"], 9).await, "one\ntwo\n");
        assert_eq!(tail(&[], 9).await, "");
        assert_eq!(tail(&["\n", "\n", "\n"], 2).await, "\n\n");
    }
}
