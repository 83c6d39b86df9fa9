//! Listens, hands connections to workers, and stops.
//!
//! One service accepts and keeps the caps on connections; each worker is a single-threaded pingora
//! service with a proxy and a pool of upstream connections of its own. Connections are dealt out in turn,
//! so the workers are evenly loaded.

mod admin;
mod answer;
mod caps;
mod control;
mod expiry;
mod handover;
mod handshake;
mod local;
mod stop;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    protocols::http::ServerSession,
    server::{ListenFds, RunArgs, Server, ShutdownWatch, configuration::ServerConf},
    services::Service,
};
use pingora_proxy::HttpProxy;
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};

use self::caps::{Caps, Descriptors, Place};
use crate::{
    connection::{Connection, ConnectionLimits, Gate, Scheme, Slot, Socket},
    edge::Edge,
    metrics::CapLabels,
    policy::Listen,
    proxy::Gateway,
    reload::Source,
};

/// How many accepted connections may wait for a worker.
const HAND_OVER: usize = 1024;

/// How long a worker waits for requests in flight when it is told to stop.
const DRAIN: Duration = Duration::from_secs(20);

/// What can go wrong before anything is served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; is another program using it? Choose another address in [listen] or ORKET_GATEWAY_LISTEN / ORKET_GATEWAY_ADMIN"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Listeners that are bound: from here on, connecting works.
#[derive(Debug)]
pub struct Bound {
    http: Option<TcpListener>,
    https: Option<TcpListener>,
    admin: TcpListener,
    control: Option<control::ControlSocket>,
}

impl Bound {
    /// Binds the addresses of a policy. Without its control socket a gateway serves all the same, and says
    /// what it lacks.
    pub fn new(listen: &Listen) -> Result<Self, StartError> {
        let http = listen.http.map(bind).transpose()?;
        let https = listen.https.map(bind).transpose()?;
        let admin = bind(listen.admin)?;
        let control = match control::ControlSocket::bind(&listen.control) {
            Ok(socket) => Some(socket),
            Err(e) => {
                tracing::warn!(
                    event = "no_control_socket",
                    path = %listen.control.display(),
                    error = %e,
                    "there is no control socket: SIGHUP reloads; set [state] dir (ORKET_STATE_DIR) to a directory of this gateway's own"
                );
                None
            }
        };
        Ok(Self {
            http,
            https,
            admin,
            control,
        })
    }

    /// The line that says where clients and the operator connect.
    fn announcement(&self) -> io::Result<String> {
        let url = |scheme: Scheme, listener: &TcpListener| {
            Ok(format!("{}://{}", scheme.as_str(), listener.local_addr()?))
        };
        let clients = [(Scheme::Http, &self.http), (Scheme::Https, &self.https)]
            .into_iter()
            .filter_map(|(scheme, listener)| Some(url(scheme, listener.as_ref()?)))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(format!(
            "orket-gateway listening on {} admin {}",
            clients.join(" "),
            url(Scheme::Http, &self.admin)?
        ))
    }
}

fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        // So that a restart does not wait for old connections to be forgotten.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        Ok(TcpListener::from(socket))
    };
    listen().map_err(|source| StartError::Listen { address, source })
}

