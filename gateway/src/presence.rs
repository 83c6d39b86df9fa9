//! That a gateway runs, for `keys revoke` to see where nobody answers.
//!
//! A gateway shares a lock on the folder of its policy file, and one beside the owner of its state directory on that directory. Nothing is
//! written, so a folder that may only be read does as well. A lock that nobody shares can be had alone: then no gateway of this machine
//! is there. Whoever may read a folder may lock it too, and can so make a revocation look uncertain, but never certain.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use crate::file_lock::{self, Lock, MOMENT};

/// A directory in which this process is seen, until this is dropped or the process ends.
#[derive(Debug)]
pub struct Mark {
    _handle: Arc<OwnedFd>,
    /// Whether somebody else has the directory for himself, so that it is still waited for.
    waits: bool,
}

impl Mark {
    /// Shows this process in a directory. Where somebody has locked that for himself, nobody can take it for free, and the lock is had
    /// as soon as it is.
    ///
    /// # Errors
    /// Those of the system: it cannot be read, or knows no locks.
    pub fn in_directory(path: &Path) -> io::Result<Self> {
        let handle = Arc::new(opened(path)?);
        let waits = !file_lock::take(&handle, Lock::Shared, MOMENT)?;
        if waits {
            let waiting = handle.clone();
            std::thread::Builder::new()
                .name("presence".to_owned())
                .spawn(move || file_lock::wait_to_share(&waiting))?;
        }
        Ok(Self {
            _handle: handle,
            waits,
        })
    }
}

/// Whether a running gateway shows itself in a directory, or somebody keeps it from being told.
///
/// # Errors
/// Those of the system; not found, where there is no such directory.
pub fn is_shown_in(path: &Path) -> io::Result<bool> {
    let taken = file_lock::take(opened(path)?, Lock::Alone, MOMENT)?;
    Ok(!taken)
}

fn opened(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The folders of a policy file: the one it is named in, and where a link was named, the one it lies in.
///
/// # Errors
/// That there is no such file.
pub fn folders_of(file: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let named = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let lies = fs::canonicalize(file)?;
    let lies = lies.parent().unwrap_or(Path::new("/"));
    // One folder by two names is one.
    Ok([fs::canonicalize(named)?, lies.to_owned()].into())
}

/// That a gateway runs with a policy file. See the [module](self).
#[derive(Debug)]
pub struct Presence {
    file: PathBuf,
    marks: Mutex<Vec<Mark>>,
}

/// Why a gateway could not be seen.
#[derive(Debug, thiserror::Error)]
#[error(
    "the folder of the policy file {} cannot be locked: {source}; `keys revoke` could not see that this gateway runs. Give its user the right to list that folder (chmod g+r), on a file system that knows locks", file.display()
)]
pub struct Unseen {
    file: PathBuf,
    source: io::Error,
}

impl Presence {
    /// Shows that this process runs with a policy file. Before it is read: what is read after a look that found nobody is what was there then.
    ///
    /// # Errors
    /// See [`Unseen`].
    pub fn with(file: &Path) -> Result<Self, Unseen> {
        let presence = Self {
            file: file.to_owned(),
            marks: Mutex::default(),
        };
        presence.renew()?;
        Ok(presence)
    }

    /// Shows it in the folders that the file has now: they may have been replaced.
    ///
    /// # Errors
    /// See [`Unseen`]. It is still seen where it was.
    pub fn renew(&self) -> Result<(), Unseen> {
        let marks = folders_of(&self.file)
            .and_then(|folders| folders.iter().map(|f| Mark::in_directory(f)).collect())
            .map_err(|source| Unseen {
                file: self.file.clone(),
                source,
            })?;
        // The new ones are had before the old ones go.
        *self.marks.lock() = marks;
        Ok(())
    }

    /// The policy file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether somebody has locked a folder for himself, so that the lock is still waited for.
    pub fn waits(&self) -> bool {
        self.marks.lock().iter().any(|mark| mark.waits)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn it_is_seen_until_it_ends_and_by_every_name_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (real, linked) = (dir.path().join("real"), dir.path().join("linked"));
        fs::create_dir(&real).unwrap();
        fs::create_dir(&linked).unwrap();
        fs::write(real.join("p.toml"), "").unwrap();
        let link = linked.join("p.toml");
        std::os::unix::fs::symlink(real.join("p.toml"), &link).unwrap();
        let first = Presence::with(&link).unwrap();
        let second = Presence::with(&real.join("p.toml")).unwrap();
        assert!(is_shown_in(&real).unwrap() && is_shown_in(&linked).unwrap());
        drop(first);
        assert!(is_shown_in(&real).unwrap(), "another is still there");
        assert!(!is_shown_in(&linked).unwrap());
        drop(second);
        assert!(!is_shown_in(&real).unwrap());
    }

    #[test]
    fn a_folder_that_somebody_has_for_himself_looks_taken_and_is_had_after_him() {
        let dir = tempfile::tempdir().unwrap();
        let his = opened(dir.path()).unwrap();
        assert!(file_lock::take(&his, Lock::Alone, MOMENT).unwrap());
        let mark = Mark::in_directory(dir.path()).unwrap();
        assert!(mark.waits);
        assert!(is_shown_in(dir.path()).unwrap());
        drop(his);
        // Had by now or in a moment: the one who looks waits behind the one who came first.
        file_lock::wait_to_share(opened(dir.path()).unwrap()).unwrap();
        while !is_shown_in(dir.path()).unwrap() {}
        drop(mark);
    }

    #[test]
    fn a_folder_that_was_replaced_is_shown_in_after_it_is_renewed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("etc");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("p.toml"), "").unwrap();
        let presence = Presence::with(&folder.join("p.toml")).unwrap();
        fs::rename(&folder, dir.path().join("old")).unwrap();
        assert!(presence.renew().is_err(), "it is gone");
        assert!(is_shown_in(&dir.path().join("old")).unwrap());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("p.toml"), "").unwrap();
        presence.renew().unwrap();
        assert!(is_shown_in(&folder).unwrap());
        assert!(!is_shown_in(&dir.path().join("old")).unwrap());
    }
}
