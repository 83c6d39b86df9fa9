//! From the policy as written to the policy as meant. Fails closed: whatever is missing, dangling,
//! unreadable, blank or contradictory is an error with its place, and all of them are reported at once.

mod addresses;
mod auth;
mod keys;
mod limits;
mod routes;
mod secrets;
mod sense;
mod spool;
mod tls;
mod webhook;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    Bypass, Listen, Origin, Policy,
    address::{Networks, parse_network},
    keys::KeyRing,
    posture::{Environment, Verdict, Weakness},
};
use crate::{
    config::{self, Written, diagnostic::Diagnostics, reader::At},
    plain_file,
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
    let origin = Origin::File(path.to_owned());
    match plain_file::read(path, plain_file::POLICY_BYTES).map(|(b, _)| String::from_utf8(b)) {
        Ok(Ok(text)) => load(&text, &name, origin, env),
        Ok(Err(e)) => {
            let at = e.utf8_error().valid_up_to();
            let mut problems = Diagnostics::new(name, String::from_utf8_lossy(e.as_bytes()));
            // Nobody knows what is a secret here.
            problems.conceal(&(0..usize::MAX));
            problems.error(
                &(at..at + 1),
                "this is not UTF-8, as TOML has to be",
                Some("save the file as UTF-8".into()),
            );
            Err(problems)
        }
        Err(e) => {
            let mut problems = Diagnostics::new(name, "");
            problems.error(
                &(0..0),
                format!("this file cannot be read: {e}"),
                Some("give the path of a readable file".into()),
            );
            Err(problems)
        }
    }
}

/// Where a path that a policy file names lies: a relative one is taken from the directory the file is named in, wherever
/// whoever reads it was started.
pub fn beside<'a>(file: &Path, path: &'a Path) -> Cow<'a, Path> {
    if path.is_absolute() {
        return Cow::Borrowed(path);
    }
    // Only where there is no working directory any more there is no absolute path.
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    Cow::Owned(file.parent().unwrap_or(Path::new("/")).join(path))
}

/// Loads the text of a policy.
pub fn load(text: &str, name: &str, origin: Origin, env: Env<'_>) -> Result<Loaded, Diagnostics> {
    // A byte order mark is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut problems = Diagnostics::new(name, text);
    let written = config::read(text, &mut problems);
    let file = match &origin {
        Origin::BuiltIn => None,
        Origin::File(path) => Some(path.clone()),
    };
    let policy = Loader {
        problems: &mut problems,
        env,
        file,
        environment: Environment::Local,
        environment_unknown: false,
        half_read: BTreeSet::new(),
    }
    .mean(&written, origin);
    match policy {
        Some(policy) if !problems.has_errors() => Ok(Loaded {
            policy,
            tests: written.tests,
            diagnostics: problems,
        }),
        Some(_) | None => Err(problems),
    }
}

/// The place of the top of a file.
const TOP: Range<usize> = 0..0;

struct Loader<'a> {
    problems: &'a mut Diagnostics,
    env: Env<'a>,
    /// The file that is read; none of the built-in policy.
    file: Option<PathBuf>,
    environment: Environment,
    /// The environment could not be read: what it would say of weaknesses is nobody's business yet.
    environment_unknown: bool,
    /// What stands in the file and could not be understood, as `limit x`: whoever names it names something.
    half_read: BTreeSet<String>,
}

/// Whether all that keeps a policy file from loading is that its routes want a key, and it has none yet.
pub(crate) fn lacks_only_a_key(problems: &Diagnostics) -> bool {
    problems.is_the_only_hint(routes::NO_KEY)
}

/// Default listeners, also of the built-in policy.
pub(crate) const DEFAULT_HTTP: &str = "127.0.0.1:8080";
pub(crate) const DEFAULT_ADMIN: &str = "127.0.0.1:9901";
/// Default place of state.
pub(crate) const DEFAULT_STATE_DIR: &str = ".orket";

impl Loader<'_> {
    fn mean(mut self, written: &Written, origin: Origin) -> Option<Policy> {
        self.environment = self.environment_of(written, &origin);
        let state_dir = written.state_dir.as_ref().map(|d| d.value.as_path());
        let state_dir = self
            .lies(state_dir.unwrap_or(Path::new(DEFAULT_STATE_DIR)))
            .into_owned();
        let listen = self.listen(written, &state_dir)?;
        let identity = self.identity(written);
        let limits = self.limits(written);
        let secrets = self.secrets(written);
        let keys = self.keys(written, &secrets);
        let bypass = self.bypass(written, &listen, &keys);
        let rate_limits = self.rate_limits(written);
        let upstreams = self.upstreams(written, &secrets);
        let routes = self.routes(
            written,
            &origin,
            &secrets,
            &keys,
            bypass,
            &rate_limits,
            &upstreams,
        );
        let spool = self.spool_bounds(written, &routes);
        secrets.warn_unused(self.problems);
        let policy = Policy {
            origin,
            fingerprint: self.problems.fingerprint(),
            listen,
            identity,
            state_dir,
            environment: self.environment,
            bypass,
            health: written.health.as_ref().is_none_or(|h| h.value),
            trusted_proxies: self.trusted_proxies(&written.trusted_proxies),
            limits,
            upstreams,
            keys,
            rate_limits,
            spool,
            routes,
        };
        self.room_for_bodies(written, &policy);
        self.sense(written, &policy);
        Some(policy)
    }

    /// Where a path that the policy names lies: see [`beside`]. Those of the built-in policy are taken from the working directory.
    fn lies<'p>(&self, path: &'p Path) -> Cow<'p, Path> {
        match &self.file {
            Some(file) => beside(file, path),
            None => Cow::Borrowed(path),
        }
    }

    /// Says what is missing of a table. What stands there and could not be read was told already.
    fn lacking(&mut self, at: &At<()>, what: &str, fields: &[(&'static str, bool)], hint: &str) {
        let missing: Vec<String> = fields
            .iter()
            .filter(|(name, absent)| *absent && !self.problems.is_unreadable(&at.span, name))
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        if !missing.is_empty() {
            self.error(
                &at.span,
                format!("{what} lacks {}", missing.join(" and ")),
                hint,
            );
        }
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
        if self.environment_unknown {
            return;
        }
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
            self.environment_unknown = true;
            self.error(
                &name.span,
                format!("`{}` is not an environment", name.value),
                "use \"local\", \"ci\" or \"production\"",
            );
            // So that a typing error never opens anything.
            Environment::Production
        })
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
        if listen.is_loopback() {
            self.weak(
                Weakness::InsecureBypass,
                &switch.span,
                if keys.is_empty() { "the insecure bypass is in force: key routes are open to every local process" } else { "the insecure bypass is switched on; it opens nothing as long as a key is configured" },
                "configure a key and switch it off",
            );
        } else {
            self.error(
                &switch.span,
                "the insecure bypass works where every listener is on loopback only",
                "configure an API key, or listen on 127.0.0.1",
            );
        }
        if keys.is_empty() {
            Bypass::Open
        } else {
            Bypass::Idle
        }
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
                Err(message) => {
                    let (message, hint) = config::reader::apart(&message);
                    self.problems.error(&text.span, message, hint);
                }
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
