//! One service of a compose file.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use super::{
    build,
    compose::{Declared, exactly},
    mount,
    reader::{Fields, Reader},
    rule::Rule,
    value,
    yaml::{Entry, Node, Value},
};
use crate::sandbox::{
    container::{Check, Condition, Container, Network},
    ports::Role,
    spec::Service,
    value::{MAX_ID, is_user},
};

const AT: &str = "services.*";

pub(super) fn service(reader: &mut Reader, entry: &Entry, declared: &Declared) -> Service {
    let fields = reader.fields(&entry.value, AT);
    let container_port = fields.get("ports").and_then(|node| port(reader, node));
    let mut container = Container {
        entrypoint: reader
            .read(fields.get("entrypoint"), value::words)
            .unwrap_or_default(),
        working_dir: reader.read(fields.get("working_dir"), |node| {
            value::place(&value::text(node)?)
        }),
        read_only: truth(reader, &fields, "read_only"),
        init: truth(reader, &fields, "init"),
        memory: reader.read(fields.get("mem_limit"), value::size),
        millicpus: reader.read(fields.get("cpus"), value::processors),
        processes: reader.read(fields.get("pids_limit"), |n| value::whole(n, 1, 1 << 20)),
        ..Container::default()
    };
    if let Some(node) = fields.get("build") {
        container.build = build::build(reader, node, fields.get("image").is_some());
    }
    if let Some(node) = fields.get("deploy") {
        deploy(reader, node, &mut container);
    }
    if let Some(node) = fields.get("depends_on") {
        container.after = depends_on(reader, node, declared);
    }
    if let Some(node) = fields.get("healthcheck") {
        container.check = healthcheck(reader, node);
    }
    if let Some(node) = fields.get("networks") {
        container.networks = networks(reader, node, declared);
    }
    container.secrets = Some(match fields.get("secrets") {
        Some(node) => secrets(reader, node, declared),
        None => Vec::new(),
    });
    let volumes = mount::mounts(reader, &fields, declared, &mut container);
    without_effect(reader, &fields);
    let inside = |networks: &[Network]| {
        !networks.is_empty() && networks.iter().all(|network| network.internal)
    };
    if container_port.is_some() && inside(&container.networks) {
        let message = format!(
            "`{}` is in internal networks only, where ports are not published: add `default` to its networks, or take `ports` away",
            entry.key
        );
        reader.refuse(Rule::Port, &entry.span, message);
    }
    Service {
        name: entry.key.clone(),
        image: image(reader, &fields, &entry.span, declared),
        command: reader
            .read(fields.get("command"), value::words)
            .unwrap_or_default(),
        role: container_port.map(role),
        container_port,
        volumes,
        user: user(reader, &fields),
        restart: restart(reader, &fields),
        env: fields
            .get("environment")
            .map(|node| variables(reader, node))
            .unwrap_or_default(),
        health: Service::default_health(container_port.is_some()),
        container,
        ..Service::default()
    }
}

/// What a service is to its users, as far as its port tells.
fn role(port: u16) -> Role {
    match port {
        1433 | 3306 | 5432 => Role::Database,
        27017 => Role::DocumentDatabase,
        80 | 3000 | 4200 | 5173 => Role::Frontend,
        _ => Role::Api,
    }
}

fn truth(reader: &mut Reader, fields: &Fields<'_>, key: &str) -> bool {
    let truth = reader.read(fields.get(key), value::truth);
    truth.unwrap_or(false)
}

fn image(
    reader: &mut Reader,
    fields: &Fields<'_>,
    span: &Range<usize>,
    declared: &Declared,
) -> Option<String> {
    let Some(node) = fields.get("image") else {
        if declared.images && fields.get("build").is_none() {
            reader.refuse(Rule::Image, span, "`image` is missing: name one");
        }
        return None;
    };
    let image = value::text(node).and_then(|image| {
        let fault = declared.registries.image_fault(&image);
        fault.map_or(Ok(image), |fault| Err(format!("`image` {fault}")))
    });
    reader.take(Rule::Image, node, image)
}

fn user(reader: &mut Reader, fields: &Fields<'_>) -> Option<String> {
    reader.read(fields.get("user"), |node| {
        let user = value::text(node)?;
        is_user(&user).then_some(user).ok_or_else(|| {
            format!("figures up to {MAX_ID} are expected: `\"uid\"` or `\"uid:gid\"`")
        })
    })
}

