//! The spool's files. One entry is one file, named by its place in the order and its id.
//!
//! A file is written under `new/`, flushed, and renamed into `waiting/`; what is in `new/` at a start was never
//! acknowledged and is removed. What failed for good is renamed into `dead/`, what cannot be read into `unreadable/`: neither
//! needs room on the disk. No name is made from what a request says.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    sync::Arc,
};

use bytes::Bytes;
use rustix::io::Errno;

use super::{
    entry::{self, Entry, Tries},
    shelf::Item,
};
use crate::state::{StateDir, directory::Directory};

const SUFFIX: &str = ".entry";

/// Which of the spool's directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Waiting,
    Dead,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Store {
    _state: Arc<StateDir>,
    new: Directory,
    waiting: Directory,
    dead: Directory,
    unreadable: Directory,
}

/// What a start finds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) waiting: Vec<Item>,
    pub(super) dead: Vec<Item>,
    /// How many lie in `unreadable/`.
    pub(super) unreadable: usize,
}

impl Store {
    pub(super) fn open(state: Arc<StateDir>) -> io::Result<(Self, Found)> {
        let spool = state.directory().below("spool")?;
        let store = Self {
            new: spool.below("new")?,
            waiting: spool.below("waiting")?,
            dead: spool.below("dead")?,
            unreadable: spool.below("unreadable")?,
            _state: state,
        };
        for name in store.new.names()? {
            store.new.remove(&name)?;
        }
        let mut found = Found {
            waiting: store.look_through(Place::Waiting)?,
            dead: store.look_through(Place::Dead)?,
            unreadable: 0,
        };
        found.unreadable = store.unreadable.names()?.len();
        Ok((store, found))
    }

    /// Every entry of a place, checked to its last byte and not kept in memory.
    fn look_through(&self, place: Place) -> io::Result<Vec<Item>> {
        let mut all = Vec::new();
        for name in self.directory(place).names()? {
            match look_at(self.directory(place), &name) {
                Ok(item) => all.push(item),
                Err(Unread::Damaged(why)) => self.set_aside(place, &name, &why)?,
                Err(Unread::Gone) => {}
                Err(Unread::Now(e)) => return Err(e),
            }
        }
        Ok(all)
    }

    fn directory(&self, place: Place) -> &Directory {
        match place {
            Place::Waiting => &self.waiting,
            Place::Dead => &self.dead,
        }
    }

    /// Writes an entry where it does not count yet. The disk has it once [`Store::flush`] has returned.
    pub(super) fn prepare(&self, name: &str, before_body: &[u8], body: &[u8]) -> io::Result<File> {
        let mut file = self.new.create_unsynced(name)?;
        let written = [before_body, body]
            .into_iter()
            .try_for_each(|part| file.write_all(part));
        match written {
            Ok(()) => Ok(file),
            Err(e) => {
                // A disk that is full is to have its room back.
                let _ = self.new.remove(name);
                Err(e)
            }
        }
    }

