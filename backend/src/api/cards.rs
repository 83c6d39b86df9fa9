//! Cards: making, changing, removing, archiving.

use std::collections::BTreeMap;

use axum::{Json, extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use orket_shared::id;
use serde::{Deserialize, Serialize};

use super::{
    ApiError, App, Caller,
    document::{
        self, BoundsView, Command, Field, Seconds, WorkFields, chosen_id, command_schema, free_id,
        given, priority, seconds_schema,
    },
    extract::{Document, Id, Query},
    once,
    page::{self, Page},
};
use crate::{
    card::Status,
    confine::Network,
    store::cards::{Card, CardError, Change, Filter, NewCard, Reshape},
};

const TITLE_MOST: usize = 1000;

/// A card.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct CardView {
    /// Its id.
    id: String,
    /// What people call it.
    title: String,
    /// The build it belongs to.
    build_id: Option<String>,
    /// 0 to 9, larger first.
    priority: i64,
    /// Where it is.
    status: Status,
    /// Cards to be done before it starts.
    depends_on: Vec<String>,
    /// Program and arguments, or script and parameters.
    command: Vec<String>,
    /// Whether `command` is a script for `/bin/sh`.
    shell: bool,
    /// The command's environment.
    env: BTreeMap<String, String>,
    /// Where it runs, in the workspace.
    workdir: Option<String>,
    /// After which time a run of it is ended, in seconds; the configured default when `null`.
    #[schema(schema_with = seconds_schema)]
    timeout: Option<Seconds>,
    /// How often a run of it may run again.
    retries: u32,
    /// The sandbox stack that belongs to it.
    stack: Option<String>,
    /// What bounds a run of it beside `timeout`.
    bounds: BoundsView,
    /// The network its runs ask for; absent: that of the configuration.
    network: Option<Network>,
    /// When it was made (RFC 3339, UTC).
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// When it was archived.
    #[schema(value_type = Option<String>, format = DateTime)]
    archived_at: Option<Timestamp>,
    /// Who archived it, as they said.
    archived_by: Option<String>,
    /// Why it was archived, as they said.
    archive_reason: Option<String>,
}

impl From<Card> for CardView {
    fn from(card: Card) -> Self {
        Self {
            id: card.id,
            title: card.title,
            build_id: card.build_id,
            priority: card.priority,
            status: card.status,
            depends_on: card.depends_on,
            command: card.work.command,
            shell: card.work.shell,
            env: card.work.env,
            workdir: card.work.workdir,
            timeout: card.work.timeout_ms.map(|ms| Seconds { ms }),
            retries: card.work.retries,
            stack: card.work.stack,
            bounds: card.work.bounds.into(),
            network: card.work.network,
            created_at: card.created_at,
            updated_at: card.updated_at,
            archived_at: card.archived_at,
            archived_by: card.archived_by,
            archive_reason: card.archive_reason,
        }
    }
}

/// A card to be made.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// Its id; one is made when absent. An id that exists is refused with 409.
    id: Option<String>,
    /// What people call it.
    title: String,
    /// The build it belongs to.
    build_id: Option<String>,
    /// 0 to 9, larger first.
    priority: Option<i64>,
    /// Cards to be done before it starts; they must exist.
    #[serde(default)]
    depends_on: Vec<String>,
    /// What to execute.
    #[schema(schema_with = command_schema)]
    command: Command,
    /// Whether `command` is a script for `/bin/sh`.
    shell: Option<bool>,
    /// The command's environment. It is kept as it is: put no secrets here.
    env: Option<BTreeMap<String, String>>,
    /// Where to run it, inside the workspace.
    workdir: Option<String>,
    /// After which time to end it.
    #[schema(schema_with = seconds_schema)]
    timeout: Option<Seconds>,
    /// How often it may run again when it did not succeed.
    retries: Option<u32>,
    /// The sandbox stack that belongs to it.
    stack: Option<String>,
    /// What bounds a run of it beside `timeout`.
    bounds: Option<BoundsView>,
    /// `none`: its runs get no network, whatever the configuration gives.
    network: Option<Network>,
}

