//! From the policy as written to the policy as meant. Fails closed: whatever is missing, dangling,
//! unreadable, blank or contradictory is an error with its place, and all of them are reported at once.

mod keys;
mod routes;
mod secrets;

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderName, HeaderValue};

use super::{
    BudgetOf, Bypass, Limits, Listen, Origin, Policy, RateLimit, Upstream, UpstreamAddress,
    address::{Networks, parse_network},
    keys::KeyRing,
    posture::{Environment, Verdict, Weakness},
};
use crate::{
    config::{self, Written, diagnostic::Diagnostics, reader::At, value::RateWritten},
    limit::Rate,
};

/// Where values outside the text come from: the environment, as it was at the start.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<std::ffi::OsString>;

/// A loaded policy, and what was said about it.
#[derive(Debug)]
pub struct Loaded {
    /// The policy.
    pub policy: Policy,
    /// Its own tests, to be run before it comes into force.
    pub tests: Vec<config::Test>,
    /// Warnings only.
    pub diagnostics: Diagnostics,
}

/// Loads a policy file.
pub fn file(path: &Path, env: Env<'_>) -> Result<Loaded, Diagnostics> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => load(&text, &name, Origin::File(path.to_owned()), env),
        Err(e) => {
            let mut problems = Diagnostics::new(name, "");
            problems.error(
                &(0..0),
                format!("this file cannot be read: {e}"),
                Some("give a readable file with --config".into()),
            );
            Err(problems)
        }
    }
}

/// Loads the text of a policy.
pub fn load(text: &str, name: &str, origin: Origin, env: Env<'_>) -> Result<Loaded, Diagnostics> {
    let mut problems = Diagnostics::new(name, text);
    let mut written = config::read(text, &mut problems);
    let tests = std::mem::take(&mut written.tests);
    let policy = Loader {
        problems: &mut problems,
        env,
        environment: Environment::Local,
    }
    .mean(written, origin);
    match policy {
        Some(policy) if !problems.has_errors() => Ok(Loaded {
            policy,
            tests,
            diagnostics: problems,
        }),
        Some(_) | None => Err(problems),
    }
}

struct Loader<'a> {
    problems: &'a mut Diagnostics,
    env: Env<'a>,
    environment: Environment,
}

/// Default listeners, also of the built-in policy.
pub(crate) const DEFAULT_HTTP: &str = "127.0.0.1:8080";
pub(crate) const DEFAULT_ADMIN: &str = "127.0.0.1:9901";
/// Default place of state.
pub(crate) const DEFAULT_STATE_DIR: &str = ".orket";

