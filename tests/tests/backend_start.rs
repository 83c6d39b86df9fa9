//! Starting and stopping: configuration, sockets, locks, and who may connect.

mod full_disk;
mod refusals;

use std::os::unix::{fs::FileTypeExt as _, fs::PermissionsExt as _, net::UnixListener};

use orket_tests::{Backend, DEADLINE, Request, backend, eventually, program};
use rustix::process::geteuid;
use serde_json::json;
use tempfile::TempDir;

#[tokio::test]
async fn the_socket_is_for_the_group_and_goes_with_the_backend() {
    let mut backend = Backend::start("").await;
    let socket = backend.dir().join("backend.sock");
    let metadata = std::fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let store = std::fs::metadata(backend.database()).unwrap();
    assert_eq!(
        store.permissions().mode() & 0o077,
        0,
        "only the backend may read the store"
    );
    assert!(backend.terminate().await.success());
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_left_over_socket_is_replaced_and_a_living_one_is_not() {
    let mut first = Backend::start("").await;
    let socket = first.dir().join("backend.sock");
    first.kill().await;
    assert!(socket.exists(), "a killed backend leaves its socket");
    first.restart().await;
    assert_eq!(first.get("/health").await.status, 200);

    let dir = TempDir::new().unwrap();
    let taken = dir.path().join("taken.sock");
    let _listener = UnixListener::bind(&taken).unwrap();
    let refused = Backend::refused(&format!(
        "[listen]\naddress = \"unix:{}\"\n",
        taken.display()
    ))
    .await;
    assert!(
        refused.stderr.contains("another program listens"),
        "{}",
        refused.stderr
    );

    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let refused = Backend::refused(&format!(
        "[listen]\naddress = \"unix:{}\"\n",
        file.display()
    ))
    .await;
    assert!(
        refused.stderr.contains("not a socket"),
        "{}",
        refused.stderr
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn a_second_backend_on_the_store_is_refused() {
    let first = Backend::start("").await;
    let second = Backend::refused(&format!(
        "[store]\nurl = \"sqlite:{}\"\n",
        first.database().display()
    ))
    .await;
    assert!(
        second.stderr.contains("another backend"),
        "{}",
        second.stderr
    );
    assert_eq!(first.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_second_backend_is_refused_under_every_name_of_the_store() {
    let mut first = Backend::start("").await;
    let links = TempDir::new().unwrap();
    let (soft, hard) = (links.path().join("soft.db"), links.path().join("hard.db"));
    std::os::unix::fs::symlink(first.database(), &soft).unwrap();
    std::fs::hard_link(first.database(), &hard).unwrap();
    let folder = links.path().join("folder");
    std::os::unix::fs::symlink(first.dir(), &folder).unwrap();
    for name in [soft, hard, folder.join("orket.db")] {
        let url = format!("[store]\nurl = \"sqlite:{}\"\n", name.display());
        let second = Backend::refused(&url).await;
        assert!(
            second.stderr.contains("another backend"),
            "{}: {}",
            name.display(),
            second.stderr
        );
    }
    assert_eq!(first.get("/health").await.status, 200);
    // What it holds open goes with it.
    first.kill_and_restart().await;
    assert_eq!(first.get("/health").await.status, 200);
    assert!(first.terminate().await.success());
}

#[tokio::test]
async fn a_start_waits_for_a_former_owner_that_is_about_to_be_gone() {
    let dir = TempDir::new().unwrap();
    let place = dir.path().join("orket.db");
    let name = dir.path().join("orket.db.lock");
    let former = std::fs::File::create(&name).unwrap();
    former.lock().unwrap();
    let is_waiting = || {
        let fds = std::fs::read_dir("/proc").unwrap().flatten();
        fds.filter(|process| process.file_name() != *std::process::id().to_string())
            .filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok())
            .flat_map(Iterator::flatten)
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == name))
    };
    let config = format!("[store]\nurl = \"sqlite:{}\"\n", place.display());
    let gone = async {
        eventually("it waits", DEADLINE, async || is_waiting()).await;
        former.unlock().unwrap();
    };
    let (backend, ()) = tokio::join!(Backend::start(&config), gone);
    assert_eq!(backend.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_stop_that_comes_while_it_starts_is_heard_before_it_listens() {
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config = format!(
        "[listen]\naddress = \"unix:{0}/s.sock\"\n[store]\nurl = \"sqlite:{0}/orket.db\"\n\
         [workspace]\ndir = \"{0}/workspace\"\n[sandboxes]\ndriver = \"process\"\n",
        dir.path().display()
    );
    std::fs::write(at("backend.toml"), config).unwrap();
    let start = || {
        let mut command = program::command("orket-backend", dir.path());
        command.arg("serve").arg("--config").arg(at("backend.toml"));
        program::Program::spawn(command)
    };
    // It waits for a former owner of the store, and is told to stop meanwhile.
    let former = std::fs::File::create(at("orket.db.lock")).unwrap();
    former.lock().unwrap();
    let mut stopped = start();
    let lock = at("orket.db.lock");
    let own = format!("/proc/{}", stopped.pid());
    eventually("it waits", DEADLINE, async || {
        // Not what it has open of ours between being forked and being the program.
        let is_it = std::fs::read_link(format!("{own}/exe"))
            .is_ok_and(|exe| exe == program::path_of("orket-backend").canonicalize().unwrap());
        let fds = std::fs::read_dir(format!("{own}/fd"));
        is_it
            && fds.is_ok_and(|fds| {
                fds.flatten()
                    .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == lock))
            })
    })
    .await;
    stopped.signal(rustix::process::Signal::TERM);
    former.unlock().unwrap();
    let status = stopped.wait().await;
    assert!(status.success(), "{status}: {}", stopped.stderr());
    assert_eq!(stopped.stdout(), "", "it has listened");
    assert!(!at("s.sock").exists());
    program::no_process_left(dir.path()).await;
    // Nothing is in the way of the next one.
    let mut next = start();
    next.ready("orket-backend listening on ").await;
    assert!(next.terminate().await.success());
}

#[tokio::test]
async fn a_clean_stop_leaves_everything_in_the_one_file() {
    let mut backend = Backend::start("").await;
    let card = json!({ "id": "c", "title": "t", "command": ["true"] });
    assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    assert!(backend.terminate().await.success());
    let log = std::fs::metadata(backend.dir().join("orket.db-wal"));
    assert!(
        log.as_ref().map_or(true, |log| log.len() == 0),
        "the log holds something: {log:?}"
    );
    let copy = backend.dir().join("copy.db");
    std::fs::copy(backend.database(), &copy).unwrap();
    let conn = rusqlite::Connection::open(&copy).unwrap();
    let cards: i64 = conn
        .query_row("SELECT count(*) FROM cards", [], |row| row.get(0))
        .unwrap();
    assert_eq!(cards, 1);
}

#[tokio::test]
async fn a_store_that_runs_could_reach_is_refused() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
    for (store, workspace) in [
        ("real/o.db", "real"),
        ("link/o.db", "real"),
        ("real/o.db", "link"),
    ] {
        let place = dir.path().display();
        let config = format!(
            "[store]\nurl = \"sqlite:{place}/{store}\"\n[workspace]\ndir = \"{place}/{workspace}\"\n"
        );
        let refused = Backend::refused(&config).await;
        assert!(
            refused.stderr.contains("keep them apart"),
            "{}",
            refused.stderr
        );
    }
}

#[tokio::test]
async fn two_stores_in_one_folder_leave_each_other_alone() {
    let mut first = Backend::start("").await;
    let body =
        json!({ "id": "r", "command": ["sh", "-c", "until test -e go; do sleep 0.02; done"] });
    assert_eq!(first.post("/v1/runs", &body).await.status, 201);
    let state = async |wanted: &str| {
        eventually(&format!("the run is {wanted}"), DEADLINE, || async {
            first.get("/v1/runs/r").await.json()["state"] == wanted
        })
        .await;
    };
    state("running").await;
    let place = first.dir().join("other.db");
    let second = Backend::start(&format!("[store]\nurl = \"sqlite:{}\"\n", place.display())).await;
    assert!(
        second.output().contains("\"forgotten\":0"),
        "{}",
        second.output()
    );
    for name in ["orket.db.d", "other.db.d"] {
        let mode = std::fs::metadata(first.dir().join(name)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o700, "{name}");
    }
    std::fs::write(first.workspace().join("go"), "").unwrap();
    state("succeeded").await;
    assert!(first.terminate().await.success());
}

#[tokio::test]
async fn a_newer_or_foreign_store_is_refused_untouched() {
    let mut first = Backend::start("").await;
    first.kill().await;
    let database = first.database();
    let conn = rusqlite::Connection::open(&database).unwrap();
    conn.pragma_update(None, "user_version", 9999).unwrap();
    drop(conn);
    let url = format!("[store]\nurl = \"sqlite:{}\"\n", database.display());
    let refused = Backend::refused(&url).await;
    assert!(
        refused.stderr.contains("newer orket-backend"),
        "{}",
        refused.stderr
    );

    let foreign = first.dir().join("foreign.db");
    let conn = rusqlite::Connection::open(&foreign).unwrap();
    conn.execute_batch("CREATE TABLE precious (x)").unwrap();
    drop(conn);
    let url = format!("[store]\nurl = \"sqlite:{}\"\n", foreign.display());
    let refused = Backend::refused(&url).await;
    assert!(refused.stderr.contains("not Orket's"), "{}", refused.stderr);
}

#[tokio::test]
async fn what_a_run_executes_may_not_connect() {
    let backend = Backend::start("").await;
    let card = json!({ "id": "c", "title": "t", "command": ["true"] });
    assert_eq!(backend.post("/v1/cards", &card).await.status, 201);
    let config = backend.dir().join("backend.toml");
    let client = program::path_of("orket-backend");
    // The same command is admitted from outside: see the tests of archiving.
    let commands = [
        json!([client, "archive", "--config", config, "--card", "c"]),
        json!([
            "env", "-i", client, "archive", "--config", config, "--card", "c"
        ]),
        json!([
            "setsid", "-w", client, "archive", "--config", config, "--card", "c"
        ]),
    ];
    for (n, command) in commands.into_iter().enumerate() {
        let id = format!("r{n}");
        let body = json!({ "id": id, "command": command });
        assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
        orket_tests::eventually("it has ended", orket_tests::DEADLINE, || async {
            backend.get(&format!("/v1/runs/{id}")).await.json()["state"] == "failed"
        })
        .await;
        let logs = backend.get(&format!("/v1/runs/{id}/logs")).await.text();
        assert!(logs.contains("cannot be asked"), "{logs}");
    }
    assert_eq!(backend.get("/v1/cards/c").await.json()["status"], "ready");
    assert!(
        backend.output().contains("peer_refused"),
        "{}",
        backend.output()
    );
}

#[tokio::test]
async fn another_user_is_admitted_only_by_name() {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root can connect as another user");
        return;
    }
    for (config, admitted) in [("", false), ("[listen]\npeers = [\"65534\"]\n", true)] {
        let backend = Backend::start(config).await;
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(backend.dir(), open.clone()).unwrap();
        std::fs::set_permissions(backend.dir().join("backend.sock"), open.clone()).unwrap();
        std::fs::set_permissions(backend.dir().join("backend.toml"), open).unwrap();
        let program = program::path_of("orket-backend");
        // Only its own copy: where the tests are built may be closed to other users.
        let copy = backend.dir().join("client");
        std::fs::copy(&program, &copy).unwrap();
        let client = backend.dir().join("client.toml");
        let text = format!(
            "[listen]\naddress = \"unix:{0}/backend.sock\"\n[store]\nurl = \"sqlite:{0}/orket.db\"\n",
            backend.dir().display()
        );
        std::fs::write(&client, text).unwrap();
        let connected = connect_as(65534, &backend.dir().join("backend.sock"));
        assert_eq!(connected, admitted, "{config}");
    }
}

