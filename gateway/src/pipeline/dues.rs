//! The budgets that a proven request spends of: all of them or none.
//!
//! They are looked at before one of them is spent, so that what one refuses costs nothing of the others. A source that is over its budget is
//! not refused where its route has a spool: its delivery waits, and pays when it is handed over.

use super::{
    exceeded,
    permit::{Delivery, Pace},
};
use crate::{
    budget::{Budgets, Owner},
    denial::{Denial, Reason},
    guard::Actor,
    hearing::{Hearing, Witness},
    limit::{Exceeded, Standing},
    policy::{BudgetOf, Mode, RateLimit, Route, Spooling, address::budget_address},
    request_head::RequestHead,
};

/// What a budget says of one more request.
type Said = Result<Standing, Exceeded>;

/// See the [module](self).
pub(super) struct Dues<'p>(Vec<Due<'p>>);

/// What was paid.
pub(super) struct Paid {
    /// How the budgets stand now, as far as that is announced.
    pub(super) standings: Vec<Standing>,
    /// Whether the source had enough.
    pub(super) pace: Pace,
}

/// One budget that is to be spent of.
struct Due<'p> {
    /// Its place in the policy.
    index: usize,
    spec: &'p RateLimit,
    owner: Owner,
    /// Why it is refused where nothing is left.
    reason: Reason,
    /// Whether what is over it waits instead.
    may_wait: bool,
}

impl<'p> Dues<'p> {
    /// What the route asks of this request.
    pub(super) fn of<W: Witness>(
        hearing: &Hearing<'p, W>,
        route: &Route,
        head: &RequestHead<'_>,
        actor: &Actor,
        delivery: Option<&Delivery>,
    ) -> Result<Self, Denial> {
        let limits = &hearing.snapshot.policy.rate_limits;
        let one = |index: &usize| {
            let spec = limits.get(*index).ok_or(Reason::Internal)?;
            let owner = match (spec.by, actor, delivery) {
                (BudgetOf::Address, ..) => Owner::Address(budget_address(head.client)),
                (BudgetOf::Route, ..) => Owner::Named(route.id.clone()),
                (BudgetOf::Key, Actor::Key(id), _) => Owner::Named(id.clone()),
                (BudgetOf::Source, _, Some(delivery)) => Owner::Named(delivery.source.clone()),
                // The bypass: nobody in particular shares one budget.
                (BudgetOf::Key | BudgetOf::Source, ..) => Owner::Named("anonymous".into()),
            };
            let reason = match spec.by {
                BudgetOf::Source => Reason::WebhookBudgetExceeded,
                BudgetOf::Key | BudgetOf::Address | BudgetOf::Route => Reason::RateLimitExceeded,
            };
            Ok(Due {
                index: *index,
                spec,
                owner,
                reason,
                may_wait: spec.by == BudgetOf::Source
                    && spec.mode == Mode::Enforce
                    && route.spool == Spooling::On,
            })
        };
        route
            .budgets
            .iter()
            .map(one)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Looks at all, then spends of each. Refused by the first that has nothing left.
    pub(super) fn pay<W: Witness>(
        self,
        hearing: &mut Hearing<'_, W>,
        route: &Route,
    ) -> Result<Paid, Denial> {
        let looked = self.look(&hearing.snapshot.budgets)?;
        let pace = self.weigh(hearing, route, &looked)?;
        self.spend(hearing, route, &looked, pace)
    }

    /// What each says now. One alone is not looked at: it is spent or it refuses.
    fn look(&self, budgets: &Budgets) -> Result<Vec<Said>, Denial> {
        if self.0.len() < 2 {
            return Ok(Vec::new());
        }
        let look = |due: &Due<'_>| {
            budgets
                .look(due.index, &due.owner)
                .ok_or_else(|| Reason::Internal.into())
        };
        self.0.iter().map(look).collect()
    }

    /// Whether what they said lets it in, and when.
    fn weigh<W: Witness>(
        &self,
        hearing: &mut Hearing<'_, W>,
        route: &Route,
        looked: &[Said],
    ) -> Result<Pace, Denial> {
        let mut pace = Pace::Now;
        for (due, said) in self.0.iter().zip(looked) {
            if said.is_err() && due.may_wait {
                pace = Pace::Deferred;
            } else if said.is_err() && due.spec.mode == Mode::Enforce {
                due.tell(hearing, route, said.clone())?;
            }
        }
        Ok(pace)
    }

    /// Spends of each. Of the source's own nothing where it waits anyway.
    fn spend<W: Witness>(
        &self,
        hearing: &mut Hearing<'_, W>,
        route: &Route,
        looked: &[Said],
        mut pace: Pace,
    ) -> Result<Paid, Denial> {
        let mut standings = Vec::with_capacity(self.0.len());
        for (n, due) in self.0.iter().enumerate() {
            let said = match looked.get(n) {
                Some(said) if pace == Pace::Deferred && due.spec.by == BudgetOf::Source => {
                    said.clone()
                }
                Some(_) | None => hearing
                    .snapshot
                    .budgets
                    .spend(due.index, &due.owner)
                    .ok_or(Reason::Internal)?,
            };
            match said {
                Err(over) if due.may_wait => {
                    hearing.passed("budget", || {
                        let policy = &over.standing.policy;
                        format!("`{policy}` is used up: it waits in the spool")
                    });
                    standings.push(over.standing);
                    pace = Pace::Deferred;
                }
                said => standings.extend(due.tell(hearing, route, said)?),
            }
        }
        Ok(Paid { standings, pace })
    }
}

impl Due<'_> {
    /// Tells who looks on what a budget said; a refusal where it refuses.
    fn tell<W: Witness>(
        &self,
        hearing: &mut Hearing<'_, W>,
        route: &Route,
        said: Said,
    ) -> Result<Option<Standing>, Denial> {
        hearing
            .budget(self.spec.mode, self.reason, &route.id, said)
            .map_err(|over| exceeded(self.reason, over))
    }
}
