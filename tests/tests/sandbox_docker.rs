//! Sandboxes of containers, on the real engine of this machine.

mod build;
mod build_guards;
mod credentials;
mod faults;
mod life;
mod logs;
mod own_engine;
mod restart;
mod slow;
mod stack;
mod story;
mod templates;
mod volumes;
mod words;
mod wrapper;

use std::time::Duration;

use orket_tests::{
    Backend,
    engine::{Engine, INSTANCE, SOCKET},
    eventually,
    program::processes_under,
    wait::obtain,
};
use serde_json::{Value, json};

pub(crate) use super::sandbox::{
    ask, create, delete, folder, id, is_free, listed, logs, look, port, post,
};

/// How long the engine, and the commands that speak to it, may take before a test fails: many of them
/// share a small machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// Waits until the sandbox is in that state.
async fn reaches(backend: &Backend, id: &str, state: &str) -> Value {
    obtain(&format!("sandbox {id} is {state}"), PATIENCE, || async {
        let sandbox = look(backend, id).await;
        (sandbox["state"] == state).then_some(sandbox)
    })
    .await
}

/// A backend with the engine it works with, and ports of its own.
struct Place {
    backend: Backend,
    engine: Engine,
    image: String,
    base: u16,
}

/// Everything of this test goes, also when the test failed; then it is told what there was.
impl Drop for Place {
    fn drop(&mut self) {
        let (engine, label) = (self.engine.clone(), self.label());
        let failed = std::thread::panicking();
        if failed {
            eprintln!("--- the backend said\n{}", self.backend.output());
            eprintln!("--- its sandboxes\n{}", self.records());
        }
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                if failed {
                    let seen = engine.describe(&label).await;
                    eprintln!("--- the engine holds\n{seen}");
                }
                engine.clear(&label).await;
            });
        })
        .join()
        // Of a test that failed already, that is to be read.
        .unwrap_or_else(|error| assert!(failed, "{error:?}"));
    }
}

/// Ports of one test: no two tests share any.
fn base(test: u16) -> u16 {
    20_000 + 100 * test
}

/// A configuration; `{socket}` stands for the engine's. `more` goes into `[sandboxes]`, what comes
/// after `[sandboxes.docker]` in it goes there.
fn config(test: u16, more: &str) -> String {
    let base = base(test);
    let range = |n: u16| format!("{}-{}", base + 20 * n, base + 20 * n + 19);
    let (more, docker) = more.split_once("[sandboxes.docker]").unwrap_or((more, ""));
    let default = |name: &str, value: &str| {
        if more.contains(&format!("{name} =")) {
            String::new()
        } else {
            format!("{name} = {value}\n")
        }
    };
    let defaults = [
        default("driver", "\"docker\""),
        default("grace", "\"5s\""),
        default("cool_down", "\"0s\""),
        default("reconcile", "\"1s\""),
    ];
    // Another compose command than the one that is found.
    let compose = match orket_tests::engine::compose() {
        Some(words) if !docker.contains("compose =") => format!("compose = {words:?}\n"),
        Some(_) | None => String::new(),
    };
    let socket = if docker.contains("socket =") {
        String::new()
    } else {
        format!("socket = \"{SOCKET}\"\n")
    };
    format!(
        "[sandboxes]\n{}{more}\n[sandboxes.docker]\n{socket}{compose}memory = \"64MiB\"\n{docker}\n\
         [sandboxes.ports]\napi = \"{}\"\nfrontend = \"{}\"\ndatabase = \"{}\"\n\
         document_database = \"{}\"\nadmin = \"{}\"\n",
        defaults.concat(),
        range(0),
        range(1),
        range(2),
        range(3),
        range(4),
    )
}

impl Place {
    /// `None` where no engine answers.
    async fn new(test: u16, more: &str) -> Option<Self> {
        Some(Self::on(Engine::get().await?, test, more).await)
    }

