//! What the command line needs beside the backend itself: signals, and a client of the running
//! backend.

use std::{fmt::Write as _, io, path::Path, sync::Arc};

use http::{Request, StatusCode, header, request::Builder};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    api::{
        archive::{ArchiveAnswer, ArchiveRequest, archive_now},
        replay::{MOST, ReplayAnswer, ReplayRequest, replay_now},
    },
    run::State,
    sandbox::{
        build,
        registry::Registries,
        spec::Service,
        stack::repository::{self, Refused},
    },
    settings::{Address, Settings},
    store::{
        self, OpenError, Store,
        runs::{Filter, Run},
    },
};

/// The signals that ask for a stop.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns at the next of them.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Why a command on a store was not done.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No card is selected.
    #[error("say which cards: --card, --build or --related")]
    NoSelector,
    /// The store does not open, and not because a backend has it open.
    #[error(transparent)]
    Open(OpenError),
    /// The running backend cannot be asked.
    #[error("a backend runs on this store, and cannot be asked on {address}: {why}")]
    Ask {
        /// Where it should listen.
        address: Address,
        /// What went wrong.
        why: String,
    },
    /// What was asked for was refused, or the store failed.
    #[error("{0}")]
    Refused(String),
}

/// What would be run as the stack of the repository at `dir`, with images from these registries, for people.
pub fn stack_check(dir: &Path, registries: &Registries) -> Result<String, Refused> {
    let real = dir.canonicalize();
    let dir = &real.map_err(|error| Refused(format!("{}: error: {error}\n", dir.display())))?;
    let found = repository::load(dir, registries)?;
    let mut said = format!("{}: ok\n", found.source);
    for service in &found.stack.services {
        let _ = write!(
            said,
            "  {}: {}",
            service.name,
            image(dir, service, registries)?
        );
        if let (Some(role), Some(port)) = (service.role, service.container_port) {
            let role = role.as_str();
            let _ = write!(said, ", port {port} published on 127.0.0.1 as {role}");
        }
        let after: Vec<_> = service.container.after.keys().map(String::as_str).collect();
        if !after.is_empty() {
            let _ = write!(said, ", after {}", after.join(", "));
        }
        said.push('\n');
    }
    for secret in &found.stack.secrets {
        let _ = writeln!(
            said,
            "  {secret}: a random credential in /run/secrets/{secret}"
        );
    }
    Ok(said)
}

/// The image of a service, or what it is built from.
fn image(dir: &Path, service: &Service, registries: &Registries) -> Result<String, Refused> {
    let Some(build) = &service.container.build else {
        return Ok(service.image.clone().unwrap_or_default());
    };
    let images = build::check(dir, build, registries, u64::MAX >> 1);
    let images = images.map_err(|refused| Refused(format!("{}: {refused}\n", service.name)))?;
    let file = Path::new(&build.context).join(&build.dockerfile);
    Ok(format!(
        "built from {}, which begins with {}",
        file.display(),
        if images.is_empty() {
            "nothing".to_owned()
        } else {
            images.join(", ")
        },
    ))
}

/// Archives cards: in the store when nobody has it open, else through the backend that has.
pub async fn archive(
    settings: &Settings,
    request: ArchiveRequest,
) -> Result<ArchiveAnswer, CommandError> {
    if request.card_ids.is_empty()
        && request.build_id.is_none()
        && request.related_tokens.is_empty()
    {
        return Err(CommandError::NoSelector);
    }
    match open(settings)? {
        Some(store) => archive_now(&store, request)
            .await
            .map_err(|error| CommandError::Refused(error.to_string())),
        None => post(settings, "/v1/cards/archive", &request).await,
    }
}

/// Replays runs: in the store when nobody has it open (they wait for the next start then), else
/// through the backend that has. However many cannot be replayed, it goes on behind them.
pub async fn replay(
    settings: &Settings,
    mut request: ReplayRequest,
) -> Result<ReplayAnswer, CommandError> {
    let store = open(settings)?;
    let most = request.limit.unwrap_or(MOST);
    let (mut replayed, mut skipped) = (Vec::new(), Vec::new());
    loop {
        let answer: ReplayAnswer = match &store {
            Some(store) => {
                let rules = Arc::clone(&settings.runs.rules);
                let id = orket_shared::id::new_ulid();
                replay_now(store, request.clone(), "local".to_owned(), id, rules)
                    .await
                    .map_err(|error| CommandError::Refused(error.to_string()))?
            }
            None => post(settings, "/v1/runs/replay", &request).await?,
        };
        replayed.extend(answer.replayed);
        skipped.extend(answer.skipped);
        let next = answer.next;
        let left = most.saturating_sub(replayed.len());
        if next.is_none() || left == 0 {
            return Ok(ReplayAnswer {
                replayed,
                skipped,
                next,
            });
        }
        request.cursor = next;
        request.limit = Some(left);
    }
}

