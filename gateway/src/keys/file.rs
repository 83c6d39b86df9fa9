//! The policy file while it is edited: alone, from what was read, and whole or not at all.
//!
//! The new text goes into a file beside the old one, with its mode and owner, is flushed, read back and judged, and then takes its
//! name. A program that dies before that has changed nothing; the next edit clears away what it left. Never writes into the file itself.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    file_lock::{self, Lock},
    plain_file,
};

/// How long another edit may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a file cannot be edited.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("{} cannot be read: {source}; give the path of the policy file with --config", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a plain file", .0.display())]
    NotAFile(PathBuf),
    #[error("{} has another name as well (a hard link), and an edit would part the two; edit it by hand", .0.display())]
    HardLink(PathBuf),
    #[error("{} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    #[error("{} is being edited by another `orket-gateway keys`; try again when that is done", .0.display())]
    Locked(PathBuf),
    #[error("{} was changed by somebody else while it was being edited, so nothing was written; try again", .0.display())]
    Changed(PathBuf),
    #[error(
        "nothing can be written beside {}: {source}; the file is replaced whole, so its directory has to be writable",
        path.display()
    )]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{} belongs to user {owner} and group {group}, and a new file cannot be given to them: {source}; run this as root or as its owner",
        path.display()
    )]
    Owner {
        path: PathBuf,
        owner: u32,
        group: u32,
        source: io::Error,
    },
}

/// A policy file, locked against other edits until it is dropped.
#[derive(Debug)]
pub(super) struct PolicyFile {
    /// As it was named: from there the policy's own paths are taken.
    named: PathBuf,
    /// The file itself, where a link was named.
    path: PathBuf,
    _lock: File,
    text: String,
    metadata: fs::Metadata,
}

/// A file that is removed again unless it has taken the other's name.
struct Fresh {
    path: PathBuf,
    /// From then on its first name is free, for whoever edits next.
    renamed: bool,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl PolicyFile {
    /// Waits for the lock, then reads the file.
    pub(super) fn open(named: &Path) -> Result<Self, FileError> {
        let unread = |source| FileError::Read {
            path: named.to_owned(),
            source,
        };
        let path = fs::canonicalize(named).map_err(unread)?;
        let lock = lock(&path)?;
        let (text, metadata) = read(&path)?;
        Ok(Self {
            named: named.to_owned(),
            path,
            _lock: lock,
            text,
            metadata,
        })
    }

    pub(super) fn named(&self) -> &Path {
        &self.named
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Puts `text` in the place of what was read, if `judge` agrees to what was written.
    pub(super) fn replace<E: From<FileError>>(
        &self,
        text: &str,
        judge: impl FnOnce(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut fresh = self.write_beside(text)?;
        let (written, _) = read(&fresh.path)?;
        judge(&written)?;
        let (now, metadata) = read(&self.path)?;
        if now != self.text || metadata.ino() != self.metadata.ino() {
            return Err(FileError::Changed(self.path.clone()).into());
        }
        fs::rename(&fresh.path, &self.path).map_err(|e| self.unwritten(e))?;
        fresh.renamed = true;
        File::open(self.path.parent().unwrap_or(Path::new("/")))
            .and_then(|dir| dir.sync_all())
            .map_err(|e| self.unwritten(e))?;
        Ok(())
    }

    fn write_beside(&self, text: &str) -> Result<Fresh, FileError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let path = self.path.with_file_name(format!(".{name}.keys-edit"));
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.unwritten(e)),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| self.unwritten(e))?;
        let fresh = Fresh {
            path,
            renamed: false,
        };
        self.give(&file)?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|e| self.unwritten(e))?;
        Ok(fresh)
    }

    /// Gives a new file the owner and the mode of the old one.
    fn give(&self, file: &File) -> Result<(), FileError> {
        let new = file.metadata().map_err(|e| self.unwritten(e))?;
        let (owner, group) = (self.metadata.uid(), self.metadata.gid());
        if (new.uid(), new.gid()) != (owner, group) {
            std::os::unix::fs::fchown(file, Some(owner), Some(group)).map_err(|source| {
                FileError::Owner {
                    path: self.path.clone(),
                    owner,
                    group,
                    source,
                }
            })?;
        }
        file.set_permissions(Permissions::from_mode(self.metadata.mode() & 0o7777))
            .map_err(|e| self.unwritten(e))
    }

    fn unwritten(&self, source: io::Error) -> FileError {
        FileError::Write {
            path: self.path.clone(),
            source,
        }
    }
}

/// Locks the file at `path` against other edits. An edit replaces it: whoever has waited looks whether what it has got is still it.
fn lock(path: &Path) -> Result<File, FileError> {
    let unread = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let end = Instant::now() + PATIENCE;
    loop {
        let file = plain_file::open(path).map_err(unread)?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || !file_lock::take(&file, Lock::Alone, left).map_err(unread)? {
            return Err(FileError::Locked(path.to_owned()));
        }
        let (got, named) = file
            .metadata()
            .and_then(|got| Ok((got, fs::symlink_metadata(path)?)))
            .map_err(unread)?;
        if (got.dev(), got.ino()) == (named.dev(), named.ino()) {
            return Ok(file);
        }
    }
}

fn read(path: &Path) -> Result<(String, fs::Metadata), FileError> {
    let unread = |source| FileError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::symlink_metadata(path).map_err(unread)?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    if metadata.nlink() > 1 {
        return Err(FileError::HardLink(path.to_owned()));
    }
    let (bytes, _) = plain_file::read(path, plain_file::POLICY_BYTES).map_err(unread)?;
    let text = String::from_utf8(bytes).map_err(|_| FileError::NotText(path.to_owned()))?;
    Ok((text, metadata))
}
