//! `orket-gateway keys`: makes, rotates, revokes and lists API keys in a policy file.
//!
//! A key's text is printed once, on standard output, and kept nowhere: the file gets its digest. What is to be written is judged
//! before it counts: it has to say exactly what was asked for, load with the running code and pass the file's own tests. Otherwise the
//! file stays as it was. See `file` for how it is replaced, `edit` for what is changed in it.

mod data;
mod edit;
mod file;
mod list;
mod revoke;
mod splice;
mod when;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use orket_shared::{complain, complain_text};
use toml::{Table, Value};

use self::{
    data::{data_of, free_list, key_of, known, list_of, other_user, time},
    edit::{Change, EditError, bare},
    file::{FileError, PolicyFile},
};
use crate::{
    builtin,
    canary::Format,
    config::diagnostic::Diagnostics,
    control::ControlError,
    issued_key,
    pipeline::Snapshot,
    policy::{Bypass, load::lacks_only_a_key},
    rehearsal,
    secret::SecretDigest,
};

/// Options of `orket-gateway keys`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key: print it once, and put its digest and its scopes into the policy file.
    New {
        /// The policy file.
        #[arg(long)]
        config: PathBuf,
        /// The key's id, as it stands in logs and in `X-Orket-Actor`.
        #[arg(long)]
        id: String,
        /// What it may do: ids of `[[scopes]]`, or `*` for all.
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<String>,
        /// Until when it works: a time (2027-01-01T00:00:00Z) or a span from now (30d). Without it, it has no end.
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
    },
    /// Give a key a new secret: print it once, and let the old ones work for a while.
    Rotate {
        /// The policy file.
        #[arg(long)]
        config: PathBuf,
        /// The key's id.
        id: String,
        /// How long its old secrets still work; never longer than they would have.
        #[arg(long, value_name = "SPAN", default_value = "24h")]
        overlap: String,
    },
    /// Revoke a key: the running gateway refuses it and closes its open streams at once, and the policy file loses it.
    Revoke {
        /// The policy file; tells where the running gateway's control socket is.
        #[arg(long)]
        config: PathBuf,
        /// The control socket itself.
        #[arg(long, value_name = "SOCKET")]
        control: Option<PathBuf>,
        /// No gateway runs with this policy, though that cannot be seen here: it is enough to edit the file.
        #[arg(long)]
        not_running: bool,
        /// The key's id.
        id: String,
    },
    /// List the keys of a policy file; when each was used last, if its gateway runs.
    List {
        /// The policy file; tells where the running gateway's control socket is.
        #[arg(long)]
        config: PathBuf,
        /// The control socket itself.
        #[arg(long, value_name = "SOCKET")]
        control: Option<PathBuf>,
        /// How the list is printed.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

/// Why a key could not be made, rotated, revoked or listed.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error(
        "the policy file does not load as it is, so it is not edited; mend it first (`orket-gateway check`)"
    )]
    DoesNotLoad(Box<Diagnostics>),
    #[error("with this change the policy file would not load, so it stays as it was")]
    WouldNotLoad(Box<Diagnostics>),
    #[error(
        "what was to be written does not say what was meant, so the file stays as it was; please report this, with the form of its [secrets] and [[keys]]"
    )]
    NotWhatWasMeant,
    #[error(
        "without this key no key is left, and `allow_insecure_no_api_key` would open the key routes to everyone; switch it off, then revoke the key again"
    )]
    WouldOpen,
    #[error("{0}")]
    Asked(String),
    #[error(
        "the key is in the file, but could not be printed: {0}; it is lost: revoke it and make another"
    )]
    Lost(std::io::Error),
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Runs a command. Exit code 0 only if all of it was done.
pub fn run(options: Options) -> ExitCode {
    let now = Timestamp::now();
    let done = match options.command {
        Command::New {
            config,
            id,
            scopes,
            expires,
        } => new(&config, &id, scopes, expires.as_deref(), now),
        Command::Rotate {
            config,
            id,
            overlap,
        } => rotate(&config, &id, &overlap, now),
        Command::Revoke {
            config,
            control,
            not_running,
            id,
        } => return revoke::run(&config, control, not_running, &id),
        Command::List {
            config,
            control,
            format,
        } => list::print(&config, control, format),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed(&e),
    }
}

fn failed(e: &KeysError) -> ExitCode {
    if let KeysError::DoesNotLoad(problems) | KeysError::WouldNotLoad(problems) = e {
        complain_text!("{problems}");
    }
    complain!("orket-gateway: {e}");
    ExitCode::FAILURE
}

fn asked(problem: impl Into<String>) -> KeysError {
    KeysError::Asked(problem.into())
}

