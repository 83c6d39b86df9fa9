//! Small disks of a test's own, that fill, stand still, or may only be read.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::geteuid;

/// A file system of its own on a directory, gone with the value.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// One in memory, of this size (`6m`). `None`, said loudly, where this user may not mount.
    pub fn small(dir: &Path, size: &str) -> Option<Self> {
        let options = format!("size={size},mode=0700");
        Self::on(dir, &["-t", "tmpfs", "-o", &options, "tmpfs"])
    }

    /// One with a journal on blocks, in an image beside the directory. `None`, said loudly, as above.
    pub fn of_blocks(dir: &Path) -> Option<Self> {
        std::fs::create_dir_all(dir).expect("a directory");
        let image = dir.with_extension("img");
        let file = std::fs::File::create(&image).expect("an image");
        file.set_len(32 << 20).expect("an image with holes");
        let image = image.to_str().expect("a path of text");
        if !ran("mkfs.ext4", &["-q", "-F", image]) {
            eprintln!("SKIPPED: there is no mkfs.ext4");
            return None;
        }
        Self::again(dir)
    }

    /// The one of blocks that is in the image beside a directory, mounted there again.
    pub fn again(dir: &Path) -> Option<Self> {
        let image = dir.with_extension("img");
        Self::on(
            dir,
            &["-o", "loop", image.to_str().expect("a path of text")],
        )
    }

    fn on(dir: &Path, arguments: &[&str]) -> Option<Self> {
        std::fs::create_dir_all(dir).expect("a directory");
        if !(geteuid().is_root() && mount(arguments, dir)) {
            eprintln!("SKIPPED: only root, with loop devices, can mount a file system");
            return None;
        }
        Some(Self(dir.to_owned()))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Leaves no room on it; what takes the room.
    pub fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler).expect("a file");
        for size in [64 * 1024, 4096, 1] {
            while std::io::Write::write_all(&mut file, &vec![0; size]).is_ok() {}
        }
        filler
    }

    /// Makes it one that may only be read (`ro`), which needs that nobody has a file of it open for
    /// writing, or one that may be written again (`rw`).
    pub fn remount(&self, how: &str) {
        let how = format!("remount,{how}");
        assert!(mount(&["-o", &how], &self.0), "{how} {}", self.0.display());
    }

    /// Lets its journal be given up, as after an error of the device: whatever is open, it may only be
    /// read from now on, until it is mounted anew.
    pub fn give_up(&self) {
        self.remount("abort");
    }

    /// Writes out all that is only in memory.
    pub fn sync(&self) {
        assert!(ran("sync", &["-f", &self.0.display().to_string()]));
    }

    /// Stops it: whoever writes waits until the value is gone.
    pub fn stopped(&self) -> Stopped<'_> {
        let dir = self.0.to_str().expect("a path of text");
        assert!(ran("fsfreeze", &["--freeze", dir]), "no fsfreeze");
        Stopped(self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// As long as it is there, the disk stands still.
#[derive(Debug)]
pub struct Stopped<'a>(&'a Disk);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        ran("fsfreeze", &["--unfreeze", &self.0.0.display().to_string()]);
    }
}

/// Mounts on a directory, or changes how it is mounted; whether that went well.
pub fn mount(arguments: &[&str], dir: &Path) -> bool {
    let dir = dir.display().to_string();
    ran("mount", &[arguments, &[&dir]].concat())
}

/// Takes the file system from a directory, at once for those who look there.
pub fn unmount(dir: &Path) {
    ran("umount", &["-l", &dir.display().to_string()]);
}

/// Whether a program ended well.
pub fn ran(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success())
}
