//! The real container engine of this machine, as a test looks at it from the side: images made
//! from one static program, everything that carries a store's mark, and a relay that can be cut.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use bollard::{
    Docker,
    query_parameters::{
        CreateImageOptions, ListContainersOptions, ListImagesOptions, ListNetworksOptions,
        ListVolumesOptions, RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions,
    },
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
};

use crate::repository::root;

mod own;

pub use own::OwnEngine;

/// Where the engine of the machine listens.
pub const SOCKET: &str = "/run/docker.sock";
/// The source of the program that images hold.
const SERVICE: &str = "tests/images/service.rs";
/// The mark of a store on what its sandboxes consist of.
pub const INSTANCE: &str = "io.orket.instance";

/// The words of the compose command that `ORKET_TEST_COMPOSE` names, parted by spaces.
pub fn compose() -> Option<Vec<String>> {
    let named = std::env::var("ORKET_TEST_COMPOSE").ok()?;
    let words: Vec<_> = named.split_whitespace().map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

/// An engine that answers.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
}

impl Engine {
    /// The engine of this machine. Where none answers: nothing, said loudly, or a failure where one
    /// is expected.
    pub async fn get() -> Option<Self> {
        match Self::at(Path::new(SOCKET)).await {
            Ok(engine) => Some(engine),
            Err(error) => {
                assert!(
                    std::env::var_os("ORKET_EXPECT_DOCKER").is_none(),
                    "ORKET_EXPECT_DOCKER is set and no container engine answers: {error}"
                );
                eprintln!("SKIPPED: no container engine answers at {SOCKET}: {error}");
                None
            }
        }
    }

