//! The steps that a process takes on itself before it becomes the command. Their order matters:
//! each takes away what the next one no longer needs.

use std::{io, path::Path};

use super::{Plan, files, limits, privileges, syscalls};

/// What the last steps need.
pub(crate) struct Begun<'a> {
    plan: &'a Plan,
    files: Option<files::Prepared>,
}

/// The first part: the user and what power is left. Paths are opened before, as whoever we are.
pub(crate) fn begin<'a>(plan: &'a Plan, tmp: &Path) -> io::Result<Begun<'a>> {
    let files = match plan.rules {
        Some(rules) => {
            privileges::hide()?;
            privileges::bound()?;
            Some(files::prepare(plan, rules.landlock, tmp)?)
        }
        None => None,
    };
    if let Some(user) = plan.user {
        privileges::become_user(user)?;
    }
    match plan.rules {
        Some(_) => privileges::drop_all()?,
        None => rustix::thread::set_no_new_privs(true)?,
    }
    Ok(Begun { plan, files })
}

impl Begun<'_> {
    /// The last part: files, limits, and system calls at the very end.
    pub(crate) fn finish(self) -> io::Result<()> {
        let Some(files) = self.files else {
            return limits::set(self.plan);
        };
        files::hold(files)?;
        limits::set(self.plan)?;
        syscalls::hold(self.plan)
    }
}
