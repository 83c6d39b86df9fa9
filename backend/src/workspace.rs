//! The directory that all commands work in. Nothing is given a working directory outside of it,
//! neither by `..` nor through a symbolic link.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown},
    path::{Component, Path, PathBuf},
};

use crate::confine::User;

/// An existing workspace, its path free of symbolic links.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
}

/// Why a working directory is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not in the workspace.
    #[error("`workdir` leads out of the workspace: give a path inside it, such as `project/src`")]
    Outside,
    /// It cannot be a path.
    #[error("`workdir` is not a path")]
    NotAPath,
    /// It is not there, or not a directory.
    #[error("`workdir` is not a directory of the workspace")]
    Missing,
}

impl Workspace {
    /// The workspace at `dir`, made when it is missing.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)?;
        let root = dir.canonicalize()?;
        if root.is_dir() {
            Ok(Self { root })
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Gives the workspace itself, not what is in it, to the user that commands become, if it is
    /// still ours.
    pub(crate) fn hand_over(&self, user: User) -> io::Result<()> {
        let found = self.root.metadata()?;
        if found.uid() == rustix::process::geteuid().as_raw() {
            chown(&self.root, Some(user.uid), Some(user.gid))?;
        }
        Ok(())
    }

    /// The place a working directory means, whether it exists yet or not. What exists of it is
    /// inside the workspace.
    pub fn place(&self, workdir: Option<&str>) -> Result<PathBuf, Refused> {
        let Some(workdir) = workdir else {
            return Ok(self.root.clone());
        };
        if workdir.contains('\0') || workdir.len() > 4096 {
            return Err(Refused::NotAPath);
        }
        let given = Path::new(workdir);
        if given.components().any(|part| part == Component::ParentDir) {
            return Err(Refused::Outside);
        }
        let place = self.root.join(given);
        // The longest part that exists decides: what does not exist cannot be a link.
        for part in place.ancestors() {
            match part.canonicalize() {
                Ok(real) if real.starts_with(&self.root) => return Ok(place),
                Ok(_) => return Err(Refused::Outside),
                // A link that leads nowhere exists all the same.
                Err(_) if part.is_symlink() => return Err(Refused::Outside),
                Err(_) => {}
            }
        }
        Err(Refused::Outside)
    }

    /// The project that a working directory, as it was resolved, belongs to: the folder directly
    /// below the workspace; the workspace itself when it works there.
    pub fn project(&self, workdir: &Path) -> PathBuf {
        let inside = workdir.strip_prefix(&self.root).unwrap_or(Path::new(""));
        match inside.components().next() {
            Some(project) => self.root.join(project),
            None => self.root.clone(),
        }
    }

    /// The existing directory a working directory means, free of symbolic links.
    pub fn resolve(&self, workdir: Option<&str>) -> Result<PathBuf, Refused> {
        let real = self
            .place(workdir)?
            .canonicalize()
            .map_err(|_| Refused::Missing)?;
        match (real.starts_with(&self.root), real.is_dir()) {
            (false, _) => Err(Refused::Outside),
            (true, false) => Err(Refused::Missing),
            (true, true) => Ok(real),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let workspace = Workspace::open(&dir.path().join("w")).unwrap();
        let root = workspace.root().to_owned();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        symlink(&outside, root.join("link")).unwrap();
        symlink("/nowhere/at/all", root.join("dangling")).unwrap();
        symlink("a", root.join("inner")).unwrap();

        assert_eq!(workspace.resolve(None), Ok(root.clone()));
        assert_eq!(workspace.project(&root.join("a/b")), root.join("a"));
        assert_eq!(workspace.project(&root), root);
        assert_eq!(workspace.resolve(Some("a/b")), Ok(root.join("a/b")));
        assert_eq!(workspace.resolve(Some("inner/b")), Ok(root.join("a/b")));
        assert_eq!(
            workspace.resolve(root.join("a").to_str()),
            Ok(root.join("a"))
        );
        assert_eq!(
            workspace.place(Some("later/there")),
            Ok(root.join("later/there"))
        );
        for outside in [
            "..",
            "a/../..",
            "a/../b",
            "/",
            "/etc",
            "link",
            "link/x",
            "dangling",
            "dangling/x",
        ] {
            assert_eq!(
                workspace.place(Some(outside)),
                Err(Refused::Outside),
                "{outside}"
            );
            assert_eq!(
                workspace.resolve(Some(outside)),
                Err(Refused::Outside),
                "{outside}"
            );
        }
        for missing in ["nothing", "file", "file/x"] {
            assert_eq!(
                workspace.resolve(Some(missing)),
                Err(Refused::Missing),
                "{missing}"
            );
        }
        assert_eq!(workspace.place(Some("a\0b")), Err(Refused::NotAPath));
    }
}
