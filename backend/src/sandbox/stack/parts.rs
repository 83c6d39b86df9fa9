//! What a stack says of a container, as the compose command takes it.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Limits, text};
use crate::sandbox::container::{Check, Condition, Container};

/// The key of a volume that services share: none of those that belong to one service.
pub(super) fn volume(name: &str) -> String {
    format!("stack.{name}")
}

/// The key of a network.
pub(super) fn network(name: &str) -> String {
    if name == "default" {
        return name.to_owned();
    }
    format!("stack.{name}")
}

/// Adds it to a rendered service; limits are lowered, never raised.
pub(super) fn add(made: &mut Value, container: &Container, limits: &Limits) {
    let memory = container.memory.unwrap_or(u64::MAX).min(limits.memory);
    made["mem_limit"] = json!(format!("{memory}b"));
    // Of memory and swap together: by itself the engine gives as much swap again.
    made["memswap_limit"] = made["mem_limit"].clone();
    made["cpus"] = json!(limits.cpus);
    if let Some(millicpus) = container.millicpus.and_then(|n| u32::try_from(n).ok()) {
        made["cpus"] = json!(limits.cpus.min(f64::from(millicpus) / 1000.0));
    }
    let processes = container.processes.unwrap_or(i64::MAX);
    made["pids_limit"] = json!(processes.min(limits.processes));
    made["ulimits"] = json!({ "nofile": { "soft": limits.open_files, "hard": limits.open_files } });
    if !container.entrypoint.is_empty() {
        let words = container.entrypoint.iter().map(|word| text(word));
        made["entrypoint"] = words.collect();
    }
    if let Some(dir) = &container.working_dir {
        made["working_dir"] = json!(text(dir));
    }
    if container.read_only {
        made["read_only"] = json!(true);
    }
    if container.init {
        made["init"] = json!(true);
    }
    if !container.tmpfs.is_empty() {
        made["tmpfs"] = json!(container.tmpfs);
    }
    if !container.after.is_empty() {
        let after = container.after.iter().map(|(name, condition)| {
            let condition = match condition {
                Condition::Started => "service_started",
                Condition::Healthy => "service_healthy",
            };
            (name.clone(), json!({ "condition": condition }))
        });
        made["depends_on"] = after.collect::<Map<_, _>>().into();
    }
    if !container.networks.is_empty() {
        let networks = container.networks.iter();
        made["networks"] = networks.map(|found| network(&found.name)).collect();
    }
    if let Some(check) = &container.check {
        made["healthcheck"] = healthcheck(check);
    }
}

fn healthcheck(check: &Check) -> Value {
    let words = check.test.iter().map(|word| text(word));
    let mut made = json!({ "test": words.collect::<Vec<_>>() });
    let mut time = |key: &str, time: Option<Duration>| {
        if let Some(time) = time {
            made[key] = json!(format!("{}ms", time.as_millis()));
        }
    };
    time("interval", check.interval);
    time("timeout", check.timeout);
    time("start_period", check.start_period);
    if let Some(retries) = check.retries {
        made["retries"] = json!(retries);
    }
    made
}
