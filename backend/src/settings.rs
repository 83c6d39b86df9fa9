//! The configuration as meant: parsed, complete, immutable. Made from [`crate::config`] only;
//! nothing at run time holds a config struct.

use std::path::{Component, Path, PathBuf};

use toml::Spanned;

use crate::config::{self, Config, diagnostic::Diagnostic};

pub mod confinement;
mod listen;
mod retention;
mod runs;
mod sandboxes;
pub mod users;

pub use confinement::Confinement;
pub use listen::{Address, Listen};
pub use retention::Retention;
pub use runs::{OnStop, Runs};
pub use sandboxes::{Docker, SandboxDriver, Sandboxes};

/// Everything an operator decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where requests come in.
    pub listen: Listen,
    /// The store's file.
    pub store: PathBuf,
    /// The directory that all commands work in.
    pub workspace: PathBuf,
    /// How runs are run.
    pub runs: Runs,
    /// How runs and the services of sandboxes are confined.
    pub confinement: Confinement,
    /// How sandboxes are kept.
    pub sandboxes: Sandboxes,
    /// Which pull requests cause work.
    pub review: Review,
    /// How long what is done with is kept.
    pub retention: Retention,
}

/// Which pull requests cause work. An empty list admits nothing.
#[derive(Debug, Clone, Default)]
pub struct Review {
    /// Repositories as `owner/name`.
    pub repositories: Vec<String>,
    /// Base branches.
    pub branches: Vec<String>,
    /// Login names of who opens or pushes.
    pub people: Vec<String>,
}

/// Settings, and what an operator should look at.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Warnings, in the order of the file.
    pub warnings: Vec<Diagnostic>,
}

impl Settings {
    /// The settings a file's text means; all of its mistakes otherwise.
    pub fn load(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
        let config = config::parse(text).map_err(|error| vec![error])?;
        Reading::default().settings(config)
    }
}