fn restart(reader: &mut Reader, fields: &Fields<'_>) -> bool {
    let restart = reader.read(fields.get("restart"), |node| {
        let text = value::text(node)?;
        match text.as_str() {
            "no" => Ok(false),
            "on-failure" | "always" | "unless-stopped" => Ok(true),
            _ => match text.strip_prefix("on-failure:").map(str::parse::<u16>) {
                Some(Ok(_)) => Ok(true),
                _ => Err(
                    "`\"no\"`, `on-failure`, `always` or `unless-stopped` is expected".to_owned(),
                ),
            },
        }
    });
    restart.unwrap_or(false)
}

/// Names with their values: a map, or a list of `NAME=value`.
pub(super) fn variables(reader: &mut Reader, node: &Node) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let open = "the value would come from somebody else's environment: give it here";
    let mut set = |reader: &mut Reader, span: &Range<usize>, name: &str, value: String| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let named = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(plain);
        if !named {
            let message = "a variable's name is letters, digits and `_`";
            reader.refuse(Rule::Value, span, message);
        } else if env.insert(name.to_owned(), value).is_some() {
            let message = format!("`{name}` is given twice: keep one");
            reader.refuse(Rule::DuplicateKey, span, message);
        }
    };
    if let Value::List(items) = &node.value {
        for item in items {
            let Some(text) = reader.take(Rule::Value, item, value::text(item)) else {
                continue;
            };
            match text.split_once('=') {
                Some((name, value)) => set(reader, &item.span, name, value.to_owned()),
                None => reader.refuse(Rule::Interpolation, &item.span, open),
            }
        }
        return env;
    }
    for entry in reader.map(node) {
        if entry.value.value == Value::Null {
            reader.refuse(Rule::Interpolation, &entry.span, open);
        } else if let Some(value) =
            reader.take(Rule::Value, &entry.value, value::text(&entry.value))
        {
            set(reader, &entry.span, &entry.key, value);
        }
    }
    env
}

/// The port in the container of the one port that is published.
fn port(reader: &mut Reader, node: &Node) -> Option<u16> {
    let items = reader.list(node);
    if items.len() > 1 {
        let message = "one port of a service is published: keep that, services reach the others among themselves";
        reader.refuse(Rule::Port, &items[1].span, message);
    }
    let item = items.first()?;
    if matches!(item.value, Value::Map(_)) {
        let fields = reader.fields(item, "services.*.ports");
        for (key, only) in [
            ("protocol", "tcp"),
            ("mode", "ingress"),
            ("host_ip", "127.0.0.1"),
        ] {
            if let Some(node) = fields.get(key) {
                reader.take(Rule::Port, node, exactly(node, only));
            }
        }
        let mut number = |key| {
            let node: &Node = fields.get(key)?;
            let read = value::text(node).and_then(|text| value::port(&text));
            reader.take(Rule::Port, node, read)
        };
        number("published");
        let target = number("target");
        if fields.get("target").is_none() {
            reader.refuse(Rule::Port, &item.span, "`target` is missing");
        }
        return target;
    }
    let read = value::text(item).and_then(|text| {
        let text = text.strip_suffix("/tcp").unwrap_or(&text);
        let parts: Vec<_> = text.split(':').collect();
        match parts.as_slice() {
            [port] => value::port(port),
            [published, port] | ["127.0.0.1", published, port] => {
                if !published.is_empty() {
                    value::port(published)?;
                }
                value::port(port)
            }
            _ => Err(
                "a port is expected: `\"80\"` or `\"8080:80\"`; it is published on 127.0.0.1 only"
                    .to_owned(),
            ),
        }
    });
    reader.take(Rule::Port, item, read)
}

fn depends_on(
    reader: &mut Reader,
    node: &Node,
    declared: &Declared,
) -> BTreeMap<String, Condition> {
    let mut after = BTreeMap::new();
    let known = |reader: &mut Reader, span: &Range<usize>, name: &str| {
        if !declared.services.contains(name) {
            let message = format!("there is no service `{name}` in the file");
            reader.refuse(Rule::Reference, span, message);
        }
    };
    if let Value::List(items) = &node.value {
        for item in items {
            if let Some(name) = reader.take(Rule::Value, item, value::text(item)) {
                known(reader, &item.span, &name);
                after.insert(name, Condition::Started);
            }
        }
        return after;
    }
    for entry in reader.map(node) {
        known(reader, &entry.span, &entry.key);
        let fields = reader.fields(&entry.value, "services.*.depends_on.*");
        let condition = reader.read(fields.get("condition"), |node| {
            match value::text(node)?.as_str() {
                "service_started" => Ok(Condition::Started),
                "service_healthy" => Ok(Condition::Healthy),
                _ => Err("`service_started` or `service_healthy` is expected: services of a sandbox go on".to_owned()),
            }
        });
        after.insert(entry.key.clone(), condition.unwrap_or(Condition::Started));
    }
    after
}

