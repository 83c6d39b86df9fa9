//! Why the backend does not start, each with what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::room;
use crate::{
    confine,
    listen::BindError,
    sandbox,
    store::{self, is_full},
};

/// Why the backend does not start. Each ends in what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// What earlier boots left cannot be settled.
    #[error(
        "what the last start left cannot be settled: {0}; see to the store's disk, then start again: nothing is lost by that"
    )]
    Settle(store::StoreError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// Commands are not confined as they have to be.
    #[error(transparent)]
    Confine(#[from] confine::selftest::ConfineError),
    /// This process cannot be kept from others of its user.
    #[error(
        "this process cannot be made unreadable for others: {0}; allow prctl(PR_SET_DUMPABLE) where system calls are filtered"
    )]
    Hide(io::Error),
    /// Runs could reach the store.
    #[error("{0}")]
    NotApart(String),
    /// A directory cannot be used.
    #[error(
        "cannot use the {what} {}: {why}; let the backend's user read and write it, or choose another place in {setting}",
        path.display()
    )]
    Directory {
        /// What it is for.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
        /// The setting that says where it is.
        setting: &'static str,
    },
}

impl From<store::StoreError> for StartError {
    fn from(error: store::StoreError) -> Self {
        Self::Settle(error)
    }
}

impl From<sandbox::OpenError> for StartError {
    fn from(error: sandbox::OpenError) -> Self {
        let sandbox::OpenError::Io { dir, source } = error;
        Self::beside_the_store("directory of sandboxes", &dir)(source)
    }
}

impl StartError {
    /// Whether it is for want of room on the disk of the store at `path`: with room the same start may go well.
    pub(super) fn lacks_room(&self, path: &Path) -> bool {
        match self {
            Self::Settle(store::StoreError::Full) => true,
            Self::Directory { why, .. } if is_full(why) => true,
            Self::Store(error) => room::lacks_room(error, path),
            Self::Settle(_)
            | Self::Directory { .. }
            | Self::Listen(_)
            | Self::Confine(_)
            | Self::Hide(_)
            | Self::NotApart(_) => !room::is_there(path),
        }
    }

    /// The workspace cannot be used.
    pub(super) fn workspace(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::directory("workspace", path, "[workspace] dir")
    }

    /// Something that lies beside the store cannot be used.
    pub(super) fn beside_the_store(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> Self {
        Self::directory(what, path, "[store] url")
    }

    /// A directory cannot be used; `setting` says where it lies.
    pub(super) fn directory(
        what: &'static str,
        path: &Path,
        setting: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |why| Self::Directory {
            what,
            path,
            why,
            setting,
        }
    }
}
