//! What is counted by. Every label is an id of the policy or a word of a closed list, so that the number of
//! series is bounded by the policy, whatever is sent.

use std::sync::Arc;

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

orket_shared::declare_labels! {
    /// What requests are counted by.
    RequestLabels {
        /// the route's id; empty where none was found
        route: RouteLabel,
        /// `forwarded`, `cut` (its answer broke off after its head), `health`, `duplicate`, `spooled`, `abandoned` (nobody waited for an answer), `panicked` or the [true reason](reasons.md) of a refusal
        outcome: &'static str,
        /// who it was: `key`, `webhook`, `test-webhook`, `anonymous`, or `none` where nobody was proven
        actor: &'static str,
        /// the status of the answer; 0 without one, `other` for one that HTTP does not know
        status: Status,
    }
    /// What is told apart by route alone.
    RouteLabels {
        /// the route's id; empty where none was found
        route: RouteLabel,
    }
    /// What shadow denials are counted by.
    ShadowLabels {
        /// the route's id
        route: RouteLabel,
        /// the [true reason](reasons.md) it would have given
        reason: &'static str,
        /// the limit's id; empty for address rules
        limit: RouteLabel,
    }
    /// Which of a route's webhook secrets.
    SecretLabels {
        /// the route's id
        route: RouteLabel,
        /// the list in `[secrets]` and the entry's place in it from 1, such as `gitea.2`
        secret: RouteLabel,
    }
    /// What is told apart by source alone.
    SourceLabels {
        /// the source's name
        source: RouteLabel,
    }
    /// Which limiter.
    LimiterLabels {
        /// its id
        limiter: RouteLabel,
        /// `policy` for those of `[[rate_limits]]`, `built-in` for those that always are
        kind: LimiterKind,
    }
    /// Why a connection was closed at once.
    CapLabels {
        /// `all` for the cap on connections in all, `address` for the one of each address
        cap: Cap,
    }
    /// Why a TLS handshake failed.
    HandshakeLabels {
        /// `timeout`, `gone`, `plain_http`, `no_common_protocol` (HTTP/2 only), `no_common_version`, `certificate_distrusted`, `malformed` or `no_certificate`
        reason: &'static str,
    }
    /// What came of a reload.
    VerdictLabels {
        /// `in_force` or `refused`
        verdict: Verdict,
    }
    /// Which API key.
    KeyLabels {
        /// its id
        key: String,
    }
    /// Why something was refused.
    ReasonLabels {
        /// the [true reason](reasons.md)
        reason: &'static str,
    }
    /// What runs.
    BuildLabels {
        /// the version of this program
        version: &'static str,
    }
}

/// An id of the policy, shared with it; empty where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RouteLabel(Option<Arc<str>>);

impl RouteLabel {
    /// The label of this id.
    pub fn of(id: Option<&Arc<str>>) -> Self {
        Self(id.cloned())
    }
}

impl From<&str> for RouteLabel {
    fn from(id: &str) -> Self {
        Self(Some(id.into()))
    }
}

impl EncodeLabelValue for RouteLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.as_deref().unwrap_or("").encode(encoder)
    }
}

/// A status of an answer. An upstream may answer any number of three digits; those without a name count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(Option<u16>);

impl From<u16> for Status {
    fn from(status: u16) -> Self {
        let known = status == 0
            || StatusCode::from_u16(status).is_ok_and(|s| s.canonical_reason().is_some());
        Self(known.then_some(status))
    }
}

impl EncodeLabelValue for Status {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self.0 {
            Some(status) => status.encode(encoder),
            None => "other".encode(encoder),
        }
    }
}

/// A closed list of words that are values of a label.
macro_rules! words {
    ($( $(#[doc = $doc:literal])+ $name:ident { $( $(#[doc = $meaning:literal])+ $variant:ident = $word:literal, )+ } )+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
            pub enum $name { $( $(#[doc = $meaning])+ $variant, )+ }

            impl EncodeLabelValue for $name {
                fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                    match self { $( Self::$variant => $word, )+ }.encode(encoder)
                }
            }
        )+
    };
}

words! {
    /// Where a limiter comes from.
    LimiterKind {
        /// The policy names it.
        Policy = "policy",
        /// It always is.
        BuiltIn = "built-in",
    }
    /// A cap on connections.
    Cap {
        /// On all of them.
        All = "all",
        /// On those from one address.
        Address = "address",
    }
    /// What came of a reload.
    Verdict {
        /// The new policy is in force.
        InForce = "in_force",
        /// The old one stayed.
        Refused = "refused",
    }
}

impl Cap {
    /// The setting in `[limits]` that it is.
    pub const fn limit(self) -> &'static str {
        match self {
            Self::All => "connections",
            Self::Address => "connections_per_address",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_cannot_make_series_by_its_statuses() {
        assert_eq!(Status::from(700), Status::from(999));
        assert_ne!(Status::from(200), Status::from(201));
        assert_ne!(Status::from(0), Status::from(799));
    }
}
