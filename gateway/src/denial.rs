//! Why a request was refused: one enum of true reasons, and the one table that turns a reason into
//! what is answered, logged and counted.
//!
//! The true reason goes to the log and the metrics. The answer carries only its public word
//! ([`Facts::public`]), which gives nothing away: a missing, an unknown and an expired key all say
//! `credentials_refused`. Nothing here ever holds input, a secret or an internal.

use std::{sync::Arc, time::Duration};

use orket_shared::problem::Problem;

use crate::limit::Standing;

/// The true reason of a refusal. One closed list: adding one means deciding its row in
/// [`Reason::facts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The route wants an API key and the policy has none at all.
    ApiKeyNotConfigured,
    /// No `X-API-Key`, or an empty one.
    ApiKeyMissing,
    /// A key that no entry of the policy knows.
    ApiKeyUnknown,
    /// A key of the form `ork_<id>_<random>_<check>` whose check part does not fit the rest: typed or copied wrong.
    ApiKeyMistyped,
    /// A known key past its `expires`.
    ApiKeyExpired,
    /// A key that was revoked with `orket-gateway keys revoke`.
    ApiKeyRevoked,
    /// A known key whose scopes do not cover the request.
    ScopeMissing,
    /// No signature header, or an empty one: the sender has no secret configured.
    SignatureMissing,
    /// A signature that is not of the sender's form (length, alphabet, prefix).
    SignatureMalformed,
    /// A well-formed signature that fits no live secret and this body.
    SignatureWrong,
    /// The scheme signs a time, and none is there.
    TimestampMissing,
    /// A signed time that is no canonical decimal number, or no time at all.
    TimestampMalformed,
    /// A signed time longer ago than the sender's tolerance.
    TimestampTooOld,
    /// A signed time further ahead than the sender's tolerance.
    TimestampTooNew,
    /// The scheme signs a message id, and none is there.
    MessageIdMissing,
    /// A signed message id that is too long, or has a character in it that would leave its end in doubt.
    MessageIdMalformed,
    /// The built-in webhook route without a secret.
    WebhookSecretNotConfigured,
    /// `/webhook/test` is switched off.
    TestWebhookDisabled,
    /// `/webhook/test` is on, but neither a token nor an API key is configured.
    TestWebhookNotConfigured,
    /// The test webhook's token is absent or wrong.
    TestTokenRefused,
    /// The test webhook is opened by the API key, and it is absent or wrong.
    TestKeyRefused,
    /// The insecure bypass was used in a way only a browser would.
    NotFromBrowser,
    /// The client's address is not allowed on this route.
    AddressDenied,
    /// No route has this path.
    RouteNotFound,
    /// The path has a route, but not for this method.
    MethodNotAllowed,
    /// Framing that two parsers could read differently (RFC 9112, sections 6 and 7).
    FramingAmbiguous,
    /// A request line or header line that is not what RFC 9112 allows.
    HeadMalformed,
    /// A path that could mean another path further inside.
    PathAmbiguous,
    /// `Host` missing, doubled or not a host.
    HostInvalid,
    /// A security header that occurs more than once.
    SecurityHeaderDuplicated,
    /// `Connection` names a header that must not be removed on the way.
    HopByHopProtected,
    /// `Upgrade` on a route that has none.
    UpgradeRefused,
    /// `Expect` other than `100-continue`.
    ExpectationUnknown,
    /// Form mode without exactly one `payload` field.
    FormMalformed,
    /// More header bytes or lines than the policy allows.
    HeadTooLarge,
    /// The head was not complete in time.
    HeadTimeout,
    /// The body was not complete in time.
    BodyTimeout,
    /// The body is larger than the route's limit.
    BodyTooLarge,
    /// `Content-Encoding` on a webhook: the signature covers other bytes than the backend would see.
    ContentEncodingRefused,
    /// A chunked webhook above the size at which a length is required.
    LengthRequired,
    /// The failure budget of the client's address is used up.
    FailureBudgetExceeded,
    /// The address is over its failure budget and its small allowance of webhook bodies is in use.
    WebhookAllowanceExceeded,
    /// The client's address, or the source, has its share of the memory for webhook bodies.
    WebhookShareExceeded,
    /// All of the memory for webhook bodies is taken.
    WebhookMemoryFull,
    /// The source's budget of new deliveries is used up.
    WebhookBudgetExceeded,
    /// Any other budget is used up.
    RateLimitExceeded,
    /// The upstream could not be reached, or broke off.
    UpstreamUnavailable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The certificate of the upstream is not for the name the policy wants.
    UpstreamTlsName,
    /// The certificate of the upstream is over, or has not begun.
    UpstreamTlsExpired,
    /// Nobody the policy trusts vouches for the certificate of the upstream.
    UpstreamTlsIssuer,
    /// The upstream speaks no TLS, or none this gateway takes.
    UpstreamTlsFailed,
    /// As many deliveries wait in the spool as `[spool]` allows.
    SpoolFull,
    /// As many deliveries of the source wait in the spool as its share allows.
    SpoolShareFull,
    /// The disk under the spool does not take a delivery, or not in time.
    SpoolUnavailable,
    /// A fault of ours. Never forwarded.
    Internal,
}

