//! Whose turn it is.
//!
//! Runs wait in lanes: one for each key (build) of each queue. Of the lanes that their limits let
//! go on, the one counts whose first run has the highest priority; among equals the one that was
//! served longest ago; within a lane the higher priority, then the older run.

use std::collections::{BTreeMap, BTreeSet};

use super::Rules;

/// Where a run waits: its queue and its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// The queue.
    pub queue: String,
    /// The key, such as a build; empty for runs without one.
    pub key: String,
}

/// The first run of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its lane.
    pub lane: Lane,
    /// The run.
    pub run: String,
    /// 0 to 9, larger first.
    pub priority: i64,
    /// When its lane was last given a slot, as a counter; 0 for never.
    pub served: i64,
}

/// How many runs are active.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    total: i64,
    queues: BTreeMap<String, i64>,
    lanes: BTreeMap<Lane, i64>,
}

impl Usage {
    /// Counts `runs` active runs of a lane more.
    pub fn add(&mut self, lane: &Lane, runs: i64) {
        self.total += runs;
        *self.queues.entry(lane.queue.clone()).or_default() += runs;
        *self.lanes.entry(lane.clone()).or_default() += runs;
    }

    /// Whether all slots are taken.
    pub fn is_full(&self, rules: &Rules) -> bool {
        self.total >= rules.concurrency
    }

    /// Whether the limits let another run of this lane go on. A queue that is not configured any
    /// more has no limit of its own: what waits in it is not stranded.
    pub fn admits(&self, lane: &Lane, rules: &Rules) -> bool {
        let limit = rules.queue(&lane.queue).unwrap_or_default().key_concurrency;
        let active = self.lanes.get(lane).copied().unwrap_or(0);
        self.admits_queue(&lane.queue, rules)
            && (lane.key.is_empty() || limit.is_none_or(|limit| active < limit))
    }

    /// Whether the limits let another run of this queue go on, of a lane that may have another slot.
    pub fn admits_queue(&self, queue: &str, rules: &Rules) -> bool {
        let limit = rules.queue(queue).unwrap_or_default().concurrency;
        let active = self.queues.get(queue).copied().unwrap_or(0);
        !self.is_full(rules) && limit.is_none_or(|limit| active < limit)
    }

    /// How many lanes of a queue have all the slots they may have.
    pub fn full_lanes(&self, queue: &str, rules: &Rules) -> usize {
        let Some(limit) = rules.queue(queue).unwrap_or_default().key_concurrency else {
            return 0;
        };
        let is_full = |(lane, active): &(&Lane, &i64)| {
            lane.queue == queue && !lane.key.is_empty() && **active >= limit
        };
        self.lanes.iter().filter(is_full).count()
    }
}

/// The place in `heads` of the run whose turn it is; `None`: no lane may go on.
pub fn next(
    heads: &[Head],
    usage: &Usage,
    rules: &Rules,
    paused: &BTreeSet<String>,
) -> Option<usize> {
    heads
        .iter()
        .enumerate()
        .filter(|(_, head)| !paused.contains(&head.lane.queue) && usage.admits(&head.lane, rules))
        .min_by_key(|(_, head)| (-head.priority, head.served, &head.lane))
        .map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Bounds, QueueRule};

    fn lane(queue: &str, key: &str) -> Lane {
        Lane {
            queue: queue.to_owned(),
            key: key.to_owned(),
        }
    }

    fn head(queue: &str, key: &str, priority: i64, served: i64) -> Head {
        Head {
            lane: lane(queue, key),
            run: format!("{queue}/{key}"),
            priority,
            served,
        }
    }

    fn rules(concurrency: i64, queue: QueueRule) -> Rules {
        Rules {
            concurrency,
            queue_limit: 100,
            queues: BTreeMap::from([("q".to_owned(), queue)]),
            bounds: Bounds::default(),
        }
    }

    #[test]
    fn priority_then_turn_then_name() {
        let open = rules(9, QueueRule::default());
        let pick = |heads: &[Head]| {
            next(heads, &Usage::default(), &open, &BTreeSet::new())
                .and_then(|place| heads.get(place))
                .map(|head| head.run.clone())
        };
        let some = |run: &str| Some(run.to_owned());
        assert_eq!(pick(&[]), None);
        assert_eq!(
            pick(&[head("q", "a", 0, 1), head("q", "b", 3, 9)]),
            some("q/b")
        );
        assert_eq!(
            pick(&[head("q", "a", 3, 4), head("q", "b", 3, 2)]),
            some("q/b")
        );
        assert_eq!(
            pick(&[head("q", "b", 3, 0), head("q", "a", 3, 0)]),
            some("q/a")
        );
    }

    #[test]
    fn each_limit_holds_alone() {
        let heads = [
            head("q", "a", 9, 0),
            head("q", "", 5, 0),
            head("r", "", 0, 0),
        ];
        let pick = |usage: &Usage, rules: &Rules, paused: &[&str]| {
            let paused = paused.iter().map(|queue| (*queue).to_owned()).collect();
            next(&heads, usage, rules, &paused)
        };
        let mut one = Usage::default();
        one.add(&lane("q", "a"), 1);
        let queue = |concurrency, key_concurrency| QueueRule {
            concurrency,
            key_concurrency,
            length: None,
        };
        assert_eq!(pick(&one, &rules(2, queue(None, None)), &[]), Some(0));
        assert_eq!(pick(&one, &rules(1, queue(None, None)), &[]), None);
        assert_eq!(pick(&one, &rules(2, queue(Some(1), None)), &[]), Some(2));
        assert_eq!(pick(&one, &rules(2, queue(None, Some(1))), &[]), Some(1));
        assert_eq!(pick(&one, &rules(2, queue(None, None)), &["q"]), Some(2));
        assert_eq!(pick(&one, &rules(2, queue(None, None)), &["q", "r"]), None);
        let full = |key_concurrency| one.full_lanes("q", &rules(9, queue(None, key_concurrency)));
        assert_eq!((full(None), full(Some(1)), full(Some(2))), (0, 1, 0));
        let mut keyless = Usage::default();
        keyless.add(&lane("q", ""), 5);
        assert_eq!(
            pick(&keyless, &rules(9, queue(None, Some(1))), &[]),
            Some(0),
            "runs without a key do not count as one key"
        );
        assert_eq!(keyless.full_lanes("q", &rules(9, queue(None, Some(1)))), 0);
    }
}