/// A run in a list for people.
#[derive(Debug, serde::Deserialize)]
pub struct ListedRun {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub state: State,
    /// Why it ended as it did, one word.
    pub reason: Option<String>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The card it runs.
    pub card_id: Option<String>,
}

/// The newest runs of these states, `limit` of each at most.
pub async fn runs(
    settings: &Settings,
    states: &[State],
    limit: i64,
) -> Result<Vec<ListedRun>, CommandError> {
    let store = open(settings)?;
    let mut listed = Vec::new();
    for state in states {
        let mut left = limit;
        match &store {
            Some(store) => {
                let mut before = None;
                while left > 0 {
                    let filter = Filter {
                        state: Some(*state),
                        limit: left,
                        before,
                        ..Filter::default()
                    };
                    let found = store.runs(filter).await;
                    let found = found.map_err(|error| CommandError::Refused(error.to_string()))?;
                    before = found.rows.last().map(|run| run.seq);
                    left -= length(&found.rows);
                    listed.extend(found.rows.into_iter().map(ListedRun::from));
                    if !found.more {
                        break;
                    }
                }
            }
            None => {
                let mut cursor = String::new();
                while left > 0 {
                    let path = format!("/v1/runs?state={}&limit={left}{cursor}", state.as_str());
                    let page: Listed = ask(settings, Request::get(path), Vec::new()).await?;
                    left -= length(&page.items);
                    listed.extend(page.items);
                    let Some(next) = page.next else { break };
                    cursor = format!("&cursor={next}");
                }
            }
        }
    }
    Ok(listed)
}

fn length<T>(items: &[T]) -> i64 {
    i64::try_from(items.len()).unwrap_or(i64::MAX)
}

impl From<Run> for ListedRun {
    fn from(run: Run) -> Self {
        Self {
            id: run.id,
            state: run.state,
            reason: run.reason,
            ended_at: run.ended_at,
            card_id: run.card_id,
        }
    }
}

#[derive(serde::Deserialize)]
struct Listed {
    items: Vec<ListedRun>,
    next: Option<String>,
}

/// The store, when nobody has it open.
fn open(settings: &Settings) -> Result<Option<Store>, CommandError> {
    match store::open_existing(&settings.store) {
        Ok(store) => Ok(Some(store)),
        Err(OpenError::Locked { .. } | OpenError::Linked { .. }) => Ok(None),
        Err(error) => Err(CommandError::Open(error)),
    }
}

async fn post<Q: Serialize, A: DeserializeOwned>(
    settings: &Settings,
    path: &str,
    body: &Q,
) -> Result<A, CommandError> {
    let body =
        serde_json::to_vec(body).map_err(|error| CommandError::Refused(error.to_string()))?;
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    ask(settings, request, body).await
}

/// Asks the running backend.
async fn ask<A: DeserializeOwned>(
    settings: &Settings,
    request: Builder,
    body: Vec<u8>,
) -> Result<A, CommandError> {
    let address = settings.listen.address.clone();
    let answer = match &address {
        Address::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => send(stream, request, body).await,
            Err(error) => Err(error.to_string()),
        },
        Address::Tcp(tcp) => match TcpStream::connect(tcp).await {
            Ok(stream) => send(stream, request, body).await,
            Err(error) => Err(error.to_string()),
        },
    };
    let (status, body) = answer.map_err(|why| CommandError::Ask {
        address: address.clone(),
        why,
    })?;
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|error| CommandError::Ask {
            address,
            why: error.to_string(),
        });
    }
    let problem: Result<orket_shared::problem::Problem, _> = serde_json::from_slice(&body);
    let detail = problem.map_or_else(|_| status.to_string(), |problem| problem.detail);
    Err(CommandError::Refused(detail))
}

async fn send<S>(
    stream: S,
    request: Builder,
    body: Vec<u8>,
) -> Result<(StatusCode, bytes::Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let request = request
        .header(header::HOST, "localhost")
        .body(Full::new(bytes::Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| error.to_string())?
        .to_bytes();
    connection.abort();
    Ok((status, body))
}
