//! The last step before the command: this program once more, between the supervisor's fork and the
//! command's image, where limits can be set on ourselves in safe code.
//!
//! It ties its life to its parent's (the supervisor, or the first process of a namespace), confines
//! itself as the plan says, and becomes the command. It must not start threads, read configuration or
//! print: what it opens or changes, the command inherits.

use std::{
    collections::BTreeMap,
    env,
    ffi::CString,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use nix::errno::Errno;
use rustix::process::{Pid, Signal};

use super::{
    channel::{Errand, Job, Report},
    files::{LaunchRefusal, Spec},
    tree::MARKER,
};
use crate::confine::apply;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes the command that standard input tells of, or reports why not.
pub(crate) fn become_command(parent: u32) -> ExitCode {
    let (errand, job) = match Errand::take() {
        Ok(taken) => taken,
        Err(error) => {
            super::complain(format_args!("orket: no word of what to launch: {error}"));
            return ExitCode::from(REFUSED);
        }
    };
    let refusal = match prepare(&job, parent) {
        // Its end was asked for before it began.
        Ok(_) if !errand.may_begin() => return ExitCode::from(REFUSED),
        Ok(image) => image.execute(),
        Err(refusal) => refusal,
    };
    if let Err(error) = errand.report(&Report::Refused(refusal)) {
        // Standard error is the command's own: it lands in its output, the next best place.
        super::complain(format_args!(
            "orket: cannot report why the command is not launched: {error}"
        ));
    }
    ExitCode::from(REFUSED)
}

/// The code a launcher ends with when it could not become the command.
const REFUSED: u8 = 127;

/// What `execve` wants.
struct Image {
    program: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Image {
    /// Becomes the program; returns only when the kernel refuses. Not `execvp`, which would hand a
    /// file of unknown format to a shell.
    fn execute(self) -> LaunchRefusal {
        let Err(errno) = nix::unistd::execve(&self.program, &self.argv, &self.env);
        // It was found: what does not exist is what it needs.
        let what = if errno == Errno::ENOENT {
            "its interpreter or loader does not exist"
        } else if errno == Errno::ENOEXEC {
            "neither a program of this machine nor a script that starts with #!"
        } else {
            errno.desc()
        };
        LaunchRefusal::Failed(format!("{}: {what}", self.program.to_string_lossy()))
    }
}

fn prepare(job: &Job, parent: u32) -> Result<Image, LaunchRefusal> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        LaunchRefusal::Failed(format!("{what}: {error}"))
    };
    let unconfined = |error| failed("cannot confine the command", &error);
    let spec = &job.spec;
    if let Some(group) = &job.group {
        group.join().map_err(unconfined)?;
    }
    inherit_nothing().map_err(unconfined)?;
    let begun = apply::begin(&spec.plan, &job.tmp).map_err(unconfined)?;
    // After the user has changed, which clears it.
    die_with(parent).map_err(unconfined)?;
    enter(&spec.workdir).map_err(|error| {
        failed(
            &format!("working directory {}", spec.workdir.display()),
            &error,
        )
    })?;
    begun.finish().map_err(unconfined)?;
    let env = environment(spec, &job.tmp);
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let name = spec
        .argv
        .first()
        .ok_or_else(|| LaunchRefusal::Failed("the command is empty".into()))?;
    let program = resolve(name, path)?;
    let text =
        |bytes: &[u8]| CString::new(bytes).map_err(|error| failed("a NUL character", &error));
    Ok(Image {
        program: text(program.as_os_str().as_bytes())?,
        argv: spec
            .argv
            .iter()
            .map(|argument| text(argument.as_bytes()))
            .collect::<Result<_, _>>()?,
        env: env
            .iter()
            .map(|(name, value)| text(format!("{name}={value}").as_bytes()))
            .collect::<Result<_, _>>()?,
    })
}

/// Goes to the working directory as it was resolved. Another run may have put a link in its path
/// since then, which would lead out of the workspace.
fn enter(workdir: &Path) -> std::io::Result<()> {
    env::set_current_dir(workdir)?;
    let reached = env::current_dir()?;
    if reached == workdir {
        return Ok(());
    }
    Err(std::io::Error::other(format!(
        "it leads to {} by now; name the directory itself, without symbolic links",
        reached.display()
    )))
}

/// Ends with its parent, however that ends.
fn die_with(parent: u32) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that call took hold.
    if rustix::process::getppid().map(Pid::as_raw_pid) != i32::try_from(parent).ok() {
        return Err(std::io::Error::other("the supervisor is gone"));
    }
    Ok(())
}

fn inherit_nothing() -> std::io::Result<()> {
    // Rust programs ignore SIGPIPE, and what is ignored stays so in the next image; what is caught
    // does not.
    signal_hook::flag::register(
        signal_hook::consts::SIGPIPE,
        Arc::new(AtomicBool::new(false)),
    )?;
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    Ok(())
}

/// A minimal environment, overridden by what the specification says; the marker cannot be
/// overridden.
fn environment(spec: &Spec, tmp: &Path) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        (
            "HOME".to_owned(),
            spec.workdir.to_string_lossy().into_owned(),
        ),
        ("TMPDIR".to_owned(), tmp.to_string_lossy().into_owned()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    env.extend(spec.env.clone());
    env.insert(MARKER.to_owned(), spec.nonce.clone());
    env
}

/// Finds the file to execute the way `execvp` does.
fn resolve(name: &str, path: &str) -> Result<PathBuf, LaunchRefusal> {
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![PathBuf::from(name)]
    } else {
        path.split(':')
            .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name))
            .collect()
    };
    let mut unusable = None;
    for candidate in candidates {
        match fs::metadata(&candidate) {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {
                return Ok(candidate);
            }
            Ok(found) => {
                let what = if found.is_dir() {
                    "is a directory"
                } else {
                    "is not executable"
                };
                unusable.get_or_insert_with(|| format!("{} {what}", candidate.display()));
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                unusable.get_or_insert_with(|| format!("{}: {error}", candidate.display()));
            }
            Err(_) => {}
        }
    }
    Err(match unusable {
        Some(detail) => LaunchRefusal::Failed(detail),
        None if name.contains('/') => LaunchRefusal::NotFound(format!("{name} does not exist")),
        None => LaunchRefusal::NotFound(format!(
            "{name} is in none of the directories of PATH ({path})"
        )),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
    use super::*;

    fn executable(dir: &Path, name: &str, content: &str, mode: u32) {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn resolving_tells_missing_from_unusable() {
        let dir = tempfile::tempdir().unwrap();
        executable(dir.path(), "script", "#!/bin/sh\n", 0o755);
        executable(dir.path(), "plain", "#!/bin/sh\n", 0o644);
        fs::create_dir(dir.path().join("folder")).unwrap();
        let path = dir.path().to_str().unwrap();
        assert_eq!(resolve("script", path).unwrap(), dir.path().join("script"));
        assert!(
            matches!(resolve("plain", path), Err(LaunchRefusal::Failed(text)) if text.contains("not executable"))
        );
        assert!(
            matches!(resolve("folder", path), Err(LaunchRefusal::Failed(text)) if text.contains("directory"))
        );
        assert!(matches!(
            resolve("absent", path),
            Err(LaunchRefusal::NotFound(_))
        ));
        assert!(matches!(
            resolve("/no/such/program", path),
            Err(LaunchRefusal::NotFound(_))
        ));
        assert!(matches!(
            resolve("script", ""),
            Err(LaunchRefusal::NotFound(_))
        ));
    }
}
