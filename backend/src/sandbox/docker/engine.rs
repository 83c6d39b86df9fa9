//! The engine's API, every call of it bounded in time.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    container::LogOutput,
    errors::Error,
    models::{ContainerInspectResponse, ContainerStatsResponse, EventMessage, SystemInfo},
    query_parameters::{
        EventsOptions, InspectContainerOptions, ListContainersOptions, ListNetworksOptions,
        ListVolumesOptions, LogsOptions, RemoveContainerOptions, RemoveVolumeOptions, StatsOptions,
        StopContainerOptions,
    },
};
use futures_util::{Stream, TryStreamExt as _};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::super::stack::label;

mod images;
mod look;

/// How long the engine's own client would wait; our own bounds are shorter.
const CLIENT_SECONDS: u64 = 24 * 3600;

/// Why the engine did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum EngineError {
    /// Nobody is there.
    #[error("the container engine at {socket} is not there: {text}")]
    Away {
        /// Its socket.
        socket: String,
        /// What the system said.
        text: String,
    },
    /// It takes connections and does not answer.
    #[error("the container engine at {socket} did not answer within {seconds} s")]
    Hung {
        /// Its socket.
        socket: String,
        /// How long it had.
        seconds: u64,
    },
    /// It said no.
    #[error("the container engine refused ({status}): {text}")]
    Refused {
        /// As in HTTP.
        status: u16,
        /// Why.
        text: String,
    },
}

impl EngineError {
    /// Whether what was asked about does not exist.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether nothing can be said about what it holds.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Hung { .. } => true,
            Self::Refused { .. } => false,
        }
    }
}

impl From<EngineError> for io::Error {
    fn from(error: EngineError) -> Self {
        let kind = match &error {
            EngineError::Away { .. } => io::ErrorKind::NotConnected,
            EngineError::Hung { .. } => io::ErrorKind::TimedOut,
            EngineError::Refused { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// A connection to an engine, made when it is needed.
#[derive(Debug)]
pub(super) struct Engine {
    socket: PathBuf,
    patience: Duration,
    client: Mutex<Option<Docker>>,
}

/// A container of ours as it is listed.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    /// Its id.
    pub(super) id: String,
    /// Its names, without the leading `/`.
    pub(super) names: Vec<String>,
    /// Its labels.
    pub(super) labels: HashMap<String, String>,
    /// Whether it runs, or is about to run again.
    pub(super) runs: bool,
}

/// A network or a volume as it is listed.
#[derive(Debug, Clone)]
pub(super) struct Thing {
    /// What to call it in the API.
    pub(super) id: String,
    /// Its name.
    pub(super) name: String,
    /// Its labels.
    pub(super) labels: HashMap<String, String>,
}

impl Engine {
    pub(super) fn new(socket: &Path, patience: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            patience,
            client: Mutex::default(),
        }
    }

    /// Its socket as `DOCKER_HOST` names it.
    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    async fn client(&self) -> Result<Docker, EngineError> {
        if let Some(client) = self.client.lock().clone() {
            return Ok(client);
        }
        let path = self.socket.to_string_lossy().into_owned();
        let connect = async {
            Docker::connect_with_unix(&path, CLIENT_SECONDS, API_DEFAULT_VERSION)?
                .negotiate_version()
                .await
        };
        let client = self.bounded(self.patience, connect).await?;
        *self.client.lock() = Some(client.clone());
        Ok(client)
    }

    /// Forgets what was agreed on: another engine may answer next time.
    pub(super) fn renew(&self) {
        *self.client.lock() = None;
    }

    async fn bounded<T>(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        let socket = || self.socket.display().to_string();
        match timeout(patience, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Error::DockerResponseServerError {
                status_code,
                message,
            })) => Err(EngineError::Refused {
                status: status_code,
                text: message,
            }),
            Ok(Err(Error::DockerStreamError { error })) => Err(EngineError::Refused {
                status: 500,
                text: error,
            }),
            Ok(Err(error)) => {
                self.renew();
                let text = chain(&error);
                Err(EngineError::Away {
                    socket: socket(),
                    text,
                })
            }
            Err(_) => {
                self.renew();
                Err(EngineError::Hung {
                    socket: socket(),
                    seconds: patience.as_secs(),
                })
            }
        }
    }

