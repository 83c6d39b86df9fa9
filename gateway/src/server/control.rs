//! The control socket: for the operator alone (mode 0600), to reload the policy, to revoke a key at once and ask for their state.
//! SIGHUP reloads, too.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, StatusCode, request::Parts};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use pingora_core::{
    server::{ListenFds, ShutdownWatch},
    services::Service,
};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    answer::Answer,
    local::{self, Place, Places},
};
use crate::{
    edge::Edge,
    explain,
    key_ledger::{Revocation, Revoke},
    reload::{Asked, Reloader, Source},
    spool::{Spool, operator::ActError},
};

/// How long the body of a request may take.
const BODY_TIME: Duration = Duration::from_secs(10);

/// The largest body the operator's socket takes.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// The bound socket; its file goes with it.
#[derive(Debug)]
pub(super) struct ControlSocket {
    listener: StdListener,
    path: PathBuf,
    /// Device and inode of its file.
    file: (u64, u64),
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Whoever took the path over since then keeps it.
        if identity_of(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
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
        let file = identity_of(&early)?;
        fs::rename(&early, path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file,
        })
    }
}

fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

pub(super) struct Control {
    pub(super) socket: Option<ControlSocket>,
    pub(super) edge: Arc<Edge>,
    pub(super) source: Source,
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
        let reloader = match Reloader::start(self.edge.clone(), self.source.clone()) {
            Ok(reloader) => reloader,
            Err(e) => {
                tracing::error!(event = "fault", error = %e, "the policy cannot be reloaded: restart the gateway to change it");
                return;
            }
        };
        let listener = self
            .socket
            .as_ref()
            .and_then(|s| s.listener.try_clone().ok())
            .and_then(|l| tokio::net::UnixListener::from_std(l).ok());
        let places = Places::new();
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    reloader.note(Asked::Signal);
                }
                (stream, place) = accept(listener.as_ref(), &places) => {
                    let (edge, reloader) = (self.edge.clone(), reloader.clone());
                    local::serve(stream, place, move |request| answer(edge.clone(), reloader.clone(), request));
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

async fn accept(
    listener: Option<&tokio::net::UnixListener>,
    places: &Places,
) -> (tokio::net::UnixStream, Place) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let place = places.place().await;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
}

const RELOAD: &str = "/reload";

/// What the operator can ask for, in the order it is told.
const OFFERED: [(Method, &str); 8] = [
    (Method::POST, RELOAD),
    (Method::GET, "/status"),
    (Method::POST, explain::live::PATH),
    (Method::GET, "/keys"),
    (Method::POST, "/keys/revoke"),
    (Method::GET, "/spool"),
    (Method::POST, "/spool/retry"),
    (Method::POST, "/spool/drop"),
];

/// Answers one request of the operator's. Its body, where it has one, is JSON of at most [`MAX_BODY_BYTES`]. Nothing here holds up another
/// request: what looks at files or waits for a disk does so on a thread of its own.
async fn answer(edge: Arc<Edge>, reloader: Reloader, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let reading = Limited::new(body, MAX_BODY_BYTES).collect();
    let Ok(read) = tokio::time::timeout(BODY_TIME, reading).await else {
        return Answer::refused(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "The body did not come",
        );
    };
    let Ok(body) = read else {
        return Answer::refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "The body is larger than anything this socket takes",
        );
    };
    let body = body.to_bytes();
    let answer = if (&parts.method, parts.uri.path()) == (&Method::POST, RELOAD) {
        let outcome = reloader.ask(Asked::Control).await;
        outcome.as_ref().map(Answer::json)
    } else {
        let dispatched = tokio::task::spawn_blocking(move || dispatch(&edge, &parts, &body));
        dispatched.await.ok()
    };
    answer.unwrap_or_else(|| {
        Answer::refused(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "A fault inside the gateway: see the record `panic` in its log",
        )
    })
}