/// Collects findings while a config is read, so that all are reported at once.
#[derive(Default)]
struct Reading {
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Reading {
    fn settings(mut self, config: Config) -> Result<Loaded, Vec<Diagnostic>> {
        let listen = self.listen(config.listen);
        let place = config.store.url.as_ref().map(Spanned::span);
        let place = place.or_else(|| config.workspace.dir.as_ref().map(Spanned::span));
        let sandboxes = self.sandboxes(config.sandboxes, &listen.address);
        let mut confined = self.confinement(config.confinement);
        // A command that reaches the engine is as good as root.
        let engine = confinement::KeptOut::Path(sandboxes.docker.socket.clone());
        confined.keep_out.push(engine);
        let settings = Settings {
            store: self.store(config.store.url),
            workspace: PathBuf::from(self.value(
                config.workspace.dir,
                "/var/lib/orket/workspace".to_owned(),
                |dir| {
                    if dir.trim().is_empty() {
                        Err("`dir` is empty".to_owned())
                    } else {
                        Ok(dir)
                    }
                },
            )),
            runs: self.runs(config.runs, config.queues),
            confinement: confined,
            sandboxes,
            review: self.review(config.review),
            retention: self.retention(config.retention),
            listen,
        };
        if let Err(message) = apart(&settings.store, &settings.workspace) {
            self.errors.push(Diagnostic::error(place, message));
        }
        if self.errors.is_empty() {
            Ok(Loaded {
                settings,
                warnings: self.warnings,
            })
        } else {
            Err(self.errors)
        }
    }

    /// A field's meaning, its default when it is absent, and an error at its place otherwise.
    fn value<T, U>(
        &mut self,
        field: Option<Spanned<T>>,
        default: U,
        meaning: impl FnOnce(T) -> Result<U, String>,
    ) -> U {
        let Some(field) = field else { return default };
        let span = field.span();
        match meaning(field.into_inner()) {
            Ok(value) => value,
            Err(message) => {
                self.errors.push(Diagnostic::error(Some(span), message));
                default
            }
        }
    }

    fn store(&mut self, url: Option<Spanned<String>>) -> PathBuf {
        let default = PathBuf::from("/var/lib/orket/backend/orket.db");
        self.value(url, default, |url| match url.strip_prefix("sqlite:") {
            Some(path) if path.starts_with(':') => Err(format!(
                "`{url}` would be forgotten at the end: write sqlite:<path of a file>"
            )),
            Some(path) if !path.is_empty() && !path.ends_with('/') => Ok(PathBuf::from(path)),
            Some(_) => Err("`sqlite:` needs the path of a file behind it".to_owned()),
            None => Err(format!(
                "`{url}` is not a store: write sqlite:<path of a file>"
            )),
        })
    }

    fn review(&mut self, review: config::Review) -> Review {
        let mut list = |names: Vec<Spanned<String>>| {
            for name in &names {
                if name.as_ref().trim().is_empty() {
                    let message = "an empty name admits nothing: remove it, or write \"*\" for all";
                    self.errors
                        .push(Diagnostic::error(Some(name.span()), message));
                }
            }
            names.into_iter().map(Spanned::into_inner).collect()
        };
        Review {
            repositories: list(review.repositories),
            branches: list(review.branches),
            people: list(review.people),
        }
    }
}

/// Refuses a store that what runs execute could reach by a path inside their workspace. Links are
/// looked through at the start only.
pub(crate) fn apart(store: &Path, workspace: &Path) -> Result<(), String> {
    let plain = |path: &Path| {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut plain = PathBuf::new();
        for part in whole.components() {
            if part == Component::ParentDir {
                plain.pop();
            } else {
                plain.push(part);
            }
        }
        plain
    };
    let (store, workspace) = (plain(store), plain(workspace));
    let mut state = store.clone().into_os_string();
    state.push(".d");
    if store.starts_with(&workspace) {
        return Err(format!(
            "the store {} lies in the workspace {}, where every run may write: keep them apart",
            store.display(),
            workspace.display()
        ));
    }
    if workspace.starts_with(PathBuf::from(state)) {
        return Err(format!(
            "the workspace {} lies in the store's own directory: keep them apart",
            workspace.display()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test may fail"
    )]
    use super::*;

    #[test]
    fn the_empty_file_is_all_defaults() {
        let loaded = Settings::load("").unwrap();
        assert_eq!(
            loaded.settings.listen.address.to_string(),
            "unix:/run/orket/backend.sock"
        );
        assert_eq!(loaded.settings.runs.rules.concurrency, 8);
        assert_eq!(loaded.settings.runs.on_stop, OnStop::Leave);
        assert!(loaded.settings.review.repositories.is_empty());
        assert!(loaded.warnings.is_empty());
    }

    #[test]
    fn every_mistake_is_reported_at_its_place() {
        let text = r#"[listen]
address = "0.0.0.0:8082"
[store]
url = "postgres://x"
[runs]
concurrency = 0
min_isolation = "strong"
timeout = "soon"
[review]
repositories = [""]
"#;
        let shown: String = Settings::load(text)
            .unwrap_err()
            .iter()
            .map(|d| d.render("b.toml", text))
            .collect();
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn unknown_fields_and_bad_toml_are_refused_with_a_caret() {
        for (text, place) in [
            (
                "[runs]\nconcurency = 1\n",
                "b.toml:2:1: error: unknown field `concurency`",
            ),
            ("[listen\n", "b.toml:1:"),
            (
                "[runs]\nconcurrency = \"8\"\n",
                "b.toml:2:15: error: invalid type",
            ),
        ] {
            let errors = Settings::load(text).unwrap_err();
            let shown = errors[0].render("b.toml", text);
            assert!(shown.starts_with(place), "{shown}");
            assert!(shown.contains('^'), "{shown}");
        }
    }

    #[test]
    fn what_could_never_work_is_refused() {
        for (text, word) in [
            ("[runs]\ntimeout = \"0s\"", "timeout"),
            ("[store]\nurl = \"sqlite::memory:\"", "path of a file"),
            (
                "[store]\nurl = \"sqlite:/w/a/o.db\"\n[workspace]\ndir = \"/w\"",
                "keep them apart",
            ),
            (
                "[store]\nurl = \"sqlite:/x/../w/o.db\"\n[workspace]\ndir = \"/w/./\"",
                "keep them apart",
            ),
            ("[workspace]\ndir = \"/var/lib\"", "keep them apart"),
            (
                "[store]\nurl = \"sqlite:w/o.db\"\n[workspace]\ndir = \"w\"",
                "keep them apart",
            ),
            (
                "[store]\nurl = \"sqlite:/o.db\"\n[workspace]\ndir = \"/o.db.d/w\"",
                "keep them apart",
            ),
        ] {
            let errors = Settings::load(text).unwrap_err();
            assert!(errors[0].message.contains(word), "{text}: {errors:?}");
            assert!(errors[0].span.is_some(), "{text}");
        }
        let beside = "[store]\nurl = \"sqlite:/w.db\"\n[workspace]\ndir = \"/w\"";
        assert!(Settings::load(beside).is_ok());
    }
}
