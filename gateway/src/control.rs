//! The control socket as the command line speaks to it. The serving side is in [`crate::server`].

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use orket_shared::problem::Problem;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::{
    plain_file,
    policy::load::{DEFAULT_STATE_DIR, beside},
};

/// The socket's name in the state directory, unless the policy says otherwise.
pub const SOCKET_NAME: &str = "gateway.sock";

/// How long a command waits for a gateway's answer: longer than the largest policy takes to be read.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What can go wrong on the way to a running gateway.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens there.
    #[error(
        "no gateway answers on {path}: {source}; is it running, and is this its control socket ([listen] control, or gateway.sock in [state] dir)?"
    )]
    Unreachable {
        /// The socket.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody listens there, and says nothing.
    #[error(
        "no answer from {path} within {} s; is the gateway stopped (SIGSTOP, a debugger) or overloaded? What was asked may still be done once it goes on", waited.as_secs()
    )]
    NoAnswer {
        /// The socket.
        path: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The policy file does not say where the socket is.
    #[error("{path} does not say where the control socket is: {why}; give it with --control")]
    Unknown {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// It answered something else than it should.
    #[error("the gateway's answer cannot be read: {0}")]
    Answer(String),
    /// It refused, and says why.
    #[error("the gateway refused: {0}")]
    Refused(String),
}

/// The control socket of the gateway that runs with this policy file, or with the built-in policy. A file
/// that does not load is the gateway's to judge: only this one setting is read.
pub fn socket_of(config: Option<&Path>) -> Result<PathBuf, ControlError> {
    let in_dir = |dir: &str| Path::new(dir).join(SOCKET_NAME);
    let Some(file) = config else {
        let dir = std::env::var("ORKET_STATE_DIR")
            .ok()
            .filter(|d| !d.trim().is_empty());
        return Ok(in_dir(dir.as_deref().unwrap_or(DEFAULT_STATE_DIR)));
    };
    places_of(file).map(|places| places.control)
}

/// A file or a directory, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// That of what lies at a path now, behind all links.
    ///
    /// # Errors
    /// Those of the system: it is not there, or cannot be reached.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// What tells the gateway of a policy file from others. Either is enough: the file is replaced in a container, the state directory is changed
/// in the file of a gateway that runs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Whose {
    /// The policy file.
    #[serde(default)]
    pub policy: Option<Identity>,
    /// The state directory that it names.
    #[serde(default)]
    pub state: Option<Identity>,
}

impl Whose {
    /// The gateway of a policy file.
    pub fn of(file: &Path) -> Self {
        Self {
            policy: Identity::of(file).ok(),
            state: places_of(file)
                .ok()
                .and_then(|places| Identity::of(&places.state_dir).ok()),
        }
    }
}

/// What a policy file says of the places of its gateway.
///
/// # Errors
/// That it cannot be read, or is no TOML.
pub fn places_of(file: &Path) -> Result<Places, ControlError> {
    let unknown = |why: String| ControlError::Unknown {
        path: file.display().to_string(),
        why,
    };
    let text = text_of(file).map_err(unknown)?;
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| unknown(e.message().to_owned()))?;
    Ok(Places::of(file, &table))
}

/// The text of a policy file, without a byte order mark. `Err` says why there is none.
pub(crate) fn text_of(file: &Path) -> Result<String, String> {
    let (bytes, _) = plain_file::read(file, plain_file::POLICY_BYTES).map_err(|e| e.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    })
}

/// Where the gateway that runs with a policy file keeps its state and listens to its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The state directory.
    pub state_dir: PathBuf,
    /// The control socket.
    pub control: PathBuf,
}

impl Places {
    /// What a policy file says of it, which need not load.
    pub fn of(file: &Path, table: &toml::Table) -> Self {
        let setting = |section: &str, name: &str| table.get(section)?.get(name)?.as_str();
        let state_dir = setting("state", "dir").unwrap_or(DEFAULT_STATE_DIR);
        let state_dir = beside(file, Path::new(state_dir)).into_owned();
        let control = match setting("listen", "control") {
            Some(path) => {
                let path = path.strip_prefix("unix:").unwrap_or(path);
                beside(file, Path::new(path)).into_owned()
            }
            None => state_dir.join(SOCKET_NAME),
        };
        Self { state_dir, control }
    }
}

/// Asks the gateway behind `socket` for `method path`, with this JSON as the body where there is one, and reads
/// its JSON. It is waited for as long as `patience`.
pub fn ask<T: serde::de::DeserializeOwned>(
    socket: &Path,
    method: &Method,
    path: &str,
    body: Option<&serde_json::Value>,
    patience: Duration,
) -> Result<T, ControlError> {
    let body = body.map(serde_json::Value::to_string).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| ControlError::Answer(e.to_string()))?;
    let asking = async {
        let stream =
            UnixStream::connect(socket)
                .await
                .map_err(|source| ControlError::Unreachable {
                    path: socket.display().to_string(),
                    source,
                })?;
        exchange(stream, method, path, body.into()).await
    };
    runtime
        .block_on(async { tokio::time::timeout(patience, asking).await })
        .unwrap_or_else(|_| {
            Err(ControlError::NoAnswer {
                path: socket.display().to_string(),
                waited: patience,
            })
        })
}

async fn exchange<T: serde::de::DeserializeOwned>(
    stream: UnixStream,
    method: &Method,
    path: &str,
    body: Bytes,
) -> Result<T, ControlError> {
    let failed = |e: hyper::Error| ControlError::Answer(e.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "orket-gateway")
        .body(Full::new(body))
        .map_err(|e| ControlError::Answer(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(failed)?
        .to_bytes();
    if !status.is_success() {
        let problem: Problem = serde_json::from_slice(&body)
            .map_err(|_| ControlError::Answer(format!("status {status}")))?;
        return Err(ControlError::Refused(problem.detail));
    }
    serde_json::from_slice(&body).map_err(|e| ControlError::Answer(e.to_string()))
}