fn dispatch(edge: &Edge, request: &Parts, body: &Bytes) -> Answer {
    let path = request.uri.path();
    match (&request.method, path) {
        (&Method::GET, "/status") => Answer::json(&edge.status()),
        (&Method::POST, explain::live::PATH) => match explain::live::answer(edge, body) {
            Ok(explanation) => Answer::json(&explanation),
            Err(problem) => Answer::refused(StatusCode::BAD_REQUEST, "bad_request", problem),
        },
        (&Method::GET, "/keys") => Answer::json(&edge.key_standings()),
        (&Method::POST, "/keys/revoke") => revoke(edge, body),
        (&Method::GET, "/spool") => spool(edge, |spool| Ok(Answer::json(&spool.list()))),
        (&Method::POST, "/spool/retry") => spool(edge, |spool| {
            let bounds = edge.snapshot().policy.spool;
            let what = serde_json::from_slice(body).map_err(|_| ActError::Unread)?;
            spool.retry(&what, bounds).map(|acted| Answer::json(&acted))
        }),
        (&Method::POST, "/spool/drop") => spool(edge, |spool| {
            let what = serde_json::from_slice(body).map_err(|_| ActError::Unread)?;
            spool.drop_entries(&what).map(|acted| Answer::json(&acted))
        }),
        (_, _) => unknown(path),
    }
}

fn revoke(edge: &Edge, body: &[u8]) -> Answer {
    let asked = serde_json::from_slice::<Revoke>(body).ok();
    let Some((digests, Revoke { id, of, .. })) =
        asked.and_then(|revoke| Some((revoke.digests()?, revoke)))
    else {
        return Answer::refused(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "Send {\"id\": \"…\"}, the id of a key, and as \"secrets\", if you like, digests that are to be refused with it (sha256:<64 hex digits>)",
        );
    };
    let of = of.as_ref();
    let other_policy = of.is_some_and(|of| !edge.runs_with(of.policy));
    if other_policy && of.is_some_and(|of| !edge.keeps_state_in(of.state)) {
        return Answer::refused(
            StatusCode::CONFLICT,
            "conflict",
            "this is the gateway of another policy, with another state directory, and nothing was revoked here; name the control socket of the one that is meant with --control",
        );
    }
    Answer::json(&Revocation {
        other_policy,
        ..edge.revoke_key(&id, &digests)
    })
}

fn spool(edge: &Edge, act: impl FnOnce(&Arc<Spool>) -> Result<Answer, ActError>) -> Answer {
    let Some(spool) = &edge.spool else {
        return Answer::refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "spool_unavailable",
            "this gateway does not own its state directory, so it has no spool: see the record `state_not_kept`",
        );
    };
    act(spool).unwrap_or_else(|e| {
        let (status, word) = match &e {
            ActError::Unknown => (StatusCode::NOT_FOUND, "not_found"),
            ActError::InHand | ActError::Known => (StatusCode::CONFLICT, "conflict"),
            ActError::Nothing | ActError::Unread => (StatusCode::BAD_REQUEST, "bad_request"),
            ActError::Full => (StatusCode::SERVICE_UNAVAILABLE, "spool_full"),
            ActError::ShareFull => (StatusCode::SERVICE_UNAVAILABLE, "spool_share_full"),
            ActError::Disk(_) => (StatusCode::SERVICE_UNAVAILABLE, "spool_unavailable"),
        };
        Answer::refused(status, word, e.to_string())
    })
}

fn unknown(path: &str) -> Answer {
    let offered: Vec<_> = OFFERED
        .iter()
        .map(|(method, path)| format!("{method} {path}"))
        .collect();
    let detail = format!("Here are {}", offered.join(", "));
    if OFFERED.iter().any(|(_, known)| *known == path) {
        Answer::refused(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    } else {
        Answer::refused(StatusCode::NOT_FOUND, "not_found", detail)
    }
}
