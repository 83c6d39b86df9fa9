//! Sizes, times, counts and named budgets.

use std::{num::NonZeroU32, time::Duration};

use super::{Loader, Weakness};
use crate::{
    bodies::{self, UNPROVEN_PART},
    config::{Written, reader::At, value::RateWritten},
    limit::Rate,
    policy::{Auth, BudgetOf, Limits, Mode, Policy, RateLimit},
};

impl Loader<'_> {
    pub(super) fn limits(&mut self, written: &Written) -> Limits {
        let w = &written.limits;
        let mut count = |at: &Option<At<u64>>, default: usize, most: u64| match at {
            Some(n) if n.value == 0 || n.value > most => {
                self.error(
                    &n.span,
                    format!("this is between 1 and {most}"),
                    &format!("leave it out for {default}"),
                );
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
            self.error(
                &at.span,
                "`head_bytes` is between 256B and 256KiB",
                "leave it out for 16KiB",
            );
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
            webhook_memory: w
                .webhook_memory
                .as_ref()
                .map_or(bodies::MEMORY, |size| size.value.0),
        }
    }

    /// The memory for webhook bodies has to hold, as the share of one address, the largest that a route takes.
    pub(super) fn room_for_bodies(&mut self, written: &Written, policy: &Policy) {
        let Some(at) = &written.limits.webhook_memory else {
            // The largest body that a route may take fits the default.
            return;
        };
        let largest = policy
            .routes
            .iter()
            .filter(|route| matches!(route.auth, Auth::Webhook(_)))
            .max_by_key(|route| route.body_limit);
        if let Some(route) = largest
            && route.body_limit > at.value.0 / UNPROVEN_PART
        {
            let needed = route
                .body_limit
                .saturating_mul(UNPROVEN_PART)
                .div_ceil(1024);
            self.error(
                &at.span,
                format!(
                    "bodies of the route `{}` can be larger than an address's share, a quarter of this",
                    route.id
                ),
                &format!("at least \"{needed}KiB\", or lower the route's `body_limit`"),
            );
        }
    }

    pub(super) fn rate_limits(&mut self, written: &Written) -> Vec<RateLimit> {
        let mut out: Vec<RateLimit> = Vec::new();
        for limit in &written.rate_limits {
            let (Some(id), Some(by), Some(rate)) = (&limit.id, &limit.by, &limit.rate) else {
                self.lacking(
                    &limit.at,
                    "a rate limit",
                    &[
                        ("id", limit.id.is_none()),
                        ("by", limit.by.is_none()),
                        ("rate", limit.rate.is_none()),
                    ],
                    "e.g. id = \"per-key\", by = \"key\", rate = \"600/min\"",
                );
                let id = limit.id.as_ref().map(|id| format!("limit {}", id.value));
                self.half_read.extend(id);
                continue;
            };
            // Until it is understood whole.
            self.half_read.insert(format!("limit {}", id.value));
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
                mode: self.mode(limit.mode.as_ref(), || format!("the limit `{}`", id.value)),
            });
        }
        out
    }
}

impl Loader<'_> {
    /// Whether a rule refuses, and a warning where it does not. What is no mode refuses.
    pub(super) fn mode(
        &mut self,
        written: Option<&At<String>>,
        rule: impl FnOnce() -> String,
    ) -> Mode {
        let Some(at) = written else {
            return Mode::Enforce;
        };
        match at.value.as_str() {
            "enforce" => Mode::Enforce,
            "shadow" => {
                let message = format!("{} only watches: in shadow mode nothing is refused", rule());
                let hint = "take `mode` out once the log's `shadow_denied` records show only what should be refused";
                self.weak(Weakness::ShadowMode, &at.span, message, hint);
                Mode::Shadow
            }
            other => {
                self.error(
                    &at.span,
                    format!("`{other}` is not a mode"),
                    "\"enforce\" or \"shadow\"",
                );
                Mode::Enforce
            }
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
