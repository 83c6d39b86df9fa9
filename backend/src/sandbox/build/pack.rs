//! A folder as one archive, bounded in size and number.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use tar::{Builder, EntryType, Header};

use super::{dockerfile::Recipe, ignore::Ignored};
use crate::config::diagnostic::harmless;
use crate::sandbox::{
    container::Build,
    registry::Registries,
    stack::repository::{FOLDER, open_in, open_real, read_in},
};

/// Entries of one archive.
const MAX_ENTRIES: usize = 20_000;
/// Folders in folders.
const MAX_DEPTH: usize = 64;

/// What the engine gets.
#[derive(Debug)]
pub(in crate::sandbox) struct Context {
    /// The archive.
    pub(in crate::sandbox) archive: Vec<u8>,
    /// The images that are built from.
    pub(in crate::sandbox) images: Vec<String>,
}

/// Packs the folder of a build in this repository, an absolute path free of symbolic links: at most `most`
/// bytes of files, on images of these registries. It ends soon after `stop` is set.
pub(in crate::sandbox) fn pack(
    repository: &Path,
    build: &Build,
    labels: &[String],
    registries: &Registries,
    most: u64,
    stop: &AtomicBool,
) -> Result<Context, String> {
    let root = open_real(repository)
        .and_then(|root| open_in(&root, Path::new(&build.context), FOLDER))
        .map_err(|error| {
            format!("its context `{}` cannot be read ({error}): a folder of the repository is expected, and nothing on its path a symbolic link", build.context)
        })?;
    let text = |name: &str| read_in(&root, Path::new(name));
    let ignored = match text(".dockerignore") {
        Ok(text) => Ignored::read(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ignored::default(),
        Err(error) => return Err(format!(".dockerignore: cannot be read: {error}")),
    };
    let name = &build.dockerfile;
    let written = text(name).map_err(|error| format!("{name}: cannot be read: {error}"))?;
    let longest = build.args.values().map(String::len).max();
    let recipe = Recipe::read(&written, labels, longest.unwrap_or(0), registries)
        .map_err(|refused| format!("{name}:{refused}"))?;
    let mut packer = Packer {
        archive: Builder::new(Vec::new()),
        ignored,
        dockerfile: PathBuf::from(name),
        recipe: recipe.text,
        entries: 0,
        room: most,
        most,
        stop,
    };
    packer
        .folder(&root, Path::new(""), 0)
        .and_then(|()| packer.dockerfile())
        .map_err(|error| error.to_string())?;
    let archive = packer.archive.into_inner();
    Ok(Context {
        archive: archive.map_err(|error| error.to_string())?,
        images: recipe.images,
    })
}

struct Packer<'s> {
    archive: Builder<Vec<u8>>,
    ignored: Ignored,
    dockerfile: PathBuf,
    recipe: String,
    entries: usize,
    room: u64,
    most: u64,
    stop: &'s AtomicBool,
}

