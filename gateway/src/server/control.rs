//! The control socket: for the operator alone (mode 0600), to reload the policy, to revoke a key at once and ask for their state.
//! SIGHUP reloads, too.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixListener as StdListener},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use pingora_core::{
    server::{ListenFds, ShutdownWatch},
    services::Service,
};
use tokio::signal::unix::{SignalKind, signal};

use super::admin::refusal;
use crate::{
    edge::Edge,
    explain,
    key_ledger::Revoke,
    reload::{Asked, Reloader},
};

/// The largest body the operator's socket takes.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// The bound socket; its file goes with it.
#[derive(Debug)]
pub(super) struct ControlSocket {
    listener: StdListener,
    path: PathBuf,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Whoever took the path over since then keeps it: only a file that nobody answers on is ours to remove.
        let _ = fs::remove_file(&self.path);
    }
}

impl ControlSocket {
    /// Binds the socket, in a directory made for it when there is none. A socket left behind is replaced;
    /// one that somebody answers on is not.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path
            .parent()
            .filter(|d| !d.as_os_str().is_empty() && !d.exists())
        {
            fs::create_dir_all(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another gateway answers on it",
            ));
        }
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            Ok(()) | Err(_) => {}
        }
        // Bound under another name and with its mode set before it can be found under its own.
        let early = path.with_extension(format!("sock.{}", std::process::id()));
        let listener = StdListener::bind(&early)?;
        fs::set_permissions(&early, fs::Permissions::from_mode(0o600))?;
        fs::rename(&early, path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }
}

pub(super) struct Control {
    pub(super) socket: Option<ControlSocket>,
    pub(super) edge: Arc<Edge>,
    pub(super) reloader: Arc<Reloader>,
}

#[async_trait]
impl Service for Control {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _per_fd: usize,
    ) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            tracing::error!(
                event = "fault",
                "SIGHUP cannot be received: reload through the control socket"
            );
            return;
        };
        let listener = self
            .socket
            .as_ref()
            .and_then(|s| s.listener.try_clone().ok())
            .and_then(|l| tokio::net::UnixListener::from_std(l).ok());
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    self.reloader.reload(Asked::Signal);
                }
                stream = accept(listener.as_ref()) => {
                    let (edge, reloader) = (self.edge.clone(), self.reloader.clone());
                    tokio::spawn(async move {
                        let service = service_fn(move |request| {
                            let (edge, reloader) = (edge.clone(), reloader.clone());
                            async move { Ok::<_, Infallible>(answer(&edge, &reloader, request).await) }
                        });
                        // Whoever asks sees what goes wrong: the connection ends.
                        let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
                    });
                }
            }
        }
    }

    fn name(&self) -> &'static str {
        "control"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

async fn accept(listener: Option<&tokio::net::UnixListener>) -> tokio::net::UnixStream {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

/// What the operator can ask for, in the order it is told.
const OFFERED: [(Method, &str); 5] = [
    (Method::POST, "/reload"),
    (Method::GET, "/status"),
    (Method::POST, explain::live::PATH),
    (Method::GET, "/keys"),
    (Method::POST, "/keys/revoke"),
];

/// Answers one request of the operator's. Its body, where it has one, is JSON of at most [`MAX_BODY_BYTES`].
async fn answer(
    edge: &Edge,
    reloader: &Reloader,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let (status, kind, body) = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => dispatch(edge, reloader, &parts, &body.to_bytes()),
        Err(_) => refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "The body is larger than anything this socket takes",
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

fn dispatch(edge: &Edge, reloader: &Reloader, request: &Parts, body: &Bytes) -> Answer {
    let path = request.uri.path();
    match (&request.method, path) {
        (&Method::POST, "/reload") => json(&reloader.reload(Asked::Control)),
        (&Method::GET, "/status") => json(&edge.status()),
        (&Method::POST, explain::live::PATH) => match explain::live::answer(edge, body) {
            Ok(explanation) => json(&explanation),
            Err(problem) => refusal(StatusCode::BAD_REQUEST, "bad_request", &problem),
        },
        (&Method::GET, "/keys") => json(&edge.key_standings()),
        (&Method::POST, "/keys/revoke") => match serde_json::from_slice::<Revoke>(body) {
            Ok(Revoke { id }) => json(&edge.revoke_key(&id)),
            Err(_) => refusal(
                StatusCode::BAD_REQUEST,
                "bad_request",
                "Send {\"id\": \"…\"}, the id of a key",
            ),
        },
        (_, _) => unknown(path),
    }
}

/// Status, content type and body of an answer.
type Answer = (StatusCode, &'static str, String);

fn json(value: &impl serde::Serialize) -> Answer {
    (
        StatusCode::OK,
        "application/json",
        serde_json::json!(value).to_string(),
    )
}

fn unknown(path: &str) -> Answer {
    let offered: Vec<_> = OFFERED
        .iter()
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    let detail = format!("Here are {}", offered.join(", "));
    if OFFERED.iter().any(|(_, known)| *known == path) {
        refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            &detail,
        )
    } else {
        refusal(StatusCode::NOT_FOUND, "not_found", &detail)
    }
}
