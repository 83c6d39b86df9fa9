//! The control socket: for the operator alone (mode 0600), to reload the policy and ask for its state.
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
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use pingora_core::{
    server::{ListenFds, ShutdownWatch},
    services::Service,
};
use tokio::signal::unix::{SignalKind, signal};

use super::admin::refusal;
use crate::{edge::Edge, reload::Reloader};

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
                    self.reloader.reload();
                }
                stream = accept(listener.as_ref()) => {
                    let (edge, reloader) = (self.edge.clone(), self.reloader.clone());
                    tokio::spawn(async move {
                        let service = service_fn(move |request| {
                            let response = answer(&edge, &reloader, &request);
                            async move { Ok::<_, Infallible>(response) }
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

fn answer(edge: &Edge, reloader: &Reloader, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let json = |value: &serde_json::Value| (StatusCode::OK, "application/json", value.to_string());
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::POST, "/reload") => json(&serde_json::json!(reloader.reload())),
        (&Method::GET, "/status") => json(&edge.status()),
        (_, "/reload" | "/status") => refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "POST /reload, GET /status",
        ),
        (_, _) => refusal(
            StatusCode::NOT_FOUND,
            "not_found",
            "Here are POST /reload and GET /status",
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
