//! What a run tries to reach: files, sockets and processes that are not its own.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use orket_tests::Backend;
use serde_json::json;

use super::{OFF, WAYS, backend, is_root, run, run_with, skip};

/// What an attack prints when it got through.
const THROUGH: &str = "GOT THROUGH";

/// From which way on an attack is stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopped {
    Always,
    ByNamespaces,
    ByItsOwnNetwork,
}

impl Stopped {
    fn by(self, way: &str) -> bool {
        match self {
            Self::Always => true,
            Self::ByNamespaces => way != "confined",
            Self::ByItsOwnNetwork => ["contained", "user"].contains(&way),
        }
    }
}

fn perl(code: &str) -> String {
    format!("perl -e '{code}' && echo {THROUGH}")
}

fn attacks(backend: &mut Backend) -> Vec<(&'static str, String, Stopped)> {
    let through = |command: String| format!("{command} 2>&1 && echo {THROUGH}");
    let pid = backend.program().pid();
    let store = backend.database().display().to_string();
    let state = backend.state_dir().display().to_string();
    let socket = backend.dir().join("backend.sock").display().to_string();
    let config = backend.dir().join("backend.toml").display().to_string();
    let always = Stopped::Always;
    vec![
        ("the store", through(format!("head -c 1 {store}")), always),
        (
            "writing the store",
            through(format!("test -s {store} && true >> {store}")),
            always,
        ),
        (
            "the configuration",
            through(format!("cat {config}")),
            always,
        ),
        (
            "attempts",
            through(format!("ls {state}/attempts/*")),
            always,
        ),
        (
            "its own claim",
            through(format!("cat {state}/attempts/*/claim.json")),
            always,
        ),
        (
            "an exit of its own making",
            format!(
                "for d in {state}/attempts/*; do echo '{{}}' > $d/exit.json && echo {THROUGH}; done"
            ),
            always,
        ),
        (
            "the backend's socket",
            perl(&format!(
                "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or exit 1; \
                 connect(S, sockaddr_un(\"{socket}\")) or exit 1"
            )),
            always,
        ),
        (
            "its environment",
            through(format!("cat /proc/{pid}/environ")),
            always,
        ),
        (
            "its memory",
            through(format!("head -c 0 /proc/{pid}/mem")),
            always,
        ),
        (
            "its descriptors",
            through(format!("readlink /proc/{pid}/fd/0")),
            always,
        ),
        (
            "the way through its root",
            through(format!("ls /proc/{pid}/root/etc")),
            always,
        ),
        ("a signal to it", through(format!("kill -0 {pid}")), always),
        (
            "a signal to its supervisor",
            through("kill -CONT $PPID".into()),
            always,
        ),
        (
            "its supervisor's memory",
            through("head -c 0 /proc/$PPID/mem".into()),
            always,
        ),
        (
            "the sight of the backend",
            through(format!("test -d /proc/{pid}")),
            Stopped::ByNamespaces,
        ),
        (
            "another user's way to root",
            through("setpriv --reuid=0 --regid=0 --clear-groups true".into()),
            always,
        ),
        (
            "a mount",
            // Taken away again: where nothing stops it, it is a mount of this machine.
            through("mount -t tmpfs none \"$TMPDIR\" && umount \"$TMPDIR\"".into()),
            always,
        ),
        (
            "a namespace",
            through("unshare --user --map-root-user true".into()),
            always,
        ),
        ("the home of root", through("ls ~root".into()), always),
    ]
}

#[tokio::test]
async fn nothing_of_others_is_reached() {
    for (way, confinement) in WAYS {
        let Some(mut backend) = backend(confinement).await else {
            continue;
        };
        for (what, script, stopped) in attacks(&mut backend) {
            let (_, said) = run(&backend, &script).await;
            if stopped.by(way) {
                assert!(!said.contains(THROUGH), "{way}: {what}: {said}");
            }
        }
    }
}

