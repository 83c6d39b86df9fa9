//! `[spool]`: how much may wait, how long, and how much of what failed is kept.

use std::{collections::BTreeSet, time::Duration};

use super::Loader;
use crate::{
    config::{Written, reader::At},
    policy::{Auth, RouteTable, SpoolBounds, Spooling},
};

/// How much of the spool one source may take where there are several, in percent.
const SHARE: u8 = 50;

impl Loader<'_> {
    pub(super) fn spool_bounds(&mut self, written: &Written, routes: &RouteTable) -> SpoolBounds {
        let w = &written.spool;
        let mut count = |at: &Option<At<u64>>, default: usize, least: u64| match at {
            Some(n) if !(least..=1_000_000).contains(&n.value) => {
                self.error(
                    &n.span,
                    format!("this is between {least} and 1000000"),
                    "each entry is a file, and some memory",
                );
                default
            }
            Some(n) => usize::try_from(n.value).unwrap_or(default),
            None => default,
        };
        let entries = count(&w.entries, 10_000, 1);
        let dead_entries = count(&w.dead_entries, 1_000, 1);
        let source_share = self.source_share(w.source_share.as_ref(), routes);
        let bytes = w.bytes.as_ref().map_or(256 << 20, |s| s.value.0 as u64);
        let dead_bytes = w.dead_bytes.as_ref().map_or(64 << 20, |s| s.value.0 as u64);
        SpoolBounds {
            entries,
            bytes,
            source_share,
            age: w
                .age
                .as_ref()
                .map_or(Duration::from_secs(7 * 86_400), |a| a.value),
            dead_entries,
            dead_bytes,
        }
    }

    /// Where nothing is written, a source that has the spool to itself may take all of it.
    fn source_share(&mut self, written: Option<&At<u64>>, routes: &RouteTable) -> u8 {
        let sources: BTreeSet<&str> = routes
            .iter()
            .filter(|route| route.spool == Spooling::On)
            .filter_map(|route| match &route.auth {
                Auth::Webhook(auth) => Some(&*auth.source),
                Auth::ApiKey | Auth::TestWebhook(_) | Auth::None => None,
            })
            .collect();
        let default = if sources.len() > 1 { SHARE } else { 100 };
        let Some(at) = written else { return default };
        match u8::try_from(at.value) {
            Ok(share @ 1..=100) => share,
            Ok(_) | Err(_) => {
                self.error(
                    &at.span,
                    "`source_share` is a part of 100: 1 to 100",
                    "leave it out for 50 where several sources spool",
                );
                default
            }
        }
    }
}