impl Loader<'_> {
    fn mean(mut self, written: Written, origin: Origin) -> Option<Policy> {
        self.environment = self.environment_of(&written, &origin);
        let state_dir = written
            .state_dir
            .as_ref()
            .map_or_else(|| PathBuf::from(DEFAULT_STATE_DIR), |d| d.value.clone());
        let listen = self.listen(&written, &state_dir)?;
        let limits = self.limits(&written);
        let secrets = self.secrets(&written, &origin);
        let keys = self.keys(&written, &secrets);
        let bypass = self.bypass(&written, &listen, &keys);
        let rate_limits = self.rate_limits(&written);
        let upstreams = self.upstreams(&written, &secrets);
        let routes = self.routes(
            &written,
            &origin,
            &secrets,
            &keys,
            bypass,
            &rate_limits,
            &upstreams,
        );
        secrets.warn_unused(self.problems);
        Some(Policy {
            origin,
            listen,
            state_dir,
            environment: self.environment,
            bypass,
            health: written.health.is_none_or(|h| h.value),
            trusted_proxies: self.trusted_proxies(&written.trusted_proxies),
            limits,
            upstreams,
            keys,
            rate_limits,
            routes,
        })
    }

    fn error(&mut self, span: &Range<usize>, message: impl Into<String>, hint: &str) {
        self.problems
            .error(span, message, (!hint.is_empty()).then(|| hint.to_owned()));
    }

    /// Says what the environment makes of a weakness.
    fn weak(
        &mut self,
        weakness: Weakness,
        span: &Range<usize>,
        message: impl Into<String>,
        hint: &str,
    ) {
        match weakness.verdict(self.environment) {
            Verdict::Allowed => {}
            Verdict::Warned => self.problems.warning(span, message, Some(hint.to_owned())),
            Verdict::Refused => {
                let message = format!(
                    "{} (refused in {})",
                    message.into(),
                    self.environment.name()
                );
                self.error(span, message, hint);
            }
        }
    }

    /// A file that does not say where it runs is judged as production: the strictest is the default.
    fn environment_of(&mut self, written: &Written, origin: &Origin) -> Environment {
        let Some(name) = &written.posture.environment else {
            return match origin {
                Origin::BuiltIn => Environment::Local,
                Origin::File(_) => Environment::Production,
            };
        };
        Environment::parse(&name.value).unwrap_or_else(|| {
            self.error(
                &name.span,
                format!("`{}` is not an environment", name.value),
                "use \"local\", \"ci\" or \"production\"",
            );
            // So that a typing error never opens anything.
            Environment::Production
        })
    }

    fn listen(&mut self, written: &Written, state_dir: &Path) -> Option<Listen> {
        let http = address_or(written.listen.http.as_ref(), DEFAULT_HTTP)?;
        let admin = address_or(written.listen.admin.as_ref(), DEFAULT_ADMIN)?;
        if let Some(at) = &written.listen.http
            && !http.ip().is_loopback()
        {
            self.weak(
                Weakness::PlainHttp,
                &at.span,
                format!("`{http}` offers plain HTTP beyond loopback: keys and bodies can be read on the way"),
                "listen on loopback behind something that ends TLS",
            );
        }
        if let Some(at) = &written.listen.admin
            && !admin.ip().is_loopback()
        {
            self.error(
                &at.span,
                format!("the admin listener `{admin}` is not on loopback"),
                "it shows metrics to whoever connects: use 127.0.0.1",
            );
        }
        if http == admin && http.port() != 0 {
            let span = written
                .listen
                .http
                .as_ref()
                .map_or(0..0, |a| a.span.clone());
            self.error(
                &span,
                "clients and the admin listener share one address",
                "give the admin listener another port",
            );
        }
        let threads = match &written.listen.threads {
            Some(n) if n.value == 0 || n.value > 256 => {
                self.error(
                    &n.span,
                    "`threads` is between 1 and 256",
                    "leave it out for one per core",
                );
                1
            }
            Some(n) => usize::try_from(n.value).unwrap_or(1),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let control = self.control(written.listen.control.as_ref(), state_dir);
        Some(Listen {
            http,
            admin,
            control,
            threads,
        })
    }

    fn control(&mut self, written: Option<&At<String>>, state_dir: &Path) -> PathBuf {
        let default = state_dir.join(crate::control::SOCKET_NAME);
        let Some(at) = written else { return default };
        match self.upstream_address(at) {
            Some(UpstreamAddress::Unix(path)) => PathBuf::from(path),
            Some(UpstreamAddress::Tcp(_)) => {
                self.error(
                    &at.span,
                    "the control socket is a unix socket: whoever reaches it steers the gateway",
                    "e.g. \"unix:/run/orket/gateway.sock\"",
                );
                default
            }
            None => default,
        }
    }

    fn limits(&mut self, written: &Written) -> Limits {
        let w = &written.limits;
        let mut count = |at: &Option<At<u64>>, default: usize, most: u64| match at {
            Some(n) if n.value == 0 || n.value > most => {
                self.error(&n.span, format!("this is between 1 and {most}"), "");
                default
            }
            Some(n) => usize::try_from(n.value).unwrap_or(default),
            None => default,
        };
        let header_count = count(&w.header_count, 100, 250);
        let connections = count(&w.connections, 10_000, 1_000_000);
        let connections_per_address = count(&w.connections_per_address, 256, 1_000_000);
        let head_bytes = w.head_bytes.as_ref().map_or(16 * 1024, |s| s.value.0);
        if !(256..=256 * 1024).contains(&head_bytes)
            && let Some(at) = &w.head_bytes
        {
            self.error(&at.span, "`head_bytes` is between 256B and 256KiB", "");
        }
        let time = |at: &Option<At<Duration>>, default: u64| {
            at.as_ref()
                .map_or(Duration::from_secs(default), |d| d.value)
        };
        let failures = match &w.failures_per_address {
            None => rate_of(
                RateWritten::Of {
                    count: DEFAULT_FAILURES,
                    period: Duration::from_secs(60),
                },
                None,
            ),
            Some(at) => rate_of(at.value, None),
        };
        Limits {
            head_bytes,
            header_count,
            head_timeout: time(&w.head_timeout, 10),
            body_timeout: time(&w.body_timeout, 30),
            keepalive_timeout: time(&w.keepalive_timeout, 60),
            connections,
            connections_per_address,
            failures_per_address: failures,
        }
    }

    fn bypass(&mut self, written: &Written, listen: &Listen, keys: &KeyRing) -> Bypass {
        let Some(switch) = written
            .posture
            .allow_insecure_no_api_key
            .as_ref()
            .filter(|s| s.value)
        else {
            return Bypass::Off;
        };
        if listen.http.ip().is_loopback() {
            self.weak(
                Weakness::InsecureBypass,
                &switch.span,
                "the insecure bypass is switched on: without a key, key routes are open to every local process",
                "configure a key and switch it off",
            );
        } else {
            self.error(
                &switch.span,
                format!(
                    "the insecure bypass works on a loopback listener only, this one is `{}`",
                    listen.http
                ),
                "configure an API key, or listen on 127.0.0.1",
            );
        }
        if keys.is_empty() {
            Bypass::Open
        } else {
            Bypass::Idle
        }
    }

    fn rate_limits(&mut self, written: &Written) -> Vec<RateLimit> {
        let mut out: Vec<RateLimit> = Vec::new();
        for limit in &written.rate_limits {
            let (Some(id), Some(by), Some(rate)) = (&limit.id, &limit.by, &limit.rate) else {
                self.error(
                    &limit.at.span,
                    "a rate limit needs `id`, `by` and `rate`",
                    "e.g. id = \"per-key\", by = \"key\", rate = \"600/min\"",
                );
                continue;
            };
            self.check_name(id);
            let by = match by.value.as_str() {
                "key" => BudgetOf::Key,
                "source" => BudgetOf::Source,
                "address" => BudgetOf::Address,
                "route" => BudgetOf::Route,
                other => {
                    self.error(
                        &by.span,
                        format!("a limit is not kept by `{other}`"),
                        "use \"key\", \"source\", \"address\" or \"route\"",
                    );
                    continue;
                }
            };
            let burst = limit.burst.as_ref().and_then(|b| {
                let burst = u32::try_from(b.value).ok().and_then(NonZeroU32::new);
                if burst.is_none() {
                    self.error(
                        &b.span,
                        "`burst` is at least 1",
                        "leave it out to allow the rate's count at once",
                    );
                }
                burst
            });
            let Some(rate) = rate_of(rate.value, burst) else {
                self.error(
                    &rate.span,
                    "a named limit has a rate",
                    "to switch it off, take it out of the routes that name it",
                );
                continue;
            };
            if rate
                .interval()
                .checked_mul(rate.burst.get())
                .is_none_or(|whole| whole > LONGEST_RECOVERY)
            {
                self.error(
                    &limit.at.span,
                    "a spent budget of this limit would take more than a year to come back",
                    "choose a smaller `burst` or a higher `rate`",
                );
                continue;
            }
            if out.iter().any(|l| l.id == id.value) {
                self.error(
                    &id.span,
                    format!("there are two rate limits `{}`", id.value),
                    "give each its own id",
                );
            }
            out.push(RateLimit {
                id: id.value.clone(),
                by,
                rate,
            });
        }
        out
    }

    fn upstreams(&mut self, written: &Written, secrets: &secrets::Secrets) -> Vec<Upstream> {
        let mut out = Vec::new();
        for upstream in &written.upstreams {
            let Some(address) = &upstream.address else {
                self.error(
                    &upstream.id.span,
                    format!("upstream `{}` lacks `address`", upstream.id.value),
                    "e.g. address = \"unix:/run/orket/backend.sock\"",
                );
                continue;
            };
            let Some(parsed) = self.upstream_address(address) else {
                continue;
            };
            let mut set_headers = Vec::new();
            for (name, secret) in &upstream.set_headers {
                let Ok(header) = HeaderName::from_bytes(name.value.as_bytes()) else {
                    self.error(
                        &name.span,
                        format!("`{}` is not a header name", name.value),
                        "",
                    );
                    continue;
                };
                if header.as_str().starts_with("x-orket-")
                    || matches!(
                        header.as_str(),
                        "host" | "content-length" | "transfer-encoding" | "connection"
                    )
                {
                    self.error(
                        &name.span,
                        format!("`{}` is the gateway's own", name.value),
                        "take it out",
                    );
                    continue;
                }
                let Some(value) = secrets.first_text(secret, self.problems) else {
                    continue;
                };
                match HeaderValue::from_bytes(value.expose()) {
                    Ok(mut value) => {
                        value.set_sensitive(true);
                        set_headers.push((header, value));
                    }
                    Err(_) => self.error(
                        &secret.span,
                        format!("secret `{}` cannot stand in a header", secret.value),
                        "it holds control characters",
                    ),
                }
            }
            out.push(Upstream {
                id: upstream.id.value.clone(),
                address: parsed,
                connect_timeout: upstream
                    .connect_timeout
                    .as_ref()
                    .map_or(Duration::from_secs(1), |d| d.value),
                response_timeout: upstream
                    .response_timeout
                    .as_ref()
                    .map_or(Duration::from_secs(30), |d| d.value),
                set_headers,
            });
        }
        out
    }

    fn upstream_address(&mut self, address: &At<String>) -> Option<UpstreamAddress> {
        if let Some(path) = address.value.strip_prefix("unix:") {
            // 107 bytes: sun_path less its terminating NUL (unix(7)).
            if path.is_empty() || path.len() > 107 {
                self.error(
                    &address.span,
                    "the path of a unix socket has 1 to 107 bytes",
                    "use a shorter path",
                );
                return None;
            }
            return Some(UpstreamAddress::Unix(path.to_owned()));
        }
        if address.value.contains('@') {
            self.problems.conceal(&address.span);
            self.error(
                &address.span,
                "an upstream's address holds no user or password",
                "write `host:port`; set a header with `set_headers`",
            );
            return None;
        }
        let found = std::net::ToSocketAddrs::to_socket_addrs(address.value.as_str())
            .ok()
            .and_then(|mut all| all.next());
        if found.is_none() {
            self.error(
                &address.span,
                format!(
                    "`{}` is neither `host:port` nor `unix:/path`, or the name is not known",
                    address.value
                ),
                "e.g. \"127.0.0.1:8082\" or \"unix:/run/orket/backend.sock\"",
            );
        }
        if let Some(beyond) = found.filter(|a| !a.ip().is_loopback()) {
            self.problems.warning(
                &address.span,
                format!("requests to `{beyond}` leave this machine as plain HTTP"),
                Some("let the upstream listen on loopback or a unix socket, or be sure of the network between".into()),
            );
        }
        found.map(UpstreamAddress::Tcp)
    }

    fn trusted_proxies(&mut self, written: &[At<String>]) -> Networks {
        for text in written
            .iter()
            .filter(|t| parse_network(&t.value).is_ok_and(|n| n.prefix_len() == 0))
        {
            self.error(
                &text.span,
                "this trusts everyone: any client could claim any address",
                "name the networks of your own proxies",
            );
        }
        self.networks(written)
    }

    fn networks(&mut self, written: &[At<String>]) -> Networks {
        let mut out = Vec::new();
        for text in written {
            match parse_network(&text.value) {
                Ok(net) => out.push(net),
                Err(message) => self.error(&text.span, message, ""),
            }
        }
        Networks::new(out)
    }

    fn check_name(&mut self, name: &At<String>) {
        if !orket_shared::id::is_name(&name.value) {
            self.error(
                &name.span,
                format!("`{}` is not a name", name.value),
                "letters, digits, `-`, `_` and `.`, beginning with a letter or digit, at most 128",
            );
        }
    }
}

/// The longest a spent budget may take to be whole again.
const LONGEST_RECOVERY: Duration = Duration::from_secs(365 * 24 * 3600);

const DEFAULT_FAILURES: NonZeroU32 = NonZeroU32::new(120).unwrap();

fn rate_of(written: RateWritten, burst: Option<NonZeroU32>) -> Option<Rate> {
    match written {
        RateWritten::None => None,
        RateWritten::Of { count, period } => Some(Rate {
            count,
            period,
            burst: burst.unwrap_or(count),
        }),
    }
}

fn address_or(written: Option<&At<SocketAddr>>, default: &str) -> Option<SocketAddr> {
    match written {
        Some(at) => Some(at.value),
        None => default.parse().ok(),
    }
}
