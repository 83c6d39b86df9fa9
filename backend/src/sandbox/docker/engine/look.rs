//! Files of an image, read from a container of it that is never started: nothing of the image runs.

use std::{collections::HashMap, io::Read as _, time::Instant};

use bollard::{
    models::{ContainerCreateBody, HostConfig},
    query_parameters::{CreateContainerOptions, DownloadFromContainerOptions},
};
use futures_util::TryStreamExt as _;
use tar::Archive;

use super::{Engine, EngineError, absent};

/// Bytes of a file that is read.
const MOST: u64 = 1 << 20;
/// Bytes of the archive that it comes in: with its heads and its end.
const ARCHIVE: usize = (1 << 20) + (64 << 10);

impl Engine {
    /// Makes a container of an image, only to read from it. Whoever calls this removes it.
    pub(in crate::sandbox::docker) async fn make_to_read(
        &self,
        image: &str,
        labels: HashMap<String, String>,
        until: Instant,
    ) -> Result<String, EngineError> {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // Never run; the engine makes none without one.
            cmd: Some(vec!["-".into()]),
            labels: Some(labels),
            host_config: Some(HostConfig {
                network_mode: Some("none".into()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let patience = self.left(until);
        let made = self
            .ask_within(patience, |docker| async move {
                docker
                    .create_container(None::<CreateContainerOptions>, body)
                    .await
            })
            .await?;
        Ok(made.id)
    }

    /// A plain file in a container; `None` where there is none, or it is too large.
    pub(in crate::sandbox::docker) async fn file(
        &self,
        container: &str,
        path: &str,
        until: Instant,
    ) -> Result<Option<Vec<u8>>, EngineError> {
        let (container, path) = (container.to_owned(), path.to_owned());
        let patience = self.left(until);
        let archive = self
            .ask_within(patience, |docker| async move {
                let options = DownloadFromContainerOptions { path };
                let pieces = docker.download_from_container(&container, Some(options));
                tokio::pin!(pieces);
                let mut archive = Vec::new();
                while archive.len() < ARCHIVE {
                    let Some(piece) = pieces.try_next().await? else {
                        break;
                    };
                    let room = ARCHIVE - archive.len();
                    archive.extend_from_slice(&piece[..piece.len().min(room)]);
                }
                Ok(archive)
            })
            .await;
        Ok(plain_file(&absent(archive)?))
    }
}

/// The only thing in an archive, where that is a plain file and all there.
fn plain_file(archive: &[u8]) -> Option<Vec<u8>> {
    let mut archive = Archive::new(archive);
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    let size = entry.size();
    if !entry.header().entry_type().is_file() || size > MOST {
        return None;
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).ok()?;
    (text.len() as u64 == size).then_some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use tar::{Builder, EntryType, Header};

    use super::*;

    fn archive(kind: EntryType, text: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(text.len() as u64);
        let mut archive = Builder::new(Vec::new());
        archive.append_data(&mut header, "passwd", text).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn only_a_plain_file_that_is_all_there_is_read() {
        let good = archive(EntryType::Regular, b"root");
        assert_eq!(plain_file(&good).as_deref(), Some(b"root".as_slice()));
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Directory,
            EntryType::Fifo,
            EntryType::Char,
            EntryType::GNUSparse,
        ] {
            assert_eq!(plain_file(&archive(kind, b"")), None, "{kind:?}");
        }
        let most = vec![b'#'; 1 << 20];
        let largest = archive(EntryType::Regular, &most);
        assert!(largest.len() <= ARCHIVE);
        assert_eq!(plain_file(&largest), Some(most.clone()));
        let larger = archive(EntryType::Regular, &[most, vec![b'#']].concat());
        assert_eq!(plain_file(&larger), None);
        // Cut off, or no archive at all.
        assert_eq!(plain_file(&largest[..1 << 20]), None);
        assert_eq!(plain_file(b""), None);
        assert_eq!(plain_file(&[b'x'; 600]), None);
    }
}