/// Makes a card.
#[utoipa::path(post, path = "/v1/cards", tag = "cards", request_body = Create,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body of the same actor get the first answer again, for 7 days.")),
    responses(
    (status = 201, body = CardView, headers(("Location" = String, description = "Where it is."))),
    (status = 400, description = "It does not fit.", body = super::openapi::Problem),
    (status = 409, description = "A card of that id exists. Nothing was changed.", body = super::openapi::Problem),
    (status = 422, description = "The idempotency key was used with another request.", body = super::openapi::Problem),
))]
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Document { value, bytes }: Document<Create>,
) -> Result<Response, ApiError> {
    let idempotency = once::key(&headers, &caller, "POST /v1/cards\n", &bytes)?;
    let id = value.id.unwrap_or_else(id::new_ulid);
    free_id("id", &id, "archive")?;
    let work = WorkFields {
        command: Some(value.command),
        shell: value.shell,
        env: value.env,
        workdir: value.workdir,
        timeout: value.timeout,
        retries: value.retries,
        stack: value.stack,
        bounds: value.bounds,
        network: value.network,
    };
    let new = NewCard {
        id,
        title: value.title,
        build_id: value.build_id,
        priority: priority(value.priority)?,
        depends_on: value.depends_on,
        work: work.work(&app.workspace)?,
    };
    check(&new)?;
    let answer = |card: &Card| serde_json::json!(CardView::from(card.clone()));
    let made = app
        .store
        .create_card(Timestamp::now(), new, idempotency, answer)
        .await?;
    once::created(made, "/v1/cards", answer)
}

fn check(card: &NewCard) -> Result<(), ApiError> {
    document::text("title", &card.title, TITLE_MOST)?;
    super::submit::check_build(card.build_id.as_deref())?;
    if card.depends_on.len() > 100 {
        return Err(ApiError::invalid("`depends_on` names more than 100 cards"));
    }
    card.depends_on
        .iter()
        .try_for_each(|id| chosen_id("depends_on", id))
}

/// Which cards to list.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only cards of this status; without it, all but the archived.
    status: Option<Status>,
    /// Only cards of this build.
    build_id: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// How many items at most, 1 to 500. Of large ones a page has fewer.
    limit: Option<i64>,
}

/// Cards, newest first.
#[utoipa::path(get, path = "/v1/cards", tag = "cards", params(ListQuery), responses(
    (status = 200, body = Page<CardView>),
    (status = 400, description = "The query does not fit.", body = super::openapi::Problem),
))]
pub(super) async fn list(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<CardView>>, ApiError> {
    let limit = page::limit(query.limit)?;
    let before = page::cursor(query.cursor.as_deref())?;
    let filter = Filter {
        status: query.status,
        build_id: query.build_id,
        before,
        limit,
    };
    let cards = app.store.cards(filter).await?;
    Ok(Json(Page::of(cards, |card| card.seq, CardView::from)))
}

/// A card.
#[utoipa::path(get, path = "/v1/cards/{id}", tag = "cards", params(("id" = String, Path)),
    responses((status = 200, body = CardView), (status = 404, body = super::openapi::Problem)))]
pub(super) async fn detail(State(app): State<App>, Id(id): Id) -> Result<Json<CardView>, ApiError> {
    let card = app
        .store
        .card(id)
        .await?
        .ok_or_else(|| ApiError::unknown("card"))?;
    Ok(Json(card.into()))
}

