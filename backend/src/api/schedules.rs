//! Schedules: making, looking at, changing, removing.

use std::collections::BTreeMap;

use axum::{Json, extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use orket_shared::id;
use serde::{Deserialize, Serialize};

use super::{
    ApiError, App, Caller,
    document::{
        BoundsView, Chosen, Command, Field, Seconds, WorkFields, chosen, chosen_id, command_schema,
        given, seconds_schema,
    },
    extract::{Document, Id, Query},
    once,
    page::{self, Page},
    submit,
};
use crate::{
    confine::Network,
    plan::Rules,
    schedule::{MADE_UP_MOST, Missed, Overlap, rhythm::Rhythm},
    store::schedules::{NewSchedule, Reform, Schedule, Scheduled},
};

/// How many coming times are shown.
const COMING: usize = 5;
/// How often a change is tried that another one comes before.
const TRIES: usize = 5;

/// A schedule.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ScheduleView {
    /// Its id.
    id: String,
    /// When: five fields (minute hour day month weekday) or a name such as `@daily`.
    cron: String,
    /// In which IANA time zone.
    time_zone: String,
    /// What becomes of times at which no backend was there.
    missed: Missed,
    /// What happens while a run of it has not ended.
    overlap: Overlap,
    /// Missed times made up at once, at most.
    catch_up: u32,
    /// The card it runs.
    card_id: Option<String>,
    /// Program and arguments, or script and parameters; `null` for a card's.
    command: Option<Vec<String>>,
    /// The build its runs belong to.
    build_id: Option<String>,
    /// The queue its runs wait in.
    queue: String,
    /// Who made it.
    actor: String,
    /// Since when it is paused (RFC 3339, UTC).
    #[schema(value_type = Option<String>, format = DateTime)]
    paused_at: Option<Timestamp>,
    /// The times that come next; none while it is paused.
    #[schema(value_type = Vec<String>)]
    next: Vec<Timestamp>,
    /// The newest time that a run was made for.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_at: Option<Timestamp>,
    /// That run.
    last_run: Option<String>,
    /// Why the newest time has no run.
    last_error: Option<String>,
    /// How many runs it has made.
    made: i64,
    /// How many times have no run: missed, overlapping, or refused.
    passed_over: i64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was last changed by somebody.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
}

impl From<Schedule> for ScheduleView {
    fn from(schedule: Schedule) -> Self {
        let next = coming(&schedule);
        let new = schedule.new;
        let (card_id, command) = match new.subject {
            Scheduled::Card { card } => (Some(card), None),
            Scheduled::Command { command, .. } => (None, Some(command.command)),
        };
        Self {
            id: new.id,
            cron: new.cron,
            time_zone: new.time_zone,
            missed: new.missed,
            overlap: new.overlap,
            catch_up: new.catch_up,
            card_id,
            command,
            build_id: new.build_id,
            queue: new.queue,
            actor: new.actor,
            paused_at: schedule.paused_at,
            next,
            last_at: schedule.last_at,
            last_run: schedule.last_run,
            last_error: schedule.last_error,
            made: schedule.made,
            passed_over: schedule.passed_over,
            created_at: schedule.created_at,
            updated_at: schedule.updated_at,
        }
    }
}

fn coming(schedule: &Schedule) -> Vec<Timestamp> {
    let rhythm = Rhythm::parse(&schedule.new.cron, &schedule.new.time_zone);
    let (Some(first), Ok(rhythm)) = (schedule.next_at, rhythm) else {
        return Vec::new();
    };
    std::iter::successors(Some(first), |time| rhythm.next(*time))
        .take(COMING)
        .collect()
}