#[tokio::test]
async fn each_of_these_attacks_works_where_nothing_confines() {
    if !is_root() {
        skip("some attacks need a backend that runs as root");
        return;
    }
    let mut backend = backend(OFF).await.unwrap();
    for (what, script, _) in attacks(&mut backend) {
        let (_, said) = run(&backend, &script).await;
        assert!(said.contains(THROUGH), "{what}: {said}");
    }
}

#[tokio::test]
async fn abstract_sockets_and_listeners_of_the_machine() {
    let name = format!("orket-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let attacks = [
        (
            perl(&format!(
                "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or exit 1; \
                 connect(S, pack(\"S a*\", AF_UNIX, \"\\0{name}\")) or exit 1"
            )),
            Stopped::Always,
        ),
        (
            perl(&format!(
                "use Socket; socket(S, AF_INET, SOCK_STREAM, 0) or exit 1; \
                 connect(S, sockaddr_in({port}, inet_aton(\"127.0.0.1\"))) or exit 1"
            )),
            Stopped::ByItsOwnNetwork,
        ),
    ];
    let no_network = ("no network", "level = \"confined\"\nnetwork = \"none\"\n");
    for (way, confinement) in WAYS.into_iter().chain([no_network, ("off", OFF)]) {
        let Some(backend) = backend(confinement).await else {
            continue;
        };
        for (script, stopped) in &attacks {
            let (_, said) = run(&backend, script).await;
            let through = match way {
                "off" => true,
                "no network" => false,
                way => !stopped.by(way),
            };
            assert_eq!(said.contains(THROUGH), through, "{way}: {script}: {said}");
        }
    }
}

#[tokio::test]
async fn a_single_run_can_go_without_a_network() {
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let script = perl(&format!(
        "use Socket; socket(S, AF_INET, SOCK_STREAM, 0) or exit 1; \
         connect(S, sockaddr_in({port}, inet_aton(\"127.0.0.1\"))) or exit 1"
    ));
    for confinement in ["level = \"auto\"\n", "level = \"confined\"\n"] {
        let Some(backend) = backend(confinement).await else {
            continue;
        };
        for (network, through) in [(json!(null), true), (json!("none"), false)] {
            let card = json!({ "title": "t", "command": ["sh", "-c", script], "network": network });
            let card = backend.post("/v1/cards", &card).await.json();
            assert_eq!(card["network"], network);
            let (run, said) = run_with(&backend, json!({ "card_id": card["id"] })).await;
            assert_eq!(
                said.contains(THROUGH),
                through,
                "{confinement}: {run} {said}"
            );
        }
        let body = json!({ "command": ["sh", "-c", script], "network": "none" });
        let (run, said) = run_with(&backend, body).await;
        assert!(!said.contains(THROUGH), "{confinement}: {run} {said}");
        let bad = json!({ "command": ["true"], "network": "all" });
        assert_eq!(backend.post("/v1/runs", &bad).await.status, 400);
    }
}

#[tokio::test]
async fn a_loopback_of_its_own_works_without_a_network() {
    let Some(backend) = backend("level = \"contained\"\nnetwork = \"none\"\n").await else {
        return;
    };
    let script = perl(
        "use Socket; socket(L, AF_INET, SOCK_STREAM, 0) or exit 1; \
         bind(L, sockaddr_in(0, INADDR_LOOPBACK)) or exit 2; listen(L, 1) or exit 3; \
         socket(C, AF_INET, SOCK_STREAM, 0) or exit 4; connect(C, getsockname(L)) or exit 5",
    );
    let (run, said) = run(&backend, &script).await;
    assert!(said.contains(THROUGH), "{run}");
}