    /// The engine behind a socket.
    pub async fn at(socket: &Path) -> Result<Self, bollard::errors::Error> {
        let path = socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&path, 120, bollard::API_DEFAULT_VERSION)?
            .negotiate_version()
            .await?;
        Ok(Self { docker })
    }

    /// The API itself.
    pub fn api(&self) -> &Docker {
        &self.docker
    }

    /// The name of an image that holds the service as `/service` and starts it; made when it is not
    /// there yet.
    pub async fn image(&self) -> String {
        let program = program();
        let key = hex::encode(&Sha256::digest(std::fs::read(&program).unwrap())[..6]);
        self.image_with(&program, &key, &[]).await
    }

    /// As [`Self::image`], for the place of any image of a built-in stack: it answers where databases
    /// would, and their health checks are in it.
    pub async fn stand_in(&self) -> String {
        let program = program();
        let folder = program.parent().unwrap().join("usr/bin");
        std::fs::create_dir_all(&folder).unwrap();
        for check in ["pg_isready", "mongosh"] {
            let made = tempfile::NamedTempFile::new_in(&folder).unwrap();
            std::fs::copy(&program, made.path()).unwrap();
            std::fs::rename(made.path(), folder.join(check)).unwrap();
        }
        let key = hex::encode(&Sha256::digest(std::fs::read(&program).unwrap())[..6]);
        let lines = ["ENV HOST=0.0.0.0", "ENV PORT=5432"];
        self.image_with(&program, &format!("stand-in-{key}"), &lines)
            .await
    }

    /// As [`Self::image`], with these labels.
    pub async fn image_marked(&self, labels: &[&str]) -> String {
        let lines: Vec<_> = labels
            .iter()
            .map(|label| format!("LABEL {label}"))
            .collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let tag = orket_shared::id::new_ulid().to_lowercase();
        self.image_with(&program(), &tag, &lines).await
    }

    /// As [`Self::image`], with one more line for whoever builds from it.
    pub async fn image_that_triggers(&self, line: &str) -> String {
        self.image_with(&program(), "triggers", &[&format!("ONBUILD {line}")])
            .await
    }

    /// As [`Self::image`], with these lines of a Dockerfile.
    pub async fn image_saying(&self, lines: &[&str]) -> String {
        let program = program();
        let mut key = Sha256::new_with_prefix(std::fs::read(&program).unwrap());
        key.update(lines.join("\n"));
        let key = hex::encode(&key.finalize()[..6]);
        self.image_with(&program, &format!("saying-{key}"), lines)
            .await
    }

    /// As [`Self::image`], with these lines of a Dockerfile and with everything that lies in `folder`.
    pub async fn image_holding(&self, folder: &Path, lines: &[&str]) -> String {
        let program = program();
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0"])
            .args(["--mode=a+rX", "-c"])
            .arg("-C")
            .arg(program.parent().unwrap())
            .arg("service")
            .arg("-C")
            .arg(folder)
            .arg(".");
        let archive = tar.output().expect("tar").stdout;
        let mut key = Sha256::new_with_prefix(&archive);
        key.update(lines.join("\n"));
        let key = hex::encode(&key.finalize()[..6]);
        self.import(&format!("holding-{key}"), archive, lines).await
    }

    /// The names of all volumes there are, whosever they are.
    pub async fn all_volumes(&self) -> Vec<String> {
        let list = self.docker.list_volumes(None::<ListVolumesOptions>).await;
        let list = list.unwrap().volumes.unwrap_or_default();
        let mut names: Vec<_> = list.into_iter().map(|one| one.name).collect();
        names.sort_unstable();
        names
    }

    async fn image_with(&self, program: &Path, tag: &str, lines: &[&str]) -> String {
        let archive = Command::new("tar")
            .arg("-C")
            .arg(program.parent().unwrap())
            .args(["-c", "service"])
            .args(
                program
                    .parent()
                    .unwrap()
                    .join("usr")
                    .is_dir()
                    .then_some("usr"),
            )
            .output()
            .expect("tar");
        self.import(tag, archive.stdout, lines).await
    }

    /// The image of this tag; made of an archive when it is not there yet.
    async fn import(&self, tag: &str, archive: Vec<u8>, lines: &[&str]) -> String {
        let name = format!("orket-test-service:{tag}");
        if self.docker.inspect_image(&name).await.is_ok() {
            return name;
        }
        let options = CreateImageOptions {
            from_src: Some("-".into()),
            repo: Some("orket-test-service".into()),
            tag: Some(tag.to_owned()),
            changes: ["ENTRYPOINT [\"/service\"]"]
                .iter()
                .chain(lines)
                .map(|line| (*line).to_owned())
                .collect(),
            ..CreateImageOptions::default()
        };
        let body = bollard::body_full(Bytes::from(archive));
        self.docker
            .create_image(Some(options), Some(body), None)
            .try_collect::<Vec<_>>()
            .await
            .expect("an image");
        name
    }

    /// The ids of all containers that carry this label.
    pub async fn containers(&self, label: &str) -> Vec<String> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(with(label)),
            ..ListContainersOptions::default()
        };
        let list = self.docker.list_containers(Some(options)).await.unwrap();
        list.into_iter().filter_map(|one| one.id).collect()
    }

    /// The names of all networks that carry this label.
    pub async fn networks(&self, label: &str) -> Vec<String> {
        let filters = Some(with(label));
        let options = ListNetworksOptions { filters };
        let list = self.docker.list_networks(Some(options)).await.unwrap();
        list.into_iter().filter_map(|one| one.name).collect()
    }

    /// The names of all volumes that carry this label.
    pub async fn volumes(&self, label: &str) -> Vec<String> {
        let filters = Some(with(label));
        let options = ListVolumesOptions { filters };
        let list = self.docker.list_volumes(Some(options)).await.unwrap();
        let list = list.volumes.unwrap_or_default();
        list.into_iter().map(|one| one.name).collect()
    }

    /// The ids of all images that carry this label, with those that are parts of others.
    pub async fn images(&self, label: &str) -> Vec<String> {
        let options = ListImagesOptions {
            all: true,
            filters: Some(with(label)),
            ..ListImagesOptions::default()
        };
        let list = self.docker.list_images(Some(options)).await.unwrap();
        list.into_iter().map(|one| one.id).collect()
    }

    /// The containers that carry this label, with their states, as people read them.
    pub async fn describe(&self, label: &str) -> String {
        let options = ListContainersOptions {
            all: true,
            filters: Some(with(label)),
            ..ListContainersOptions::default()
        };
        let list = self.docker.list_containers(Some(options)).await;
        let lines = list.unwrap_or_default().into_iter().map(|one| {
            let names = one.names.unwrap_or_default().join(" ");
            format!("{names}: {}", one.status.unwrap_or_default())
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// How many containers, networks and volumes carry this label.
    pub async fn holds(&self, label: &str) -> [usize; 3] {
        [
            self.containers(label).await.len(),
            self.networks(label).await.len(),
            self.volumes(label).await.len(),
        ]
    }

    /// Removes a container, running or not.
    pub async fn remove(&self, container: &str) {
        let options = RemoveContainerOptions {
            force: true,
            v: true,
            ..RemoveContainerOptions::default()
        };
        let removed = self.docker.remove_container(container, Some(options)).await;
        removed.unwrap_or_else(|error| panic!("{container}: {error}"));
    }

    /// Removes everything that carries this label: after a test that failed.
    pub async fn clear(&self, label: &str) {
        for container in self.containers(label).await {
            self.remove(&container).await;
        }
        for network in self.networks(label).await {
            let _ = self.docker.remove_network(&network).await;
        }
        for volume in self.volumes(label).await {
            let options = None::<RemoveVolumeOptions>;
            let _ = self.docker.remove_volume(&volume, options).await;
        }
        for image in self.images(label).await {
            let options = RemoveImageOptions {
                force: true,
                ..RemoveImageOptions::default()
            };
            let _ = self.docker.remove_image(&image, Some(options), None).await;
        }
    }
}

fn with(label: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![label.to_owned()])])
}