/// Serves until told to stop, then lets requests in flight end.
pub fn run(edge: &Arc<Edge>, source: Source, bound: Bound) {
    let announcement = bound.announcement();
    let snapshot = edge.snapshot();
    let policy = &snapshot.policy;
    let descriptors = Descriptors::claim(policy.listen.threads);
    let conf = ServerConf {
        threads: 1,
        work_stealing: false,
        // The second try is for a kept connection that the upstream closed just now, and only for methods that
        // may be repeated (RFC 9110, section 9.2.2).
        max_retries: 2,
        upstream_keepalive_pool_size: descriptors.kept,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        // pingora's own trust is empty: only what an upstream's `tls` names can vouch for it.
        ca_file: Some("/dev/null".to_owned()),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let conf = server.configuration.clone();
    let stopping = stop::Stopping::new();
    let possible = descriptors.connections;
    if possible < policy.limits.connections {
        tracing::warn!(
            event = "few_descriptors",
            possible,
            wanted = policy.limits.connections,
            "fewer connections than [limits] connections: raise the limit of open files (ulimit -n, LimitNOFILE=)"
        );
    }

    let mut workers = Vec::new();
    for number in 0..policy.listen.threads {
        let (sender, receiver) = mpsc::channel(HAND_OVER);
        let mut proxy = HttpProxy::new(Gateway::new(edge.clone()), conf.clone());
        proxy.handle_init_modules();
        server.add_service(Worker {
            name: format!("worker-{number}"),
            app: Arc::new(Turnstile {
                proxy: Arc::new(proxy),
            }),
            edge: edge.clone(),
            incoming: Some(receiver),
            stopping: stopping.clone(),
        });
        workers.push(sender);
    }
    let caps = Arc::new(Caps::of(possible));
    for (scheme, listener) in [(Scheme::Http, bound.http), (Scheme::Https, bound.https)] {
        if listener.is_some() {
            server.add_service(Acceptor {
                listener,
                scheme,
                caps: caps.clone(),
                workers: workers.clone(),
                edge: edge.clone(),
                stopping: stopping.clone(),
            });
        }
    }
    drop(workers);
    server.add_service(handover::HandOver {
        edge: edge.clone(),
        stopping: stopping.clone(),
    });
    server.add_service(admin::Admin {
        listener: Some(bound.admin),
        edge: edge.clone(),
        stopping: stopping.clone(),
    });
    server.add_service(control::Control {
        socket: bound.control,
        edge: edge.clone(),
        source,
    });
    server.add_service(expiry::Expiry { edge: edge.clone() });
    let signal = stop::Signals {
        stopping,
        announcement,
    };
    server.run(RunArgs {
        shutdown_signal: Box::new(signal),
    });
}

/// A connection on its way to a worker.
#[derive(Debug)]
struct Arrival {
    socket: std::net::TcpStream,
    peer: SocketAddr,
    loopback: bool,
    scheme: Scheme,
    limits: ConnectionLimits,
    place: Place,
}

struct Acceptor {
    listener: Option<TcpListener>,
    scheme: Scheme,
    caps: Arc<Caps>,
    workers: Vec<mpsc::Sender<Arrival>>,
    edge: Arc<Edge>,
    stopping: stop::Stopping,
}

impl Acceptor {
    async fn accept(&self, listener: &tokio::net::TcpListener, turn: &mut usize) -> io::Result<()> {
        let loopback = listener.local_addr()?.ip().is_loopback();
        let (socket, peer) = listener.accept().await?;
        let snapshot = self.edge.snapshot();
        let policy = &snapshot.policy;
        let place = match Caps::enter(&self.caps, peer.ip(), policy, &self.edge) {
            Ok(place) => place,
            Err(cap) => {
                let refused = &self.edge.metrics.connections_refused;
                refused.inc(&CapLabels { cap });
                self.edge.log.connection_refused(peer.ip(), cap.limit());
                return Ok(());
            }
        };
        socket.set_nodelay(true)?;
        let arrival = Arrival {
            socket: socket.into_std()?,
            peer,
            loopback,
            scheme: self.scheme,
            limits: ConnectionLimits::of(&policy.limits),
            place,
        };
        *turn = (*turn + 1) % self.workers.len().max(1);
        if let Some(worker) = self.workers.get(*turn) {
            // Closed only when the worker has stopped; then the connection ends here.
            let _ = worker.send(arrival).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Service for Acceptor {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _per_fd: usize,
    ) {
        let Some(listener) = self
            .listener
            .take()
            .and_then(|l| tokio::net::TcpListener::from_std(l).ok())
        else {
            tracing::error!(event = "fault", "the listener could not be used");
            return;
        };
        let mut stopping = self.stopping.watch();
        let mut turn = 0;
        loop {
            let accepted = tokio::select! {
                () = stop::told(&mut stopping) => break,
                accepted = self.accept(&listener, &mut turn) => accepted,
            };
            if let Err(e) = accepted {
                // Out of file descriptors, most likely: let some connections end first.
                tracing::error!(event = "accept_failed", error = %e, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        self.workers.clear();
    }

    fn name(&self) -> &'static str {
        match self.scheme {
            Scheme::Http => "acceptor",
            Scheme::Https => "tls-acceptor",
        }
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// Tells a connection's gate that the next request may be read, then lets pingora read it.
struct Turnstile {
    proxy: Arc<HttpProxy<Gateway>>,
}

#[async_trait]
impl HttpServerApp for Turnstile {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if let Some(connection) = Connection::of(session.digest()) {
            connection.next_request();
        }
        self.proxy.process_new_http(session, shutdown).await
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}

struct Worker {
    name: String,
    app: Arc<Turnstile>,
    edge: Arc<Edge>,
    incoming: Option<mpsc::Receiver<Arrival>>,
    stopping: stop::Stopping,
}

async fn converse(
    app: Arc<Turnstile>,
    edge: Arc<Edge>,
    arrival: Arrival,
    mut stopping: ShutdownWatch,
) {
    let Arrival {
        socket,
        peer,
        loopback,
        scheme,
        limits,
        place,
    } = arrival;
    let Ok(socket) = TcpStream::from_std(socket) else {
        return;
    };
    let (socket, slot): (_, Box<dyn Slot>) = match scheme {
        Scheme::Http => (Socket::Plain(socket), Box::new(place)),
        Scheme::Https => {
            let greeting = handshake::accept(&edge, socket, peer, limits.head_timeout, place);
            let greeted = tokio::select! {
                () = stop::told(&mut stopping) => return,
                greeted = greeting => greeted,
            };
            let Some((stream, slot)) = greeted else {
                return;
            };
            (Socket::Tls(Box::new(stream)), slot)
        }
    };
    match Gate::new(socket, peer, loopback, limits, slot) {
        Ok(gate) => {
            let connection = gate.connection();
            let conversation = async {
                app.process_new(Box::new(gate), &stopping).await;
            };
            connection.ending().bound(conversation).await;
        }
        Err(_) => tracing::error!(event = "fault", "a connection could not be set up"),
    }
}

#[async_trait]
impl Service for Worker {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        _per_fd: usize,
    ) {
        let Some(mut incoming) = self.incoming.take() else {
            return;
        };
        let working = self.stopping.working();
        let mut conversations = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                arrival = incoming.recv() => match arrival {
                    Some(arrival) => {
                        conversations.spawn(converse(self.app.clone(), self.edge.clone(), arrival, self.stopping.watch()));
                    }
                    // The acceptor has stopped.
                    None => break,
                },
                _ = conversations.join_next(), if !conversations.is_empty() => {}
            }
        }
        self.app.http_cleanup().await;
        let drained = tokio::time::timeout(DRAIN, async {
            while conversations.join_next().await.is_some() {}
        })
        .await;
        if drained.is_err() {
            tracing::warn!(
                event = "drain_deadline",
                open = conversations.len(),
                "stopped with requests in flight"
            );
        }
        drop(working);
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}
