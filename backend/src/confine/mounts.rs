//! What a command sees of the file system: a root of its own, with nothing in it but what it was
//! given, each thing at the place where it always is.
//!
//! It is built by the first process of the command's namespaces, which has root's power over this
//! one mount namespace and touches nothing outside of it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{StatVfsMountFlags as Has, statvfs};

use super::{Plan, files::DEVICES};

/// Bytes of what holds everything else: folders, links, copies of small files; and of shared memory.
const ROOT_SIZE: &str = "mode=0755,size=16m";
const SHARED_SIZE: &str = "mode=1777,size=256m";

/// The options of a mount that an unprivileged one has to keep.
const KEPT: [(Has, MsFlags); 6] = [
    (Has::RDONLY, MsFlags::MS_RDONLY),
    (Has::NOSUID, MsFlags::MS_NOSUID),
    (Has::NODEV, MsFlags::MS_NODEV),
    (Has::NOEXEC, MsFlags::MS_NOEXEC),
    (Has::NOATIME, MsFlags::MS_NOATIME),
    (Has::RELATIME, MsFlags::MS_RELATIME),
];

/// A file of the system that everybody may read is copied up to this many bytes, which costs a start
/// less than a mount does.
const COPY_MAX: u64 = 256 << 10;

const NO_SOURCE: Option<&str> = None;

/// Builds the root on the empty folder `at` and goes there. `tmp` becomes `/tmp`.
pub(crate) fn enter(plan: &Plan, at: &Path, tmp: &Path) -> io::Result<()> {
    // Nothing that is mounted here is to be seen outside.
    change(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    let root = Root(at);
    root.fresh(
        "tmpfs",
        "",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        ROOT_SIZE,
    )?;
    root.devices()?;
    let private = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    root.fresh("proc", "proc", private | MsFlags::MS_RDONLY, "")?;
    root.bind(tmp, Path::new("/tmp"), Use::Change)?;
    root.folder(Path::new("/var"))?;
    symlink("/tmp", at.join("var/tmp"))?;
    // Short paths first: what lies below another is laid over it.
    let mut all: Vec<_> = plan.readable.iter().map(|path| (path, Use::Read)).collect();
    all.extend(plan.writable.iter().map(|path| (path, Use::Change)));
    all.sort();
    for (path, usage) in all {
        root.show(path, usage, plan)
            .map_err(|error| explain(path, &error))?;
    }
    root.bound_below(plan)?;
    remount(
        at,
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
    )?;
    rustix::process::chdir(at)?;
    // The new root lies over the old one for a moment; then the old one is gone.
    rustix::process::pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Read,
    Change,
}

impl Use {
    fn flags(self) -> MsFlags {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        match self {
            Self::Read => flags | MsFlags::MS_RDONLY,
            Self::Change => flags,
        }
    }
}

struct Root<'a>(&'a Path);

