//! A compose file, from its text to services. What is not on the allow-list is refused with its place;
//! nothing of the file is kept but the typed values that are made here.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    reader::Reader,
    rule::{Finding, Rule},
    service, value,
    yaml::{self, Node, Value},
};
use crate::sandbox::{
    container::Network,
    registry::Registries,
    spec::{MAX_SECRETS, MAX_SERVICES, Service},
};

/// Networks of one file: the engine has addresses for a few dozen, for all sandboxes together.
const MAX_NETWORKS: usize = 4;

/// The services of a stack, in the order of their start, and the credentials that they get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stack {
    /// The services.
    pub services: Vec<Service>,
    /// Names of credentials to generate.
    pub secrets: Vec<String>,
}

/// What a file declares beside services.
#[derive(Debug, Default)]
pub(super) struct Declared {
    pub(super) services: BTreeSet<String>,
    pub(super) volumes: BTreeSet<String>,
    pub(super) networks: BTreeMap<String, bool>,
    pub(super) secrets: BTreeSet<String>,
    /// Whether every service has to name an image.
    pub(super) images: bool,
    /// Where these may come from.
    pub(super) registries: Registries,
}

/// Reads a compose file, where no registry is listed. Every refusal is there, in the order of the file.
pub fn read(text: &str) -> Result<Stack, Vec<Finding>> {
    read_from(text, &Registries::default())
}

/// As [`read`], with images from these registries.
pub fn read_from(text: &str, registries: &Registries) -> Result<Stack, Vec<Finding>> {
    let declared = Declared {
        images: true,
        registries: registries.clone(),
        ..Declared::default()
    };
    read_with(text, declared)
}

/// Reads a template: a service without an image gets one when the template is used.
pub(super) fn read_template(text: &str) -> Result<Stack, Vec<Finding>> {
    read_with(text, Declared::default())
}

fn read_with(text: &str, declared: Declared) -> Result<Stack, Vec<Finding>> {
    let root = yaml::parse(text).map_err(|finding| vec![finding])?;
    let mut reader = Reader::default();
    let stack = stack(&mut reader, &root, declared);
    let mut findings = reader.findings;
    if findings.is_empty() {
        return Ok(stack);
    }
    findings.sort_by_key(|finding| finding.span.start);
    Err(findings)
}

fn stack(reader: &mut Reader, root: &Node, mut declared: Declared) -> Stack {
    let fields = reader.fields(root, "");
    reader.read(fields.get("version"), |node| match node.value {
        Value::Fraction(_) => Ok(String::new()),
        Value::Map(_)
        | Value::List(_)
        | Value::Text(_)
        | Value::Int(_)
        | Value::Bool(_)
        | Value::Null => value::text(node),
    });
    if let Some(node) = fields.get("volumes") {
        declared.volumes = volumes(reader, node);
    }
    if let Some(node) = fields.get("networks") {
        declared.networks = networks(reader, node);
    }
    if let Some(node) = fields.get("secrets") {
        declared.secrets = secrets(reader, node);
    }
    let Some(services) = fields.get("services") else {
        reader.refuse(Rule::Value, &root.span, "`services` is missing");
        return Stack::default();
    };
    let entries = reader.map(services);
    if entries.is_empty() || entries.len() > MAX_SERVICES {
        let message = format!("1 to {MAX_SERVICES} services are expected");
        reader.refuse(Rule::TooLarge, &services.span, message);
    }
    declared.services = entries.iter().map(|entry| entry.key.clone()).collect();
    let mut read = Vec::new();
    for entry in entries {
        if let Err(message) = value::name(&entry.key) {
            reader.refuse(Rule::Value, &entry.span, message);
        }
        let service = service::service(reader, entry, &declared);
        read.push(service);
    }
    let services = ordered(read).unwrap_or_else(|name| {
        let entry = entries.iter().find(|entry| entry.key == name);
        let span = entry.map_or(&services.span, |entry| &entry.span);
        let message = format!("`{name}` depends on itself through `depends_on`: break the circle");
        reader.refuse(Rule::Reference, span, message);
        Vec::new()
    });
    Stack {
        services,
        secrets: declared.secrets.into_iter().collect(),
    }
}

