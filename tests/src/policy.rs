//! Policy files for tests, put together from the sections a test changes.
//!
//! The text is written out, not serialised: positions in error messages are part of what is tested.

use std::fmt;

use crate::gateway::{API_KEY, PREAMBLE, WEBHOOK_SECRET};
use crate::gitea::sha256;

/// A policy with one API key ([`API_KEY`], id `ci`), the routes `api` (`/v1/*`), `events`
/// (`/ws/events`) and `gitea` (`/webhook/gitea`), to each of which a test may add lines.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    listen: String,
    upstream: String,
    limits: String,
    secrets: String,
    api: String,
    gitea: String,
    rest: String,
}

impl Policy {
    /// The policy as described.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens by TLS as well, with `cert.pem` and `key.pem` of the test's folder.
    #[must_use]
    pub fn https(mut self) -> Self {
        HTTPS.clone_into(&mut self.listen);
        self
    }

    /// Adds a line to `[upstreams.backend]`.
    #[must_use]
    pub fn upstream(mut self, line: &str) -> Self {
        add(&mut self.upstream, line);
        self
    }

    /// Adds a line to `[limits]`.
    #[must_use]
    pub fn limits(mut self, line: &str) -> Self {
        add(&mut self.limits, line);
        self
    }

    /// Adds a line to `[secrets]`.
    #[must_use]
    pub fn secrets(mut self, line: &str) -> Self {
        add(&mut self.secrets, line);
        self
    }

    /// Adds a line to the route `api`.
    #[must_use]
    pub fn api(mut self, line: &str) -> Self {
        add(&mut self.api, line);
        self
    }

    /// Adds a line to the route `gitea`.
    #[must_use]
    pub fn gitea(mut self, line: &str) -> Self {
        add(&mut self.gitea, line);
        self
    }

    /// Adds further sections.
    #[must_use]
    pub fn rest(mut self, sections: &str) -> Self {
        add(&mut self.rest, sections);
        self
    }
}

fn add(section: &mut String, line: &str) {
    section.push_str(line);
    section.push('\n');
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = sha256(API_KEY.as_bytes());
        let preamble = PREAMBLE.replace("[state]\n", &format!("{}[state]\n", self.listen));
        let Self {
            listen: _,
            upstream,
            limits,
            secrets,
            api,
            gitea,
            rest,
        } = self;
        write!(
            f,
            r#"{preamble}{upstream}
[limits]
{limits}
[secrets]
gitea = [{{ file = "{{dir}}/gitea-secret" }}]
ci = [{{ digest = "sha256:{digest}" }}]
{secrets}
[[keys]]
id = "ci"
secret = "ci"
scopes = ["*"]

[[routes]]
id = "api"
path = "/v1/*"
methods = ["GET", "POST", "PATCH", "DELETE"]
auth = {{ kind = "api_key" }}
upstream = "backend"
{api}
[[routes]]
id = "events"
path = "/ws/events"
methods = ["GET"]
auth = {{ kind = "api_key" }}
upgrade = "websocket"
upstream = "backend"

[[routes]]
id = "gitea"
path = "/webhook/gitea"
methods = ["POST"]
auth = {{ kind = "webhook", provider = "gitea", secret = "gitea" }}
upstream = "backend"
{gitea}
{rest}"#
        )
    }
}

/// A listener for TLS on a free port.
const HTTPS: &str = "https = { address = \"127.0.0.1:0\", cert_file = \"{dir}/cert.pem\", key_file = \"{dir}/key.pem\" }\n";

/// The secret file that [`Policy`] names.
pub const SECRET_FILE: (&str, &[u8]) = ("gitea-secret", WEBHOOK_SECRET.as_bytes());
