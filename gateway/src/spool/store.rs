//! The spool's files. One entry is one file, named by its place in the order and its id.
//!
//! A file is written under `new/`, flushed, and renamed into `waiting/`; what is in `new/` at a start was never
//! acknowledged and is removed. What failed for good is renamed into `dead/`, what cannot be read into `unreadable/`: neither
//! needs room on the disk. No name is made from what a request says.

use std::{io, os::unix::fs::FileExt, sync::Arc};

use super::entry::{self, Entry, Tries};
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
    pub(super) waiting: Vec<(u64, Entry)>,
    pub(super) dead: Vec<(u64, Entry)>,
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
            waiting: store.read_all(Place::Waiting)?,
            dead: store.read_all(Place::Dead)?,
            unreadable: 0,
        };
        found.unreadable = store.unreadable.names()?.len();
        Ok((store, found))
    }

    fn read_all(&self, place: Place) -> io::Result<Vec<(u64, Entry)>> {
        let mut all = Vec::new();
        for name in self.directory(place).names()? {
            match read_in(self.directory(place), &name) {
                Ok(read) => all.push(read),
                Err(Unread::Damaged(why)) => self.set_aside(place, &name, &why)?,
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

    /// Writes an entry where it does not count yet, and waits for the disk.
    pub(super) fn prepare(&self, name: &str, before_body: &[u8], body: &[u8]) -> io::Result<()> {
        self.new
            .create(name, &[before_body, body])
            .inspect_err(|_| {
                // A disk that is full is to have its room back.
                let _ = self.new.remove(name);
            })
    }

    /// Lets a prepared entry count, once [`Store::settle`] has returned.
    pub(super) fn commit(&self, name: &str) -> io::Result<()> {
        self.new.rename(name, &self.waiting, name)
    }

    /// Takes back what was prepared or committed and not settled.
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
        read_in(&self.waiting, name).map(|(_, entry)| entry)
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
    /// The machine could not read it now: too few descriptors, too little memory, a disk that fails.
    Now(io::Error),
}

/// The name of an entry's file.
pub(super) fn name_of(place_in_order: u64, id: &str) -> String {
    format!("{place_in_order:020}-{id}{SUFFIX}")
}

fn read_in(directory: &Directory, name: &str) -> Result<(u64, Entry), Unread> {
    let order = name
        .split_once('-')
        .and_then(|(order, _)| order.parse().ok())
        .ok_or_else(|| Unread::Damaged("its name is none of ours".into()))?;
    let bytes = directory.read(name, entry::LARGEST).map_err(|e| {
        use rustix::io::Errno;
        let passing = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::IO,
            Errno::INTR,
            Errno::AGAIN,
        ];
        match Errno::from_io_error(&e) {
            Some(errno) if passing.contains(&errno) => Unread::Now(e),
            Some(_) | None => Unread::Damaged(e.to_string()),
        }
    })?;
    let entry = entry::decode(&bytes).ok_or_else(|| Unread::Damaged("it is damaged".into()))?;
    if name == name_of(order, &entry.head.id) {
        Ok((order, entry))
    } else {
        Err(Unread::Damaged("its name is another entry's".into()))
    }
}
