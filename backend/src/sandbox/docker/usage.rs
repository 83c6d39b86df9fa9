//! What containers use, as the engine counts it.

use std::time::Duration;

use bollard::models::ContainerStatsResponse;
use futures_util::future::join_all;

use super::{
    super::{driver::Usage, stack::label},
    DockerDriver,
    engine::EngineError,
};

impl DockerDriver {
    /// What the services of a sandbox use that run.
    pub(super) async fn used(&self, sandbox: &str) -> Result<Vec<Usage>, EngineError> {
        let listed = self.engine.containers(&self.labels(sandbox)).await?;
        let running: Vec<_> = listed.iter().filter(|one| one.runs).collect();
        let asked = running.iter().map(|one| self.engine.stats(&one.id));
        let mut used = Vec::new();
        for (one, stats) in running.iter().zip(join_all(asked).await) {
            if let (Some(service), Some(stats)) = (one.labels.get(label::SERVICE), stats?) {
                used.push(usage(service, stats));
            }
        }
        used.sort_by(|a, b| a.service.cmp(&b.service));
        Ok(used)
    }
}

fn usage(service: &str, stats: ContainerStatsResponse) -> Usage {
    let cpu = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage);
    let memory = stats.memory_stats.unwrap_or_default();
    // What the engine's own command subtracts: files that were not used lately, by either version of
    // control groups.
    let files = memory.stats.and_then(|stats| {
        let found = stats
            .get("total_inactive_file")
            .or(stats.get("inactive_file"));
        found.copied()
    });
    Usage {
        service: service.to_owned(),
        cpu: Duration::from_nanos(cpu.unwrap_or(0)),
        memory: memory.usage.unwrap_or(0).saturating_sub(files.unwrap_or(0)),
        memory_limit: memory.limit.unwrap_or(0),
        processes: stats.pids_stats.and_then(|pids| pids.current).unwrap_or(0),
    }
}
