//! The real backend under faults: killed at every place, at random, with its supervisors and their
//! commands; on disks that fill, behind a locked store, under clocks that are set.
//!
//! After every fault the same is held: [`orket_tests::convergence::invariants`].

mod clock_races;
mod clocks;
mod crash_points;
mod disks;
mod histories;
mod hostile;
mod leftovers;
mod locks;

use std::path::Path;

use orket_tests::{
    Backend, DEADLINE, Request,
    convergence::{EFFECTS, work},
    eventually,
    wait::obtain,
};
use serde_json::{Value, json};

/// A backend with a queue of its own beside the default one, that drains when it is stopped. `ports`:
/// of its sandboxes, which are processes, ten from there on; no two tests share any.
/// Tests run side by side: 26 600 to 27 199 are for this suite, what is below and above for those of sandboxes.
fn config(ports: u16) -> String {
    let range = |n: u16| format!("{}-{}", ports + 2 * n, ports + 2 * n + 1);
    format!(
        "[runs]\nconcurrency = 6\ngrace = \"300ms\"\non_stop = \"drain\"\nretry_delay = \"20ms\"\n\
         [queues.side]\n\
         [review]\nrepositories = [\"lab/example\"]\nbranches = [\"main\"]\npeople = [\"author\"]\n\
         [sandboxes]\ndriver = \"process\"\ngrace = \"300ms\"\ncool_down = \"0s\"\n\
         [sandboxes.ports]\napi = \"{}\"\n\
         frontend = \"{}\"\ndatabase = \"{}\"\ndocument_database = \"{}\"\nadmin = \"{}\"\n",
        range(0),
        range(1),
        range(2),
        range(3),
        range(4),
    )
}

/// A submission of `script` under this id, with whatever else is said.
fn order(id: &str, script: &str, more: &Value) -> Value {
    let mut body = json!({ "id": id, "command": work(id, script) });
    for (name, value) in more.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

async fn exists(file: &Path) {
    let what = format!("{} is there", file.display());
    eventually(&what, DEADLINE, || async { file.exists() }).await;
}

/// Waits until the command of that name has begun.
async fn begun(backend: &Backend, name: &str) {
    let (effects, line) = (backend.workspace().join(EFFECTS), format!("{name} begin"));
    eventually(&line, DEADLINE, || async {
        std::fs::read_to_string(&effects).is_ok_and(|text| text.lines().any(|found| found == line))
    })
    .await;
}

/// Deletes every sandbox, and waits until nothing is left of any.
async fn no_sandboxes(backend: &Backend) {
    let list = || async {
        let list = backend.get("/v1/sandboxes").await.json();
        list["items"].as_array().expect("items is a list").clone()
    };
    for sandbox in list().await {
        let id = sandbox["id"].as_str().expect("an id");
        Request::new("DELETE", &format!("/v1/sandboxes/{id}"))
            .send(backend.address())
            .await;
    }
    obtain("all sandboxes are gone", DEADLINE, || async {
        list().await.is_empty().then_some(())
    })
    .await;
}
