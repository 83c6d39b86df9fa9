//! Random credentials of a sandbox: made here, kept in files of mode 0600, handed on by path. Their
//! values appear in no answer, log or store.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// Random bytes in a credential.
const BYTES: usize = 24;

/// Where the credentials of a sandbox lie.
pub(super) fn dir(sandbox_dir: &Path) -> PathBuf {
    sandbox_dir.join("credentials")
}

/// Makes one file for each name.
pub(super) fn make(sandbox_dir: &Path, names: &[String]) -> io::Result<()> {
    let dir = dir(sandbox_dir);
    fs::DirBuilder::new().mode(0o700).create(&dir)?;
    for name in names {
        write(&dir.join(name), &random(), None)?;
    }
    Ok(())
}

/// A new credential.
pub(super) fn random() -> String {
    let random: [u8; BYTES] = rand::random();
    URL_SAFE_NO_PAD.encode(random)
}

/// Writes a credential into a file of its own, which may be given to another user. One that is
/// there already stays as it is.
pub(super) fn write(path: &Path, text: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
    let opened = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other?,
    };
    file.write_all(text.as_bytes())?;
    match owner {
        Some((uid, gid)) => give(&file, uid, gid).inspect_err(|_| {
            // Nobody could read it, and the next try would take it for done.
            let _ = fs::remove_file(path);
        }),
        None => Ok(()),
    }
}

fn give(file: &fs::File, uid: u32, gid: u32) -> io::Result<()> {
    match std::os::unix::fs::fchown(file, Some(uid), Some(gid)) {
        // Ours already: only its group is not ours to choose.
        Err(_) if uid == rustix::process::geteuid().as_raw() => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "a credential cannot be given to the user {uid} ({error}): the backend needs CAP_CHOWN, which \
                 orket-backend.service.d/containers.conf gives it"
            ),
        )),
        Ok(()) => Ok(()),
    }
}