/// The services, every one behind those it depends on; an error names one in a circle.
fn ordered(mut services: Vec<Service>) -> Result<Vec<Service>, String> {
    let mut done: Vec<Service> = Vec::new();
    while !services.is_empty() {
        let free = services.iter().position(|service| {
            let mut after = service.container.after.keys();
            after.all(|name| services.iter().all(|other| other.name != *name))
        });
        match free {
            Some(at) => done.push(services.remove(at)),
            None => return Err(services.swap_remove(0).name),
        }
    }
    Ok(done)
}

fn volumes(reader: &mut Reader, node: &Node) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in reader.map(node) {
        let fields = reader.optional(&entry.value, "volumes.*");
        reader.read(fields.get("driver"), |node| exactly(node, "local"));
        if let Err(message) = value::name(&entry.key) {
            reader.refuse(Rule::Value, &entry.span, message);
        }
        names.insert(entry.key.clone());
    }
    names
}

fn networks(reader: &mut Reader, node: &Node) -> BTreeMap<String, bool> {
    let mut names = BTreeMap::new();
    for (number, entry) in reader.map(node).iter().enumerate() {
        if number == MAX_NETWORKS {
            let message = format!("up to {MAX_NETWORKS} networks are expected");
            reader.refuse(Rule::TooLarge, &entry.span, message);
        }
        let fields = reader.optional(&entry.value, "networks.*");
        if let Some(driver) = fields.get("driver") {
            let bridge = exactly(driver, "bridge");
            reader.take(Rule::Network, driver, bridge);
        }
        let internal = reader.read(fields.get("internal"), value::truth);
        let internal = internal.unwrap_or(false);
        if let Err(message) = value::name(&entry.key) {
            reader.refuse(Rule::Value, &entry.span, message);
        }
        if entry.key == "default" && internal {
            let message = "the default network leads out: name another one, and make that internal";
            reader.refuse(Rule::Network, &entry.span, message);
        }
        names.insert(entry.key.clone(), internal);
    }
    names
}

fn secrets(reader: &mut Reader, node: &Node) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let entries = reader.map(node);
    if entries.len() > MAX_SECRETS {
        let message = format!("up to {MAX_SECRETS} secrets are expected");
        reader.refuse(Rule::TooLarge, &node.span, message);
    }
    for entry in entries {
        if entry.value.value != Value::Null {
            let from = reader.map(&entry.value);
            if let Some(from) = from.iter().find(|from| from.key == "environment") {
                let message = "a secret does not come from an environment: name a `file`, which stands for a random value";
                reader.refuse(Rule::Interpolation, &from.span, message);
                continue;
            }
        }
        let fields = reader.optional(&entry.value, "secrets.*");
        if let Some(file) = fields.get("file") {
            let inside = value::text(file).and_then(|path| {
                let parts = path.strip_prefix("./").unwrap_or(&path).split('/');
                let mut parts = parts.map(|part| part.is_empty() || part == "..");
                let outside = parts.any(|outside| outside) || path.contains(['\\', '~', ':']);
                if outside {
                    return Err("a relative path inside of the repository is expected".to_owned());
                }
                Ok(())
            });
            reader.take(Rule::HostPath, file, inside);
        }
        if value::name(&entry.key).is_err() || entry.key.contains('-') {
            let message = "a secret's name is 1 to 40 lower-case letters, digits and `_`, beginning with a letter";
            reader.refuse(Rule::Value, &entry.span, message);
        }
        names.insert(entry.key.clone());
    }
    names
}

/// Exactly this text.
pub(super) fn exactly(node: &Node, text: &str) -> Result<(), String> {
    match &node.value {
        Value::Text(found) if found == text => Ok(()),
        Value::Text(_)
        | Value::Map(_)
        | Value::List(_)
        | Value::Int(_)
        | Value::Fraction(_)
        | Value::Bool(_)
        | Value::Null => Err(format!("only `{text}` is allowed here")),
    }
}

impl Declared {
    pub(super) fn network(&self, name: &str) -> Option<Network> {
        let internal = self.networks.get(name).copied();
        let internal = internal.or((name == "default").then_some(false))?;
        Some(Network {
            name: name.to_owned(),
            internal,
        })
    }
}
