//! Images that are built for one sandbox, by the engine's own builder: without a network, within limits,
//! and marked so that they, and what a build leaves that came to nothing, go with the sandbox.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bollard::query_parameters::BuildImageOptions;
use tokio::task::spawn_blocking;

use super::{DockerDriver, EngineError, away};
use crate::{
    sandbox::{
        build::{Context, pack},
        container::Build,
        driver::Fault,
        spec::{Plan, Service},
    },
    sandbox_state::Reason,
};

/// Lines of the builder's words that a failure repeats.
const LINES: usize = 12;
/// Characters of one of them.
const LINE: usize = 200;
/// Characters of the engine's own words: it repeats whole commands.
const WORDS: usize = 1000;
/// Bytes of the environment of an image that is built from: what comes of its variables is counted before
/// they are known.
const ENVIRONMENT: usize = 16 << 10;
/// What one processor is in the engine's terms.
const PERIOD: i32 = 100_000;

impl DockerDriver {
    /// Builds every image of the sandbox that is not there yet.
    pub(super) async fn builds(&self, plan: &Plan) -> Result<(), Fault> {
        for service in &plan.services {
            if let (Some(build), Some(image)) = (&service.container.build, &service.image) {
                let there = self.engine.has_image(image).await;
                if !there.map_err(|error| away(&error))? {
                    self.build(plan, service, build, image).await?;
                }
            }
        }
        Ok(())
    }

    async fn build(
        &self,
        plan: &Plan,
        service: &Service,
        build: &Build,
        image: &str,
    ) -> Result<(), Fault> {
        let failed = |text: &str| Fault {
            reason: Reason::BuildFailed,
            detail: format!(
                "service `{}`: its image cannot be built: {text}",
                service.name
            ),
        };
        let short = |text: &str| text.chars().take(WORDS).collect::<String>();
        let repository = match plan.repositories.get(&service.name) {
            Some(Ok(repository)) => repository.clone(),
            Some(Err(why)) => return Err(failed(why)),
            None => return Err(failed("its repository is not known")),
        };
        let given_up = GivenUp::default();
        let packed = spawn_blocking({
            let (build, labels) = (build.clone(), self.labels(&plan.id));
            let (most, stop) = (self.settings.build_context, Arc::clone(&given_up.0));
            let from = self.settings.registries.clone();
            move || pack(&repository, &build, &labels, &from, most, &stop)
        });
        let packed = packed.await.map_err(|error| failed(&error.to_string()))?;
        let Context { archive, images } = packed.map_err(|refused| failed(&short(&refused)))?;
        self.images(&images).await?;
        for base in &images {
            let brought = self.engine.brought(base).await;
            let brought = brought.map_err(|error| away(&error))?;
            let what = if brought.triggers {
                "instructions of its own (ONBUILD), which are not read here"
            } else if brought.environment > ENVIRONMENT {
                "too large an environment"
            } else {
                continue;
            };
            let text = format!("`{base}` brings {what}: begin with another image");
            return Err(failed(&text));
        }
        let mut said = Said::default();
        let options = self.options(plan, service, build, image);
        let patience = self.settings.build_timeout;
        let built = self
            .engine
            .build(options, archive, patience, |words| said.hear(&words))
            .await;
        match built {
            Ok(()) => Ok(()),
            Err(EngineError::Refused { text, .. }) => {
                Err(failed(&format!("{}\n{}", short(&text), said.last())))
            }
            Err(EngineError::Hung { seconds, .. }) => Err(failed(&format!(
                "it did not end within {seconds} s ([sandboxes.docker] build_timeout)\n{}",
                said.last()
            ))),
            Err(error @ EngineError::Away { .. }) => Err(away(&error)),
        }
    }

    fn options(
        &self,
        plan: &Plan,
        service: &Service,
        build: &Build,
        image: &str,
    ) -> BuildImageOptions {
        let container = &service.container;
        let memory = container.memory.unwrap_or(u64::MAX).min(self.limits.memory);
        let memory = i32::try_from(memory).unwrap_or(i32::MAX);
        let labels = self.labels(&plan.id);
        let labels = labels.iter().filter_map(|label| label.split_once('='));
        let args: HashMap<_, _> = build.args.clone().into_iter().collect();
        #[allow(
            clippy::cast_possible_truncation,
            reason = "processors are bounded to 1024 by the settings"
        )]
        let quota = (self.limits.cpus * f64::from(PERIOD)) as i32;
        BuildImageOptions {
            dockerfile: build.dockerfile.clone(),
            t: Some(image.to_owned()),
            // Nothing of another sandbox's build, and nothing for it.
            nocache: true,
            rm: true,
            forcerm: true,
            memory: Some(memory),
            memswap: Some(memory),
            cpuperiod: Some(PERIOD),
            cpuquota: Some(quota),
            buildargs: Some(args),
            labels: Some(
                labels
                    .map(|(key, value)| (key.into(), value.into()))
                    .collect(),
            ),
            networkmode: Some("none".into()),
            target: build.target.clone().unwrap_or_default(),
            ..BuildImageOptions::default()
        }
    }
}

/// Ends the packing of a build that is given up.
#[derive(Debug, Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The builder's last words.
#[derive(Debug, Default)]
struct Said {
    lines: VecDeque<String>,
}

impl Said {
    fn hear(&mut self, words: &str) {
        for line in words.lines().filter(|line| !line.trim().is_empty()) {
            if self.lines.len() == LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(line.chars().take(LINE).collect());
        }
    }

    fn last(&self) -> String {
        self.lines
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }
}