    /// How long an answer may take that is of use until then only.
    fn left(&self, until: Instant) -> Duration {
        self.patience
            .min(until.saturating_duration_since(Instant::now()))
    }

    async fn ask<T, F, A>(&self, call: F) -> Result<T, EngineError>
    where
        F: FnOnce(Docker) -> A,
        A: Future<Output = Result<T, Error>>,
    {
        self.ask_within(self.patience, call).await
    }

    async fn ask_within<T, F, A>(&self, patience: Duration, call: F) -> Result<T, EngineError>
    where
        F: FnOnce(Docker) -> A,
        A: Future<Output = Result<T, Error>>,
    {
        let client = self.client().await?;
        self.bounded(patience, call(client)).await
    }

    pub(super) async fn ping(&self) -> Result<(), EngineError> {
        self.ask(|docker| async move { docker.ping().await })
            .await
            .map(drop)
    }

    pub(super) async fn info(&self) -> Result<SystemInfo, EngineError> {
        self.ask(|docker| async move { docker.info().await }).await
    }

    /// All containers that carry these labels, running or not.
    pub(super) async fn containers(&self, labels: &[String]) -> Result<Vec<Listed>, EngineError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(with("label", labels)),
            ..ListContainersOptions::default()
        };
        self.listed(options).await
    }

    /// All containers whose name contains this.
    pub(super) async fn containers_named(&self, name: &str) -> Result<Vec<Listed>, EngineError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(with("name", &[name.to_owned()])),
            ..ListContainersOptions::default()
        };
        self.listed(options).await
    }

    async fn listed(&self, options: ListContainersOptions) -> Result<Vec<Listed>, EngineError> {
        use bollard::models::ContainerSummaryStateEnum as State;
        let list = self
            .ask(|docker| async move { docker.list_containers(Some(options)).await })
            .await?;
        let listed = list.into_iter().filter_map(|container| {
            let names = container.names.unwrap_or_default();
            Some(Listed {
                id: container.id?,
                names: names
                    .iter()
                    .map(|name| name.trim_start_matches('/').to_owned())
                    .collect(),
                labels: container.labels.unwrap_or_default(),
                runs: matches!(
                    container.state,
                    Some(State::RUNNING | State::PAUSED | State::RESTARTING)
                ),
            })
        });
        Ok(listed.collect())
    }

    /// A container in detail; `None` when it is gone.
    pub(super) async fn inspect(
        &self,
        id: &str,
    ) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let id = id.to_owned();
        let seen = self
            .ask(|docker| async move {
                docker
                    .inspect_container(&id, None::<InspectContainerOptions>)
                    .await
            })
            .await;
        absent(seen.map(Some))
    }

    /// The user that an image runs as, as it says itself; empty where it says nothing.
    pub(super) async fn user_of_image(&self, name: &str) -> Result<String, EngineError> {
        let name = name.to_owned();
        let seen = self
            .ask(|docker| async move { docker.inspect_image(&name).await })
            .await?;
        let user = seen.config.and_then(|config| config.user);
        Ok(user.unwrap_or_default())
    }

    pub(super) async fn networks(&self, key: &str, of: &str) -> Result<Vec<Thing>, EngineError> {
        let options = ListNetworksOptions {
            filters: Some(with(key, &[of.to_owned()])),
        };
        let list = self
            .ask(|docker| async move { docker.list_networks(Some(options)).await })
            .await?;
        let things = list.into_iter().filter_map(|network| {
            Some(Thing {
                id: network.id?,
                name: network.name.unwrap_or_default(),
                labels: network.labels.unwrap_or_default(),
            })
        });
        Ok(things.collect())
    }

    pub(super) async fn volumes(&self, key: &str, of: &str) -> Result<Vec<Thing>, EngineError> {
        let options = ListVolumesOptions {
            filters: Some(with(key, &[of.to_owned()])),
        };
        let list = self
            .ask(|docker| async move { docker.list_volumes(Some(options)).await })
            .await?;
        let things = list.volumes.unwrap_or_default().into_iter();
        Ok(things
            .map(|volume| Thing {
                id: volume.name.clone(),
                name: volume.name,
                labels: volume.labels,
            })
            .collect())
    }

    /// TERM, grace, KILL; one that does not run is fine.
    pub(super) async fn stop(&self, id: &str, grace: Duration) -> Result<(), EngineError> {
        let options = StopContainerOptions {
            signal: None,
            t: Some(i32::try_from(grace.as_secs()).unwrap_or(i32::MAX)),
        };
        let id = id.to_owned();
        let stopped = self
            .ask_within(grace + self.patience, |docker| async move {
                docker.stop_container(&id, Some(options)).await
            })
            .await;
        match stopped {
            Err(EngineError::Refused { status: 304, .. }) => Ok(()),
            other => absent(other),
        }
    }

    /// Removes a container with its nameless volumes.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptions {
            v: true,
            force: true,
            link: false,
        };
        let id = id.to_owned();
        let call =
            |docker: Docker| async move { docker.remove_container(&id, Some(options)).await };
        absent(self.ask(call).await)
    }

    pub(super) async fn remove_network(&self, id: &str) -> Result<(), EngineError> {
        let id = id.to_owned();
        absent(
            self.ask(|docker| async move { docker.remove_network(&id).await })
                .await,
        )
    }

    pub(super) async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let name = name.to_owned();
        let call = |docker: Docker| async move {
            docker
                .remove_volume(&name, None::<RemoveVolumeOptions>)
                .await
        };
        absent(self.ask(call).await)
    }

    /// The output of a container from that second on.
    pub(super) async fn logs(
        &self,
        id: &str,
        since: i32,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<LogOutput, Error>> + Send + use<>, EngineError> {
        let client = self.client().await?;
        let options = LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            since,
            timestamps: true,
            ..LogsOptions::default()
        };
        Ok(client.logs(id, Some(options)))
    }

    /// What a container uses at this moment; `None` when it is gone.
    pub(super) async fn stats(
        &self,
        id: &str,
    ) -> Result<Option<ContainerStatsResponse>, EngineError> {
        let options = StatsOptions {
            stream: false,
            one_shot: true,
        };
        let id = id.to_owned();
        let seen = self
            .ask(|docker| async move {
                let stats = docker.stats(&id, Some(options));
                tokio::pin!(stats);
                stats.try_next().await
            })
            .await;
        absent(seen)
    }

    /// What happens to things of this store.
    pub(super) async fn events(
        &self,
        instance: &str,
    ) -> Result<impl Stream<Item = Result<EventMessage, Error>> + Send + use<>, EngineError> {
        self.ping().await?;
        let client = self.client().await?;
        let options = EventsOptions {
            filters: Some(with("label", &[format!("{}={instance}", label::INSTANCE)])),
            ..EventsOptions::default()
        };
        Ok(client.events(Some(options)))
    }

    pub(super) async fn docker(&self) -> Result<Docker, EngineError> {
        self.client().await
    }
}

fn with(key: &str, values: &[String]) -> HashMap<String, Vec<String>> {
    HashMap::from([(key.to_owned(), values.to_vec())])
}

/// Nothing to be seen or removed is a fine answer.
fn absent<T: Default>(answer: Result<T, EngineError>) -> Result<T, EngineError> {
    match answer {
        Err(error) if error.is_absent() => Ok(T::default()),
        other => other,
    }
}

/// An error with what caused it: the client's own texts say little.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}
