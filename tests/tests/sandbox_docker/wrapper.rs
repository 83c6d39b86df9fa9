//! A wrapper around the compose command, named in the configuration, that does something at a named
//! point: the only way to be between two steps.

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use super::*;

/// The wrapper of one place.
pub(super) struct Wrapper {
    dir: PathBuf,
}

impl Wrapper {
    /// What a configuration says to have one.
    pub(super) const CONFIG: &str = "[sandboxes.docker]\ncompose = [\"{dir}/compose\"]";

    /// Lays it where the configuration looks for it.
    pub(super) fn lay(place: &Place) -> Self {
        let dir = place.backend.dir().to_owned();
        let answers = |words: &[&str]| {
            let asked = Command::new(words[0])
                .args(&words[1..])
                .arg("version")
                .output();
            asked.is_ok_and(|asked| asked.status.success())
        };
        let named = orket_tests::engine::compose().map(|words| words.join(" "));
        let compose = if let Some(named) = &named {
            named
        } else if answers(&["docker", "compose"]) {
            "docker compose"
        } else {
            "docker-compose"
        };
        let script = format!(
            "#!/bin/sh\n\
             verb=\n\
             case \"$*\" in *' up -d') verb=up;; *' down -v') verb=down;; esac\n\
             at() {{ [ -e '{dir}/at-'$1 ] && mv '{dir}/at-'$1 '{dir}/now' && . '{dir}/now'; }}\n\
             at before-$verb\n\
             {compose} \"$@\"\n\
             code=$?\n\
             at after-$verb\n\
             exit $code\n",
            dir = dir.display(),
        );
        let path = dir.join("compose");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    /// Does this at the point, once.
    pub(super) fn at(&self, point: &str, what: &str) {
        std::fs::write(self.dir.join(format!("at-{point}")), what).unwrap();
    }

    /// Kills the backend at the point, once; the command goes on.
    pub(super) fn kill_at(&self, place: &Place, point: &str) {
        self.at(point, &format!("kill -9 {}\n", place.pid()));
    }
}