/// A schedule to be made: of a card, or of a command of its own.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// Its id; one is made when absent. An id that exists is refused with 409.
    id: Option<String>,
    /// When: five fields (minute hour day month weekday) or a name such as `@daily`.
    cron: String,
    /// In which IANA time zone; `UTC` when absent.
    time_zone: Option<String>,
    /// What becomes of times at which no backend was there; `skip` when absent. Runs that are made up
    /// at once go one after the other, whatever `overlap` says.
    missed: Option<Missed>,
    /// What happens while a run of it has not ended; `skip` when absent. With `queue` 10 wait at most.
    overlap: Option<Overlap>,
    /// Missed times made up at once with `missed = all`: 1 to 100, 10 when absent.
    catch_up: Option<u32>,
    /// The card to run, as it is then. Nothing else of the work may be given.
    card_id: Option<String>,
    /// What to execute.
    #[schema(schema_with = command_schema)]
    command: Option<Command>,
    /// Whether `command` is a script for `/bin/sh`.
    shell: Option<bool>,
    /// The command's environment. It is kept as it is: put no secrets here.
    env: Option<BTreeMap<String, String>>,
    /// Where to run it, inside the workspace.
    workdir: Option<String>,
    /// After which time to end it.
    #[schema(schema_with = seconds_schema)]
    timeout: Option<Seconds>,
    /// How often a run may run again when it did not succeed.
    retries: Option<u32>,
    /// What bounds a run beside `timeout`.
    bounds: Option<BoundsView>,
    /// `none`: its runs get no network, whatever the configuration gives.
    network: Option<Network>,
    /// 0 to 9, larger first.
    priority: Option<i64>,
    /// The build its runs belong to.
    build_id: Option<String>,
    /// The queue its runs wait in; `default` when absent.
    queue: Option<String>,
}

impl Create {
    fn read(self, app: &App, actor: String) -> Result<NewSchedule, ApiError> {
        let id = self.id.unwrap_or_else(id::new_ulid);
        chosen_id("id", &id)?;
        submit::check_build(self.build_id.as_deref())?;
        let work = WorkFields {
            command: self.command,
            shell: self.shell,
            env: self.env,
            workdir: self.workdir,
            timeout: self.timeout,
            retries: self.retries,
            stack: None,
            bounds: self.bounds,
            network: self.network,
        };
        let subject = match chosen(self.card_id, work, self.priority, &app.workspace)? {
            Chosen::Command(command, priority) => Scheduled::Command { command, priority },
            Chosen::Card(card) => {
                chosen_id("card_id", &card)?;
                Scheduled::Card { card }
            }
        };
        Ok(NewSchedule {
            id,
            cron: self.cron,
            time_zone: self.time_zone.unwrap_or_else(|| "UTC".to_owned()),
            missed: self.missed.unwrap_or(Missed::Skip),
            overlap: self.overlap.unwrap_or(Overlap::Skip),
            catch_up: self.catch_up.unwrap_or(10),
            subject,
            queue: submit::queue(self.queue.as_deref())?,
            build_id: self.build_id,
            actor,
        })
    }
}

/// The next time of a schedule after `now`; an error when it is not one.
fn next(new: &NewSchedule, rules: &Rules, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
    if !(1..=MADE_UP_MOST).contains(&new.catch_up) {
        return Err(ApiError::invalid(format!(
            "`catch_up` must be between 1 and {MADE_UP_MOST}"
        )));
    }
    if rules.queue(&new.queue).is_none() {
        return Err(ApiError::invalid(format!(
            "There is no queue {}. Name one that is configured under [queues], or leave it out.",
            new.queue
        )));
    }
    if new.cron.len() > 200 || new.time_zone.len() > 100 {
        return Err(ApiError::invalid("`cron` or `time_zone` is too long"));
    }
    let rhythm = Rhythm::parse(&new.cron, &new.time_zone)
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(rhythm.next(now))
}

/// Makes a schedule. It is on disk before this answers.
#[utoipa::path(post, path = "/v1/schedules", tag = "schedules", request_body = Create,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body of the same actor get the first answer again, for 7 days.")),
    responses(
    (status = 201, body = ScheduleView, headers(("Location" = String, description = "Where it is."))),
    (status = 400, description = "It does not fit.", body = super::openapi::Problem),
    (status = 409, description = "A schedule of that id exists. Nothing was changed.", body = super::openapi::Problem),
    (status = 422, description = "The idempotency key was used with another request.", body = super::openapi::Problem),
))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Document { value, bytes }: Document<Create>,
) -> Result<Response, ApiError> {
    let now = Timestamp::now();
    let idempotency = once::key(&headers, &caller, "POST /v1/schedules\n", &bytes)?;
    let new = value.read(&app, caller.actor())?;
    let next = next(&new, &app.settings.runs.rules, now)?;
    let answer = |schedule: &Schedule| serde_json::json!(ScheduleView::from(schedule.clone()));
    let made = app
        .store
        .create_schedule(now, new, next, idempotency, answer)
        .await?;
    once::created(made, "/v1/schedules", answer)
}

