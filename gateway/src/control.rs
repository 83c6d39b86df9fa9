//! The control socket as the command line speaks to it. The serving side is in [`crate::server`].

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use orket_shared::problem::Problem;
use tokio::net::UnixStream;

use crate::policy::load::DEFAULT_STATE_DIR;

/// The socket's name in the state directory, unless the policy says otherwise.
pub const SOCKET_NAME: &str = "gateway.sock";

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
    let unknown = |why: String| ControlError::Unknown {
        path: file.display().to_string(),
        why,
    };
    let text = std::fs::read_to_string(file).map_err(|e| unknown(e.to_string()))?;
    let table: toml::Table = text
        .parse()
        .map_err(|e: toml::de::Error| unknown(e.message().to_owned()))?;
    let setting =
        |section: &str, name: &str| table.get(section)?.get(name)?.as_str().map(str::to_owned);
    Ok(match setting("listen", "control") {
        Some(control) => PathBuf::from(control.strip_prefix("unix:").unwrap_or(&control)),
        None => in_dir(
            setting("state", "dir")
                .as_deref()
                .unwrap_or(DEFAULT_STATE_DIR),
        ),
    })
}

/// Asks the gateway behind `socket` for `method path`, with this JSON as the body where there is one, and reads
/// its JSON.
pub fn ask<T: serde::de::DeserializeOwned>(
    socket: &Path,
    method: &Method,
    path: &str,
    body: Option<&serde_json::Value>,
) -> Result<T, ControlError> {
    let body = body.map(serde_json::Value::to_string).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| ControlError::Answer(e.to_string()))?;
    runtime.block_on(async {
        let stream =
            UnixStream::connect(socket)
                .await
                .map_err(|source| ControlError::Unreachable {
                    path: socket.display().to_string(),
                    source,
                })?;
        exchange(stream, method, path, body.into()).await
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
