//! Nothing of a run is left on the machine, and what would be is seen.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
};

use orket_backend::crash_point::CrashPoint;
use orket_tests::{
    Backend, convergence::invariants, disk::Disk, leftovers, program::processes_under,
};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::json;

use super::{begun, config, order};
use crate::backend_runs::{reaches, submit};

const WAITS: &str = "while [ ! -e go ]; do sleep 0.02; done";

/// The groups of one backend, in every hierarchy that it may use; gone with the value.
struct Groups(Vec<PathBuf>);

impl Groups {
    /// Of one version of control groups, for the backend in `dir`. `None`, said loudly, where they cannot
    /// be made.
    fn of(version: &str, dir: &Path) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let is_meant = |kind: &str, options: &str| match version {
            "v1" => {
                let used = ["pids", "memory", "cpu"];
                kind == "cgroup" && options.split(',').any(|option| used.contains(&option))
            }
            _ => kind == "cgroup2",
        };
        let mut groups = Self(Vec::new());
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            if is_meant(fields[2], fields[3]) {
                let group = Path::new(fields[1]).join(dir.file_name().unwrap());
                if geteuid().is_root() && std::fs::create_dir(&group).is_ok() {
                    groups.0.push(group);
                }
            }
        }
        if groups.0.is_empty() {
            eprintln!("SKIPPED: control groups ({version}) cannot be made here");
            return None;
        }
        Some(groups)
    }

    /// A program that goes there and becomes what it is told.
    fn joined(&self) -> Vec<String> {
        let join = |group: &PathBuf| format!("echo $$ > {}/cgroup.procs", group.display());
        let all: Vec<String> = self.0.iter().map(join).collect();
        let script = format!("{} && exec \"$0\" \"$@\"", all.join(" && "));
        ["sh", "-c", &script].map(str::to_owned).to_vec()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            let commands = group.join("orket-commands");
            let entries = std::fs::read_dir(&commands).into_iter().flatten().flatten();
            for entry in entries {
                let _ = std::fs::remove_dir(entry.path());
            }
            for dir in [commands, group.join("orket-backend"), group.clone()] {
                let _ = std::fs::remove_dir(dir);
            }
        }
    }
}

#[tokio::test]
async fn no_group_of_version_1_is_left_by_whatever_is_killed() {
    no_group_is_left("v1").await;
}

#[tokio::test]
async fn no_group_of_version_2_is_left_by_whatever_is_killed() {
    no_group_is_left("auto").await;
}

async fn no_group_is_left(version: &str) {
    let mut groups = None;
    let text = format!(
        "[runs]\nconcurrency = 6\nretry_delay = \"20ms\"\n[confinement]\ncgroups = \"{version}\"\n"
    );
    let mut backend = Backend::start_under(&text, |dir| {
        groups = Groups::of(version, dir);
        let stays = ["env".to_owned()].to_vec();
        groups.as_ref().map_or(stays, Groups::joined)
    })
    .await;
    if groups.is_none() {
        return;
    }
    submit(&backend, &order("lives", WAITS, &json!({}))).await;
    reaches(&backend, "lives", "running").await;
    begun(&backend, "lives").await;
    let found = leftovers::found(&backend).await;
    let seen = |what: &str| found.iter().any(|line| line.starts_with(what));
    assert!(seen("control group") && seen("file"), "{found:?}");

    let mut accepted = vec!["lives".to_owned()];
    for point in [
        CrashPoint::AttemptPrepared,
        CrashPoint::SupervisorSpawned,
        CrashPoint::AttemptStarted,
        CrashPoint::ExitRead,
        CrashPoint::AttemptSettled,
    ] {
        backend.restart_to_crash(point.name()).await;
        let body = order(point.name(), "true", &json!({}));
        let answer = backend.attempt("/v1/runs", &body).await;
        if answer.is_some_and(|answer| answer.status == 201) {
            accepted.push(point.name().to_owned());
        }
        backend.crashed().await;
    }
    for pid in processes_under(backend.dir()) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
        // A supervisor, its command, or what has ended meanwhile.
        let _ = kill_process(pid, Signal::KILL);
    }
    backend.restart().await;
    invariants(&mut backend, &accepted).await;
}

#[tokio::test]
async fn files_and_ports_that_are_left_are_seen() {
    let backend = Backend::start(&config(27_140)).await;
    assert_eq!(leftovers::found(&backend).await, [""; 0]);
    for folder in [
        "attempts/one.1",
        "sandboxes/commands/one.1",
        "sandboxes/boxes/none",
        "sandboxes/attempts/none.1",
    ] {
        let path = backend.state_dir().join(folder);
        std::fs::create_dir(&path).unwrap();
        let found = leftovers::found(&backend).await;
        assert_eq!(found, [format!("file {}", path.display())]);
        std::fs::remove_dir(path).unwrap();
    }
    let listener = TcpListener::bind("127.0.0.1:27141").unwrap();
    let found = leftovers::found(&backend).await;
    assert_eq!(found, ["port 27141 of no sandbox"]);
    // Whoever listens is known by the socket.
    let own = leftovers::listened_on(std::process::id());
    assert!(own.contains(&27_141), "{own:?}");
    assert!(leftovers::listened_on(backend.pid()).is_empty());
    drop(listener);
    assert_eq!(leftovers::found(&backend).await, [""; 0]);
}

#[tokio::test]
async fn a_mount_that_is_left_is_seen() {
    let backend = Backend::start("").await;
    let place = backend.state_dir().join("attempts/left");
    let Some(disk) = Disk::small(&place, "1m") else {
        return;
    };
    let found = leftovers::found(&backend).await;
    let mount = format!("mount {}", place.display());
    assert!(found.contains(&mount), "{found:?}");
    drop(disk);
    std::fs::remove_dir(&place).unwrap();
    assert_eq!(leftovers::found(&backend).await, [""; 0]);
}