/// How loudly a refusal is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loudness {
    /// Everyday: unknown paths, over-large bodies.
    Quiet,
    /// Someone without proof was at the door, or the setup is incomplete.
    Notice,
    /// Ours to mend: the upstream or this program.
    Fault,
}

/// One row of the table: what a reason means outside.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// HTTP status.
    pub status: u16,
    /// The `detail` of the answer.
    pub detail: &'static str,
    /// The `reason` of the answer: from a short list that tells an attacker nothing.
    pub public: &'static str,
    /// The true reason as it stands in logs and metrics.
    pub word: &'static str,
    /// How loudly it is logged.
    pub loudness: Loudness,
    /// Whether it counts against the client address as a failed proof.
    pub failed_proof: bool,
}

const fn row(
    status: u16,
    detail: &'static str,
    public: &'static str,
    word: &'static str,
    loudness: Loudness,
    failed_proof: bool,
) -> Facts {
    Facts {
        status,
        detail,
        public,
        word,
        loudness,
        failed_proof,
    }
}

/// The public word for a delivery that did not prove itself.
pub const SIGNATURE_REFUSED: &str = "signature_refused";

const KEY: &str = "Could not validate credentials";
const BAD: &str = "Bad request";
const DOWN: &str = "Backend unreachable";
const RATE: &str = "Rate limit exceeded";
const LATER: &str = "Try again later";

impl Reason {
    /// Every reason, in the order of the table. For the reference page, metrics and tests.
    pub const ALL: [Self; 56] = [
        Self::ApiKeyNotConfigured,
        Self::ApiKeyMissing,
        Self::ApiKeyUnknown,
        Self::ApiKeyMistyped,
        Self::ApiKeyExpired,
        Self::ApiKeyRevoked,
        Self::ScopeMissing,
        Self::SignatureMissing,
        Self::SignatureMalformed,
        Self::SignatureWrong,
        Self::TimestampMissing,
        Self::TimestampMalformed,
        Self::TimestampTooOld,
        Self::TimestampTooNew,
        Self::MessageIdMissing,
        Self::MessageIdMalformed,
        Self::WebhookSecretNotConfigured,
        Self::TestWebhookDisabled,
        Self::TestWebhookNotConfigured,
        Self::TestTokenRefused,
        Self::TestKeyRefused,
        Self::NotFromBrowser,
        Self::AddressDenied,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::FramingAmbiguous,
        Self::HeadMalformed,
        Self::PathAmbiguous,
        Self::HostInvalid,
        Self::SecurityHeaderDuplicated,
        Self::HopByHopProtected,
        Self::UpgradeRefused,
        Self::ExpectationUnknown,
        Self::FormMalformed,
        Self::HeadTooLarge,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::ContentEncodingRefused,
        Self::LengthRequired,
        Self::FailureBudgetExceeded,
        Self::WebhookAllowanceExceeded,
        Self::WebhookShareExceeded,
        Self::WebhookMemoryFull,
        Self::WebhookBudgetExceeded,
        Self::RateLimitExceeded,
        Self::UpstreamUnavailable,
        Self::UpstreamTimeout,
        Self::UpstreamTlsName,
        Self::UpstreamTlsExpired,
        Self::UpstreamTlsIssuer,
        Self::UpstreamTlsFailed,
        Self::SpoolFull,
        Self::SpoolShareFull,
        Self::SpoolUnavailable,
        Self::Internal,
    ];

