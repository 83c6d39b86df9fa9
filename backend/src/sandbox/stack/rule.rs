//! The allow-list of compose files, as a table: what may stand where, and why the rest may not. The
//! reference page is made from it.

use std::ops::Range;

use crate::config::diagnostic::Diagnostic;

/// What a refusal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// It cannot be read as YAML of plain characters.
    NotYaml,
    /// The file has more bytes, values, levels or entries than are read.
    TooLarge,
    /// An anchor or an alias.
    Anchor,
    /// A tag.
    Tag,
    /// More than one document.
    Documents,
    /// A key twice.
    DuplicateKey,
    /// A merge, `<<`.
    MergeKey,
    /// A scalar that readers take for different things.
    Ambiguous,
    /// A value that would come from an environment.
    Interpolation,
    /// A key that is not on the list.
    UnknownKey,
    /// A key that begins with `x-`.
    Extension,
    /// It gives a container rights, or weakens what confines it.
    Privilege,
    /// It shares a namespace of the host or of another container.
    HostNamespace,
    /// It reaches into the host's files.
    HostPath,
    /// It reaches devices or another runtime.
    Device,
    /// It reads another file.
    OtherFile,
    /// It builds an image in another way than from plain files of the repository.
    Build,
    /// It names what is named, or owned, by somebody else.
    Name,
    /// It publishes in another way than on a port of 127.0.0.1 that is given to it.
    Port,
    /// It changes networks or name resolution.
    Network,
    /// It asks for more, or sets other limits than there are.
    Limit,
    /// It runs something beside its services.
    Hook,
    /// It sends output elsewhere.
    Logging,
    /// The image is missing or not named for good.
    Image,
    /// It refers to what is not in the file, or in a circle.
    Reference,
    /// It has another form than it must have.
    Value,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 26] = [
        Self::NotYaml,
        Self::TooLarge,
        Self::Anchor,
        Self::Tag,
        Self::Documents,
        Self::DuplicateKey,
        Self::MergeKey,
        Self::Ambiguous,
        Self::Interpolation,
        Self::UnknownKey,
        Self::Extension,
        Self::Privilege,
        Self::HostNamespace,
        Self::HostPath,
        Self::Device,
        Self::OtherFile,
        Self::Build,
        Self::Name,
        Self::Port,
        Self::Network,
        Self::Limit,
        Self::Hook,
        Self::Logging,
        Self::Image,
        Self::Reference,
        Self::Value,
    ];

    /// Its name, as shown with each refusal.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotYaml => "not-yaml",
            Self::TooLarge => "too-large",
            Self::Anchor => "anchor",
            Self::Tag => "tag",
            Self::Documents => "documents",
            Self::DuplicateKey => "duplicate-key",
            Self::MergeKey => "merge-key",
            Self::Ambiguous => "ambiguous",
            Self::Interpolation => "interpolation",
            Self::UnknownKey => "unknown-key",
            Self::Extension => "extension",
            Self::Privilege => "privilege",
            Self::HostNamespace => "host-namespace",
            Self::HostPath => "host-path",
            Self::Device => "device",
            Self::OtherFile => "other-file",
            Self::Build => "build",
            Self::Name => "name",
            Self::Port => "port",
            Self::Network => "network",
            Self::Limit => "limit",
            Self::Hook => "hook",
            Self::Logging => "logging",
            Self::Image => "image",
            Self::Reference => "reference",
            Self::Value => "value",
        }
    }
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// For what.
    pub rule: Rule,
    /// Where, in bytes of the file.
    pub span: Range<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Finding {
    /// A refusal.
    pub fn new(rule: Rule, span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            rule,
            span,
            message: message.into(),
        }
    }

    /// As a person reads it: `file:line:column`, the rule, the line and a caret.
    pub fn render(&self, file: &str, text: &str) -> String {
        let message = format!("[{}] {}", self.rule.name(), self.message);
        Diagnostic::error(Some(self.span.clone()), message).render(file, text)
    }

    /// The line it is on, from 1.
    pub fn line(&self, text: &str) -> usize {
        let before = &text.as_bytes()[..self.span.start.min(text.len())];
        before.split(|byte| *byte == b'\n').count()
    }
}

