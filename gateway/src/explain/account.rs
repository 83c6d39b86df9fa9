//! The account that is given of a request: its verdict, the steps that led there, what would be sent.

use serde::{Deserialize, Serialize};

use super::signature;
use crate::{
    denial::SIGNATURE_REFUSED,
    hearing::{Step, Trail},
    pipeline::Snapshot,
    rehearsal::{Forwarding, Outcome, Request, Sent, Surroundings, rehearse_before},
};

/// The verdict and what led to it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// `forwarded`, `refused` or `answered`.
    pub(super) verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    /// The true reason of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// What the caller is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allow: Option<String>,
    /// Every check, in its order.
    pub(super) steps: Vec<Step>,
    /// What the upstream would get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sent: Option<Sent>,
    /// What to do about it.
    pub(super) hints: Vec<String>,
    /// By which policy it was judged.
    pub(super) policy: JudgedBy,
}

/// By which policy a request was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JudgedBy {
    /// Where the policy comes from.
    pub(super) origin: String,
    /// SHA-256 of its text.
    pub(super) fingerprint: String,
    /// Whether it is the one in force in a running gateway, with its present budgets and memory.
    pub(super) live: bool,
    /// How the file compares with what is in force, where it does not agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

/// Judges a request and tells how it came out.
pub(super) fn explain(
    snapshot: &Snapshot,
    surroundings: Surroundings<'_>,
    request: &Request,
    policy: JudgedBy,
) -> Explanation {
    let mut trail = Trail::default();
    let outcome = rehearse_before(snapshot, surroundings, request, &mut trail);
    let told = Explanation {
        verdict: "answered".to_owned(),
        status: Some(200),
        reason: None,
        detail: None,
        route: None,
        upstream: None,
        actor: None,
        event: None,
        idempotency_key: None,
        allow: None,
        steps: trail.steps,
        sent: None,
        hints: Vec::new(),
        policy,
    };
    match outcome {
        Outcome::Answered => told,
        Outcome::Forwarded(forwarding) => {
            let Forwarding {
                upstream,
                route,
                actor,
                delivery,
                sent,
            } = *forwarding;
            let (event, key) = delivery.map_or((None, None), |(event, key)| (event, Some(key)));
            Explanation {
                verdict: "forwarded".to_owned(),
                status: None,
                route: Some(route.to_string()),
                upstream: Some(upstream),
                actor: Some(actor),
                event,
                idempotency_key: key,
                sent: Some(sent),
                ..told
            }
        }
        Outcome::Refused(denial) => {
            let facts = denial.reason.facts();
            let mut hints: Vec<String> = denial
                .reason
                .hint()
                .map(str::to_owned)
                .into_iter()
                .collect();
            if facts.public == SIGNATURE_REFUSED {
                // The first that fits explains it; the general hint only where none does.
                if let Some(mistake) =
                    signature::mistakes(snapshot, request, denial.route.as_deref(), denial.reason)
                        .into_iter()
                        .next()
                {
                    hints = vec![mistake];
                }
            }
            Explanation {
                verdict: "refused".to_owned(),
                status: Some(facts.status),
                reason: Some(facts.word.to_owned()),
                detail: Some(facts.detail.to_owned()),
                route: denial.route.as_deref().map(str::to_owned),
                allow: denial.allow,
                hints,
                ..told
            }
        }
    }
}

impl Explanation {
    /// As a person reads it.
    pub(super) fn to_text(&self) -> String {
        let mut lines = Vec::new();
        let mut line = |name: &str, value: Option<&str>| {
            lines.extend(value.map(|value| format!("{name:<10}{value}")));
        };
        let status = self.status.map(|s| s.to_string());
        let answer = self.detail.as_ref().map(|d| format!("\"{d}\""));
        line("verdict", Some(&self.verdict));
        line("status", status.as_deref());
        line("reason", self.reason.as_deref());
        line("answer", answer.as_deref());
        line("route", self.route.as_deref());
        line("allow", self.allow.as_deref());
        line("upstream", self.upstream.as_deref());
        line("actor", self.actor.as_deref());
        line("event", self.event.as_deref());
        line("key", self.idempotency_key.as_deref());
        for hint in &self.hints {
            line("hint", Some(hint));
        }
        lines.push("steps".to_owned());
        for step in &self.steps {
            let Step {
                check,
                outcome,
                says,
            } = step;
            lines.push(format!("  {check:<16}{:<9}{says}", outcome.word()));
        }
        if let Some(sent) = &self.sent {
            lines.push("sent".to_owned());
            lines.push(format!("  {:<16}{}", "path", sent.path));
            lines.push(format!("  {:<16}{}", "body", sent.body));
            if !sent.removed.is_empty() {
                lines.push(format!("  {:<16}{}", "removed", sent.removed.join(", ")));
            }
            for (name, value) in &sent.set {
                lines.push(format!("  {:<16}{name}: {value}", "set"));
            }
        }
        let by = &self.policy;
        lines.push(if by.live {
            format!(
                "judged by the policy in force ({}), with its budgets and memory as they are; nothing was spent",
                by.origin
            )
        } else {
            format!(
                "judged by {} as it is on disk, with fresh budgets and an empty memory",
                by.origin
            )
        });
        lines.extend(by.note.iter().map(|note| format!("note: {note}")));
        lines.join("\n")
    }
}