fn new(
    config: &Path,
    id: &str,
    scopes: Vec<String>,
    expires: Option<&str>,
    now: Timestamp,
) -> Result<(), KeysError> {
    if !orket_shared::id::is_name(id) {
        return Err(asked(
            "this is no id for a key: use letters, digits, `-`, `_` and `.`, beginning with a letter or digit, at most 128",
        ));
    }
    let expires = expires
        .map(|text| when::moment(text, now))
        .transpose()
        .map_err(asked)?;
    if let Some(end) = expires.filter(|end| *end <= now) {
        return Err(asked(format!("{end} is past: the key would open nothing")));
    }
    let editor = Editor::open_to_add(config)?;
    if key_of(&editor.data, id).is_some() {
        return Err(asked(format!(
            "there is a key `{id}`: `orket-gateway keys rotate` gives it a new secret, and another key wants another id"
        )));
    }
    let list = free_list(&editor.data, id);
    let key = issued_key::make(id);
    let change = Change::New {
        id: id.to_owned(),
        list,
        digest: digest_of(&key).written(),
        scopes,
        expires,
    };
    editor.make(&change, |snapshot| {
        snapshot.policy.keys.live(&digest_of(&key), now).is_ok()
    })?;
    show(&key)?;
    let until = expires.map_or_else(String::new, |end| format!(", until {end}"));
    complain!(
        "orket-gateway: this is the key `{id}`{until}; it is shown this once. `orket-gateway reload` brings it into force"
    );
    Ok(())
}

fn rotate(config: &Path, id: &str, overlap: &str, now: Timestamp) -> Result<(), KeysError> {
    let overlap = when::span(overlap).map_err(asked)?;
    let until = when::after(now, overlap).map_err(asked)?;
    let editor = Editor::open(config)?;
    let key = known(&editor.data, id)?;
    if let Some(end) = time(key).filter(|end| *end <= now) {
        return Err(asked(format!(
            "the key `{id}` itself expired at {end}, so a new secret would open nothing: give it a later `expires` in the file first"
        )));
    }
    let list = list_of(key)?;
    if let Some(user) = other_user(&editor.data, list, id) {
        return Err(asked(format!(
            "the secrets `{list}` are used by {user}, too, which a new key would break: give the key `{id}` a list of its own in [secrets] first"
        )));
    }
    let entries = editor.data.get("secrets").and_then(|s| s.get(list));
    let ends = entries
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, entry)| {
            entry
                .as_table()
                .and_then(time)
                .is_none_or(|end| until < end)
        })
        .map(|(index, _)| (index, until))
        .collect();
    let key = issued_key::make(id);
    let change = Change::Rotate {
        list: list.to_owned(),
        digest: digest_of(&key).written(),
        ends,
    };
    editor.make(&change, |snapshot| {
        snapshot.policy.keys.live(&digest_of(&key), now).is_ok()
    })?;
    show(&key)?;
    complain!(
        "orket-gateway: this is the new key `{id}`; it is shown this once. Older ones work until {until} at the latest. `orket-gateway reload` brings it into force"
    );
    Ok(())
}

/// A policy file that loads, open for one change.
struct Editor {
    file: PolicyFile,
    data: Table,
    bypass: Bypass,
}

impl Editor {
    fn open(config: &Path) -> Result<Self, KeysError> {
        let file = PolicyFile::open(config)?;
        let before = judged(file.text(), config).map_err(KeysError::DoesNotLoad)?;
        Self::of(file, before.policy.bypass)
    }

    /// The same for a key to be added, which a file may lack to load at all.
    fn open_to_add(config: &Path) -> Result<Self, KeysError> {
        let file = PolicyFile::open(config)?;
        let bypass = match judged(file.text(), config) {
            Ok(before) => before.policy.bypass,
            // Where a bypass were asked for, a key would not be missed.
            Err(problems) if lacks_only_a_key(&problems) => Bypass::Off,
            Err(problems) => return Err(KeysError::DoesNotLoad(problems)),
        };
        Self::of(file, bypass)
    }

    fn of(file: PolicyFile, bypass: Bypass) -> Result<Self, KeysError> {
        Ok(Self {
            data: data_of(file.text())?,
            bypass,
            file,
        })
    }

    /// Makes one change, if what is written says exactly that, loads, passes its tests, and `holds`.
    fn make(
        &self,
        change: &Change,
        holds: impl FnOnce(&Snapshot) -> bool,
    ) -> Result<(), KeysError> {
        let text = change.made(self.file.text())?;
        let meant = change.applied(self.data.clone());
        self.file.replace(&text, |written| {
            if meant != data_of(written).ok().map(bare) {
                return Err(KeysError::NotWhatWasMeant);
            }
            let snapshot = judged(written, self.file.named()).map_err(KeysError::WouldNotLoad)?;
            if snapshot.policy.bypass == Bypass::Open && self.bypass != Bypass::Open {
                return Err(KeysError::WouldOpen);
            }
            if !holds(&snapshot) {
                return Err(KeysError::NotWhatWasMeant);
            }
            Ok(())
        })
    }
}

/// Judges a text as the gateway would when it starts with it.
fn judged(text: &str, path: &Path) -> Result<Snapshot, Box<Diagnostics>> {
    let loaded = builtin::load_file_text(text, path, &builtin::process_environment)?;
    Ok(rehearsal::ready(loaded, None)?.snapshot)
}

fn digest_of(key: &str) -> SecretDigest {
    SecretDigest::of(key.as_bytes())
}

/// Prints a key, and nothing else, on standard output.
fn show(key: &str) -> Result<(), KeysError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{key}")
        .and_then(|()| out.flush())
        .map_err(KeysError::Lost)
}