/// A key that may be there. `*` is any name.
#[derive(Debug)]
pub struct Allowed {
    /// Where it stands.
    pub path: &'static str,
    /// What it may hold, and what becomes of it.
    pub takes: &'static str,
}

/// A key that is known and may not be there.
#[derive(Debug)]
pub struct Refused {
    /// Its name, wherever it stands.
    pub key: &'static str,
    /// Why.
    pub rule: Rule,
    /// What to do instead.
    pub instead: &'static str,
}

const fn may(path: &'static str, takes: &'static str) -> Allowed {
    Allowed { path, takes }
}

const fn no(key: &'static str, rule: Rule, instead: &'static str) -> Refused {
    Refused { key, rule, instead }
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
        "an image with a tag other than `latest`, or a digest",
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
    may("services.*.user", "figures: `uid` or `uid:gid`"),
    may("services.*.working_dir", "an absolute path of plain names"),
    may("services.*.init", "`true` or `false`"),
    may("services.*.read_only", "`true` or `false`"),
    may(
        "services.*.mem_limit",
        "a size; the configured one where that is less",
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
    may("networks", "a map, by name"),
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
    no("privileged", Rule::Privilege, CONFINED),
    no("cap_add", Rule::Privilege, CONFINED),
    no("sysctls", Rule::Privilege, CONFINED),
    no("credential_spec", Rule::Privilege, CONFINED),
    no(
        "group_add",
        Rule::Privilege,
        "give `user` a group: `uid:gid`",
    ),
    no("isolation", Rule::Privilege, CONFINED),
    no(
        "use_api_socket",
        Rule::Privilege,
        "containers do not reach the engine",
    ),
    no("pid", Rule::HostNamespace, OWN_NAMESPACES),
    no("ipc", Rule::HostNamespace, OWN_NAMESPACES),
    no("uts", Rule::HostNamespace, OWN_NAMESPACES),
    no("cgroup", Rule::HostNamespace, OWN_NAMESPACES),
    no("cgroup_parent", Rule::HostNamespace, OWN_NAMESPACES),
    no("userns_mode", Rule::HostNamespace, OWN_NAMESPACES),
    no(
        "network_mode",
        Rule::HostNamespace,
        "name networks of the file under `networks`",
    ),
    no("volumes_from", Rule::HostPath, "share a named volume"),
    no(
        "driver_opts",
        Rule::HostPath,
        "volumes and networks are made without options",
    ),
    no(
        "bind",
        Rule::HostPath,
        "nothing of the host is mounted: use a named volume",
    ),
    no("devices", Rule::Device, NO_DEVICE),
    no("device_cgroup_rules", Rule::Device, NO_DEVICE),
    no("gpus", Rule::Device, NO_DEVICE),
    no("runtime", Rule::Device, NO_DEVICE),
    no("blkio_config", Rule::Device, NO_DEVICE),
    no("extends", Rule::OtherFile, ONE_FILE),
    no("include", Rule::OtherFile, ONE_FILE),
    no(
        "env_file",
        Rule::OtherFile,
        "write the values under `environment`",
    ),
    no("label_file", Rule::OtherFile, OURS),
    no(
        "configs",
        Rule::OtherFile,
        "put the file into the image, or its content under `environment`",
    ),
    no("ssh", Rule::Build, BUILDS),
    no("network", Rule::Build, BUILDS),
    no("cache_from", Rule::Build, BUILDS),
    no("cache_to", Rule::Build, BUILDS),
    no("no_cache", Rule::Build, BUILDS),
    no("pull", Rule::Build, BUILDS),
    no("tags", Rule::Build, BUILDS),
    no("platforms", Rule::Build, BUILDS),
    no("entitlements", Rule::Build, BUILDS),
    no("provenance", Rule::Build, BUILDS),
    no("sbom", Rule::Build, BUILDS),
    no("additional_contexts", Rule::Build, ONE_CONTEXT),
    no("dockerfile_inline", Rule::Build, ONE_CONTEXT),
    no(
        "pull_policy",
        Rule::Image,
        "whether images are fetched is the operator's choice",
    ),
    no(
        "platform",
        Rule::Image,
        "images run on the engine's own platform",
    ),
    no("container_name", Rule::Name, OURS),
    no("labels", Rule::Name, OURS),
    no("annotations", Rule::Name, OURS),
    no("name", Rule::Name, OURS),
    no(
        "external",
        Rule::Name,
        "a sandbox has volumes, networks and secrets of its own only",
    ),
    no("hostname", Rule::Name, RESOLVE),
    no("domainname", Rule::Name, RESOLVE),
    no("scale", Rule::Limit, "every service is one container"),
    no("replicas", Rule::Limit, "every service is one container"),
    no("placement", Rule::Limit, OUR_LIMITS),
    no("reservations", Rule::Limit, OUR_LIMITS),
    no("ulimits", Rule::Limit, OUR_LIMITS),
    no("shm_size", Rule::Limit, "mount a `tmpfs`"),
    no("memswap_limit", Rule::Limit, OUR_LIMITS),
    no("mem_reservation", Rule::Limit, OUR_LIMITS),
    no("mem_swappiness", Rule::Limit, OUR_LIMITS),
    no("oom_kill_disable", Rule::Limit, OUR_LIMITS),
    no("oom_score_adj", Rule::Limit, OUR_LIMITS),
    no("cpu_shares", Rule::Limit, OUR_LIMITS),
    no("cpu_quota", Rule::Limit, OUR_LIMITS),
    no("cpu_period", Rule::Limit, OUR_LIMITS),
    no("cpu_rt_runtime", Rule::Limit, OUR_LIMITS),
    no("cpu_rt_period", Rule::Limit, OUR_LIMITS),
    no("cpuset", Rule::Limit, OUR_LIMITS),
    no("storage_opt", Rule::Limit, OUR_LIMITS),
    no("extra_hosts", Rule::Network, RESOLVE),
    no("dns", Rule::Network, RESOLVE),
    no("dns_opt", Rule::Network, RESOLVE),
    no("dns_search", Rule::Network, RESOLVE),
    no("links", Rule::Network, RESOLVE),
    no("external_links", Rule::Network, RESOLVE),
    no("mac_address", Rule::Network, RESOLVE),
    no("ipam", Rule::Network, "addresses are given by the engine"),
    no(
        "ipv4_address",
        Rule::Network,
        "addresses are given by the engine",
    ),
    no(
        "ipv6_address",
        Rule::Network,
        "addresses are given by the engine",
    ),
    no("aliases", Rule::Network, RESOLVE),
    no(
        "attachable",
        Rule::Network,
        "a network belongs to its sandbox alone",
    ),
    no(
        "enable_ipv6",
        Rule::Network,
        "addresses are given by the engine",
    ),
    no("develop", Rule::Hook, NO_HOOK),
    no("post_start", Rule::Hook, NO_HOOK),
    no("pre_stop", Rule::Hook, NO_HOOK),
    no("provider", Rule::Hook, NO_HOOK),
    no("models", Rule::Hook, NO_HOOK),
    no(
        "profiles",
        Rule::Hook,
        "choose services in .orket.toml: [stack] services",
    ),
    no(
        "logging",
        Rule::Logging,
        "output is kept by the engine, within a bound",
    ),
    no(
        "log_driver",
        Rule::Logging,
        "output is kept by the engine, within a bound",
    ),
    no(
        "log_opt",
        Rule::Logging,
        "output is kept by the engine, within a bound",
    ),
];