impl Root<'_> {
    /// The place in here of a path of the machine.
    fn place(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn folder(&self, path: &Path) -> io::Result<PathBuf> {
        let place = self.place(path);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&place)?;
        Ok(place)
    }

    fn fresh(&self, kind: &str, path: &str, flags: MsFlags, data: &str) -> io::Result<()> {
        let place = self.folder(Path::new(path))?;
        mount(Some(kind), &place, Some(kind), flags, Some(data))
            .map_err(|errno| explain(&place, &io::Error::from(errno)))
    }

    fn devices(&self) -> io::Result<()> {
        let dev = self.folder(Path::new("/dev"))?;
        for device in DEVICES.iter().map(Path::new).filter(|path| path.exists()) {
            let place = self.place(device);
            fs::write(&place, "")?;
            mount(Some(device), &place, NO_SOURCE, MsFlags::MS_BIND, NO_SOURCE)
                .map_err(|errno| explain(device, &io::Error::from(errno)))?;
        }
        for (name, to) in [
            ("fd", ""),
            ("stdin", "/0"),
            ("stdout", "/1"),
            ("stderr", "/2"),
        ] {
            symlink(format!("/proc/self/fd{to}"), dev.join(name))?;
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        self.fresh("tmpfs", "/dev/shm", flags, SHARED_SIZE)
    }

    /// Shows a path of the machine at its place. A link whose end is in sight stays a link.
    fn show(&self, path: &Path, usage: Use, plan: &Plan) -> io::Result<()> {
        let is_link = path.symlink_metadata()?.is_symlink();
        let real = path.canonicalize()?;
        let in_sight = || {
            let given = plan.readable.iter().chain(&plan.writable);
            given
                .filter(|other| *other != path)
                .any(|other| real.starts_with(other))
        };
        if is_link && in_sight() {
            let place = self.place(path);
            if let Some(above) = path.parent() {
                self.folder(above)?;
            }
            return match symlink(fs::read_link(path)?, place) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                made => made,
            };
        }
        if usage == Use::Read && path.starts_with("/etc") && self.copy(&real, path)? {
            return Ok(());
        }
        self.bind(&real, path, usage)
    }

    /// Copies a small file that is for everybody. Says whether it did.
    fn copy(&self, source: &Path, path: &Path) -> io::Result<bool> {
        let found = source.metadata()?;
        let is_public = found.mode() & 0o004 != 0;
        if !found.is_file() || !is_public || found.len() > COPY_MAX {
            return Ok(false);
        }
        if let Some(above) = path.parent() {
            self.folder(above)?;
        }
        let place = self.place(path);
        fs::write(&place, fs::read(source)?)?;
        fs::set_permissions(place, fs::Permissions::from_mode(0o444))?;
        Ok(true)
    }

    fn bind(&self, source: &Path, path: &Path, usage: Use) -> io::Result<()> {
        let place = if source.is_dir() {
            self.folder(path)?
        } else {
            if let Some(above) = path.parent() {
                self.folder(above)?;
            }
            let place = self.place(path);
            if !place.exists() {
                fs::write(&place, "")?;
            }
            place
        };
        // With everything below it: parts alone may not be taken out of what others mounted.
        let whole = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(source), &place, NO_SOURCE, whole, NO_SOURCE)?;
        remount(&place, usage.flags())
    }

    /// What came along with folders that have more mounted in them.
    fn bound_below(&self, plan: &Plan) -> io::Result<()> {
        let own = |path: &Path| {
            plan.readable
                .iter()
                .chain(&plan.writable)
                .any(|p| p == path)
        };
        for below in mounted_below(self.0)? {
            let path = Path::new("/").join(below.strip_prefix(self.0).unwrap_or(&below));
            let depth = |paths: &[PathBuf]| {
                let above = paths.iter().filter(|above| path.starts_with(above));
                above.map(|above| above.components().count()).max()
            };
            // The nearest of what was given decides, and to read is less.
            let usage = match (depth(&plan.readable), depth(&plan.writable)) {
                (None, None) => continue,
                (read, write) if write > read => Use::Change,
                _ => Use::Read,
            };
            if !own(&path) {
                remount(&below, usage.flags())?;
            }
        }
        Ok(())
    }
}

fn change(place: &Path, flags: MsFlags) -> io::Result<()> {
    mount(NO_SOURCE, place, NO_SOURCE, flags, NO_SOURCE)
        .map_err(|errno| explain(place, &io::Error::from(errno)))
}

/// Adds options to a mount; what it had stays.
fn remount(place: &Path, flags: MsFlags) -> io::Result<()> {
    let has = statvfs(place)?.f_flag;
    let kept = KEPT.iter().filter(|(has_flag, _)| has.contains(*has_flag));
    let kept = kept.fold(MsFlags::empty(), |all, (_, flag)| all | *flag);
    change(place, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags | kept)
}

/// What is mounted below a place, from `/proc/self/mountinfo`.
fn mounted_below(place: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mounts.lines().filter_map(|line| {
        let point = PathBuf::from(unescape(line.split(' ').nth(4)?));
        (point != place && point.starts_with(place)).then_some(point)
    });
    Ok(points.collect())
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits there.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (escaped, plain)| {
            text.replace(escaped, plain)
        })
}

fn explain(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("mount {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn a_mount_point_with_a_blank_is_read() {
        assert_eq!(unescape("/a\\040b\\134040"), "/a b\\040");
    }
}
