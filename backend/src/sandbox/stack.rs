//! Stacks as the compose command takes them: typed values in, one file of JSON (which is YAML) out.
//!
//! Nothing of what somebody wrote reaches the compose command as text: every value is a string of
//! the JSON, with `$` doubled, so that nothing is interpolated. What holds for every service is
//! added here and cannot be switched off: ports on 127.0.0.1 only, no capabilities, no new
//! privileges, limits, labels that say whose it is.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use serde_json::{Map, json};

use super::spec::{Plan, Service, variable};

mod build;
pub mod compose;
mod mount;
mod parts;
mod reader;
pub mod repository;
pub mod rule;
mod service;
pub mod table;
pub mod template;
mod value;
mod yaml;

/// Labels of everything that belongs to a sandbox.
pub mod label {
    /// The store whose sandbox it is.
    pub const INSTANCE: &str = "io.orket.instance";
    /// The sandbox.
    pub const SANDBOX: &str = "io.orket.sandbox";
    /// The boot that made it.
    pub const EPOCH: &str = "io.orket.epoch";
    /// The service, on containers.
    pub const SERVICE: &str = "io.orket.service";
}

/// Where a service finds its credentials: the place that compose gives to secrets.
pub const CREDENTIALS: &str = "/run/secrets";

/// Restarts in ten minutes after which a service is given up. The engine itself would count over its whole life.
pub const RESTARTS: i64 = 5;

/// Whose the containers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The id of the store.
    pub instance: String,
    /// The boot of the backend.
    pub epoch: i64,
}

/// What one container may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: u64,
    /// Processors.
    pub cpus: f64,
    /// Processes and threads.
    pub processes: i64,
    /// Files that one process may have open.
    pub open_files: u64,
    /// Bytes of output that are kept.
    pub output: u64,
}

/// A stack that is ready for the compose command.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// The compose file.
    pub compose: String,
    /// Its services, in the order of their start.
    pub services: Vec<String>,
    /// What is published on 127.0.0.1.
    pub published: Vec<Published>,
    /// The files that have to lie there before it is started.
    pub secrets: Vec<SecretFile>,
    /// The images that have to be present.
    pub images: Vec<String>,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Whose.
    pub service: String,
    /// The port in the container.
    pub container_port: u16,
    /// The port on 127.0.0.1.
    pub port: u16,
}

/// A credential of one service. Every service has a file of its own, since it has to belong to the
/// user that reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// The service that reads it.
    pub service: String,
    /// The credential.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The user and group it belongs to; whoever the image runs as when absent.
    pub owner: Option<(u32, u32)>,
}

/// The name of a sandbox's project: what the compose command names everything after.
pub fn project(sandbox: &str) -> String {
    let own = sandbox.strip_prefix("sbx_").unwrap_or(sandbox);
    format!("orket-{}", own.to_ascii_lowercase())
}

/// Gives the images that are built for this sandbox their names: nobody else uses them.
pub fn name_builds(sandbox: &str, services: &mut [Service]) {
    for (number, service) in services.iter_mut().enumerate() {
        if service.container.build.is_some() {
            service.image = Some(format!("{}-{number}:built", project(sandbox)));
        }
    }
}