#[tokio::test]
async fn one_run_reaches_neither_files_nor_processes_of_another() {
    for (way, confinement) in WAYS.into_iter().chain([("off", OFF)]) {
        let Some(backend) = backend(confinement).await else {
            continue;
        };
        for project in ["one", "two"] {
            let dir = backend.workspace().join(project);
            std::fs::create_dir(&dir).unwrap();
            if way == "user" {
                std::os::unix::fs::chown(&dir, Some(65_534), Some(65_534)).unwrap();
            }
        }
        std::fs::write(backend.workspace().join("one/secret"), "s").unwrap();
        let keeper = json!({
            "id": "keeper", "workdir": "one",
            "command": ["sh", "-c", "echo s > \"$TMPDIR/secret\"; echo $$ > pid; exec sleep 1000"],
        });
        assert_eq!(backend.post("/v1/runs", &keeper).await.status, 201);
        orket_tests::eventually("the other run works", orket_tests::DEADLINE, || async {
            backend.workspace().join("one/pid").exists()
        })
        .await;
        let workspace = backend.workspace().display().to_string();
        let state = backend.state_dir().display().to_string();
        let mut scripts = vec![
            format!("cat {workspace}/one/secret"),
            format!("cat {state}/attempts/keeper.1/tmp/secret"),
            format!("echo x > {workspace}/one/planted"),
        ];
        let pid = std::fs::read_to_string(backend.workspace().join("one/pid")).unwrap();
        if way != "user" && way != "off" && pid.trim().parse::<u32>().unwrap() > 100 {
            scripts.push(format!("kill -9 {}", pid.trim()));
        }
        for script in scripts {
            let script = format!("{script} 2>&1 && echo {THROUGH}");
            let body = json!({ "command": ["sh", "-c", script], "workdir": "two" });
            let (_, said) = run_with(&backend, body).await;
            assert_eq!(
                said.contains(THROUGH),
                way == "off",
                "{way}: {script}: {said}"
            );
        }
        let cancel = backend.post("/v1/runs/keeper/cancel", &json!({})).await;
        assert_eq!(cancel.status, 202);
    }
}

#[tokio::test]
async fn a_run_works_in_its_own_place() {
    for (way, confinement) in WAYS {
        let Some(backend) = backend(confinement).await else {
            continue;
        };
        let script = "set -e; echo a > file; mkdir -p d; mv file d/; cat d/file; \
             t=$(mktemp); echo b > $t; cat $t; printf '#!/bin/sh\\necho c' > own; chmod +x own; ./own; \
             ls /usr/bin > /dev/null; grep -q root /etc/passwd; head -c 8 /dev/urandom > /dev/null; \
             echo d > /dev/stderr; (exit 3) || echo $?";
        let (run, said) = run(&backend, script).await;
        assert_eq!(run["state"], "succeeded", "{way}: {run} {said}");
        for word in ["a\n", "b\n", "c\n", "d\n", "3\n"] {
            assert!(said.contains(word), "{way}: {word}: {said}");
        }
        assert!(backend.workspace().join("d/file").exists());
        let attempts = backend.state_dir().join("attempts");
        orket_tests::eventually("nothing is left", orket_tests::DEADLINE, || async {
            std::fs::read_dir(&attempts).unwrap().next().is_none()
        })
        .await;
    }
}

#[tokio::test]
async fn ends_are_told_apart_in_a_namespace_too() {
    let Some(backend) = backend("level = \"auto\"\n").await else {
        return;
    };
    let (code, _) = run(&backend, "exit 7").await;
    assert_eq!(
        (&code["state"], &code["exit"]["code"]),
        (&json!("failed"), &json!(7)),
        "{code}"
    );
    let (signal, _) = run(&backend, "kill -SEGV $$").await;
    assert_eq!(signal["exit"]["signal"], 11, "{signal}");
    let (missing, _) = run_with(&backend, json!({ "command": ["no-such-program"] })).await;
    assert_eq!(missing["reason"], "command_not_found", "{missing}");
    let body = json!({ "command": ["sleep", "1000"], "timeout": "1s" });
    let (late, _) = run_with(&backend, body).await;
    assert_eq!(late["state"], "timed_out", "{late}");
}
