//! The allow-list of compose files, as a table: what may stand where, and why the rest may not. The
//! reference page is made from it.

use super::rule::Rule;

/// A key that may be there. `*` is any name.
#[derive(Debug)]
pub struct Allowed {
    /// Where it stands.
    pub path: &'static str,
    /// What it may hold, and what becomes of it.
    pub takes: &'static str,
}

/// Keys that are known and may not be there.
#[derive(Debug)]
pub struct Refused {
    /// Their names, wherever they stand.
    pub keys: &'static [&'static str],
    /// Why.
    pub rule: Rule,
    /// What to do instead.
    pub instead: &'static str,
}

const fn may(path: &'static str, takes: &'static str) -> Allowed {
    Allowed { path, takes }
}

const fn no(keys: &'static [&'static str], rule: Rule, instead: &'static str) -> Refused {
    Refused {
        keys,
        rule,
        instead,
    }
}

/// All that may stand in a compose file.
pub const ALLOWED: &[Allowed] = &[
    may("version", "text; without effect"),
    may(
        "services",
        "a map, by name: lower-case letters, digits, `-` and `_`; up to 16",
    ),
    may(
        "services.*.image",
        "an image with a tag other than `latest`, or a digest; none that is built for a sandbox, no id, and [none of a registry that is not asked](#registries)",
    ),
    may(
        "services.*.build",
        "a folder of the repository, or a map; then there is no `image`. Only where the operator allows it: [what of a Dockerfile is taken](#builds)",
    ),
    may("services.*.build.context", "a folder of the repository"),
    may(
        "services.*.build.dockerfile",
        "a file in that folder; `Dockerfile` when absent",
    ),
    may("services.*.build.args", "as `environment`"),
    may("services.*.build.target", "a stage of the Dockerfile"),
    may("services.*.command", "a list, or words without quotes"),
    may("services.*.entrypoint", "as `command`"),
    may(
        "services.*.environment",
        "a map or a list of `NAME=value`; every name needs its value",
    ),
    may(
        "services.*.ports",
        "one port: `\"80\"`, `\"8080:80\"` or a map. The port of the container counts, that on 127.0.0.1 is given by Orket",
    ),
    may("services.*.ports.target", "the port in the container"),
    may(
        "services.*.ports.published",
        "a port; another one is given by Orket",
    ),
    may("services.*.ports.protocol", "`tcp`"),
    may("services.*.ports.host_ip", "`127.0.0.1`"),
    may("services.*.ports.mode", "`ingress`"),
    may(
        "services.*.expose",
        "ports; without effect, services reach each other anyway",
    ),
    may(
        "services.*.depends_on",
        "a list of services, or a map of them",
    ),
    may(
        "services.*.depends_on.*.condition",
        "`service_started` or `service_healthy`",
    ),
    may(
        "services.*.volumes",
        "`name:/path`, `name:/path:ro`, `/path`, or maps",
    ),
    may("services.*.volumes.type", "`volume` or `tmpfs`"),
    may("services.*.volumes.source", "a volume of the file"),
    may(
        "services.*.volumes.target",
        "an absolute path of plain names",
    ),
    may("services.*.volumes.read_only", "`true` or `false`"),
    may("services.*.tmpfs", "a path or a list of them"),
    may(
        "services.*.networks",
        "a list of networks of the file, or a map of them without values",
    ),
    may("services.*.secrets", "a list of secrets of the file"),
    may("services.*.healthcheck", "a map"),
    may(
        "services.*.healthcheck.test",
        "text for a shell, or a list that begins with `CMD` or `CMD-SHELL`",
    ),
    may("services.*.healthcheck.interval", "a duration, 1 s to 10 m"),
    may("services.*.healthcheck.timeout", "a duration, 1 s to 10 m"),
    may("services.*.healthcheck.start_period", "a duration, to 10 m"),
    may("services.*.healthcheck.retries", "1 to 100"),
    may(
        "services.*.restart",
        "`\"no\"`, `on-failure`, `always` or `unless-stopped`; whatever but `\"no\"` is a few restarts after failures",
    ),
    may(
        "services.*.user",
        "figures up to 2147483647: `uid` or `uid:gid`",
    ),
    may("services.*.working_dir", "an absolute path of plain names"),
    may("services.*.init", "`true` or `false`"),
    may("services.*.read_only", "`true` or `false`"),
    may(
        "services.*.mem_limit",
        "a size of at least `6m`; the configured one where that is less",
    ),
    may(
        "services.*.cpus",
        "a number; the configured one where that is less",
    ),
    may(
        "services.*.pids_limit",
        "a number; the configured one where that is less",
    ),
    may("services.*.cap_drop", "a list; all are dropped anyway"),
    may(
        "services.*.security_opt",
        "`no-new-privileges:true`, which holds anyway",
    ),
    may("services.*.deploy", "a map"),
    may("services.*.deploy.resources", "a map"),
    may("services.*.deploy.resources.limits", "a map"),
    may(
        "services.*.deploy.resources.limits.memory",
        "as `mem_limit`",
    ),
    may("services.*.deploy.resources.limits.cpus", "as `cpus`"),
    may("services.*.deploy.resources.limits.pids", "as `pids_limit`"),
    may("volumes", "a map, by name"),
    may("volumes.*.driver", "`local`"),
    may("networks", "a map, by name; up to 4"),
    may("networks.*.driver", "`bridge`"),
    may(
        "networks.*.internal",
        "`true` or `false`: whether it leads nowhere else",
    ),
    may(
        "secrets",
        "a map, by name: lower-case letters, digits and `_`",
    ),
    may(
        "secrets.*.file",
        "a relative path; it is not read, every sandbox gets a random value of its own",
    ),
];

