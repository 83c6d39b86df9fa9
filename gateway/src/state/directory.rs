//! A directory by its handle: files in it are named, never found by a path that could change meanwhile.
//!
//! No name here comes from a request. Symlinks, files of other users and anything but plain files are refused.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, fsync, mkdirat, openat, unlinkat},
    process::geteuid,
};

const OWNER_ALL: Mode = Mode::RWXU;
const OWNER_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
/// Read and write for anybody but the owner.
const OTHERS: u32 = 0o077;

/// See the [module](self).
#[derive(Debug)]
pub struct Directory {
    handle: OwnedFd,
}

impl Directory {
    /// The directory at a path an operator chose; made with mode 0700 where it is missing. It has to belong to
    /// this user, and nobody else may write it.
    pub fn at(path: &Path) -> io::Result<Self> {
        if !path.exists() {
            if let Some(above) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                std::fs::create_dir_all(above)?;
            }
            made(rustix::fs::mkdir(path, OWNER_ALL))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())?;
        let facts = fstat(&handle)?;
        belongs_to_us(&facts)?;
        if facts.st_mode & 0o022 != 0 {
            return Err(refused("others can write it"));
        }
        Ok(Self { handle })
    }

    /// A directory in this one, made where it is missing. Mode 0700, whatever it was.
    pub fn below(&self, name: &str) -> io::Result<Self> {
        made(mkdirat(&self.handle, name, OWNER_ALL))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = openat(&self.handle, name, flags, Mode::empty())?;
        belongs_to_us(&fstat(&handle)?)?;
        rustix::fs::fchmod(&handle, OWNER_ALL)?;
        Ok(Self { handle })
    }

    /// Makes a file that is not there yet, with these bytes, and waits until the disk has them.
    pub fn create(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let mut file = self.create_unsynced(name)?;
        for part in parts {
            file.write_all(part)?;
        }
        Ok(fsync(&file)?)
    }

    /// Makes an empty file that is not there yet.
    pub fn create_unsynced(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(openat(&self.handle, name, flags, OWNER_FILE)?))
    }

    /// A file to append to; made where it is missing.
    pub fn append_to(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
        self.open(name, flags)
    }

    /// A file to write in place.
    pub fn write_in(&self, name: &str) -> io::Result<File> {
        self.open(name, OFlags::RDWR)
    }

    /// A file of at most `limit` bytes to read, and how long it is.
    pub fn open_to_read(&self, name: &str, limit: u64) -> io::Result<(File, u64)> {
        let file = self.open(name, OFlags::RDONLY)?;
        let length = file.metadata()?.len();
        if length > limit {
            return Err(refused("it is larger than anything written here"));
        }
        Ok((file, length))
    }

    /// Reads a file of at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let (file, length) = self.open_to_read(name, limit)?;
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Opens a plain file of ours; nothing else is waited for or followed.
    fn open(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let handle = openat(&self.handle, name, flags, OWNER_FILE)?;
        let facts = fstat(&handle)?;
        belongs_to_us(&facts)?;
        if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile {
            return Err(refused("it is not a plain file"));
        }
        if facts.st_mode & OTHERS != 0 {
            return Err(refused("others can read or write it"));
        }
        Ok(File::from(handle))
    }

    /// Gives a file another name, in this or another directory. It replaces what has that name.
    pub fn rename(&self, from: &str, to: &Self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.handle, from, &to.handle, name)?)
    }

    /// Removes a file; that it is gone already is no error.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until the disk has the names.
    pub fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.handle)?)
    }

    /// The names in it, sorted; only those that are text, which all of ours are.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

fn made(outcome: rustix::io::Result<()>) -> io::Result<()> {
    match outcome {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn belongs_to_us(facts: &Stat) -> io::Result<()> {
    if facts.st_uid == geteuid().as_raw() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it belongs to another user",
        ))
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