/// Renders the services of a plan, all of which have an image.
pub fn render(plan: &Plan, owner: &Owner, limits: &Limits) -> Rendered {
    let labels = json!({
        label::INSTANCE: owner.instance,
        label::SANDBOX: plan.id,
        label::EPOCH: owner.epoch.to_string(),
    });
    let mut rendered = Rendered {
        compose: String::new(),
        services: Vec::new(),
        published: Vec::new(),
        secrets: Vec::new(),
        images: Vec::new(),
    };
    let (mut services, mut secrets) = (Map::new(), Map::new());
    let mut volumes = Map::new();
    let mut networks = Map::new();
    networks.insert("default".into(), json!({ "labels": labels }));
    for service in &plan.services {
        let image = service.image.clone().unwrap_or_default();
        let mut mounts = Vec::new();
        for (number, target) in service.volumes.iter().enumerate() {
            let volume = format!("{}-{number}", service.name);
            mounts.push(json!({ "type": "volume", "source": volume, "target": text(target) }));
            volumes.insert(volume, json!({ "labels": labels }));
        }
        for mount in &service.container.mounts {
            let volume = parts::volume(&mount.volume);
            let (target, fixed) = (text(&mount.target), mount.read_only);
            mounts.push(
                json!({ "type": "volume", "source": volume, "target": target, "read_only": fixed }),
            );
            volumes.insert(volume, json!({ "labels": labels }));
        }
        for network in &service.container.networks {
            let made = json!({ "labels": labels, "internal": network.internal });
            networks.insert(parts::network(&network.name), made);
        }
        let mut granted = Vec::new();
        for secret in granted_to(plan, service) {
            let file = secret_file(plan, service, secret);
            let key = format!("{}-{secret}", service.name);
            granted.push(json!({ "source": key, "target": secret }));
            secrets.insert(key, json!({ "file": text(&file.path.to_string_lossy()) }));
            rendered.secrets.push(file);
        }
        let mut labels = labels.clone();
        labels[label::SERVICE] = json!(service.name);
        let mut made = json!({
            "image": text(&image),
            "environment": environment(plan, service),
            "labels": labels,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "restart": if service.restart { "on-failure" } else { "no" },
            "logging": {
                "driver": "json-file",
                "options": {
                    "max-size": format!("{}", (limits.output / 2).max(1)),
                    "max-file": "2",
                },
            },
            "volumes": mounts,
            "secrets": granted,
        });
        parts::add(&mut made, &service.container, limits);
        if !service.command.is_empty() {
            let command = service.command.iter().map(|word| text(word));
            made["command"] = json!(command.collect::<Vec<_>>());
        }
        if let Some(user) = &service.user {
            made["user"] = json!(user);
        }
        if let Some(port) = service.port {
            let container_port = service.container_port.unwrap_or(port);
            made["ports"] = json!([format!("127.0.0.1:{port}:{container_port}")]);
            rendered.published.push(Published {
                service: service.name.clone(),
                container_port,
                port,
            });
        }
        services.insert(service.name.clone(), made);
        rendered.services.push(service.name.clone());
        rendered.images.push(image);
    }
    rendered.images.sort_unstable();
    rendered.images.dedup();
    let file = json!({
        "services": services,
        "volumes": volumes,
        "secrets": secrets,
        "networks": networks,
    });
    rendered.compose = seen(&file.to_string());
    rendered
}

/// The same JSON without characters that readers of YAML refuse as they are, or take for ends of lines:
/// the blanks around those would be lost. All that is not ASCII stands within strings.
fn seen(json: &str) -> String {
    let mut seen = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                let _ = write!(seen, "\\u{:04x}", u32::from(c));
            }
            c => seen.push(c),
        }
    }
    seen
}

/// Text that nothing is interpolated in.
fn text(value: &str) -> String {
    value.replace('$', "$$")
}

/// The credentials that a service gets.
fn granted_to<'p>(plan: &'p Plan, service: &'p Service) -> impl Iterator<Item = &'p String> {
    let chosen = service.container.secrets.as_ref();
    let granted = move |name: &&String| chosen.is_none_or(|names| names.contains(name));
    plan.secrets.iter().filter(granted)
}

fn secret_file(plan: &Plan, service: &Service, secret: &str) -> SecretFile {
    let owner = service.user.as_deref().and_then(user_in_figures);
    SecretFile {
        service: service.name.clone(),
        name: secret.to_owned(),
        path: super::credentials::dir(&plan.dir).join(format!("{}.{secret}", service.name)),
        owner,
    }
}

/// User and group of `uid[:gid]`. Where the group is missing or a name, it is called as the user: a credential
/// is open to its user only.
fn user_in_figures(user: &str) -> Option<(u32, u32)> {
    let (uid, gid) = user.split_once(':').unwrap_or((user, user));
    // The last number means nobody.
    let figure = |text: &str| text.parse().ok().filter(|figure| *figure != u32::MAX);
    let uid = figure(uid)?;
    Some((uid, figure(gid).unwrap_or(uid)))
}

