//! What has to hold of every file for the compose command, looked at without our own types.

use serde_json::Value;

/// All that may be said of a service.
const KEYS: &[&str] = &[
    "image",
    "environment",
    "labels",
    "cap_drop",
    "security_opt",
    "mem_limit",
    "memswap_limit",
    "cpus",
    "pids_limit",
    "ulimits",
    "restart",
    "logging",
    "volumes",
    "secrets",
    "command",
    "entrypoint",
    "user",
    "ports",
    "working_dir",
    "read_only",
    "init",
    "tmpfs",
    "depends_on",
    "networks",
    "healthcheck",
];

/// What does not hold.
pub(super) fn broken(file: &Value) -> Vec<String> {
    let mut broken = Vec::new();
    let mut hold = |good: bool, what: &str| {
        if !good {
            broken.push(what.to_owned());
        }
    };
    let top = file.as_object().unwrap();
    let known = ["services", "volumes", "secrets", "networks"];
    hold(
        top.keys().all(|key| known.contains(&key.as_str())),
        "a key at the top",
    );
    let text = file.to_string();
    hold(
        !text.replace("$$", "").contains('$'),
        "something is interpolated",
    );
    for (name, service) in file["services"].as_object().unwrap() {
        service_holds(file, name, service, &mut hold);
    }
    for volume in file["volumes"].as_object().unwrap().values() {
        hold(
            volume.as_object().unwrap().keys().eq(["labels"]),
            "a volume",
        );
    }
    for network in file["networks"].as_object().unwrap().values() {
        let may = |key: &String| key == "labels" || key == "internal";
        hold(network.as_object().unwrap().keys().all(may), "a network");
    }
    for secret in file["secrets"].as_object().unwrap().values() {
        let file = secret["file"].as_str().unwrap_or_default();
        let own = file.strip_prefix("/box/credentials/");
        hold(
            own.is_some_and(|name| !name.contains('/')),
            "a secret's file",
        );
        hold(secret.as_object().unwrap().len() == 1, "a secret");
    }
    broken
}

fn service_holds(file: &Value, name: &str, service: &Value, hold: &mut impl FnMut(bool, &str)) {
    let keys = service.as_object().unwrap();
    for key in keys.keys() {
        hold(KEYS.contains(&key.as_str()), &format!("{name}.{key}"));
    }
    hold(
        service["cap_drop"] == serde_json::json!(["ALL"]),
        "cap_drop",
    );
    let options = serde_json::json!(["no-new-privileges:true"]);
    hold(service["security_opt"] == options, "security_opt");
    let memory = service["mem_limit"].as_str().unwrap_or_default();
    let memory: u64 = memory.trim_end_matches('b').parse().unwrap_or(u64::MAX);
    hold(memory <= 1 << 30, "mem_limit");
    hold(
        service["memswap_limit"] == service["mem_limit"],
        "memswap_limit",
    );
    hold(
        service["cpus"]
            .as_f64()
            .is_some_and(|n| n > 0.0 && n <= 1.0),
        "cpus",
    );
    let processes = service["pids_limit"].as_i64();
    hold(
        processes.is_some_and(|n| (1..=256).contains(&n)),
        "pids_limit",
    );
    hold(service["ulimits"]["nofile"]["hard"].is_u64(), "nofile");
    hold(service["logging"]["driver"] == "json-file", "logging");
    hold(
        service["logging"]["options"]["max-size"].is_string(),
        "max-size",
    );
    hold(service["labels"]["io.orket.sandbox"].is_string(), "labels");
    let image = service["image"].as_str().unwrap_or_default();
    hold(image.contains(':') && !image.ends_with(":latest"), "image");
    for mount in service["volumes"].as_array().unwrap() {
        hold(mount["type"] == "volume", "the type of a mount");
        let source = mount["source"].as_str().unwrap_or("/");
        hold(
            file["volumes"].get(source).is_some(),
            "an undeclared volume",
        );
        hold(
            !source.contains(['/', '\\', '~', ':']),
            "a path as a volume",
        );
    }
    for port in service["ports"].as_array().into_iter().flatten() {
        let port = port.as_str().unwrap_or_default();
        let published = port
            .strip_prefix("127.0.0.1:")
            .and_then(|p| p.split_once(':'));
        let in_range = published
            .and_then(|(ours, _)| ours.parse().ok())
            .is_some_and(|port: u16| (8001..8100).contains(&port));
        hold(in_range, "a port");
    }
    for network in service["networks"].as_array().into_iter().flatten() {
        let declared = network.as_str().and_then(|name| file["networks"].get(name));
        hold(declared.is_some(), "an undeclared network");
    }
    for place in service["tmpfs"].as_array().into_iter().flatten() {
        hold(
            !place.as_str().unwrap_or(":").contains(':'),
            "options of a tmpfs",
        );
    }
}
