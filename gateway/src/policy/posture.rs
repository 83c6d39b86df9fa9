//! How strict the surroundings are, and what that makes of each weakness: allowed, warned of, refused.
//!
//! The table in [`Weakness::verdict`] is the authority; `docs/SECURITY.md` shows the same table, and a
//! test compares the two with what the program really does.

use super::{Auth, Bypass, Policy, TestWebhookAuth};
use crate::{config::diagnostic::Diagnostics, tls::identity::Identity};

/// Where the gateway runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// A developer's machine.
    Local,
    /// A pipeline.
    Ci,
    /// The real thing.
    Production,
}

impl Environment {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 3] = [Self::Local, Self::Ci, Self::Production];

    /// Reads its name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.name() == text)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Ci => "ci",
            Self::Production => "production",
        }
    }
}

/// A thing that makes a deployment weaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// The insecure bypass is switched on.
    InsecureBypass,
    /// The test webhook is switched on.
    TestWebhook,
    /// A route wants proof for which no secret is configured: it refuses everything.
    MissingSecret,
    /// A secret is text from a template.
    PlaceholderSecret,
    /// A secret is too easy to guess.
    WeakSecret,
    /// Plain HTTP is offered beyond loopback.
    PlainHttp,
    /// Requests go to another machine as plain HTTP, and the policy does not say that this is meant.
    ClearUpstream,
    /// Requests go to another machine as plain HTTP, as the policy says.
    ClearUpstreamMeant,
    /// Other users can read or change the file of the listener's private key.
    ExposedKey,
    /// A route asks for no proof.
    OpenRoute,
    /// A webhook route forwards repetitions as new.
    NoReplay,
    /// A limit or address rule is in shadow mode: it refuses nothing.
    ShadowMode,
}

/// What the environment makes of a weakness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is said.
    Allowed,
    /// The policy loads, with a warning.
    Warned,
    /// The policy does not load.
    Refused,
}

impl Weakness {
    /// The environment matrix.
    pub const fn verdict(self, environment: Environment) -> Verdict {
        use Environment::{Ci, Local, Production};
        use Verdict::{Allowed, Refused, Warned};
        match (self, environment) {
            (Self::InsecureBypass | Self::TestWebhook, Local | Ci) => Warned,
            (Self::InsecureBypass | Self::TestWebhook, Production) => Refused,
            (Self::MissingSecret, Local | Ci) => Warned,
            (Self::MissingSecret, Production) => Refused,
            (Self::PlaceholderSecret, Local) => Warned,
            (Self::PlaceholderSecret, Ci | Production) => Refused,
            (Self::WeakSecret, Local | Ci) => Warned,
            (Self::WeakSecret, Production) => Refused,
            (Self::PlainHttp | Self::ClearUpstream | Self::ExposedKey, Local | Ci) => Warned,
            (Self::PlainHttp | Self::ClearUpstream | Self::ExposedKey, Production) => Refused,
            (Self::ShadowMode, Local | Ci | Production) => Warned,
            (Self::OpenRoute | Self::NoReplay | Self::ClearUpstreamMeant, Local) => Allowed,
            (Self::OpenRoute | Self::NoReplay | Self::ClearUpstreamMeant, Ci | Production) => {
                Warned
            }
        }
    }
}

/// States the posture, as the log record `posture`: what is configured, never a value; and one warning
/// for each weakness.
pub fn announce(policy: &Policy, warnings: &Diagnostics) {
    for warning in warnings.sorted() {
        tracing::warn!(
            name: "act",
            target: "audit",
            event = "posture_warning",
            hint = warning.hint,
            "{}",
            warning.message
        );
    }
    let webhooks: Vec<String> = policy
        .routes
        .iter()
        .filter_map(|r| match &r.auth {
            Auth::Webhook(w) => Some(format!(
                "{}={}",
                r.id,
                if w.secrets.is_empty() {
                    "refused"
                } else {
                    w.provider.name()
                }
            )),
            Auth::ApiKey | Auth::TestWebhook(_) | Auth::None => None,
        })
        .collect();
    let test_webhook = policy
        .routes
        .iter()
        .find_map(|r| match &r.auth {
            Auth::TestWebhook(TestWebhookAuth::Disabled) => Some("disabled"),
            Auth::TestWebhook(TestWebhookAuth::NotConfigured) => {
                Some("enabled, refused: neither token nor key")
            }
            Auth::TestWebhook(TestWebhookAuth::Token(_)) => Some("enabled by token"),
            Auth::TestWebhook(TestWebhookAuth::ApiKey) => Some("enabled by API key"),
            Auth::ApiKey | Auth::Webhook(_) | Auth::None => None,
        })
        .unwrap_or("absent");
    let api = match policy.bypass {
        Bypass::Open => "open",
        Bypass::Off | Bypass::Idle if policy.keys.is_empty() => "refused",
        Bypass::Off | Bypass::Idle => "keys",
    };
    tracing::info!(
        name: "act",
        target: "audit",
        event = "posture",
        environment = policy.environment.name(),
        api,
        api_keys = policy.keys.len(),
        webhooks = webhooks.join(" "),
        test_webhook,
        routes = policy.routes.iter().count(),
        failure_limit = policy.limits.failures_per_address.is_some(),
        https = policy.identity.is_some(),
        certificate = policy.identity.as_ref().map(Identity::names),
        certificate_expires = policy
            .identity
            .as_ref()
            .map(|i| tracing::field::display(i.not_after())),
        "security posture"
    );
}