/// The service of [`Engine::image`] as a program of this machine; compiled when it is not there yet.
pub fn program() -> PathBuf {
    let source = root().join(SERVICE);
    let key = hex::encode(&Sha256::digest(std::fs::read(&source).unwrap())[..6]);
    let test = std::env::current_exe().expect("the test's own path");
    let dir = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>/deps/<test>")
        .join(format!("test-service-{key}"));
    std::fs::create_dir_all(&dir).unwrap();
    let program = dir.join("service");
    // Tests run in processes of their own: one of them compiles, the others wait.
    let lock = File::create(dir.join("lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    if !program.is_file() {
        let made = dir.join("new");
        let compiled = Command::new("rustc")
            .args([
                "--edition",
                "2024",
                "-O",
                "-C",
                "target-feature=+crt-static",
            ])
            .args(["-C", "strip=symbols", "-C", "panic=abort", "-o"])
            .args([&made, &source])
            .output()
            .expect("rustc");
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{said}");
        std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(made, &program).unwrap();
    }
    program
}

/// What a relay does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Everything goes through.
    Open,
    /// Connections are taken, and nothing comes back.
    Hung,
    /// What contains this is not passed on, nor is what comes behind it on its connection.
    HungAt(&'static str),
    /// Connections are closed, old and new ones.
    Cut,
}

/// A socket before the engine's own, which can be cut off or hang as an engine would.
#[derive(Debug)]
pub struct Relay {
    way: Arc<watch::Sender<Way>>,
    path: PathBuf,
}

impl Relay {
    /// A relay in `dir` to the engine of this machine.
    pub fn open(dir: &Path) -> Self {
        let path = dir.join("engine.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let ways = Arc::clone(&way);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, ways.subscribe()));
            }
        });
        Self { way, path }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// From now on.
    pub fn turn(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn pass(mut client: UnixStream, mut ways: watch::Receiver<Way>) {
    let way = *ways.borrow();
    match way {
        Way::Cut => {}
        Way::Hung => drop(ways.wait_for(|way| *way != Way::Hung).await),
        Way::Open | Way::HungAt(_) => {
            let Ok(mut engine) = UnixStream::connect(SOCKET).await else {
                return;
            };
            let now = ways.clone();
            let closed = |way: &Way| matches!(way, Way::Hung | Way::Cut);
            let changed = async { ways.wait_for(closed).await.map(|way| *way) };
            let turned = tokio::select! {
                () = both_ways(&mut client, &mut engine, &now) => None,
                way = changed => way.ok(),
            };
            if turned == Some(Way::Hung) {
                let _ = ways.wait_for(|way| *way != Way::Hung).await;
            }
        }
    }
}

/// Until one of them closes.
async fn both_ways(client: &mut UnixStream, engine: &mut UnixStream, way: &watch::Receiver<Way>) {
    let (mut asks, mut hears) = client.split();
    let (mut answers, mut takes) = engine.split();
    let forth = async {
        let mut piece = vec![0; 64 << 10];
        while let Ok(read @ 1..) = asks.read(&mut piece).await {
            let text = String::from_utf8_lossy(&piece[..read]);
            if matches!(*way.borrow(), Way::HungAt(part) if text.contains(part)) {
                std::future::pending::<()>().await;
            }
            if takes.write_all(&piece[..read]).await.is_err() {
                break;
            }
        }
        let _ = takes.shutdown().await;
    };
    let back = async {
        let _ = tokio::io::copy(&mut answers, &mut hears).await;
        let _ = hears.shutdown().await;
    };
    tokio::join!(forth, back);
}
