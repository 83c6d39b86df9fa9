//! What is left of a backend's work on the machine, beside processes: sockets that listen, mounts,
//! control groups, and files of what has ended.
//!
//! Only what can be told to be this backend's is looked at, for others are at work beside it.

use std::{
    collections::BTreeSet,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use crate::{backend::Backend, wait::DEADLINE, wire::Address};

/// The name of the folder below the backend's own control group in which those of commands lie.
const GROUPS: &str = "orket-commands";

/// Waits until nothing is left; fails with what is.
pub async fn none(backend: &Backend) {
    let end = tokio::time::Instant::now() + DEADLINE;
    loop {
        let left = found(backend).await;
        if left.is_empty() {
            return;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "left behind: {left:#?}\n--- the backend said\n{}",
            backend.output()
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// What is left at this moment, one line for each. To be asked when all runs have ended; a sandbox
/// that is still listed may keep its ports and folders.
pub async fn found(backend: &Backend) -> Vec<String> {
    let mut left = files(backend).await;
    left.extend(ports(backend));
    left.extend(mounts(backend));
    left.extend(groups(backend));
    left
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Folders of attempts and of our own commands, and those of sandboxes that are deleted.
async fn files(backend: &Backend) -> Vec<String> {
    let listed = backend.get("/v1/sandboxes").await.json();
    let listed: Vec<String> = listed["items"]
        .as_array()
        .expect("items is a list")
        .iter()
        .map(|sandbox| sandbox["id"].as_str().expect("an id").to_owned())
        .collect();
    let state = backend.state_dir();
    let is_listed = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        listed.iter().any(|id| name.starts_with(id.as_str()))
    };
    let ours = ["attempts", "sandboxes/commands"]
        .into_iter()
        .flat_map(|folder| entries(&state.join(folder)));
    let of_sandboxes = ["sandboxes/boxes", "sandboxes/attempts"]
        .into_iter()
        .flat_map(|folder| entries(&state.join(folder)))
        .filter(|path| !is_listed(path));
    ours.chain(of_sandboxes)
        .map(|path| format!("file {}", path.display()))
        .collect()
}

/// Ports of sandboxes on which somebody listens although no sandbox has them, and others on which
/// the backend itself does.
fn ports(backend: &Backend) -> Vec<String> {
    let held = held_ports(&backend.database());
    let ranges = sandbox_ports(backend);
    let of_sandboxes = listeners()
        .into_iter()
        .map(|listener| listener.port)
        .filter(|port| ranges.iter().any(|range| range.contains(port)) && !held.contains(port))
        .map(|port| format!("port {port} of no sandbox"));
    let own = match backend.address() {
        Address::Tcp(address) | Address::Tls(address, _) => Some(address.port()),
        Address::Unix(_) => None,
    };
    let of_backend = listened_on(backend.pid())
        .into_iter()
        .filter(|port| Some(*port) != own)
        .map(|port| format!("port {port} of the backend itself"));
    of_sandboxes.chain(of_backend).collect()
}

/// The ranges that the test has named: others share the rest.
fn sandbox_ports(backend: &Backend) -> Vec<RangeInclusive<u16>> {
    let written = backend.written();
    let named = written
        .get("sandboxes")
        .and_then(|sandboxes| sandboxes.get("ports"))
        .and_then(toml::Value::as_table);
    let range = |value: &toml::Value| {
        let (first, last) = value.as_str()?.split_once('-')?;
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    named
        .into_iter()
        .flat_map(|ports| ports.values().filter_map(range))
        .collect()
}

fn held_ports(store: &Path) -> BTreeSet<u16> {
    let store = Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .expect("the store opens");
    store.busy_timeout(DEADLINE).expect("a timeout can be set");
    let mut statement = store
        .prepare("SELECT port FROM sandbox_ports WHERE sandbox_id IS NOT NULL")
        .expect("a table of ports");
    let ports = statement
        .query_map([], |row| row.get(0))
        .expect("the ports");
    ports.map(|port| port.expect("a port")).collect()
}

struct Listener {
    port: u16,
    inode: u64,
}

/// All TCP sockets of this machine that listen.
fn listeners() -> Vec<Listener> {
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        let is_listening = *fields.get(3)? == "0A";
        Some(Listener {
            port: u16::from_str_radix(port, 16).ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
        .filter(|_| is_listening)
    };
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .flat_map(|table| {
            let text = fs::read_to_string(table).unwrap_or_default();
            text.lines().filter_map(read).collect::<Vec<_>>()
        })
        .collect()
}

/// The ports on which a process listens.
pub fn listened_on(pid: u32) -> Vec<u16> {
    let sockets: BTreeSet<u64> = entries(Path::new(&format!("/proc/{pid}/fd")))
        .iter()
        .filter_map(|entry| {
            let target = fs::read_link(entry).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?;
            inode.strip_suffix(']')?.parse().ok()
        })
        .collect();
    listeners()
        .into_iter()
        .filter(|listener| sockets.contains(&listener.inode))
        .map(|listener| listener.port)
        .collect()
}

/// Mounts below the store's directory, as the test and as the backend sees them.
fn mounts(backend: &Backend) -> BTreeSet<String> {
    let below = format!("{}/", backend.state_dir().display());
    let tables = [
        "/proc/self/mountinfo".to_owned(),
        format!("/proc/{}/mountinfo", backend.pid()),
    ];
    tables
        .iter()
        .flat_map(|table| {
            let text = fs::read_to_string(table).unwrap_or_default();
            let points = text.lines().filter_map(|line| line.split(' ').nth(4));
            points
                .filter(|point| point.starts_with(&below))
                .map(|point| format!("mount {point}"))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Control groups of commands, where the backend has a group of its own that bears the name of the
/// test's folder: elsewhere nobody can tell whose they are.
fn groups(backend: &Backend) -> Vec<String> {
    let name = backend.dir().file_name().expect("a folder has a name");
    let roots = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let roots = roots.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then(|| PathBuf::from(point))
    });
    roots
        .flat_map(|root| entries(&root.join(name).join(GROUPS)))
        .filter(|path| path.is_dir())
        .map(|path| format!("control group {}", path.display()))
        .collect()
}