impl Packer<'_> {
    fn folder(&mut self, folder: &OwnedFd, path: &Path, depth: usize) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(refusal(
                path,
                &format!("lies in more than {MAX_DEPTH} folders"),
            ));
        }
        let mut names: Vec<CString> = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
            if self.entries + names.len() > MAX_ENTRIES {
                return Err(refusal(
                    path,
                    &format!(
                        "the context has more than {MAX_ENTRIES} files and folders: leave some out in .dockerignore"
                    ),
                ));
            }
        }
        names.sort_unstable();
        for name in names {
            let inner = path.join(OsStr::from_bytes(name.to_bytes()));
            self.entry(folder, &name, &inner, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        folder: &OwnedFd,
        name: &CString,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("nobody wants it any more"));
        }
        let left_out = self.ignored.leaves_out(&path.to_string_lossy());
        let left_out = left_out.map_err(io::Error::other)?;
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            if left_out && !self.ignored.has_exceptions() {
                return Ok(());
            }
            let inner = openat(folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
            if !left_out {
                let header = header(&stat, EntryType::Directory, 0);
                self.append(header, path, &[])?;
            }
            return self.folder(&inner, path, depth + 1);
        }
        // The Dockerfile is sent as it was read, see below.
        if left_out || path == self.dockerfile {
            return Ok(());
        }
        if kind == FileType::Symlink {
            let target = readlinkat(folder, name, Vec::new())?;
            let target = PathBuf::from(OsStr::from_bytes(target.to_bytes()));
            if !stays_inside(path, &target) {
                return Err(refusal(
                    path,
                    "is a symbolic link that leads out of the context",
                ));
            }
            let mut header = header(&stat, EntryType::Symlink, 0);
            self.count(path)?;
            return self.archive.append_link(&mut header, path, target);
        }
        if kind != FileType::RegularFile {
            return Err(refusal(
                path,
                "is neither a file nor a folder nor a symbolic link",
            ));
        }
        let plain = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::from(openat(folder, name, plain, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(refusal(path, "changed while it was read"));
        }
        let mut bytes = Vec::new();
        file.take(self.room + 1).read_to_end(&mut bytes)?;
        let size = bytes.len() as u64;
        self.room = self.room.checked_sub(size).ok_or_else(|| {
            refusal(path, &format!("the context has more than {} bytes of files ([sandboxes.docker] build_context): leave some out in .dockerignore", self.most))
        })?;
        let header = header(&stat, EntryType::Regular, size);
        self.append(header, path, &bytes)
    }

    fn dockerfile(&mut self) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(self.recipe.len() as u64);
        let (path, text) = (self.dockerfile.clone(), self.recipe.clone());
        self.append(header, &path, text.as_bytes())
    }

    fn count(&mut self, path: &Path) -> io::Result<()> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(refusal(path, "is one too many"));
        }
        Ok(())
    }

    fn append(&mut self, mut header: Header, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.count(path)?;
        self.archive.append_data(&mut header, path, bytes)
    }
}

/// What is sent of it: no owner, no power that a mode could give.
fn header(stat: &Stat, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(stat.st_mode & 0o777);
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(size);
    header
}

fn refusal(path: &Path, what: &str) -> io::Error {
    let path = path.to_string_lossy();
    let shown: String = path.chars().map(harmless).collect();
    io::Error::other(format!("`{shown}`: {what}"))
}

/// Whether a link at this path leads, read as text, to a place in the same tree.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn packed(repository: &Path, stop: bool) -> Result<Context, String> {
        let build = Build {
            dockerfile: "Dockerfile".into(),
            context: "app".into(),
            ..Build::default()
        };
        let labels = ["a=b".to_owned()];
        pack(
            repository,
            &build,
            &labels,
            &Registries::default(),
            1 << 20,
            &AtomicBool::new(stop),
        )
    }

    #[test]
    fn what_is_given_up_ends_and_a_link_that_came_later_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let repository = root.join("in/repository");
        fs::create_dir_all(repository.join("app")).unwrap();
        let write = |name: &str, text: &str| fs::write(repository.join("app").join(name), text);
        write("Dockerfile", "FROM a:1\n").unwrap();
        assert_eq!(packed(&repository, false).unwrap().images, ["a:1"]);
        assert!(packed(&repository, true).unwrap_err().contains("any more"));
        for (bytes, good) in [(64 << 10, true), ((64 << 10) + 1, false)] {
            write(".dockerignore", &"#".repeat(bytes)).unwrap();
            assert_eq!(packed(&repository, false).is_ok(), good, "{bytes}");
        }
        write(".dockerignore", "").unwrap();
        // Any folder on its path may be exchanged for a link after the path was looked at.
        for part in ["in", "in/repository", "in/repository/app"] {
            let (part, moved) = (root.join(part), root.join("moved"));
            fs::rename(&part, &moved).unwrap();
            symlink(&moved, &part).unwrap();
            let refused = packed(&repository, false).unwrap_err();
            assert!(refused.contains("symbolic link"), "{refused}");
            fs::remove_file(&part).unwrap();
            fs::rename(&moved, &part).unwrap();
        }
        assert!(packed(&repository.join("../repository"), false).is_err());
    }
}
