//! What the command line needs beside the backend itself: signals, and a client of the running
//! backend.

use std::io;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{
    api::archive::{ArchiveAnswer, ArchiveRequest, archive_now},
    settings::{Address, Settings},
    store::{Database, OpenError},
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

/// Why cards are not archived.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
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
    /// The store failed.
    #[error("the cards cannot be archived: {0}")]
    Refused(String),
}

/// Archives cards: in the store when nobody has it open, else through the backend that has.
pub async fn archive(
    settings: &Settings,
    request: ArchiveRequest,
) -> Result<ArchiveAnswer, ArchiveError> {
    if request.card_ids.is_empty()
        && request.build_id.is_none()
        && request.related_tokens.is_empty()
    {
        return Err(ArchiveError::NoSelector);
    }
    match Database::open(&settings.store) {
        Ok(store) => archive_now(&store, request)
            .await
            .map_err(|error| ArchiveError::Refused(error.to_string())),
        Err(OpenError::Locked { .. } | OpenError::Linked { .. }) => {
            let address = settings.listen.address.clone();
            ask(&address, &request)
                .await
                .map_err(|why| ArchiveError::Ask { address, why })
        }
        Err(error) => Err(ArchiveError::Open(error)),
    }
}

async fn ask(address: &Address, request: &ArchiveRequest) -> Result<ArchiveAnswer, String> {
    match address {
        Address::Unix(path) => {
            post(
                UnixStream::connect(path).await.map_err(|e| e.to_string())?,
                request,
            )
            .await
        }
        Address::Tcp(tcp) => {
            post(
                TcpStream::connect(tcp).await.map_err(|e| e.to_string())?,
                request,
            )
            .await
        }
    }
}

async fn post<S>(stream: S, request: &ArchiveRequest) -> Result<ArchiveAnswer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    let request = Request::post("/v1/cards/archive")
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
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
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|error| error.to_string());
    }
    let problem: Result<orket_shared::problem::Problem, _> = serde_json::from_slice(&body);
    Err(problem.map_or_else(|_| status.to_string(), |problem| problem.detail))
}
