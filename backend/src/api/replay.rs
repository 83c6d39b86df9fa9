//! Replaying runs in bulk: the same code for the route and for the command line.

use std::sync::Arc;

use axum::{Json, extract::State};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ApiError, App, Caller, extract::Document, page};
use crate::{
    plan::Rules,
    run::State as RunState,
    store::{Store, replays::Selection},
};

/// Runs replayed by one request, at most.
pub const MOST: usize = 500;
/// Runs that one request skips, at most, before it says where to go on.
const SKIPPED_MOST: usize = 5_000;

/// Which runs to replay: by id, or all that fit. At least one selector.
#[derive(Debug, Clone, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayRequest {
    /// Runs by id, 500 at most. Nothing else may be given beside them.
    pub ids: Vec<String>,
    /// Runs of these states: `failed`, `timed_out`, `lost`, `canceled`. The first three when only
    /// other selectors are given.
    pub states: Vec<RunState>,
    /// Only of this card.
    pub card_id: Option<String>,
    /// Only of this build.
    pub build_id: Option<String>,
    /// Only of this queue.
    pub queue: Option<String>,
    /// Only with this reason, such as `exit_status`.
    pub reason: Option<String>,
    /// Only those that ended then or later (RFC 3339).
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// How many to replay at most, the oldest first; 500 when absent. Those that cannot be replayed do
    /// not count.
    pub limit: Option<usize>,
    /// Where to go on: `next` of the answer before. Runs made since the first answer are left out, so
    /// that what fails again is not replayed again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl ReplayRequest {
    /// The selection it means; an error when it selects nothing, or what cannot be replayed.
    pub fn selection(self) -> Result<Selection, ApiError> {
        let narrowed = !self.states.is_empty()
            || self.card_id.is_some()
            || self.build_id.is_some()
            || self.queue.is_some()
            || self.reason.is_some()
            || self.since.is_some();
        if self.ids.is_empty() && !narrowed {
            return Err(ApiError::invalid(
                "Say which runs: ids, states, card_id, build_id, queue, reason or since",
            ));
        }
        if !self.ids.is_empty() && (narrowed || self.limit.is_some() || self.cursor.is_some()) {
            return Err(ApiError::invalid(
                "Give either `ids` or other selectors: ids name the runs already",
            ));
        }
        if self.ids.len() > 500 {
            return Err(ApiError::invalid(
                "`ids` has more than 500 entries: send several requests",
            ));
        }
        let fit = |state: &RunState| state.is_final() && *state != RunState::Succeeded;
        if !self.states.iter().all(fit) {
            return Err(ApiError::invalid(
                "`states` may name failed, timed_out, lost and canceled: what has not ended or \
                 has succeeded is not replayed",
            ));
        }
        let limit = match self.limit {
            None => MOST,
            Some(limit @ 1..=MOST) => limit,
            Some(_) => {
                return Err(ApiError::invalid(format!(
                    "`limit` must be between 1 and {MOST}"
                )));
            }
        };
        let states = if self.states.is_empty() {
            vec![RunState::Failed, RunState::TimedOut, RunState::Lost]
        } else {
            self.states
        };
        let place = page::cursor_of_two(self.cursor.as_deref())?;
        Ok(Selection {
            after: place.map_or(0, |(after, _)| after),
            up_to: place.map(|(_, up_to)| up_to),
            ids: self.ids,
            states,
            card_id: self.card_id,
            build_id: self.build_id,
            queue: self.queue,
            reason: self.reason,
            since: self.since,
            limit,
        })
    }
}

/// What was replayed.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReplayAnswer {
    /// Each run that was replayed, with the run that it became.
    pub replayed: Vec<ReplayedRun>,
    /// Each run that was not, and why.
    pub skipped: Vec<SkippedRun>,
    /// What to give as `cursor` to go on; `null`: all that fit were looked at.
    #[serde(default)]
    pub next: Option<String>,
}

/// A run that was replayed.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReplayedRun {
    /// The run.
    pub id: String,
    /// The run that does the same once more.
    pub run_id: String,
}

/// A run that was not replayed.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SkippedRun {
    /// The run.
    pub id: String,
    /// Why not.
    pub why: String,
}

/// Submits runs that did not succeed once more, as runs of their own: with what they were given
/// then. Asking twice replays nothing twice. When many cannot be replayed, `next` says where to go on.
#[utoipa::path(post, path = "/v1/runs/replay", tag = "runs", request_body = ReplayRequest,
    responses(
        (status = 200, body = ReplayAnswer),
        (status = 400, description = "No selector, or one that does not fit.", body = super::openapi::Problem),
))]
pub(super) async fn replay(
    State(app): State<App>,
    caller: Caller,
    Document { value, .. }: Document<ReplayRequest>,
) -> Result<Json<ReplayAnswer>, ApiError> {
    let rules = Arc::clone(&app.settings.runs.rules);
    let (actor, request_id) = (caller.actor(), caller.request_id);
    let answer = replay_now(&app.store, value, actor, request_id, rules).await?;
    Ok(Json(answer))
}

/// Replays runs in a store that is open.
pub async fn replay_now(
    store: &Store,
    request: ReplayRequest,
    actor: String,
    request_id: String,
    rules: Arc<Rules>,
) -> Result<ReplayAnswer, ApiError> {
    let mut selection = request.selection()?;
    let mut answer = ReplayAnswer {
        replayed: Vec::new(),
        skipped: Vec::new(),
        next: None,
    };
    // Those that can never be replayed must not keep it from the rest.
    loop {
        let replayed = store
            .replay_runs(
                Timestamp::now(),
                selection.clone(),
                actor.clone(),
                request_id.clone(),
                Arc::clone(&rules),
            )
            .await?;
        selection.limit = selection.limit.saturating_sub(replayed.made.len());
        let made = replayed.made.into_iter();
        let made = made.map(|(id, run_id)| ReplayedRun { id, run_id });
        answer.replayed.extend(made);
        let skipped = replayed.skipped.into_iter();
        let skipped = skipped.map(|(id, why)| SkippedRun { id, why });
        answer.skipped.extend(skipped);
        let up_to = replayed.up_to;
        selection.up_to = Some(up_to);
        answer.next = replayed.next.map(|next| page::mark_of_two(next, up_to));
        match replayed.next {
            Some(next) if selection.limit > 0 && answer.skipped.len() < SKIPPED_MOST => {
                selection.after = next;
            }
            Some(_) | None => return Ok(answer),
        }
    }
}
