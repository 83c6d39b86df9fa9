//! What the engine holds of this store's sandboxes, found by label and by nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use bollard::models::ContainerState;
use futures_util::future::join_all;

use super::{
    super::{
        driver::Held,
        stack::{self, label},
    },
    DockerDriver,
    engine::{EngineError, Thing},
};

impl DockerDriver {
    /// What selects the things of a sandbox of ours.
    pub(super) fn labels(&self, sandbox: &str) -> Vec<String> {
        vec![
            format!("{}={}", label::INSTANCE, self.owner.instance),
            format!("{}={sandbox}", label::SANDBOX),
        ]
    }

    /// Things of strangers that are called as ours would be.
    pub(super) async fn strangers(&self, sandbox: &str) -> Result<Vec<String>, EngineError> {
        let project = stack::project(sandbox);
        let ours = |labels: &HashMap<String, String>| {
            labels.get(label::INSTANCE) == Some(&self.owner.instance)
                && labels.get(label::SANDBOX).map(String::as_str) == Some(sandbox)
        };
        let taken = |name: &str| {
            name.strip_prefix(&project)
                .is_some_and(|rest| rest.starts_with(['_', '-']))
        };
        let mut found = Vec::new();
        for container in self.engine.containers_named(&project).await? {
            if !ours(&container.labels) {
                found.extend(container.names.into_iter().filter(|name| taken(name)));
            }
        }
        let mut things = self.engine.networks("name", &project).await?;
        things.extend(self.engine.volumes("name", &project).await?);
        found.extend(
            things
                .into_iter()
                .filter(|thing| !ours(&thing.labels) && taken(&thing.name))
                .map(|thing| thing.name),
        );
        Ok(found)
    }

    /// Removes by label whatever is left of a sandbox; `Ok` after nothing was seen.
    pub(super) async fn clear(&self, sandbox: &str) -> io::Result<()> {
        let labels = self.labels(sandbox);
        self.remove_containers(sandbox).await?;
        for network in self.networks(sandbox).await? {
            self.engine.remove_network(&network).await?;
        }
        for volume in self.volumes(sandbox).await? {
            self.engine.remove_volume(&volume).await?;
        }
        self.clear_images(&labels).await?;
        let containers = self.engine.containers(&labels).await?.len();
        let (networks, volumes) = (self.networks(sandbox).await?, self.volumes(sandbox).await?);
        if containers + networks.len() + volumes.len() == 0 {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{containers} containers, {} networks and {} volumes of it are still there",
            networks.len(),
            volumes.len()
        )))
    }

    /// Removes what was built, with what was left of builds that came to nothing and what somebody has made
    /// of it, also under marks of his own: the engine removes none that others are made of.
    async fn clear_images(&self, labels: &[String]) -> io::Result<()> {
        loop {
            let left = self.engine.images_and_made_of(labels).await?;
            let mut held = None;
            for image in &left {
                if let Err(error) = self.engine.remove_image(image).await {
                    if error.is_away() {
                        return Err(error.into());
                    }
                    held = Some(error);
                }
            }
            let now = self.engine.images_and_made_of(labels).await?;
            match held {
                _ if now.is_empty() => return Ok(()),
                Some(error) if now.len() >= left.len() => return Err(error.into()),
                Some(_) | None => {}
            }
        }
    }

    // The engine selects things by one label only as we ask it; the other one is compared here.
    async fn networks(&self, sandbox: &str) -> Result<Vec<String>, EngineError> {
        let of = format!("{}={sandbox}", label::SANDBOX);
        let found = self.engine.networks("label", &of).await?;
        Ok(self.own(found))
    }

    async fn volumes(&self, sandbox: &str) -> Result<Vec<String>, EngineError> {
        let of = format!("{}={sandbox}", label::SANDBOX);
        let found = self.engine.volumes("label", &of).await?;
        Ok(self.own(found))
    }

    fn own(&self, things: Vec<Thing>) -> Vec<String> {
        let own = things
            .into_iter()
            .filter(|thing| thing.labels.get(label::INSTANCE) == Some(&self.owner.instance));
        own.map(|thing| thing.id).collect()
    }

    /// The states of the containers by their service, with how often they were started again lately.
    pub(super) async fn states(
        &self,
        sandbox: &str,
    ) -> Result<BTreeMap<String, (ContainerState, i64)>, EngineError> {
        let listed = self.engine.containers(&self.labels(sandbox)).await?;
        let seen = join_all(listed.iter().map(|one| self.engine.inspect(&one.id))).await;
        let mut states = BTreeMap::new();
        for (one, seen) in listed.iter().zip(seen) {
            let service = one.labels.get(label::SERVICE).cloned();
            if let (Some(service), Some(seen)) = (service, seen?) {
                let created = seen.created.and_then(|created| created.parse().ok());
                let count = seen.restart_count.unwrap_or(0);
                let of = (sandbox, service.as_str());
                let lately = self.restarts.lock().lately(of, &one.id, created, count);
                states.insert(service, (seen.state.unwrap_or_default(), lately));
            }
        }
        Ok(states)
    }

    /// All that carries the mark of this store, by sandbox.
    pub(super) async fn held(&self) -> io::Result<Vec<Held>> {
        let instance = format!("{}={}", label::INSTANCE, self.owner.instance);
        let mut held: BTreeMap<String, Held> = BTreeMap::new();
        let mut of = |labels: &HashMap<String, String>, count: &dyn Fn(&mut Held)| {
            let sandbox = labels.get(label::SANDBOX).cloned().unwrap_or_default();
            count(held.entry(sandbox.clone()).or_insert(Held {
                sandbox,
                ..Held::default()
            }));
        };
        for one in self
            .engine
            .containers(std::slice::from_ref(&instance))
            .await?
        {
            of(&one.labels, &|held| {
                held.containers += 1;
                held.running += usize::from(one.runs);
            });
        }
        let mut things = self.engine.networks("label", &instance).await?;
        things.extend(self.engine.volumes("label", &instance).await?);
        let marked = std::slice::from_ref(&instance);
        things.extend(self.engine.images(marked).await?);
        for thing in things {
            of(&thing.labels, &|held| held.others += 1);
        }
        Ok(held.into_values().collect())
    }
}
