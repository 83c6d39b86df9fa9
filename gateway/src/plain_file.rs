//! Files that an operator names: read only when they are plain files of a bounded size.
//!
//! A pipe would be waited for, a device has no end, and a file of a gigabyte is none of ours. Whatever reads a policy, a secret, a key or a
//! certificate reads it through here.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::OFlags;

/// The largest policy file: far beyond one of ten thousand keys.
pub const POLICY_BYTES: u64 = 8 * 1024 * 1024;

/// The largest file of one secret.
pub const SECRET_BYTES: u64 = 64 * 1024;

/// The largest file of keys or certificates in PEM: a whole system's roots have about 250 KiB.
pub const PEM_BYTES: u64 = 4 * 1024 * 1024;

/// The bytes of the plain file at `path`, at most `limit` of them, and what the system says of it. Nothing is waited for.
///
/// # Errors
/// Those of the system; that it is no plain file; that it is larger than `limit`.
pub fn read(path: &Path, limit: u64) -> io::Result<(Vec<u8>, Metadata)> {
    read_open(open(path)?, limit)
}

/// Opens what is at `path` to read it, whatever it is. Nothing is waited for.
///
/// # Errors
/// Those of the system.
pub fn open(path: &Path) -> io::Result<File> {
    // Opening a pipe would wait for its other end, and a terminal would become ours.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

fn read_open(file: File, limit: u64) -> io::Result<(Vec<u8>, Metadata)> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let too_large = || io::Error::other(format!("it is larger than {}", size(limit)));
    if metadata.len() > limit {
        return Err(too_large());
    }
    // The files of some kernel interfaces have no length until they are read.
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    Ok((bytes, metadata))
}

/// As a policy writes a size.
fn size(bytes: u64) -> String {
    const KIB: u64 = 1024;
    if bytes.is_multiple_of(KIB * KIB) {
        format!("{}MiB", bytes / (KIB * KIB))
    } else {
        format!("{}KiB", bytes / KIB)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn a_plain_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![b'x'; 1024]).unwrap();
        assert_eq!(read(&path, 1024).unwrap().0.len(), 1024);
        std::fs::write(&path, vec![b'x'; 1025]).unwrap();
        let told = read(&path, 1024).unwrap_err().to_string();
        assert_eq!(told, "it is larger than 1KiB");
    }

    #[test]
    fn nothing_else_is_read_or_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for path in [pipe.as_path(), dir.path(), Path::new("/dev/zero")] {
            let told = read(path, 1024).unwrap_err().to_string();
            assert_eq!(told, "it is not a plain file", "{}", path.display());
        }
    }
}