/// Schedules, newest first.
#[utoipa::path(get, path = "/v1/schedules", tag = "schedules", params(page::PageQuery), responses(
    (status = 200, body = Page<ScheduleView>),
    (status = 400, description = "The query does not fit.", body = super::openapi::Problem),
))]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<page::PageQuery>,
) -> Result<Json<Page<ScheduleView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let before = page::cursor(query.cursor.as_deref())?;
    let found = app.store.schedules(before, limit).await?;
    Ok(Json(Page::of(
        found,
        |schedule| schedule.seq,
        ScheduleView::from,
    )))
}

async fn find(app: &App, id: String) -> Result<Schedule, ApiError> {
    app.store
        .schedule(id)
        .await?
        .ok_or_else(|| ApiError::unknown("schedule"))
}

/// A schedule, with the times that come next. Its runs: `GET /v1/runs?schedule_id=…`.
#[utoipa::path(get, path = "/v1/schedules/{id}", tag = "schedules", params(("id" = String, Path)),
    responses((status = 200, body = ScheduleView), (status = 404, body = super::openapi::Problem)))]
pub(super) async fn detail(
    State(app): State<App>,
    Id(id): Id,
) -> Result<Json<ScheduleView>, ApiError> {
    Ok(Json(find(&app, id).await?.into()))
}

/// What to change of a schedule; what is absent stays. To change what it runs, make a new one.
#[derive(Debug, Clone, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    /// When.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    cron: Option<String>,
    /// In which IANA time zone.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    time_zone: Option<String>,
    /// What becomes of times at which no backend was there.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    missed: Option<Missed>,
    /// What happens while a run of it has not ended.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    overlap: Option<Overlap>,
    /// Missed times made up at once, at most.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    catch_up: Option<u32>,
    /// Whether it is paused. Times that pass meanwhile are not missed: they do not count.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    paused: Option<bool>,
    /// The queue its runs wait in.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    queue: Option<String>,
    /// The build its runs belong to; `null`: to none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    build_id: Field<String>,
}

impl Patch {
    fn reform(self, seen: &Schedule, rules: &Rules, now: Timestamp) -> Result<Reform, ApiError> {
        let was = &seen.new;
        let to = NewSchedule {
            cron: self.cron.unwrap_or_else(|| was.cron.clone()),
            time_zone: self.time_zone.unwrap_or_else(|| was.time_zone.clone()),
            missed: self.missed.unwrap_or(was.missed),
            overlap: self.overlap.unwrap_or(was.overlap),
            catch_up: self.catch_up.unwrap_or(was.catch_up),
            queue: match self.queue {
                Some(queue) => submit::queue(Some(&queue))?,
                None => was.queue.clone(),
            },
            build_id: self.build_id.change(was.build_id.clone()),
            ..was.clone()
        };
        submit::check_build(to.build_id.as_deref())?;
        let fresh = next(&to, rules, now)?;
        // Another rhythm, or a life after a pause, begins now; else nothing that is due is lost.
        let same = to.cron == was.cron && to.time_zone == was.time_zone;
        let next = if same && seen.paused_at.is_none() {
            seen.next_at
        } else {
            fresh
        };
        Ok(Reform {
            to,
            paused: self.paused,
            next,
        })
    }
}

/// Changes a schedule, pauses it or lets it go on.
#[utoipa::path(patch, path = "/v1/schedules/{id}", tag = "schedules", params(("id" = String, Path)),
    request_body = Patch, responses(
        (status = 200, body = ScheduleView),
        (status = 400, description = "It does not fit.", body = super::openapi::Problem),
        (status = 404, body = super::openapi::Problem),
))]
pub(super) async fn change(
    State(app): State<App>,
    Id(id): Id,
    Document { value, .. }: Document<Patch>,
) -> Result<Json<ScheduleView>, ApiError> {
    for _ in 0..TRIES {
        let now = Timestamp::now();
        let seen = find(&app, id.clone()).await?;
        let reform = value.clone().reform(&seen, &app.settings.runs.rules, now)?;
        if let Some(changed) = app.store.change_schedule(now, seen, reform).await? {
            return Ok(Json(changed.into()));
        }
    }
    let detail = "The schedule changes all the time. Nothing was changed; try again.";
    Err(ApiError::unavailable("schedule_busy", detail, 1))
}

/// Removes a schedule. Its runs stay, and those that wait go on.
#[utoipa::path(delete, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path)), responses(
        (status = 204, description = "It is gone."),
        (status = 404, body = super::openapi::Problem),
))]
pub(super) async fn remove(State(app): State<App>, Id(id): Id) -> Result<StatusCode, ApiError> {
    app.store.delete_schedule(Timestamp::now(), id).await?;
    Ok(StatusCode::NO_CONTENT)
}