    /// The table. The only place that knows what a reason is answered with.
    #[rustfmt::skip]
    pub const fn facts(self) -> Facts {
        use Loudness::{Fault, Notice, Quiet};
        match self {
            Self::ApiKeyNotConfigured => row(403, KEY, "credentials_refused", "api_key_not_configured", Notice, true),
            Self::ApiKeyMissing => row(403, KEY, "credentials_refused", "api_key_missing", Notice, true),
            Self::ApiKeyUnknown => row(403, KEY, "credentials_refused", "api_key_unknown", Notice, true),
            Self::ApiKeyMistyped => row(403, KEY, "credentials_refused", "api_key_mistyped", Notice, true),
            Self::ApiKeyRevoked => row(403, KEY, "credentials_refused", "api_key_revoked", Notice, true),
            Self::ApiKeyExpired => row(403, KEY, "credentials_refused", "api_key_expired", Notice, true),
            Self::ScopeMissing => row(403, "Insufficient scope", "scope_insufficient", "scope_missing", Notice, false),
            Self::SignatureMissing => row(401, "Missing signature", SIGNATURE_REFUSED, "signature_missing", Notice, true),
            Self::SignatureMalformed => row(401, "Invalid signature", SIGNATURE_REFUSED, "signature_malformed", Notice, true),
            Self::SignatureWrong => row(401, "Invalid signature", SIGNATURE_REFUSED, "signature_wrong", Notice, true),
            Self::TimestampMissing => row(401, "Missing signature", SIGNATURE_REFUSED, "timestamp_missing", Notice, true),
            Self::TimestampMalformed => row(401, "Invalid signature", SIGNATURE_REFUSED, "timestamp_malformed", Notice, true),
            Self::TimestampTooOld => row(401, "Invalid signature", SIGNATURE_REFUSED, "timestamp_too_old", Notice, true),
            Self::TimestampTooNew => row(401, "Invalid signature", SIGNATURE_REFUSED, "timestamp_too_new", Notice, true),
            Self::MessageIdMissing => row(401, "Missing signature", SIGNATURE_REFUSED, "message_id_missing", Notice, true),
            Self::MessageIdMalformed => row(401, "Invalid signature", SIGNATURE_REFUSED, "message_id_malformed", Notice, true),
            Self::WebhookSecretNotConfigured => row(403, "Webhook secret not configured", "not_configured", "webhook_secret_not_configured", Notice, false),
            Self::TestWebhookDisabled => row(403, "Test webhook endpoint disabled", "disabled", "test_webhook_disabled", Quiet, false),
            Self::TestWebhookNotConfigured => row(403, "Test webhook auth not configured", "not_configured", "test_webhook_not_configured", Notice, false),
            Self::TestTokenRefused => row(401, "Invalid test webhook token", "credentials_refused", "test_token_refused", Notice, true),
            Self::TestKeyRefused => row(401, "Invalid API key", "credentials_refused", "test_key_refused", Notice, true),
            Self::NotFromBrowser => row(403, "Not from a browser", "browser_refused", "insecure_bypass_from_browser", Notice, false),
            Self::AddressDenied => row(403, "Address not allowed", "address_refused", "address_denied", Notice, false),
            Self::RouteNotFound => row(404, "Not found", "not_found", "route_not_found", Quiet, false),
            Self::MethodNotAllowed => row(405, "Method not allowed", "method_not_allowed", "method_not_allowed", Quiet, false),
            Self::FramingAmbiguous => row(400, BAD, "bad_request", "framing_ambiguous", Notice, false),
            Self::HeadMalformed => row(400, BAD, "bad_request", "head_malformed", Notice, false),
            Self::PathAmbiguous => row(400, BAD, "bad_request", "path_ambiguous", Notice, false),
            Self::HostInvalid => row(400, BAD, "bad_request", "host_invalid", Notice, false),
            Self::SecurityHeaderDuplicated => row(400, BAD, "bad_request", "security_header_duplicated", Notice, false),
            Self::HopByHopProtected => row(400, BAD, "bad_request", "hop_by_hop_protected", Notice, false),
            Self::UpgradeRefused => row(400, BAD, "bad_request", "upgrade_refused", Quiet, false),
            Self::ExpectationUnknown => row(400, BAD, "bad_request", "expectation_unknown", Quiet, false),
            Self::FormMalformed => row(400, BAD, "bad_request", "form_malformed", Notice, true),
            Self::HeadTooLarge => row(431, "Request head too large", "head_too_large", "head_too_large", Quiet, false),
            Self::HeadTimeout => row(408, "Request timeout", "timeout", "head_timeout", Quiet, false),
            Self::BodyTimeout => row(408, "Request timeout", "timeout", "body_timeout", Quiet, false),
            Self::BodyTooLarge => row(413, "Payload too large", "payload_too_large", "body_too_large", Quiet, false),
            Self::ContentEncodingRefused => row(415, "Unsupported content encoding", "unsupported_encoding", "content_encoding_refused", Quiet, false),
            Self::LengthRequired => row(411, "Length required", "length_required", "length_required", Quiet, false),
            Self::FailureBudgetExceeded => row(429, RATE, "rate_limited", "failure_budget_exceeded", Notice, false),
            Self::WebhookAllowanceExceeded => row(429, RATE, "rate_limited", "webhook_allowance_exceeded", Notice, false),
            Self::WebhookShareExceeded => row(429, RATE, "rate_limited", "webhook_share_exceeded", Notice, false),
            Self::WebhookMemoryFull => row(503, LATER, "try_again_later", "webhook_memory_full", Fault, false),
            Self::WebhookBudgetExceeded => row(429, "Webhook rate limit exceeded", "rate_limited", "webhook_budget_exceeded", Notice, false),
            Self::RateLimitExceeded => row(429, RATE, "rate_limited", "rate_limit_exceeded", Notice, false),
            Self::UpstreamUnavailable => row(502, DOWN, "upstream_unavailable", "upstream_unavailable", Fault, false),
            Self::UpstreamTimeout => row(504, "Backend too slow", "upstream_timeout", "upstream_timeout", Fault, false),
            Self::UpstreamTlsName => row(502, DOWN, "upstream_unavailable", "upstream_tls_wrong_name", Fault, false),
            Self::UpstreamTlsExpired => row(502, DOWN, "upstream_unavailable", "upstream_tls_expired", Fault, false),
            Self::UpstreamTlsIssuer => row(502, DOWN, "upstream_unavailable", "upstream_tls_unknown_issuer", Fault, false),
            Self::UpstreamTlsFailed => row(502, DOWN, "upstream_unavailable", "upstream_tls_failed", Fault, false),
            Self::SpoolFull => row(503, LATER, "try_again_later", "spool_full", Fault, false),
            Self::SpoolShareFull => row(503, LATER, "try_again_later", "spool_share_full", Fault, false),
            Self::SpoolUnavailable => row(503, LATER, "try_again_later", "spool_unavailable", Fault, false),
            Self::Internal => row(500, "Internal error", "internal", "internal", Fault, false),
        }
    }

