//! How often containers were started again lately. The engine counts over a whole life only, in which a few
//! failures are no loop.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

/// What counts as lately.
const WINDOW: Duration = Duration::from_mins(10);

/// The restarts of all containers that were looked at, as far as this process has seen them.
#[derive(Debug, Default)]
pub(super) struct Restarts(HashMap<String, BTreeMap<String, Counted>>);

/// Those of one container.
#[derive(Debug)]
struct Counted {
    container: String,
    /// The engine's count when it was last looked at.
    last: i64,
    /// When more were seen, and how many.
    seen: VecDeque<(Instant, i64)>,
}

impl Restarts {
    /// How many of the restarts that the engine has counted for a container were lately.
    pub(super) fn lately(
        &mut self,
        (sandbox, service): (&str, &str),
        container: &str,
        created: Option<Timestamp>,
        count: i64,
    ) -> i64 {
        let services = self.0.entry(sandbox.to_owned()).or_default();
        let counted = services
            .entry(service.to_owned())
            .and_modify(|counted| {
                if counted.container != container {
                    *counted = Counted::new(container, created, count);
                }
            })
            .or_insert_with(|| Counted::new(container, created, count));
        counted.take_in(count)
    }

    /// There is no such sandbox any more.
    pub(super) fn forget(&mut self, sandbox: &str) {
        self.0.remove(sandbox);
    }
}

impl Counted {
    /// What an old container did before this process looked may have been long ago.
    fn new(container: &str, created: Option<Timestamp>, count: i64) -> Self {
        let age = created.map(|created| Timestamp::now().duration_since(created));
        let is_young = age.is_some_and(|age| age.unsigned_abs() < WINDOW);
        Self {
            container: container.to_owned(),
            last: if is_young { 0 } else { count },
            seen: VecDeque::new(),
        }
    }

    fn take_in(&mut self, count: i64) -> i64 {
        if count > self.last {
            self.seen.push_back((Instant::now(), count - self.last));
        }
        // One that somebody started by hand is counted from 0 again.
        self.last = count;
        while let Some((at, _)) = self.seen.front()
            && at.elapsed() >= WINDOW
        {
            self.seen.pop_front();
        }
        self.seen.iter().map(|(_, more)| more).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_what_was_lately_counts() {
        let now = Some(Timestamp::now());
        let mut restarts = Restarts::default();
        let mut lately = |container, created, count| {
            restarts.lately(("sbx_1", "api"), container, created, count)
        };
        assert_eq!(
            lately("a", now, 2),
            2,
            "it is young: all of them were lately"
        );
        assert_eq!(lately("a", now, 2), 2);
        tokio::time::advance(WINDOW / 2).await;
        assert_eq!(lately("a", now, 4), 4);
        tokio::time::advance(WINDOW / 2).await;
        assert_eq!(lately("a", now, 4), 2, "the first two were long ago");
        tokio::time::advance(WINDOW).await;
        assert_eq!(lately("a", now, 5), 1);
        assert_eq!(lately("a", now, 0), 1, "started by hand");
        assert_eq!(lately("a", now, 1), 2);
        let old = now.map(|now| now - WINDOW);
        assert_eq!(lately("b", old, 7), 0, "when that was, nobody has seen");
        assert_eq!(lately("b", old, 8), 1);
        restarts.forget("sbx_1");
        assert_eq!(restarts.lately(("sbx_1", "api"), "b", old, 8), 0);
    }
}
