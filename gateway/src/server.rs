//! Listens, hands connections to workers, and stops.
//!
//! One service accepts and keeps the caps on connections; each worker is a single-threaded pingora
//! service with a proxy and a pool of upstream connections of its own. Connections are dealt out in turn,
//! so the workers are evenly loaded.

mod admin;
mod stop;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp},
    protocols::http::ServerSession,
    server::{ListenFds, RunArgs, Server, ShutdownWatch, configuration::ServerConf},
    services::Service,
};
use pingora_proxy::HttpProxy;
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};

use crate::{
    connection::{Connection, ConnectionLimits, Gate, Slot},
    edge::Edge,
    policy::address::{Networks, budget_address, plain},
    proxy::Gateway,
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
    http: TcpListener,
    admin: TcpListener,
}

impl Bound {
    /// Binds the addresses of a policy.
    pub fn new(http: SocketAddr, admin: SocketAddr) -> Result<Self, StartError> {
        Ok(Self {
            http: bind(http)?,
            admin: bind(admin)?,
        })
    }

    /// The line that says where clients and the operator connect.
    pub fn announcement(&self) -> io::Result<String> {
        Ok(format!(
            "orket-gateway listening on http://{} admin http://{}",
            self.http.local_addr()?,
            self.admin.local_addr()?
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
pub fn run(edge: &Arc<Edge>, bound: Bound) {
    let snapshot = edge.snapshot();
    let policy = &snapshot.policy;
    let conf = ServerConf {
        threads: 1,
        work_stealing: false,
        // The second try is for a kept connection that the upstream closed just now, and only for methods that
        // may be repeated (RFC 9110, section 9.2.2).
        max_retries: 2,
        upstream_keepalive_pool_size: 256,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let conf = server.configuration.clone();
    let stopping = stop::Stopping::new();

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
            incoming: Some(receiver),
            stopping: stopping.clone(),
        });
        workers.push(sender);
    }
    server.add_service(Acceptor {
        listener: Some(bound.http),
        caps: Arc::new(Caps::new(
            policy.limits.connections,
            policy.limits.connections_per_address,
            policy.trusted_proxies.clone(),
        )),
        limits: ConnectionLimits {
            head_bytes: policy.limits.head_bytes,
            header_count: policy.limits.header_count,
            head_timeout: policy.limits.head_timeout,
            body_timeout: policy.limits.body_timeout,
            keepalive_timeout: policy.limits.keepalive_timeout,
        },
        workers,
        edge: edge.clone(),
        stopping: stopping.clone(),
    });
    server.add_service(admin::Admin {
        listener: Some(bound.admin),
        edge: edge.clone(),
    });
    let signal = stop::Signals { stopping };
    server.run(RunArgs {
        shutdown_signal: Box::new(signal),
    });
}

/// How many connections there are, in all and from each address.
#[derive(Debug)]
struct Caps {
    all: usize,
    per_address: usize,
    exempt: Networks,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Caps {
    fn new(all: usize, per_address: usize, exempt: Networks) -> Self {
        Self {
            all,
            per_address,
            exempt,
            open: Mutex::default(),
        }
    }

    fn enter(this: &Arc<Self>, peer: IpAddr, edge: &Arc<Edge>) -> Option<Place> {
        let address = budget_address(peer);
        let mut open = this.open.lock();
        if open.all >= this.all {
            return None;
        }
        let here = open.by_address.entry(address).or_insert(0);
        if *here >= this.per_address && !this.exempt.contains(plain(peer)) {
            return None;
        }
        *here += 1;
        open.all += 1;
        edge.metrics.connections.inc();
        Some(Place {
            caps: this.clone(),
            address,
            edge: edge.clone(),
        })
    }
}

/// A place among the connections.
#[derive(Debug)]
struct Place {
    caps: Arc<Caps>,
    address: IpAddr,
    edge: Arc<Edge>,
}

impl Slot for Place {}

impl Drop for Place {
    fn drop(&mut self) {
        self.edge.metrics.connections.dec();
        let mut open = self.caps.open.lock();
        open.all = open.all.saturating_sub(1);
        if let Some(here) = open.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// A connection on its way to a worker.
#[derive(Debug)]
struct Arrival {
    socket: std::net::TcpStream,
    peer: SocketAddr,
    loopback: bool,
    limits: ConnectionLimits,
    place: Place,
}

struct Acceptor {
    listener: Option<TcpListener>,
    caps: Arc<Caps>,
    limits: ConnectionLimits,
    workers: Vec<mpsc::Sender<Arrival>>,
    edge: Arc<Edge>,
    stopping: stop::Stopping,
}

impl Acceptor {
    async fn accept(&self, listener: &tokio::net::TcpListener, turn: &mut usize) -> io::Result<()> {
        let loopback = listener.local_addr()?.ip().is_loopback();
        let (socket, peer) = listener.accept().await?;
        let Some(place) = Caps::enter(&self.caps, peer.ip(), &self.edge) else {
            self.edge.metrics.connections_refused.inc();
            tracing::debug!(target: "audit", event = "connection_refused", client = %peer.ip(), "a cap on connections is reached");
            return Ok(());
        };
        socket.set_nodelay(true)?;
        let arrival = Arrival {
            socket: socket.into_std()?,
            peer,
            loopback,
            limits: self.limits,
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
        "acceptor"
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
    incoming: Option<mpsc::Receiver<Arrival>>,
    stopping: stop::Stopping,
}

async fn converse(app: Arc<Turnstile>, arrival: Arrival, stopping: ShutdownWatch) {
    let Arrival {
        socket,
        peer,
        loopback,
        limits,
        place,
    } = arrival;
    let Ok(socket) = TcpStream::from_std(socket) else {
        return;
    };
    match Gate::new(socket, peer, loopback, limits, Box::new(place)) {
        Ok(gate) => {
            app.process_new(Box::new(gate), &stopping).await;
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
                        conversations.spawn(converse(self.app.clone(), arrival, self.stopping.watch()));
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
