//! Volumes and folders in memory of a service: never anything of the host.

use super::{
    compose::Declared,
    reader::{Fields, Reader},
    rule::Rule,
    value,
    yaml::{Node, Value},
};
use crate::sandbox::container::{Container, Mount};

/// Mounts of one service, of all kinds together.
const MAX: usize = 16;

/// Reads `volumes` and `tmpfs` into a container; gives the places of volumes without a name.
pub(super) fn mounts(
    reader: &mut Reader,
    fields: &Fields<'_>,
    declared: &Declared,
    container: &mut Container,
) -> Vec<String> {
    let mut unnamed = Vec::new();
    let mut targets: Vec<String> = Vec::new();
    if let Some(node) = fields.get("volumes") {
        for item in reader.list(node) {
            let read = match item.value {
                Value::Map(_) => long(reader, item, declared),
                Value::List(_)
                | Value::Text(_)
                | Value::Int(_)
                | Value::Fraction(_)
                | Value::Bool(_)
                | Value::Null => short(reader, item, declared),
            };
            let Some(found) = read else { continue };
            targets.push(found.target().to_owned());
            distinct(reader, item, &targets);
            match found {
                Found::Named(mount) => container.mounts.push(mount),
                Found::Unnamed(target) => unnamed.push(target),
                Found::Memory(target) => container.tmpfs.push(target),
            }
        }
    }
    if let Some(node) = fields.get("tmpfs") {
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            Value::Text(_)
            | Value::Map(_)
            | Value::Int(_)
            | Value::Fraction(_)
            | Value::Bool(_)
            | Value::Null => std::slice::from_ref(node),
        };
        for item in items {
            let read = value::text(item).and_then(|text| value::place(&text));
            if let Some(target) = reader.take(Rule::Value, item, read) {
                targets.push(target.clone());
                distinct(reader, item, &targets);
                container.tmpfs.push(target);
            }
        }
    }
    unnamed
}

enum Found {
    Named(Mount),
    Unnamed(String),
    Memory(String),
}

impl Found {
    fn target(&self) -> &str {
        match self {
            Self::Named(mount) => &mount.target,
            Self::Unnamed(target) | Self::Memory(target) => target,
        }
    }
}

fn distinct(reader: &mut Reader, item: &Node, targets: &[String]) {
    if targets.len() > MAX {
        let message = format!("up to {MAX} mounts of a service are expected");
        reader.refuse(Rule::TooLarge, &item.span, message);
    }
    if let Some((last, before)) = targets.split_last()
        && before.contains(last)
    {
        let message = format!("something is mounted at `{last}` already");
        reader.refuse(Rule::DuplicateKey, &item.span, message);
    }
}

/// A volume of the file. Whatever else stands for a source is a path of the host.
fn source(reader: &mut Reader, node: &Node, name: &str, declared: &Declared) -> Option<String> {
    let named = value::name(name).map_err(|_| {
        format!("`{name}` is a path of the host, and nothing of the host is mounted: declare a volume under `volumes`, or put the files into the image")
    });
    let name = reader.take(Rule::HostPath, node, named)?;
    if !declared.volumes.contains(&name) {
        let message =
            format!("there is no volume `{name}` in the file: declare it under `volumes`");
        reader.refuse(Rule::Reference, &node.span, message);
        return None;
    }
    Some(name)
}

fn short(reader: &mut Reader, item: &Node, declared: &Declared) -> Option<Found> {
    let text = reader.take(Rule::Value, item, value::text(item))?;
    let parts: Vec<_> = text.split(':').collect();
    let (name, target, mode) = match parts.as_slice() {
        [target] => {
            let target = reader.take(Rule::HostPath, item, value::place(target))?;
            return Some(Found::Unnamed(target));
        }
        [name, target] => (name, target, "rw"),
        [name, target, mode] => (name, target, *mode),
        _ => {
            let message = "a volume is `name:/path`, `name:/path:ro` or `/path`";
            reader.refuse(Rule::HostPath, &item.span, message);
            return None;
        }
    };
    let volume = source(reader, item, name, declared)?;
    let target = reader.take(Rule::HostPath, item, value::place(target))?;
    let read_only = match mode {
        "rw" => false,
        "ro" => true,
        _ => {
            let message = "a volume is mounted `ro` or `rw`, without other options";
            reader.refuse(Rule::HostPath, &item.span, message);
            return None;
        }
    };
    Some(Found::Named(Mount {
        volume,
        target,
        read_only,
    }))
}

fn long(reader: &mut Reader, item: &Node, declared: &Declared) -> Option<Found> {
    let fields = reader.fields(item, "services.*.volumes");
    let target = fields.get("target").or_else(|| {
        reader.refuse(Rule::Value, &item.span, "`target` is missing");
        None
    });
    let target = reader.read(target, |node| value::place(&value::text(node)?))?;
    let read_only = reader.read(fields.get("read_only"), value::truth);
    let kind = fields.get("type").or_else(|| {
        reader.refuse(Rule::Value, &item.span, "`type` is missing");
        None
    })?;
    let from = fields.get("source");
    match (&kind.value, from) {
        (Value::Text(kind), None) if kind == "tmpfs" => Some(Found::Memory(target)),
        (Value::Text(kind), None) if kind == "volume" => Some(Found::Unnamed(target)),
        (Value::Text(kind), Some(from)) if kind == "volume" => {
            let name = reader.take(Rule::HostPath, from, value::text(from))?;
            Some(Found::Named(Mount {
                volume: source(reader, from, &name, declared)?,
                target,
                read_only: read_only.unwrap_or(false),
            }))
        }
        _ => {
            let message = "only volumes of the file, and `tmpfs` without a source, are mounted";
            reader.refuse(Rule::HostPath, &kind.span, message);
            None
        }
    }
}