    /// On this engine, which the configuration names.
    async fn on(engine: Engine, test: u16, more: &str) -> Self {
        let image = engine.image().await;
        let backend = Backend::start(&config(test, more)).await;
        Self {
            backend,
            engine,
            image,
            base: base(test),
        }
    }

    /// The backend's process.
    fn pid(&self) -> u32 {
        self.backend.pid()
    }

    /// Waits until somebody has killed the backend.
    async fn killed(&mut self) {
        let status = self.backend.program().wait().await;
        assert!(!status.success(), "{status}");
    }

    /// The label of everything that this test's store makes.
    fn label(&self) -> String {
        let store = rusqlite::Connection::open(self.backend.database()).unwrap();
        let instance: String = store
            .query_row("SELECT instance FROM boot", [], |row| row.get(0))
            .unwrap();
        format!("{INSTANCE}={instance}")
    }

    /// The last record of every sandbox.
    fn records(&self) -> String {
        let store = rusqlite::Connection::open(self.backend.database()).unwrap();
        let columns = "id || ' ' || state || ' ' || ifnull(reason, '-') || ' ' || ifnull(detail, '-') || ' ' || health";
        let mut rows = store
            .prepare(&format!("SELECT {columns} FROM sandboxes ORDER BY seq"))
            .unwrap();
        let rows = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.flatten().collect::<Vec<_>>().join("\n")
    }

    /// The id of the only sandbox there is a record of.
    fn only_record(&self) -> String {
        let store = rusqlite::Connection::open(self.backend.database()).unwrap();
        store
            .query_row("SELECT id FROM sandboxes", [], |row| row.get(0))
            .unwrap()
    }

    /// The label of everything of one sandbox.
    fn mark(id: &str) -> String {
        format!("io.orket.sandbox={id}")
    }

    /// A service that answers.
    fn api(&self) -> Value {
        json!({ "name": "api", "image": self.image, "role": "api", "health": { "path": "/health" } })
    }

    /// A service with these words as its command.
    fn service(&self, name: &str, words: &[&str]) -> Value {
        json!({ "name": name, "image": self.image, "command": words })
    }

    async fn create(&self, services: &[Value]) -> String {
        let created = create(&self.backend, &json!({ "services": services })).await;
        id(&created).to_owned()
    }

    async fn running(&self, services: &[Value]) -> Value {
        let id = self.create(services).await;
        reaches(&self.backend, &id, "running").await
    }

    /// The leak gate: deletes what there is and sees that nothing is left of anything.
    async fn nothing_left(&mut self) {
        let backend = &self.backend;
        for id in listed(backend).await {
            assert_eq!(delete(backend, &id).await.status, 202);
        }
        eventually("all sandboxes are deleted", PATIENCE, || async {
            listed(backend).await.is_empty()
        })
        .await;
        let label = self.label();
        eventually("the engine holds nothing of it", PATIENCE, || async {
            self.engine.holds(&label).await == [0, 0, 0]
                && self.engine.images(&label).await.is_empty()
        })
        .await;
        assert!(
            (self.base..self.base + 100).all(is_free),
            "a port is in use"
        );
        let state = self.backend.state_dir().join("sandboxes");
        self.backend.terminate().await;
        for sub in ["boxes", "attempts", "commands"] {
            let left: Vec<_> = std::fs::read_dir(state.join(sub)).unwrap().collect();
            assert!(left.is_empty(), "{sub}: {left:?}");
        }
        let dir = self.backend.dir();
        eventually("no process is left", PATIENCE, || async {
            processes_under(dir).is_empty()
        })
        .await;
        let store = rusqlite::Connection::open(self.backend.database()).unwrap();
        let held: i64 = store
            .query_row(
                "SELECT count(*) FROM sandbox_ports WHERE sandbox_id IS NOT NULL",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(held, 0, "the store still gives ports to somebody");
    }
}

/// A place, or the end of the test where no engine answers.
macro_rules! place {
    ($test:expr) => {
        place!($test, "")
    };
    ($test:expr, $more:expr) => {
        match Place::new($test, $more).await {
            Some(place) => place,
            None => return,
        }
    };
}
use place;
