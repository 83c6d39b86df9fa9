//! `orket-gateway keys revoke`: the running gateway first, whatever the file is like, then the file.
//!
//! It ends with 0 only if every gateway that could run with this policy is known to refuse the key: one has said so, or locks say that none
//! runs, those of the state directory and of the policy's folder. That nobody answers proves nothing by itself.

use std::{
    collections::BTreeSet,
    fs::{self, Metadata},
    io::{
        self,
        ErrorKind::{ConnectionRefused, NotFound},
    },
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use http::Method;
use jiff::Timestamp;
use orket_shared::{complain, say};
use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use toml::Table;

use super::{
    Editor, KeysError,
    data::{digests_of, key_of, list_of, other_user},
    edit::Change,
    failed, judged,
};
use crate::{
    control::{self, ControlError, Whose},
    key_ledger::{KeyLedger, Revocation, Revoke},
    presence,
    secret::SecretDigest,
    state::StateDir,
};

/// How long a running gateway is waited for before the file is edited all the same.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the gateways that may run with a policy made of it.
enum Told {
    /// One refuses the key from now on.
    Revoked(Revocation),
    /// One runs, and has no such key.
    Unknown,
    /// None runs.
    NotRunning {
        socket: PathBuf,
        /// Whether the list of revoked keys names the key, or why nothing could be put there.
        listed: Result<bool, String>,
    },
    /// One may run and take the key.
    Uncertain(String),
}

/// What became of the file.
struct TakenOut {
    note: String,
    /// The digests that stood in it for the key.
    digests: BTreeSet<String>,
}

pub(super) fn run(
    config: &Path,
    control: Option<PathBuf>,
    not_running: bool,
    id: &str,
) -> ExitCode {
    let gateway = Gateway {
        config,
        control,
        not_running,
    };
    let mut digests = standing_in(config, id);
    let mut told = gateway.tell(id, &digests);
    let edited = take_out(config, id);
    // A gateway that has started since, and a secret that has come since, are not left out.
    if let Ok(Some(taken)) = &edited
        && (matches!(told, Told::NotRunning { .. }) || !taken.digests.is_subset(&digests))
    {
        digests.extend(taken.digests.iter().cloned());
        told = told.and_then(gateway.tell(id, &digests));
    }
    let was_a_key = told.says_it_was_a_key();
    let revoked = say(id, told) & gateway.is_alone();
    let gone = match edited {
        Ok(Some(taken)) => {
            say!(
                "the key `{id}` is out of {}{}",
                config.display(),
                taken.note
            );
            true
        }
        Ok(None) if was_a_key => {
            say!("the file {} has no key `{id}`", config.display());
            true
        }
        Ok(None) => {
            complain!(
                "orket-gateway: there is no key `{id}` in {} either; `orket-gateway keys list` shows them",
                config.display()
            );
            false
        }
        Err(e) => {
            failed(&e);
            complain!(
                "orket-gateway: the key `{id}` may still stand in {}",
                config.display()
            );
            false
        }
    };
    if revoked && gone {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Told {
    /// Whether this key was one, so that a file without it is as it should be.
    fn says_it_was_a_key(&self) -> bool {
        match self {
            Self::Revoked(_) => true,
            Self::NotRunning { listed, .. } => *listed == Ok(true),
            Self::Unknown | Self::Uncertain(_) => false,
        }
    }

    /// What holds when a gateway was told a second time.
    fn and_then(self, again: Self) -> Self {
        match (self, again) {
            (Self::Revoked(first), Self::Revoked(second)) => Self::Revoked(Revocation {
                known: first.known || second.known,
                secrets: first.secrets + second.secrets,
                before: first.before,
                streams: first.streams + second.streams,
                not_kept: second.not_kept,
                other_policy: second.other_policy,
            }),
            (_, again) => again,
        }
    }
}

/// Says what a gateway was told. Whether it is certain that none takes the key.
fn say(id: &str, told: Told) -> bool {
    match told {
        Told::Revoked(revocation) => {
            say!(
                "the running gateway refuses the key `{id}` from now on; {} of its open streams were closed",
                revocation.streams
            );
            if let Some(why) = &revocation.not_kept {
                complain!("orket-gateway: {why}");
            }
            revocation.not_kept.is_none()
        }
        Told::Unknown => {
            say!("the running gateway knows no key `{id}`");
            true
        }
        Told::NotRunning { socket, listed } => {
            say!(
                "no gateway runs with the control socket {}: that the key is revoked takes effect at its next start",
                socket.display()
            );
            if let Err(why) = listed {
                say!(
                    "it is not in the list of revoked keys ({why}): an older copy of the file would bring it back"
                );
            }
            true
        }
        Told::Uncertain(why) => {
            complain!(
                "orket-gateway: not every gateway that may run was told, and one may still take the key: {why}"
            );
            false
        }
    }
}

/// The gateway that would run with a policy file.
struct Gateway<'a> {
    config: &'a Path,
    control: Option<PathBuf>,
    not_running: bool,
}

impl Gateway<'_> {
    fn tell(&self, id: &str, digests: &BTreeSet<String>) -> Told {
        let places = control::places_of(self.config);
        let socket = match (&self.control, &places) {
            (Some(socket), _) => socket.clone(),
            (None, Ok(places)) => places.control.clone(),
            (None, Err(e)) => return Told::Uncertain(e.to_string()),
        };
        let revoke = Revoke {
            id: id.to_owned(),
            secrets: digests.iter().cloned().collect(),
            of: Some(Whose::of(self.config)),
        };
        let body = serde_json::json!(revoke);
        let asked = control::ask::<Revocation>(
            &socket,
            &Method::POST,
            "/keys/revoke",
            Some(&body),
            PATIENCE,
        );
        match asked {
            Ok(revocation) => self.answered(revocation, &socket),
            Err(e) if nobody_listens(&e) => match places {
                Ok(places) => self.look(socket, &places.state_dir, &revoke),
                Err(unknown) => Told::Uncertain(format!("{e}, and {unknown}")),
            },
            Err(e @ ControlError::NoAnswer { .. }) => Told::Uncertain(format!(
                "{e}; end it (SIGKILL, if SIGTERM does not), or let it go on, and run this again"
            )),
            Err(e) => Told::Uncertain(e.to_string()),
        }
    }

    /// What holds when a gateway has answered.
    fn answered(&self, revocation: Revocation, socket: &Path) -> Told {
        // That its state is the one which the file names says nothing of a gateway that was started before the file named that.
        if revocation.other_policy
            && let Some(why) = self.seen_in_folder()
        {
            return Told::Uncertain(format!(
                "the gateway behind {} was told, and runs with another policy file; {why}",
                socket.display()
            ));
        }
        if revocation.known || revocation.secrets + revocation.before > 0 {
            Told::Revoked(revocation)
        } else {
            Told::Unknown
        }
    }

    /// What the locks of the state directory and of the policy's folder say, where nobody answers.
    fn look(&self, socket: PathBuf, state_dir: &Path, revoke: &Revoke) -> Told {
        let (nobody, state) = (socket.display(), state_dir.display());
        let listed = match StateDir::is_owned(state_dir) {
            // Whatever else is seen: the file loses the digests.
            Ok(false) => list(state_dir, revoke),
            Ok(true) => {
                return Told::Uncertain(format!(
                    "one owns the state directory {state}, and nobody answers on {nobody}; name its control socket with --control, or stop it (SIGTERM) and run this again"
                ));
            }
            Err(e) if self.not_running => Err(e.to_string()),
            Err(e) if e.kind() == NotFound => {
                return Told::Uncertain(format!(
                    "nobody answers on {nobody}, and no gateway was ever started with the state directory {state}; if one runs with another [state] dir, name its control socket with --control; if none runs, say so with --not-running"
                ));
            }
            Err(e) => {
                return Told::Uncertain(format!(
                    "nobody answers on {nobody}, and whether one owns the state directory {state} cannot be seen: {e}; run this as the gateway's user, or say with --not-running that none runs"
                ));
            }
        };
        if let Some(why) = self.seen_in_folder() {
            return Told::Uncertain(format!("nobody answers on {nobody}, and {why}"));
        }
        match listed {
            Err(why) if !self.not_running => Told::Uncertain(format!(
                "none is seen, but the next one may, with an older copy of the file: the list of revoked keys in {state} cannot be written: {why}; put the file back, mend that, and run this again, or say with --not-running that the file is enough"
            )),
            listed => Told::NotRunning { socket, listed },
        }
    }

    /// What shows that a gateway may run with a policy of the file's folder, where the operator does not say that none does.
    fn seen_in_folder(&self) -> Option<String> {
        if self.not_running {
            return None;
        }
        let folders = match presence::folders_of(self.config) {
            Ok(folders) => folders,
            Err(e) => return Some(format!("the folder of the policy file cannot be seen: {e}")),
        };
        folders.iter().find_map(|folder| {
            let folder_is = folder.display();
            match presence::is_shown_in(folder) {
                Ok(false) => None,
                Ok(true) => Some(format!(
                    "a gateway runs with a policy file in {folder_is}; if with this one, name its control socket with --control, or stop it (SIGTERM) and run this again; if with another one, say so with --not-running"
                )),
                Err(e) => Some(format!(
                    "whether one runs with a policy file in {folder_is} cannot be seen: {e}; say with --not-running that none runs with this one"
                )),
            }
        })
    }

    /// Whether no gateway runs beside the owner of the state directory. It would refuse what the owner had revoked when it started, and
    /// nothing else.
    fn is_alone(&self) -> bool {
        let Ok(places) = control::places_of(self.config) else {
            // Then the file was not edited either.
            return false;
        };
        let state = places.state_dir.display();
        match StateDir::has_lodger(&places.state_dir) {
            Ok(false) => true,
            Err(_) if self.not_running => true,
            Ok(true) => {
                complain!(
                    "orket-gateway: a gateway runs with the state directory {state} without owning it (its log says `state_not_kept`), and may still take the key: stop it and run this again"
                );
                false
            }
            Err(e) => {
                complain!(
                    "orket-gateway: whether a gateway runs with the state directory {state} without owning it cannot be seen: {e}; run this as the gateway's user, or say with --not-running that none does"
                );
                false
            }
        }
    }
}

/// Puts the key on the list of revoked ones in a state directory that no gateway owns, as the user it belongs to: root would leave a list there
/// that the gateway may not read. Whether the list names the key then; `Err` says why nothing was put there.
fn list(state_dir: &Path, revoke: &Revoke) -> Result<bool, String> {
    let owner = fs::metadata(state_dir).map_err(|e| e.to_string())?;
    if !geteuid().is_root() || owner.uid() == 0 {
        return list_as_ourselves(state_dir, revoke);
    }
    // Rights are those of a thread, which ends with this.
    let listing = || {
        become_user(&owner).map_err(|e| format!("user {} cannot be had: {e}", owner.uid()))?;
        list_as_ourselves(state_dir, revoke)
    };
    std::thread::scope(|threads| {
        let listing = threads.spawn(listing).join();
        listing.unwrap_or_else(|_| Err("a fault inside this command".to_owned()))
    })
}

/// Gives this thread the rights of the user and the group that a directory belongs to, and no others.
fn become_user(owner: &Metadata) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    Ok(set_thread_res_uid(user, user, user)?)
}

