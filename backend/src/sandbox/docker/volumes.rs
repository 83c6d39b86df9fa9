//! Volumes that images ask for and nobody named: they carry no label, so that only their containers tell
//! whose they are. They are noted before the containers go.

use std::{collections::BTreeSet, fs, io, path::Path};

use super::{super::spec::Plan, DockerDriver, engine::EngineError};

/// Where they are noted in a sandbox's directory.
const NOTED: &str = "volumes";

impl DockerDriver {
    /// Removes the containers of a sandbox with their nameless volumes.
    pub(super) async fn remove_containers(&self, sandbox: &str) -> Result<(), EngineError> {
        for container in self.engine.containers(&self.labels(sandbox)).await? {
            self.engine.remove_container(&container.id).await?;
        }
        Ok(())
    }

    /// The nameless volumes of its containers, with those that were noted before: by a process that was
    /// killed when the containers had gone.
    pub(super) async fn note_nameless(&self, plan: &Plan) -> io::Result<BTreeSet<String>> {
        let file = plan.dir.join(NOTED);
        let mut names: BTreeSet<String> = read(&file)?;
        let noted = names.len();
        for container in self.engine.containers(&self.labels(&plan.id)).await? {
            let seen = self.engine.inspect(&container.id).await?;
            let mounts = seen.and_then(|seen| seen.mounts).unwrap_or_default();
            let volumes = mounts.into_iter().filter_map(|mount| mount.name);
            names.extend(volumes.filter(|name| is_nameless(name)));
        }
        if names.len() > noted && plan.dir.is_dir() {
            let lines: Vec<_> = names.iter().map(String::as_str).collect();
            let new = file.with_extension("new");
            fs::write(&new, lines.join("\n"))?;
            fs::rename(new, file)?;
        }
        Ok(names)
    }

    /// Removes those that are still there; `Ok` after none was seen.
    pub(super) async fn clear_nameless(&self, names: &BTreeSet<String>) -> io::Result<()> {
        for name in names {
            self.engine.remove_volume(name).await?;
            let left = self.engine.volumes("name", name).await?;
            if left.iter().any(|volume| volume.name == *name) {
                return Err(io::Error::other(format!(
                    "its volume {name} is still there"
                )));
            }
        }
        Ok(())
    }
}

/// Whether the engine made the name up. What a person called something is never taken for it.
fn is_nameless(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn read(file: &Path) -> io::Result<BTreeSet<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text
            .lines()
            .filter(|name| is_nameless(name))
            .map(str::to_owned)
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_made_up_names_are_nameless() {
        assert!(is_nameless(&"0a".repeat(32)));
        for name in [
            "",
            "data",
            "orket-01abc_db-0",
            &"0a".repeat(31),
            &"0g".repeat(32),
        ] {
            assert!(!is_nameless(name), "{name}");
        }
    }
}
