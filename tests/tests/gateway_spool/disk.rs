//! A disk that is slow, that stands still, that turns read-only: the sender is answered in time and told what is so.

use std::path::{Path, PathBuf};
use std::process::Command;

use orket_tests::wait::obtain;
use orket_tests::{DEADLINE, Delivery, Gateway, Reaction, Upstream, assert_refused, eventually};
use rustix::process::geteuid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{deliver, emptied, files, keys, logged, metric, nowhere, spooled, spooling, waiting};

/// A file system of its own on a directory, gone with the value.
pub(super) struct Disk(PathBuf);

impl Disk {
    /// A small one in memory. `None`, said loudly, where this user may not mount.
    pub(super) fn small(dir: &Path) -> Option<Self> {
        Self::on(dir, &["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"])
    }

    /// One that can be made to stand still, in an image beside the directory. `None`, said loudly, as above.
    pub(super) fn of_blocks(dir: &Path) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let image = dir.with_extension("img");
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(32 << 20).unwrap();
        if !ran("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]) {
            eprintln!("SKIPPED: there is no mkfs.ext4");
            return None;
        }
        Self::on(dir, &["-o", "loop", image.to_str().unwrap()])
    }

    fn on(dir: &Path, arguments: &[&str]) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let mut all = arguments.to_vec();
        all.push(dir.to_str().unwrap());
        if !(geteuid().is_root() && ran("mount", &all)) {
            eprintln!("SKIPPED: only root can mount a file system");
            return None;
        }
        Some(Self(dir.to_owned()))
    }

    /// Stops it: whoever writes waits until the value is gone.
    pub(super) fn stopped(&self) -> Stopped<'_> {
        let dir = self.0.to_str().unwrap();
        assert!(ran("fsfreeze", &["--freeze", dir]), "no fsfreeze");
        Stopped(self)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

pub(super) struct Stopped<'a>(&'a Disk);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        ran("fsfreeze", &["--unfreeze", self.0.0.to_str().unwrap()]);
    }
}

/// `ro` or `rw`.
pub(super) fn remount(how: &str, dir: &Path) -> bool {
    let how = format!("remount,{how}");
    ran("mount", &["-o", &how, dir.to_str().unwrap()])
}

fn ran(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success())
}

/// The record of the request that was refused for this reason.
async fn refusal(gateway: &Gateway, reason: &str) -> Value {
    obtain("the refusal is logged", DEADLINE, || async {
        gateway
            .output()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|record| record["target"] == "access" && record["outcome"] == reason)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_stands_still_is_a_503_in_time_and_what_it_takes_later_acts_once() {
    let upstream = Upstream::tcp().await;
    upstream.react(Reaction::Hang);
    let policy = spooling().upstream("response_timeout = \"1s\"");
    let builder = Gateway::before(upstream.address()).standard(&policy);
    let Some(disk) = Disk::of_blocks(&builder.dir().join("state/spool")) else {
        return;
    };
    private(&builder.dir().join("state"));
    let gateway = builder.start().await;
    let delivery = Delivery::fresh();
    let stopped = disk.stopped();
    let refused = deliver(&gateway, &delivery).await;
    assert_refused(&refused, 503, "Try again later");
    assert!(refused.header("retry-after").is_some());
    // Both waits together are under the 2 s of the contract; one after the other they were 4 s.
    let record = refusal(&gateway, "spool_unavailable").await;
    let took = record["millis"].as_f64().unwrap();
    assert!(took < 3000.0, "{record}");
    let held = metric(&gateway, "orket_gateway_proven_bytes", "").await;
    let body = u32::try_from(delivery.body.len()).unwrap();
    assert_eq!(held, Some(f64::from(body)), "it waits in memory");
    drop(stopped);

    logged(&gateway, "spooled_late", 1).await;
    assert_eq!(waiting(&gateway).await.len(), 1);
    let again = deliver(&gateway, &delivery).await;
    assert_eq!(again.json(), json!({"status": "duplicate"}));
    upstream.react(Reaction::ok());
    emptied(&gateway).await;
    assert!(waiting(&gateway).await.is_empty());
    assert_eq!(upstream.last().body, delivery.body);
    let again = deliver(&gateway, &delivery).await;
    assert_eq!(again.json(), json!({"status": "duplicate"}));
    eventually("nothing is held", DEADLINE, || async {
        metric(&gateway, "orket_gateway_proven_bytes", "").await == Some(0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_key_would_tell_from_its_repetition_is_taken_back() {
    let dir = TempDir::new().unwrap();
    let policy = spooling().gitea("replay = false");
    let builder = Gateway::before(&nowhere(dir.path())).standard(&policy);
    let Some(disk) = Disk::of_blocks(&builder.dir().join("state/spool")) else {
        return;
    };
    private(&builder.dir().join("state"));
    let gateway = builder.start().await;
    let delivery = Delivery::fresh();
    let stopped = disk.stopped();
    // One is being written, the others have not been begun.
    for _ in 0..3 {
        let refused = deliver(&gateway, &delivery).await;
        assert_refused(&refused, 503, "Try again later");
    }
    drop(stopped);
    let id = spooled(&deliver(&gateway, &delivery).await);
    assert_eq!(waiting(&gateway).await, [id]);
    let spool = gateway.dir().join("state/spool");
    assert_eq!(files(&spool.join("waiting")).len(), 1);
    assert!(files(&spool.join("new")).is_empty());
    let upstream = Upstream::unix(dir.path());
    emptied(&gateway).await;
    assert_eq!(upstream.only().body, delivery.body);
}

#[tokio::test]
async fn a_disk_that_turns_read_only_while_running_is_a_503_and_recovers() {
    let dir = TempDir::new().unwrap();
    let builder = Gateway::before(&nowhere(dir.path())).standard(&spooling());
    let place = builder.dir().join("state/spool");
    let Some(_disk) = Disk::small(&place) else {
        return;
    };
    private(&builder.dir().join("state"));
    let mut gateway = builder.start().await;
    let (first, second, third) = (Delivery::fresh(), Delivery::fresh(), Delivery::fresh());
    spooled(&deliver(&gateway, &first).await);
    eventually("no file is open for writing", DEADLINE, || async {
        remount("ro", &place)
    })
    .await;
    let refused = deliver(&gateway, &second).await;
    assert_refused(&refused, 503, "Try again later");
    assert!(refused.header("retry-after").is_some());
    logged(&gateway, "spool_not_written", 1).await;
    logged(&gateway, "spool_unavailable", 1).await;

    // What waits is handed over all the same; that its file stays is told.
    let upstream = Upstream::unix(dir.path());
    logged(&gateway, "spool_not_removed", 1).await;
    assert!(waiting(&gateway).await.is_empty());
    assert_eq!(deliver(&gateway, &second).await.status, 200);
    // What is refused for good cannot be put aside, and is not lost for it.
    assert!(remount("rw", &place));
    upstream.react(Reaction::json(503, "{}"));
    spooled(&deliver(&gateway, &third).await);
    upstream.react(Reaction::ok());
    eventually("nothing waits", DEADLINE, || async {
        waiting(&gateway).await.is_empty()
    })
    .await;
    assert!(gateway.program().terminate().await.success());
    gateway.restart().await;
    emptied(&gateway).await;
    logged(&gateway, "spool_done_before", 1).await;
    let first = orket_tests::gitea::sha256(&first.body);
    let times = keys(&upstream).iter().filter(|key| **key == first).count();
    assert_eq!(times, 1, "what is done is not sent again");
}

/// A folder made by a test beforehand, as the gateway wants it.
pub(super) fn private(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
}