const OWN_NAMESPACES: &str = "every container has namespaces of its own";
const CONFINED: &str = "containers have no capabilities and get no privileges";
const NO_DEVICE: &str = "containers get no devices";
const ONE_FILE: &str = "everything has to stand in this one file";
const OURS: &str = "names and labels are given by Orket";
const RESOLVE: &str = "services reach each other by their names";
const NO_HOOK: &str = "only services are run";
const BUILDS: &str = "an image is built from files of the repository alone, without a network";
const ONE_CONTEXT: &str = "put the files into the one `context`";
const OUR_LIMITS: &str = "lower limits are given by `mem_limit`, `cpus` and `pids_limit`";

/// Keys of compose files that are never taken, with what to do; all others are unknown.
pub const REFUSED: &[Refused] = &[
    no(
        &["privileged", "cap_add", "sysctls", "credential_spec"],
        Rule::Privilege,
        CONFINED,
    ),
    no(
        &["group_add"],
        Rule::Privilege,
        "give `user` a group: `uid:gid`",
    ),
    no(&["isolation"], Rule::Privilege, CONFINED),
    no(
        &["use_api_socket"],
        Rule::Privilege,
        "containers do not reach the engine",
    ),
    no(
        &[
            "pid",
            "ipc",
            "uts",
            "cgroup",
            "cgroup_parent",
            "userns_mode",
        ],
        Rule::HostNamespace,
        OWN_NAMESPACES,
    ),
    no(
        &["network_mode"],
        Rule::HostNamespace,
        "name networks of the file under `networks`",
    ),
    no(&["volumes_from"], Rule::HostPath, "share a named volume"),
    no(
        &["driver_opts"],
        Rule::HostPath,
        "volumes and networks are made without options",
    ),
    no(
        &["bind"],
        Rule::HostPath,
        "nothing of the host is mounted: use a named volume",
    ),
    no(
        &[
            "devices",
            "device_cgroup_rules",
            "gpus",
            "runtime",
            "blkio_config",
        ],
        Rule::Device,
        NO_DEVICE,
    ),
    no(&["extends", "include"], Rule::OtherFile, ONE_FILE),
    no(
        &["env_file"],
        Rule::OtherFile,
        "write the values under `environment`",
    ),
    no(&["label_file"], Rule::OtherFile, OURS),
    no(
        &["configs"],
        Rule::OtherFile,
        "put the file into the image, or its content under `environment`",
    ),
    no(
        &[
            "ssh",
            "network",
            "cache_from",
            "cache_to",
            "no_cache",
            "pull",
            "tags",
            "platforms",
            "entitlements",
            "provenance",
            "sbom",
        ],
        Rule::Build,
        BUILDS,
    ),
    no(
        &["additional_contexts", "dockerfile_inline"],
        Rule::Build,
        ONE_CONTEXT,
    ),
    no(
        &["pull_policy"],
        Rule::Image,
        "whether images are fetched is the operator's choice",
    ),
    no(
        &["platform"],
        Rule::Image,
        "images run on the engine's own platform",
    ),
    no(
        &["container_name", "labels", "annotations", "name"],
        Rule::Name,
        OURS,
    ),
    no(
        &["external"],
        Rule::Name,
        "a sandbox has volumes, networks and secrets of its own only",
    ),
    no(&["hostname", "domainname"], Rule::Name, RESOLVE),
    no(
        &["scale", "replicas"],
        Rule::Limit,
        "every service is one container",
    ),
    no(
        &["placement", "reservations", "ulimits"],
        Rule::Limit,
        OUR_LIMITS,
    ),
    no(&["shm_size"], Rule::Limit, "mount a `tmpfs`"),
    no(
        &[
            "memswap_limit",
            "mem_reservation",
            "mem_swappiness",
            "oom_kill_disable",
            "oom_score_adj",
            "cpu_shares",
            "cpu_quota",
            "cpu_period",
            "cpu_rt_runtime",
            "cpu_rt_period",
            "cpuset",
            "storage_opt",
        ],
        Rule::Limit,
        OUR_LIMITS,
    ),
    no(
        &[
            "extra_hosts",
            "dns",
            "dns_opt",
            "dns_search",
            "links",
            "external_links",
            "mac_address",
        ],
        Rule::Network,
        RESOLVE,
    ),
    no(
        &["ipam", "ipv4_address", "ipv6_address"],
        Rule::Network,
        "addresses are given by the engine",
    ),
    no(&["aliases"], Rule::Network, RESOLVE),
    no(
        &["attachable"],
        Rule::Network,
        "a network belongs to its sandbox alone",
    ),
    no(
        &["enable_ipv6"],
        Rule::Network,
        "addresses are given by the engine",
    ),
    no(
        &["develop", "post_start", "pre_stop", "provider", "models"],
        Rule::Hook,
        NO_HOOK,
    ),
    no(
        &["profiles"],
        Rule::Hook,
        "choose services in .orket.toml: [stack] services",
    ),
    no(
        &["logging", "log_driver", "log_opt"],
        Rule::Logging,
        "output is kept by the engine, within a bound",
    ),
];