    /// What an operator can do about it, for the log. `None` where the word says it all.
    pub const fn hint(self) -> Option<&'static str> {
        match self {
            Self::ApiKeyNotConfigured => {
                Some("no API key is configured: set ORKET_API_KEY, or add [[keys]] to the policy")
            }
            Self::ApiKeyMistyped => {
                Some("a character of the key is wrong, missing or too many: copy it again, whole")
            }
            Self::ApiKeyRevoked => {
                Some("give its caller a new one: `orket-gateway keys new`, or `keys rotate`")
            }
            Self::SignatureMissing => Some(
                "the sender signs nothing: set the hook's secret on the forge to the one the policy names",
            ),
            Self::SignatureWrong => Some(
                "the sender's secret differs from the policy's, or something between changed the body",
            ),
            Self::SignatureMalformed => Some(
                "the signature is not of the form this sender writes: does the route name the right `provider`?",
            ),
            Self::TimestampMissing | Self::MessageIdMissing => Some(
                "this sender signs a time (and some an id) beside the body: does the route name the right `provider`?",
            ),
            Self::TimestampTooOld => Some(
                "is this machine's clock right? Otherwise the delivery waited, or was sent again as it was: let the sender send it anew",
            ),
            Self::TimestampTooNew => Some("is this machine's clock right, and the sender's?"),
            Self::WebhookSecretNotConfigured => {
                Some("set GITEA_WEBHOOK_SECRET, and the same secret on the forge's hook")
            }
            Self::TestWebhookNotConfigured => {
                Some("set ORKET_WEBHOOK_TEST_TOKEN, or ORKET_API_KEY")
            }
            Self::UpstreamUnavailable => {
                Some("is the backend running, and does its socket admit this user?")
            }
            Self::UpstreamTlsName => Some(
                "set the upstream's `server_name` to a name its certificate is for; is it the right server?",
            ),
            Self::UpstreamTlsExpired => Some("renew the upstream's certificate, or mend a clock"),
            Self::UpstreamTlsIssuer => {
                Some("name the certificate that signed the upstream's as its `ca_file`")
            }
            Self::UpstreamTlsFailed => Some("does the upstream speak TLS 1.2 or 1.3 on this port?"),
            Self::SpoolFull => Some(
                "mend the backend so that the spool empties, or raise [spool] entries and bytes",
            ),
            Self::SpoolShareFull => Some(
                "is this source flooding, or its backend down? [spool] source_share is what one source may take",
            ),
            Self::WebhookShareExceeded => Some(
                "one address or source holds many bodies: is its upstream slow? [limits] webhook_memory is what all may take",
            ),
            Self::WebhookMemoryFull => Some(
                "are upstreams of webhooks slow, or do many addresses send bodies slowly that nothing has proven yet? Mend the upstreams, deny those addresses, or raise [limits] webhook_memory",
            ),
            Self::SpoolUnavailable => {
                Some("is the disk under [state] dir full, read-only or too slow?")
            }
            Self::ContentEncodingRefused => {
                Some("switch compression off on the sender: the signature covers the plain bytes")
            }
            Self::ApiKeyMissing
            | Self::ApiKeyUnknown
            | Self::ApiKeyExpired
            | Self::ScopeMissing
            | Self::TimestampMalformed
            | Self::MessageIdMalformed
            | Self::TestWebhookDisabled
            | Self::TestTokenRefused
            | Self::TestKeyRefused
            | Self::NotFromBrowser
            | Self::AddressDenied
            | Self::RouteNotFound
            | Self::MethodNotAllowed
            | Self::FramingAmbiguous
            | Self::HeadMalformed
            | Self::PathAmbiguous
            | Self::HostInvalid
            | Self::SecurityHeaderDuplicated
            | Self::HopByHopProtected
            | Self::UpgradeRefused
            | Self::ExpectationUnknown
            | Self::FormMalformed
            | Self::HeadTooLarge
            | Self::HeadTimeout
            | Self::BodyTimeout
            | Self::BodyTooLarge
            | Self::LengthRequired
            | Self::FailureBudgetExceeded
            | Self::WebhookAllowanceExceeded
            | Self::WebhookBudgetExceeded
            | Self::RateLimitExceeded
            | Self::UpstreamTimeout
            | Self::Internal => None,
        }
    }
}