fn networks(reader: &mut Reader, node: &Node, declared: &Declared) -> Vec<Network> {
    let mut networks: Vec<Network> = Vec::new();
    let mut join = |reader: &mut Reader, span: &Range<usize>, name: &str| match declared
        .network(name)
    {
        Some(network) if !networks.contains(&network) => networks.push(network),
        Some(_) => reader.refuse(Rule::DuplicateKey, span, "this network is named twice"),
        None => {
            let message =
                format!("there is no network `{name}` in the file: declare it under `networks`");
            reader.refuse(Rule::Reference, span, message);
        }
    };
    if let Value::List(items) = &node.value {
        for item in items {
            if let Some(name) = reader.take(Rule::Value, item, value::text(item)) {
                join(reader, &item.span, &name);
            }
        }
    } else {
        for entry in reader.map(node) {
            reader.optional(&entry.value, "services.*.networks.*");
            join(reader, &entry.span, &entry.key);
        }
    }
    networks
}

fn secrets(reader: &mut Reader, node: &Node, declared: &Declared) -> Vec<String> {
    let mut names = Vec::new();
    for item in reader.list(node) {
        let Some(name) = reader.take(Rule::Value, item, value::text(item)) else {
            continue;
        };
        if !declared.secrets.contains(&name) {
            let message =
                format!("there is no secret `{name}` in the file: declare it under `secrets`");
            reader.refuse(Rule::Reference, &item.span, message);
        } else if names.contains(&name) {
            reader.refuse(Rule::DuplicateKey, &item.span, "this secret is named twice");
        } else {
            names.push(name);
        }
    }
    names
}

fn healthcheck(reader: &mut Reader, node: &Node) -> Option<Check> {
    let at = "services.*.healthcheck";
    let fields = reader.fields(node, at);
    let second = Duration::from_secs(1);
    let interval = reader.read(fields.get("interval"), |n| value::duration(n, second));
    let timeout = reader.read(fields.get("timeout"), |n| value::duration(n, second));
    let start = reader.read(fields.get("start_period"), |n| {
        value::duration(n, Duration::ZERO)
    });
    let retries = reader.read(fields.get("retries"), |n| value::whole(n, 1, 100));
    let Some(test) = fields.get("test") else {
        reader.refuse(Rule::Value, &node.span, "`test` is missing");
        return None;
    };
    let words = match &test.value {
        Value::Text(script) if !script.is_empty() => Ok(vec!["CMD-SHELL".into(), script.clone()]),
        Value::List(_) => value::words(test).and_then(|words| match words[0].as_str() {
            "CMD" if words.len() > 1 => Ok(words),
            "CMD-SHELL" if words.len() == 2 => Ok(words),
            _ => Err("a list begins with `CMD`, or is `CMD-SHELL` and one script".to_owned()),
        }),
        Value::Text(_)
        | Value::Map(_)
        | Value::Int(_)
        | Value::Fraction(_)
        | Value::Bool(_)
        | Value::Null => Err("text or a list is expected".to_owned()),
    };
    Some(Check {
        test: reader.take(Rule::Value, test, words)?,
        interval,
        timeout,
        start_period: start,
        retries: retries.and_then(|retries| u32::try_from(retries).ok()),
    })
}

fn deploy(reader: &mut Reader, node: &Node, container: &mut Container) {
    let deploy = reader.fields(node, "services.*.deploy");
    let Some(node) = deploy.get("resources") else {
        return;
    };
    let resources = reader.fields(node, "services.*.deploy.resources");
    let Some(node) = resources.get("limits") else {
        return;
    };
    let limits = reader.fields(node, "services.*.deploy.resources.limits");
    let memory = reader.read(limits.get("memory"), value::size);
    let cpus = reader.read(limits.get("cpus"), value::processors);
    let processes = reader.read(limits.get("pids"), |n| value::whole(n, 1, 1 << 20));
    container.memory = container.memory.into_iter().chain(memory).min();
    container.millicpus = container.millicpus.into_iter().chain(cpus).min();
    container.processes = container.processes.into_iter().chain(processes).min();
}

/// What may be said because it holds anyway.
fn without_effect(reader: &mut Reader, fields: &Fields<'_>) {
    if let Some(node) = fields.get("expose") {
        for item in reader.list(node) {
            let read = value::text(item).and_then(|text| value::port(&text));
            reader.take(Rule::Port, item, read);
        }
    }
    if let Some(node) = fields.get("cap_drop") {
        for item in reader.list(node) {
            reader.take(Rule::Privilege, item, value::text(item));
        }
    }
    if let Some(node) = fields.get("security_opt") {
        for item in reader.list(node) {
            let read = exactly(item, "no-new-privileges:true");
            reader.take(Rule::Privilege, item, read);
        }
    }
}
