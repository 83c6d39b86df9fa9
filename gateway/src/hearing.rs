//! Under what a request is judged, and who looks on.
//!
//! The pipeline tells a [`Witness`] what it does as it does it. For live requests that is a list of shadow
//! denials, and every step is left unsaid and unmade; `explain` takes all steps down. So an explanation is
//! told by the code that judges, and there is no second reading of the policy. A witness decides nothing.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    denial::Reason,
    limit::{Exceeded, Standing},
    pipeline::Snapshot,
    policy::Mode,
};

/// Under what a request is judged.
#[derive(Debug)]
pub struct Hearing<'a, W> {
    /// The policy and its budgets.
    pub snapshot: &'a Snapshot,
    /// The request's id.
    pub request_id: &'a str,
    /// The moment that expiry is judged by.
    pub now: Timestamp,
    /// Who looks on.
    pub witness: &'a mut W,
}

/// Who looks on.
pub trait Witness {
    /// A check was made. Whoever does not want to know leaves `step` uncalled.
    fn step(&mut self, step: impl FnOnce() -> Step);

    /// A rule in shadow mode would have refused.
    fn shadow(&mut self, denial: ShadowDenial);
}

/// What a rule in shadow mode would have done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowDenial {
    /// The reason it would have given.
    pub reason: Reason,
    /// The route.
    pub route: Arc<str>,
    /// The limit's id; none for address rules.
    pub limit: Option<Arc<str>>,
    /// When the budget would have been back.
    pub retry_after: Option<Duration>,
}

/// One check, as an explanation shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub check: String,
    /// What came of it.
    pub outcome: StepOutcome,
    /// What it found. Holds no secret and no text of the request but its method and path.
    pub says: String,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// The request goes on.
    Passed,
    /// It ends here.
    Refused,
    /// It would end here, were the rule in force.
    Shadow,
}

impl StepOutcome {
    /// Its word, as a person reads it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Shadow => "shadow",
        }
    }
}

/// A live request's witness: only what would have been refused is kept, for the log and the metric.
impl Witness for Vec<ShadowDenial> {
    fn step(&mut self, _step: impl FnOnce() -> Step) {}

    fn shadow(&mut self, denial: ShadowDenial) {
        self.push(denial);
    }
}

/// Takes every step down.
#[derive(Debug, Default)]
pub struct Trail {
    /// The steps, in their order.
    pub steps: Vec<Step>,
}

impl Witness for Trail {
    fn step(&mut self, step: impl FnOnce() -> Step) {
        self.steps.push(step());
    }

    fn shadow(&mut self, _denial: ShadowDenial) {}
}

impl<W: Witness> Hearing<'_, W> {
    /// Tells of a check that let the request go on.
    pub fn passed(&mut self, check: &'static str, says: impl FnOnce() -> String) {
        self.witness
            .step(|| step(check, StepOutcome::Passed, says()));
    }

    /// Tells of a check that ends the request.
    pub fn refused(&mut self, check: &'static str, reason: Reason) {
        self.witness
            .step(|| step(check, StepOutcome::Refused, reason.facts().word.to_owned()));
    }

    /// Tells of a check whichever way it went.
    pub fn check<T>(
        &mut self,
        name: &'static str,
        outcome: Result<T, Reason>,
        says: impl FnOnce(&T) -> String,
    ) -> Result<T, Reason> {
        match &outcome {
            Ok(found) => self.passed(name, || says(found)),
            Err(reason) => self.refused(name, *reason),
        }
        outcome
    }

    /// A rule that does not hold: refuses where the rule is in force, else only tells of it.
    pub fn enforce(
        &mut self,
        check: &'static str,
        mode: Mode,
        reason: Reason,
        route: &Arc<str>,
    ) -> Result<(), Reason> {
        match mode {
            Mode::Enforce => {
                self.refused(check, reason);
                Err(reason)
            }
            Mode::Shadow => {
                self.witness.step(|| {
                    let says = format!("would refuse: {}", reason.facts().word);
                    step(check, StepOutcome::Shadow, says)
                });
                self.witness.shadow(ShadowDenial {
                    reason,
                    route: route.clone(),
                    limit: None,
                    retry_after: None,
                });
                Ok(())
            }
        }
    }

    /// A budget was asked: tells of it. What comes back is announced to the caller, so nothing of a budget in
    /// shadow mode.
    pub fn budget(
        &mut self,
        mode: Mode,
        reason: Reason,
        route: &Arc<str>,
        asked: Result<Standing, Exceeded>,
    ) -> Result<Option<Standing>, Exceeded> {
        let says = |standing: &Standing, how: &str| {
            let Standing {
                policy,
                quota,
                window,
                remaining,
                ..
            } = standing;
            format!("`{policy}` ({quota} in {window} s): {how}{remaining} left")
        };
        match (asked, mode) {
            (Ok(standing), Mode::Enforce) => {
                self.passed("budget", || says(&standing, "after this request "));
                Ok(Some(standing))
            }
            (Ok(standing), Mode::Shadow) => {
                self.passed("budget", || {
                    says(&standing, "in shadow mode, after this request ")
                });
                Ok(None)
            }
            (Err(over), Mode::Enforce) => {
                self.witness.step(|| {
                    let says = says(&over.standing, &format!("{}, ", reason.facts().word));
                    step("budget", StepOutcome::Refused, says)
                });
                Err(over)
            }
            (Err(over), Mode::Shadow) => {
                self.witness.step(|| {
                    let how = format!("would refuse: {}, ", reason.facts().word);
                    step("budget", StepOutcome::Shadow, says(&over.standing, &how))
                });
                self.witness.shadow(ShadowDenial {
                    reason,
                    route: route.clone(),
                    limit: Some(over.standing.policy.clone()),
                    retry_after: Some(over.retry_after),
                });
                Ok(None)
            }
        }
    }
}

fn step(check: &'static str, outcome: StepOutcome, says: String) -> Step {
    Step {
        check: check.to_owned(),
        outcome,
        says,
    }
}