    /// Waits until the disk has what was prepared.
    #[expect(clippy::unused_self, reason = "the disk is this store's")]
    pub(super) fn flush(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    /// Lets a prepared entry count, once [`Store::settle`] has returned.
    pub(super) fn commit(&self, name: &str) -> io::Result<()> {
        self.new.rename(name, &self.waiting, name)
    }

    /// Takes back what was prepared or committed and is not acknowledged.
    pub(super) fn take_back(&self, name: &str) {
        let _ = self.new.remove(name);
        let _ = self.waiting.remove(name);
    }

    /// Waits until the disk has the names of what waits.
    pub(super) fn settle(&self) -> io::Result<()> {
        self.waiting.sync()
    }

    /// Reads a waiting entry.
    pub(super) fn read(&self, name: &str) -> Result<Entry, Unread> {
        let bytes = self.waiting.read(name, entry::LARGEST)?;
        let entry = entry::decode(&Bytes::from(bytes)).ok_or_else(damaged)?;
        is_named(name, &entry.head.id).map(|_| entry)
    }

    /// Writes down how an entry has fared.
    pub(super) fn note(&self, place: Place, name: &str, tries: &Tries) -> io::Result<()> {
        self.directory(place)
            .write_in(name)?
            .write_all_at(&tries.encode(), entry::TRIES_AT)
    }

    /// Moves an entry to the dead letters.
    pub(super) fn bury(&self, name: &str, tries: &Tries) -> io::Result<()> {
        self.note(Place::Waiting, name, tries)?;
        self.waiting.rename(name, &self.dead, name)?;
        self.dead.sync()?;
        self.waiting.sync()
    }

    /// Moves a dead letter to the end of what waits.
    pub(super) fn revive(&self, name: &str, tries: &Tries, new_name: &str) -> io::Result<()> {
        self.note(Place::Dead, name, tries)?;
        self.dead.rename(name, &self.waiting, new_name)?;
        self.waiting.sync()?;
        self.dead.sync()
    }

    /// Removes an entry. That the disk may forget the removal is harmless: its key tells it from a new one.
    pub(super) fn remove(&self, place: Place, name: &str) -> io::Result<()> {
        self.directory(place).remove(name)
    }

    /// Removes an entry, and waits until the disk has forgotten it.
    pub(super) fn remove_for_good(&self, place: Place, name: &str) -> io::Result<()> {
        self.remove(place, name)?;
        self.directory(place).sync()
    }

    /// Sets aside what cannot be read, loudly. It is never removed.
    pub(super) fn set_aside(&self, place: Place, name: &str, why: &str) -> io::Result<()> {
        tracing::error!(target: "audit", event = "spool_unreadable", file = name, why, "an entry of the spool cannot be read; it is kept in spool/unreadable: redeliver it from its sender");
        self.directory(place).rename(name, &self.unreadable, name)?;
        self.unreadable.sync()
    }
}

/// Why an entry was not read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is not what was written: it will never be read.
    Damaged(String),
    /// It is not there any more.
    Gone,
    /// The machine could not read it now: too few descriptors, too little memory, no permission, a disk that fails.
    Now(io::Error),
}

impl From<io::Error> for Unread {
    /// What is surely not a file of ours is damaged. Everything else may pass, and nothing is set aside for it.
    fn from(e: io::Error) -> Self {
        match Errno::from_io_error(&e) {
            Some(Errno::NOENT) => Self::Gone,
            // A symlink; a directory; a socket.
            Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO) | None => Self::Damaged(e.to_string()),
            Some(_) => Self::Now(e),
        }
    }
}

/// The name of an entry's file.
pub(super) fn name_of(place_in_order: u64, id: &str) -> String {
    format!("{place_in_order:020}-{id}{SUFFIX}")
}

fn damaged() -> Unread {
    Unread::Damaged("it is damaged".into())
}

/// The place in the order that a name says, if it is the name of the entry with this id.
fn is_named(name: &str, id: &str) -> Result<u64, Unread> {
    let order = name
        .split_once('-')
        .and_then(|(order, _)| order.parse().ok())
        .ok_or_else(|| Unread::Damaged("its name is none of ours".into()))?;
    if name == name_of(order, id) {
        Ok(order)
    } else {
        Err(Unread::Damaged("its name is another entry's".into()))
    }
}

/// Checks an entry, a part at a time.
fn look_at(directory: &Directory, name: &str) -> Result<Item, Unread> {
    let (mut file, length) = directory.open_to_read(name, entry::LARGEST)?;
    let outline = entry::outline(&mut file, length)?.ok_or_else(damaged)?;
    let order = is_named(name, &outline.head.id)?;
    Ok(Item::of(
        order,
        &outline.head,
        outline.tries,
        outline.body_bytes,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_set_aside_for_an_error_that_may_pass() {
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::IO,
            Errno::ACCESS,
            Errno::PERM,
            Errno::ROFS,
            Errno::STALE,
            Errno::TIMEDOUT,
        ] {
            let unread = Unread::from(io::Error::from(errno));
            assert!(matches!(unread, Unread::Now(_)), "{errno:?}");
        }
        for errno in [Errno::LOOP, Errno::ISDIR, Errno::NXIO] {
            let unread = Unread::from(io::Error::from(errno));
            assert!(matches!(unread, Unread::Damaged(_)), "{errno:?}");
        }
        // What the directory refuses itself: another's, or open to others.
        let refused = io::Error::new(io::ErrorKind::PermissionDenied, "others can read it");
        assert!(matches!(Unread::from(refused), Unread::Damaged(_)));
        let gone = io::Error::from(Errno::NOENT);
        assert!(matches!(Unread::from(gone), Unread::Gone));
    }
}
