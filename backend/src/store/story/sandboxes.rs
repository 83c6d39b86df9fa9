//! Sandboxes: their records, ports and steps, and whose word counts after a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::at;
use crate::{
    executor::{Identity, Isolation},
    sandbox::spec::Service,
    sandbox_state::{Reason, State, Step},
    store::{
        Store,
        sandboxes::{Goal, NewSandbox, Sandbox, SandboxError, ServiceState},
    },
};

const COOL_DOWN: Duration = Duration::from_secs(10);

fn new(id: &str, build: &str, ports: &[(&str, u16)]) -> NewSandbox {
    let service = |(name, port): &(&str, u16)| Service {
        name: (*name).to_owned(),
        command: vec!["true".to_owned()],
        port: Some(*port),
        ..Service::default()
    };
    NewSandbox {
        id: id.to_owned(),
        name: None,
        build_id: Some(build.to_owned()),
        driver: "process",
        isolation: Isolation::Group,
        actor: "actor".to_owned(),
        request_id: "request".to_owned(),
        services: ports.iter().map(service).collect(),
        secrets: vec!["TOKEN".to_owned()],
        expires_at: at(100),
        limit: 2,
        build_limit: 1,
        cool_down: COOL_DOWN,
    }
}

async fn held(store: &Store, second: i64) -> BTreeSet<u16> {
    store.held_ports(at(second), COOL_DOWN).await.unwrap()
}

async fn observe(
    store: &Store,
    id: &str,
    state: ServiceState,
    step: Step,
) -> Result<Sandbox, SandboxError> {
    let health = BTreeMap::from([("api".to_owned(), state)]);
    let why = match step {
        Step::Fail => Some((Reason::ServiceExited, "why".to_owned())),
        Step::Well | Step::Unwell | Step::Stop | Step::Gone | Step::Remove => None,
    };
    let now = at(1);
    store
        .observe_sandbox(now, id.to_owned(), health, step, why)
        .await
}

async fn ask(store: &Store, second: i64, id: &str, goal: Goal, why: Reason) -> Sandbox {
    let asked = store.ask_sandbox_end(at(second), id.to_owned(), goal, why);
    asked.await.unwrap()
}

async fn is_expired(store: &Store, second: i64, id: &str) -> bool {
    let expired = store.expired_sandboxes(at(second)).await.unwrap();
    expired.iter().any(|found| found == id)
}

pub(super) async fn a_port_is_one_sandboxs_at_a_time(store: &Store) {
    let create = |new| store.create_sandbox(at(0), new);
    let s1 = new("s1", "a", &[("api", 8001), ("db", 8002)]);
    let s1 = create(s1).await.unwrap();
    assert_eq!((s1.state, s1.goal), (State::Creating, Goal::Live));
    assert_eq!(s1.health["db"], ServiceState::Starting);
    assert_eq!(s1.secrets, ["TOKEN"]);
    let taken = create(new("s2", "b", &[("db", 8003), ("api", 8001)])).await;
    assert!(
        matches!(taken, Err(SandboxError::PortTaken(8001))),
        "{taken:?}"
    );
    assert!(store.sandbox("s2".into()).await.unwrap().is_none());
    assert_eq!(held(store, 0).await, BTreeSet::from([8001, 8002]));
    let of_build = create(new("s2", "a", &[])).await;
    assert!(
        matches!(of_build, Err(SandboxError::TooManyOfBuild(1))),
        "{of_build:?}"
    );
    create(new("s2", "b", &[("api", 8003)])).await.unwrap();
    let too_many = create(new("s3", "c", &[])).await;
    assert!(
        matches!(too_many, Err(SandboxError::TooMany(2))),
        "{too_many:?}"
    );

    let move_to = |to| store.move_sandbox_port(at(1), "s1".into(), "api".into(), to, COOL_DOWN);
    let taken = move_to(8003).await;
    assert!(
        matches!(taken, Err(SandboxError::PortTaken(8003))),
        "{taken:?}"
    );
    let moved = move_to(8004).await.unwrap();
    assert_eq!(moved.services[0].port, Some(8004));
    let cools = move_to(8001).await;
    assert!(
        matches!(cools, Err(SandboxError::PortTaken(8001))),
        "{cools:?}"
    );
    assert!(held(store, 10).await.contains(&8001), "it cools down");
    assert_eq!(held(store, 11).await, BTreeSet::from([8002, 8003, 8004]));
}

pub(super) async fn only_steps_that_are_allowed_are_taken(store: &Store) {
    let supervisor = Identity {
        pid: 1,
        start_ticks: 2,
        boot_id: "boot".to_owned(),
    };
    let supervised = store.service_supervised("s1".into(), "api".into(), supervisor.clone());
    supervised.await.unwrap();
    let known = store.service_supervisors("s1".into()).await.unwrap();
    assert_eq!(known, BTreeMap::from([("api".to_owned(), supervisor)]));
    for (state, step, to) in [
        (ServiceState::Healthy, Step::Well, State::Running),
        (ServiceState::Unhealthy, Step::Unwell, State::Unhealthy),
        (ServiceState::Healthy, Step::Well, State::Running),
    ] {
        let seen = observe(store, "s1", state, step).await.unwrap();
        assert_eq!((seen.state, seen.health["api"]), (to, state));
    }
    let gone = store.sandbox_gone(at(1), "s1".into()).await;
    let running = State::Running;
    assert!(
        matches!(gone, Err(SandboxError::Illegal { from, .. }) if from == running),
        "{gone:?}"
    );
    let moved = store.move_sandbox_port(at(1), "s1".into(), "api".into(), 8009, COOL_DOWN);
    let moved = moved.await;
    assert!(
        matches!(moved, Err(SandboxError::Illegal { .. })),
        "{moved:?}"
    );
    assert!(store.sandbox_removed(at(1), "s1".into()).await.is_err());
    let s1 = store.sandbox("s1".into()).await.unwrap().unwrap();
    assert_eq!((s1.state, s1.services[0].port), (running, Some(8004)));
    for unknown in [
        observe(store, "none", ServiceState::Healthy, Step::Well).await,
        store.sandbox_gone(at(1), "none".into()).await,
        store.extend_sandbox(at(1), "none".into(), at(9)).await,
    ] {
        assert!(matches!(unknown, Err(SandboxError::Unknown)), "{unknown:?}");
    }
}