fn list_as_ourselves(state_dir: &Path, revoke: &Revoke) -> Result<bool, String> {
    let state = StateDir::open(state_dir).map_err(|e| e.to_string())?;
    let ledger = KeyLedger::default();
    let kept = ledger.keep_in(Arc::new(state)).and_then(|()| {
        let digests = revoke.digests().unwrap_or_default();
        ledger.revoke(&revoke.id, &digests, Timestamp::now());
        ledger.keep()
    });
    kept.map_err(|e| e.to_string())?;
    Ok(ledger.names(&revoke.id))
}

/// Whether this says that nobody listens there, and not that one could not be asked.
pub(super) fn nobody_listens(e: &ControlError) -> bool {
    match e {
        ControlError::Unreachable { source, .. } => {
            matches!(source.kind(), NotFound | ConnectionRefused)
        }
        ControlError::NoAnswer { .. }
        | ControlError::Unknown { .. }
        | ControlError::Answer(_)
        | ControlError::Refused(_) => false,
    }
}

/// The digests a file has for a key: what can be told of one that does not load, and of one that does all.
fn standing_in(config: &Path, id: &str) -> BTreeSet<String> {
    let Ok(text) = control::text_of(config) else {
        return BTreeSet::new();
    };
    let data: Option<Table> = text.parse().ok();
    let written = data.iter().flat_map(|data| digests_of(data, id));
    let mut digests: BTreeSet<_> = written.collect();
    if let Ok(snapshot) = judged(&text, config) {
        let read = snapshot.policy.keys.digests_of(id);
        digests.extend(read.iter().map(SecretDigest::written));
    }
    // What is no digest does not keep the others from being refused.
    digests.retain(|digest| SecretDigest::parse(digest).is_some());
    digests
}

/// Takes a key out of the file, with its secrets where nothing else uses them. `None`: the file has no such key.
fn take_out(config: &Path, id: &str) -> Result<Option<TakenOut>, KeysError> {
    let editor = Editor::open(config)?;
    let Some(key) = key_of(&editor.data, id) else {
        return Ok(None);
    };
    let list = list_of(key)?;
    let user = other_user(&editor.data, list, id);
    let change = Change::Revoke {
        id: id.to_owned(),
        list: user.is_none().then(|| list.to_owned()),
    };
    let note = user.map_or_else(String::new, |user| {
        format!("; its secrets `{list}` stay, for {user}")
    });
    let digests = digests_of(&editor.data, id).into_iter().collect();
    editor.make(&change, |snapshot| !snapshot.policy.keys.has(id))?;
    Ok(Some(TakenOut { note, digests }))
}