fn environment(plan: &Plan, service: &Service) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = service
        .env
        .iter()
        .map(|(name, value)| (name.clone(), text(value)))
        .collect();
    let mut set = |name: String, value: String| drop(env.insert(name, value));
    set("ORKET_SANDBOX_ID".into(), plan.id.clone());
    set("ORKET_CREDENTIALS_DIR".into(), CREDENTIALS.into());
    for secret in granted_to(plan, service) {
        let path = format!("{CREDENTIALS}/{secret}");
        set(format!("{}_FILE", variable(secret)), path);
    }
    for other in &plan.services {
        if let Some(port) = other.container_port.or(other.port) {
            let name = variable(&other.name);
            set(format!("ORKET_HOST_{name}"), other.name.clone());
            set(format!("ORKET_PORT_{name}"), port.to_string());
        }
    }
    if let Some(port) = service.container_port.or(service.port) {
        env.entry("HOST".into()).or_insert_with(|| "0.0.0.0".into());
        env.entry("PORT".into()).or_insert_with(|| port.to_string());
    }
    env
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use serde_json::Value;

    use super::*;
    use crate::sandbox::spec::{Health, Service};

    fn plan() -> Plan {
        let service = Service {
            name: "db".into(),
            image: Some("postgres:16.4".into()),
            command: vec!["run".into(), "$HOME ${X:-y}".into()],
            port: Some(5433),
            container_port: Some(5432),
            env: BTreeMap::from([("A".into(), "${SOME_KEY}".into())]),
            volumes: vec!["/var/lib/data".into()],
            user: Some("70:71".into()),
            health: Health::Tcp(true),
            ..Service::default()
        };
        Plan {
            id: "sbx_01ABC".into(),
            services: vec![service],
            workdirs: vec![],
            repositories: BTreeMap::new(),
            secrets: vec!["password".into()],
            dir: "/box".into(),
        }
    }

    fn rendered() -> (Rendered, Value) {
        let owner = Owner {
            instance: "I1".into(),
            epoch: 3,
        };
        let limits = Limits {
            memory: 1 << 20,
            cpus: 0.5,
            processes: 9,
            open_files: 99,
            output: 1000,
        };
        let rendered = render(&plan(), &owner, &limits);
        let file = serde_json::from_str(&rendered.compose).unwrap();
        (rendered, file)
    }

    #[test]
    fn what_holds_for_every_service_is_in_the_file() {
        let (rendered, file) = rendered();
        let db = &file["services"]["db"];
        assert_eq!(db["ports"], json!(["127.0.0.1:5433:5432"]));
        assert_eq!(db["cap_drop"], json!(["ALL"]));
        assert_eq!(db["security_opt"], json!(["no-new-privileges:true"]));
        assert_eq!(
            (&db["mem_limit"], &db["pids_limit"]),
            (&json!("1048576b"), &json!(9))
        );
        assert_eq!(db["memswap_limit"], db["mem_limit"], "no swap beside it");
        let files = json!({ "nofile": { "soft": 99, "hard": 99 } });
        assert_eq!(db["ulimits"], files);
        assert_eq!(db["restart"], "no");
        assert_eq!(db["labels"][label::SERVICE], "db");
        for labels in [
            &db["labels"],
            &file["volumes"]["db-0"]["labels"],
            &file["networks"]["default"]["labels"],
        ] {
            assert_eq!(labels[label::INSTANCE], "I1");
            assert_eq!(labels[label::SANDBOX], "sbx_01ABC");
            assert_eq!(labels[label::EPOCH], "3");
        }
        assert_eq!(project("sbx_01ABC"), "orket-01abc");
        assert_eq!(rendered.images, ["postgres:16.4"]);
        assert_eq!(rendered.secrets[0].owner, Some((70, 71)));
    }

    #[test]
    fn nothing_is_interpolated_and_no_credential_is_in_it() {
        let (_, file) = rendered();
        let db = &file["services"]["db"];
        assert_eq!(db["command"], json!(["run", "$$HOME $${X:-y}"]));
        assert_eq!(db["environment"]["A"], "$${SOME_KEY}");
        assert_eq!(db["environment"]["PASSWORD_FILE"], "/run/secrets/password");
        assert_eq!(
            file["secrets"]["db-password"]["file"],
            "/box/credentials/db.password"
        );
    }
}
