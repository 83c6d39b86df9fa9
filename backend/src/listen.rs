//! Where requests come in: a unix socket that admits only known users, or a TCP address.
//!
//! Nobody who connects is asked for proof, so who may connect is all there is. A peer is judged
//! once, when it is accepted, before a byte of it is read; next: [`peer`].

use std::{
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
};

use crate::{
    metrics::Counter,
    settings::{self, Address},
};

mod errand;
mod patience;
pub mod peer;

use patience::Patience;

/// How long a peer may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests in flight may go on after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// Most connections at once.
const CONNECTIONS_MAX: usize = 8192;

/// How many connections may be open at once: half of the descriptors this process may have at most,
/// so that connections never keep it from starting work or reading files. Raises that limit first,
/// as far as the system lets it.
fn connections_max() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // What is not granted is not there; what is, is read again.
    let _ = setrlimit(Resource::Nofile, raised);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let half = usize::try_from(files / 2).unwrap_or(CONNECTIONS_MAX);
    half.clamp(1, CONNECTIONS_MAX)
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Someone answers there.
    #[error("another program listens on {0}; stop it first, or choose another [listen] address")]
    Taken(Address),
    /// The file in the way is not a socket.
    #[error("{} exists and is not a socket: remove it, or choose another [listen] address", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error(
        "cannot listen on {address}: {why}; let the backend's user use it, or choose another [listen] address"
    )]
    Io {
        /// The address.
        address: Address,
        /// What the system said.
        why: io::Error,
    },
}

/// An address being listened on.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    terms: Terms,
}

/// How long peers are waited for, and where it is counted when they do nothing.
#[derive(Debug, Clone)]
struct Terms {
    write_timeout: Duration,
    cut_off: Counter,
}

#[derive(Debug)]
enum Socket {
    /// A unix socket and the rule of who may connect.
    Unix {
        /// The socket.
        socket: UnixListener,
        /// Its file, removed at the end when it is still this one.
        file: SocketFile,
        /// Who may connect.
        rule: peer::Rule,
    },
    /// A TCP port.
    Tcp(TcpListener),
}

/// The file of a socket; told apart from a later one at the same path by its inode.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file stays behind");
        }
    }
}

impl Listener {
    /// Listens where it is told to. Whoever takes nothing for too long is cut off and counted in `cut_off`.
    pub async fn bind(
        listen: &settings::Listen,
        rule: peer::Rule,
        cut_off: Counter,
    ) -> Result<Self, BindError> {
        let address = &listen.address;
        let terms = Terms {
            write_timeout: listen.write_timeout,
            cut_off,
        };
        let socket = Socket::bind(address, rule).await?;
        Ok(Self { socket, terms })
    }

    /// The address as a client would write it, with the port that was given where 0 was asked for.
    pub fn address(&self) -> io::Result<Address> {
        match &self.socket {
            Socket::Unix { file, .. } => Ok(Address::Unix(file.path.clone())),
            Socket::Tcp(listener) => listener.local_addr().map(Address::Tcp),
        }
    }

    /// Serves until `stop` turns true, then lets requests in flight end.
    pub async fn serve(self, router: Router, mut stop: watch::Receiver<bool>) {
        // Every connection holds a sender; the receiver ends with the last of them.
        let (held, mut ended) = mpsc::channel::<()>(1);
        let tie = Tie {
            stop: stop.clone(),
            terms: self.terms.clone(),
            held,
        };
        let places = Arc::new(Semaphore::new(connections_max()));
        loop {
            tokio::select! {
                () = async { let _ = stop.wait_for(|stop| *stop).await; } => break,
                accepted = self.accept(&router, &tie, &places) => if let Err(error) = accepted {
                    // Out of descriptors or the like: try again, but not in a tight circle.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                },
            }
        }
        drop(self);
        drop(tie);
        if tokio::time::timeout(DRAIN, ended.recv()).await.is_err() {
            tracing::warn!("some requests had not ended when the backend stopped");
        }
    }

    async fn accept(&self, router: &Router, tie: &Tie, places: &Arc<Semaphore>) -> io::Result<()> {
        // Who finds no place waits in the system's queue.
        let place = Arc::clone(places).acquire_owned();
        let place = place.await.map_err(io::Error::other)?;
        match &self.socket {
            Socket::Unix { socket, rule, .. } => {
                let (stream, _) = socket.accept().await?;
                match stream
                    .peer_cred()
                    .map_err(peer::Refusal::from)
                    .and_then(|c| rule.judge(&c))
                {
                    Ok(()) => converse(stream, router.clone(), tie, place),
                    Err(refusal) => {
                        tracing::warn!(event = "peer_refused", reason = %refusal, "peer refused");
                    }
                }
            }
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                converse(stream, router.clone(), tie, place);
            }
        }
        Ok(())
    }
}

impl Socket {
    async fn bind(address: &Address, rule: peer::Rule) -> Result<Self, BindError> {
        let failed = |why| BindError::Io {
            address: address.clone(),
            why,
        };
        match address {
            Address::Unix(path) => {
                make_way(path, address).await?;
                let (socket, file) = bind_unix(path).map_err(failed)?;
                Ok(Self::Unix { socket, file, rule })
            }
            Address::Tcp(tcp) => match TcpListener::bind(tcp).await {
                Ok(listener) => Ok(Self::Tcp(listener)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    Err(BindError::Taken(address.clone()))
                }
                Err(error) => Err(failed(error)),
            },
        }
    }
}

/// What ties a connection to the listener's end.
#[derive(Clone)]
struct Tie {
    stop: watch::Receiver<bool>,
    terms: Terms,
    held: mpsc::Sender<()>,
}

/// Serves one connection in a task of its own.
fn converse<S>(stream: S, router: Router, tie: &Tie, place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut tie = tie.clone();
    tokio::spawn(async move {
        let place = Arc::new(place);
        let service = errand::carry(router, (Arc::clone(&place), tie.held.clone()));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            // Who has said all may close that side, and still waits for the answer. One that is gone is
            // found when something is written: an answer, or a stream's sign of life.
            .half_close(true)
            .serve_connection(
                TokioIo::new(Patience::new(
                    stream,
                    place,
                    tie.terms.write_timeout,
                    tie.terms.cut_off.clone(),
                )),
                TowerToHyperService::new(service),
            )
            .with_upgrades();
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async { let _ = tie.stop.wait_for(|stop| *stop).await; } => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    });
}

/// Looks at what lies at the socket's path: a socket nobody answers on is left over and may go.
async fn make_way(path: &Path, address: &Address) -> Result<(), BindError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match tokio::net::UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(BindError::Taken(address.clone())),
        Err(why) => Err(BindError::Io {
            address: address.clone(),
            why,
        }),
    }
}

/// Binds beside the path and moves the socket there once its mode is right: it is never there
/// with another one, and a left-over one is replaced in a single step.
fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push("~");
    let beside = PathBuf::from(beside);
    if std::fs::symlink_metadata(&beside).is_ok_and(|m| m.file_type().is_socket()) {
        std::fs::remove_file(&beside)?;
    }
    let socket = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o660))?;
    let inode = std::fs::symlink_metadata(&beside)?.ino();
    std::fs::rename(&beside, path)?;
    Ok((
        socket,
        SocketFile {
            path: path.to_owned(),
            inode,
        },
    ))
}

/// The stop signal shared by everything that waits.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// Asks everyone to stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// A receiver that turns true.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }

    /// Returns once a stop was asked for.
    pub async fn stopped(&self) {
        let _ = self.0.subscribe().wait_for(|stop| *stop).await;
    }
}