/// A refusal: the true reason, and what the caller needs to do better next time.
#[derive(Debug, Clone, PartialEq)]
pub struct Denial {
    /// The true reason.
    pub reason: Reason,
    /// When to come back, for what can be waited out.
    pub retry_after: Option<Duration>,
    /// The methods that would be allowed, for 405.
    pub allow: Option<String>,
    /// The limit that refused, for the `RateLimit` headers.
    pub standing: Option<Standing>,
    /// The route it happened on, for the log.
    pub route: Option<Arc<str>>,
    /// The key it is about, for the log.
    pub key: Option<Box<NamedKey>>,
}

/// The key a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedKey {
    /// This key was presented.
    Known(Arc<str>),
    /// The text that was presented claims to be this one. Told only if there is a key of that id, and only after the
    /// answer is out.
    Claimed(Box<str>),
}

impl Denial {
    /// The same refusal, on this route.
    #[must_use]
    pub fn on(self, route: &Arc<str>) -> Self {
        Self {
            route: Some(route.clone()),
            ..self
        }
    }

    /// The shared `Problem` this is answered with.
    pub fn problem(&self, request_id: &str) -> Problem {
        let facts = self.reason.facts();
        Problem::new(
            facts.status,
            status_phrase(facts.status),
            facts.public,
            facts.detail,
        )
        .with_request_id(request_id)
    }

    /// The value of `Retry-After` in whole seconds, rounded up so that waiting it out is enough;
    /// at least 1 (RFC 9110, section 10.2.3).
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after
            .map(|d| d.as_secs() + u64::from(d.subsec_nanos() > 0))
            .map(|s| s.max(1))
    }
}

impl From<Reason> for Denial {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            retry_after: None,
            allow: None,
            standing: None,
            route: None,
            key: None,
        }
    }
}

/// The standard phrase of a status (RFC 9110, section 15), as it stands in `title`.
pub fn status_phrase(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|s| s.canonical_reason())
        .unwrap_or("Error")
}
