//! `[spool]`: how much may wait, how long, and how much of what failed is kept.

use std::time::Duration;

use super::Loader;
use crate::{
    config::{Written, reader::At},
    policy::SpoolBounds,
};

impl Loader<'_> {
    pub(super) fn spool_bounds(&mut self, written: &Written) -> SpoolBounds {
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
        let bytes = w.bytes.as_ref().map_or(256 << 20, |s| s.value.0 as u64);
        let dead_bytes = w.dead_bytes.as_ref().map_or(64 << 20, |s| s.value.0 as u64);
        SpoolBounds {
            entries,
            bytes,
            age: w
                .age
                .as_ref()
                .map_or(Duration::from_secs(7 * 86_400), |a| a.value),
            dead_entries,
            dead_bytes,
        }
    }
}