/// Whether a request of user `uid` is answered on a socket; asked by `curl`-free means: a child
/// of the shell that became that user.
fn connect_as(uid: u32, socket: &std::path::Path) -> bool {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
    };
    // Credentials of a socket are those of the thread that connects.
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(uid)).unwrap();
        let Ok(mut stream) = UnixStream::connect(&socket) else {
            return false;
        };
        let request = b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut answer = Vec::new();
        stream.write_all(request).is_ok()
            && stream.read_to_end(&mut answer).is_ok()
            && answer.starts_with(b"HTTP/1.1 200")
    })
    .join()
    .unwrap()
}

#[tokio::test]
async fn a_loopback_address_serves_and_is_warned_of() {
    let backend = Backend::start("[listen]\naddress = \"127.0.0.1:0\"\n").await;
    assert_ne!(backend.address().port(), 0);
    let answer = Request::get("/health").send(backend.address()).await;
    assert_eq!(answer.status, 200);
    assert!(backend.output().contains("warning"), "{}", backend.output());
    let refused = Backend::refused("[listen]\naddress = \"0.0.0.0:0\"\n").await;
    assert!(
        refused.stderr.contains("allow_remote"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn a_configuration_is_checked_with_places() {
    let dir = TempDir::new().unwrap();
    let wrong = "[runs]\nconcurency = 8\n";
    let ended = backend::check(dir.path(), wrong).await;
    assert!(!ended.status.success());
    assert!(
        ended
            .stderr
            .contains("backend.toml:2:1: error: unknown field `concurency`"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("^^^^^^^^^^"), "{}", ended.stderr);
    let ended = backend::check(dir.path(), "[runs]\nconcurrency = 8\n").await;
    assert!(ended.status.success(), "{}", ended.output());
    let missing = backend::run(dir.path(), &["check", "nowhere.toml"]).await;
    assert!(!missing.status.success());
    assert!(
        missing.stderr.contains("nowhere.toml"),
        "{}",
        missing.stderr
    );
}

#[tokio::test]
async fn a_ready_backend_says_so_in_one_line_and_logs_elsewhere() {
    let mut backend = Backend::start("").await;
    let line = format!(
        "orket-backend listening on unix:{}/backend.sock\n",
        backend.dir().display()
    );
    assert_eq!(backend.program().stdout(), line);
    for line in backend.program().stderr().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}
