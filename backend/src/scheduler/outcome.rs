//! What the end of an attempt means for its run. Pure.

use crate::{
    executor::{Exit, Outcome},
    plan::deadline::Bound,
    run::Ending,
    store::{attempts::Verdict, runs::Why},
};

/// What an exit means: how the run ends, why, and whether another attempt could help.
pub fn judge(exit: &Exit) -> Verdict {
    let (ending, hopeless, reason, detail) = match &exit.outcome {
        Outcome::Exited { code: 0 } => (Ending::Succeeded, false, None, None),
        Outcome::Exited { code } => {
            let detail = format!("the command ended with exit status {code}");
            (Ending::Failed, false, Some("exit_status"), Some(detail))
        }
        Outcome::Signaled { signal } => {
            let detail = format!("the command was ended by signal {signal}");
            (Ending::Failed, false, Some("signal"), Some(detail))
        }
        Outcome::TimedOut => return Verdict::over(Bound::Attempt),
        Outcome::Canceled => (Ending::Canceled, false, Some("canceled"), None),
        Outcome::Interrupted => {
            let detail = "its supervisor was told to stop by someone else".to_owned();
            (Ending::Lost, false, Some("interrupted"), Some(detail))
        }
        Outcome::CommandNotFound { detail } => (
            Ending::Failed,
            true,
            Some("command_not_found"),
            Some(detail.clone()),
        ),
        Outcome::LaunchFailed { detail } => (
            Ending::Failed,
            true,
            Some("launch_failed"),
            Some(detail.clone()),
        ),
        Outcome::Lost { detail } => (
            Ending::Lost,
            false,
            Some("supervisor_lost"),
            Some(detail.clone()),
        ),
    };
    Verdict {
        ending,
        hopeless,
        why: Why {
            reason: reason.map(str::to_owned),
            detail,
        },
    }
}

/// The end of an attempt that never got as far as a process.
pub fn not_started(reason: &str, detail: String, hopeless: bool) -> (Exit, Verdict) {
    let exit = Exit::now(Outcome::LaunchFailed {
        detail: detail.clone(),
    });
    let why = Why {
        reason: Some(reason.to_owned()),
        detail: Some(detail),
    };
    (
        exit,
        Verdict {
            ending: Ending::Failed,
            hopeless,
            why,
        },
    )
}

/// The end of an attempt of which nobody knows how it went.
pub fn lost(detail: String) -> (Exit, Verdict) {
    let exit = Exit::now(Outcome::Lost { detail });
    let mut verdict = judge(&exit);
    verdict.why.reason = Some("vanished".to_owned());
    (exit, verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_meaning() {
        let of = |outcome| {
            let verdict = judge(&Exit::now(outcome));
            (
                verdict.ending,
                verdict.hopeless,
                verdict.why.reason.unwrap_or_default(),
            )
        };
        let detail = String::new;
        assert_eq!(
            of(Outcome::Exited { code: 0 }),
            (Ending::Succeeded, false, detail())
        );
        assert_eq!(
            of(Outcome::Exited { code: 1 }),
            (Ending::Failed, false, "exit_status".into())
        );
        assert_eq!(
            of(Outcome::Signaled { signal: 9 }),
            (Ending::Failed, false, "signal".into())
        );
        assert_eq!(
            of(Outcome::TimedOut),
            (Ending::TimedOut, false, "timeout".into())
        );
        assert_eq!(
            of(Outcome::Canceled),
            (Ending::Canceled, false, "canceled".into())
        );
        assert_eq!(
            of(Outcome::CommandNotFound { detail: detail() }),
            (Ending::Failed, true, "command_not_found".into())
        );
        assert_eq!(
            of(Outcome::Lost { detail: detail() }),
            (Ending::Lost, false, "supervisor_lost".into())
        );
    }
}