/// What to change of a card; what is absent stays.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    /// What people call it.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    title: Option<String>,
    /// The build it belongs to; `null`: to none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    build_id: Field<String>,
    /// 0 to 9, larger first.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    priority: Option<i64>,
    /// Where it is. Only a run puts it in progress, and archiving has a way of its own.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    status: Option<Status>,
    /// Cards to be done before it starts.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    depends_on: Option<Vec<String>>,
    /// What to execute.
    #[serde(default, deserialize_with = "given")]
    #[schema(schema_with = command_schema)]
    command: Option<Command>,
    /// Whether `command` is a script for `/bin/sh`.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    shell: Option<bool>,
    /// The command's environment, as a whole.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    env: Option<BTreeMap<String, String>>,
    /// Where to run it; `null`: in the workspace itself.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    workdir: Field<String>,
    /// After which time to end it; `null`: the configured default.
    #[serde(default)]
    #[schema(schema_with = seconds_schema)]
    timeout: Field<Seconds>,
    /// How often it may run again when it did not succeed.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    retries: Option<u32>,
    /// The sandbox stack that belongs to it; `null`: none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    stack: Field<String>,
    /// What bounds a run of it beside `timeout`, as a whole.
    #[serde(default, deserialize_with = "given")]
    #[schema(nullable = false)]
    bounds: Option<BoundsView>,
    /// `none`: its runs get no network; `null`: that of the configuration.
    #[serde(default)]
    #[schema(value_type = Option<Network>)]
    network: Field<Network>,
}

impl Patch {
    fn apply(self, card: &Card) -> NewCard {
        let mut work = card.work.clone();
        work.shell = self.shell.unwrap_or(work.shell);
        work.command = match self.command {
            Some(Command::List(list)) => list,
            Some(Command::Script(script)) => vec![script],
            None => work.command,
        };
        work.env = self.env.unwrap_or(work.env);
        work.workdir = self.workdir.change(work.workdir);
        let timeout = work.timeout_ms.map(|ms| Seconds { ms });
        work.timeout_ms = self.timeout.change(timeout).map(|timeout| timeout.ms);
        work.retries = self.retries.unwrap_or(work.retries);
        work.stack = self.stack.change(work.stack);
        work.bounds = self.bounds.map_or(work.bounds, Into::into);
        work.network = self.network.change(work.network);
        NewCard {
            id: card.id.clone(),
            title: self.title.unwrap_or_else(|| card.title.clone()),
            build_id: self.build_id.change(card.build_id.clone()),
            priority: self.priority.unwrap_or(card.priority),
            depends_on: self.depends_on.unwrap_or_else(|| card.depends_on.clone()),
            work,
        }
    }
}

/// Changes a card.
#[utoipa::path(patch, path = "/v1/cards/{id}", tag = "cards", params(("id" = String, Path)),
    request_body = Patch, responses(
        (status = 200, body = CardView),
        (status = 400, description = "It does not fit.", body = super::openapi::Problem),
        (status = 404, body = super::openapi::Problem),
        (status = 409, description = "Its status does not allow that.", body = super::openapi::Problem),
))]
pub(super) async fn change(
    State(app): State<App>,
    Id(id): Id,
    Document { value, .. }: Document<Patch>,
) -> Result<Json<CardView>, ApiError> {
    priority(value.priority)?;
    if matches!(value.command, Some(Command::Script(_))) && value.shell != Some(true) {
        return Err(ApiError::invalid(
            "`command` as a single string is a shell script and needs `shell: true` beside it",
        ));
    }
    let status = value.status;
    // Checked against the card as it is now; the store applies it to the card as it is then.
    let workspace = app.workspace.clone();
    let reshape: Reshape = Box::new(move |card| {
        let to = value.apply(card);
        check(&to)
            .and_then(|()| document::check(&to.work, &workspace))
            .map_err(|refused| CardError::Invalid(refused.to_string()))?;
        Ok(Change { to, status })
    });
    let card = app.store.change_card(Timestamp::now(), id, reshape).await?;
    Ok(Json(card.into()))
}

/// Removes a card. Its runs keep what they captured of it.
#[utoipa::path(delete, path = "/v1/cards/{id}", tag = "cards", params(("id" = String, Path)),
    responses(
        (status = 204, description = "It is gone."),
        (status = 404, body = super::openapi::Problem),
        (status = 409, description = "A run of it has not ended, or another card depends on it.", body = super::openapi::Problem),
))]
pub(super) async fn remove(State(app): State<App>, Id(id): Id) -> Result<StatusCode, ApiError> {
    app.store.delete_card(Timestamp::now(), id).await?;
    Ok(StatusCode::NO_CONTENT)
}