pub(super) async fn a_sandbox_ends_for_its_first_reason(store: &Store) {
    assert!(is_expired(store, 100, "s1").await);
    let extended = store.extend_sandbox(at(1), "s1".into(), at(200)).await;
    assert_eq!(extended.unwrap().expires_at, at(200));
    assert!(!is_expired(store, 100, "s1").await);
    // Whoever found it before comes too late.
    let late = ask(store, 150, "s1", Goal::Deleted, Reason::TtlExpired).await;
    assert_eq!((late.state, late.goal), (State::Running, Goal::Live));

    let stopping = ask(store, 150, "s1", Goal::Stopped, Reason::StopRequested).await;
    assert_eq!(
        (stopping.state, stopping.goal),
        (State::Stopping, Goal::Stopped)
    );
    for goal in [Goal::Deleted, Goal::Stopped] {
        let asked = ask(store, 151, "s1", goal, Reason::DeleteRequested).await;
        assert_eq!((asked.state, asked.goal), (State::Stopping, Goal::Deleted));
        assert_eq!(asked.reason, Some(Reason::StopRequested));
    }
    let extended = store.extend_sandbox(at(1), "s1".into(), at(300)).await;
    assert!(
        matches!(extended, Err(SandboxError::Illegal { .. })),
        "{extended:?}"
    );
    let early = store.sandbox_removed(at(152), "s1".into()).await;
    assert!(early.is_err(), "it still has ports: {early:?}");
    let gone = store.sandbox_gone(at(160), "s1".into()).await.unwrap();
    assert_eq!((gone.state, gone.ended_at), (State::Stopped, Some(at(160))));
    assert_eq!(gone.health["api"], ServiceState::Ended);
    assert_eq!(held(store, 169).await, BTreeSet::from([8002, 8003, 8004]));
    assert_eq!(held(store, 170).await, BTreeSet::from([8003]));
    let removed = store.sandbox_removed(at(170), "s1".into()).await.unwrap();
    assert_eq!(removed.state, State::Deleted);
    let known = store.service_supervisors("s1".into()).await.unwrap();
    assert!(known.is_empty(), "{known:?}");
    // Asking again is fine, and changes nothing.
    let again = ask(store, 171, "s1", Goal::Deleted, Reason::DeleteRequested).await;
    assert_eq!(again.updated_at, removed.updated_at);
    let kinds: Vec<String> = store
        .events_of("s1".into())
        .await
        .unwrap()
        .into_iter()
        .map(|event| event.kind)
        .collect();
    let told = [
        "creating",
        "running",
        "unhealthy",
        "running",
        "extended",
        "stopping",
        "stopped",
        "deleted",
    ];
    assert_eq!(kinds, told.map(|kind| format!("sandbox.{kind}")));
}

pub(super) async fn a_fault_is_kept_until_it_is_removed(store: &Store) {
    let failed = observe(store, "s2", ServiceState::Ended, Step::Fail).await;
    let failed = failed.unwrap();
    assert_eq!(
        (failed.state, failed.reason),
        (State::Failed, Some(Reason::ServiceExited))
    );
    let gone = store.sandbox_gone(at(172), "s2".into()).await.unwrap();
    assert_eq!(gone.state, State::Failed);
    let active = store.active_sandboxes().await.unwrap();
    let active: Vec<&str> = active.iter().map(|sandbox| sandbox.id.as_str()).collect();
    assert_eq!(active, ["s2"]);
    ask(store, 173, "s2", Goal::Deleted, Reason::DeleteRequested).await;
    store.sandbox_removed(at(174), "s2".into()).await.unwrap();
    let counts = store.sandboxes_by_state().await.unwrap();
    assert_eq!(counts, BTreeMap::from([(State::Deleted, 2)]));
    // Its ports are somebody else's from then on.
    let s4 = new("s4", "b", &[("api", 8003)]);
    let early = store.create_sandbox(at(175), s4.clone()).await;
    assert!(
        matches!(early, Err(SandboxError::PortTaken(8003))),
        "{early:?}"
    );
    store.create_sandbox(at(182), s4).await.unwrap();
}

/// Told to the boot after the one that made `s4`.
pub(super) async fn only_the_boot_that_looks_after_it_speaks(store: &Store) {
    for superseded in [
        observe(store, "s4", ServiceState::Healthy, Step::Well).await,
        store.sandbox_gone(at(200), "s4".into()).await,
        store.sandbox_removed(at(200), "s4".into()).await,
    ] {
        assert!(
            matches!(superseded, Err(SandboxError::Superseded(_))),
            "{superseded:?}"
        );
    }
    let before = store.sandbox("s4".into()).await.unwrap().unwrap();
    let taken_over = store.take_over_sandboxes().await.unwrap();
    assert_eq!(taken_over.len(), 1, "{taken_over:?}");
    assert!(taken_over[0].epoch > before.epoch);
    let well = observe(store, "s4", ServiceState::Healthy, Step::Well).await;
    assert_eq!(well.unwrap().state, State::Running);
}
