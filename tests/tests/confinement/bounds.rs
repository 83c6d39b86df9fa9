//! What one run may use up, and what is left of it.

use orket_tests::convergence;

use super::{NOBODY, OFF, backend, is_root, run, skip};

/// Starts children until no more can be started; says how many there were.
const FORKS: &str = "perl -e 'for (1..400) { my $p = fork; if (!defined $p) { print \"STOPPED $_\\n\"; \
     exit } if (!$p) { sleep 60; exit } } print \"ALL\\n\"'";

#[tokio::test]
async fn a_fork_bomb_is_bounded_and_nothing_of_it_is_left() {
    let user = format!("level = \"auto\"\nrun_as = \"{NOBODY}\"\nprocesses = 64\n");
    let grouped = "level = \"auto\"\nprocesses = 64\ncgroups = \"v1\"\n";
    let unbounded = "level = \"group\"\n";
    for (way, confinement, bounded) in [
        ("user", user.as_str(), true),
        ("group", grouped, true),
        ("off", unbounded, false),
    ] {
        if !is_root() {
            skip("a bound for a user of its own, or a control group, needs root");
            return;
        }
        if way == "group" && !std::path::Path::new("/sys/fs/cgroup/pids").exists() {
            skip("there are no control groups of version 1 here");
            continue;
        }
        let Some(mut backend) = backend(confinement).await else {
            continue;
        };
        let (_, said) = run(&backend, FORKS).await;
        let stopped = said.lines().find_map(|line| line.strip_prefix("STOPPED "));
        match (bounded, stopped) {
            (true, Some(count)) => assert!(count.parse::<u32>().unwrap() <= 64, "{way}: {said}"),
            (false, None) => assert!(said.contains("ALL"), "{way}: {said}"),
            (true, None) | (false, Some(_)) => panic!("{way}: {said}"),
        }
        convergence::settled(&mut backend).await;
    }
}

#[tokio::test]
async fn groups_of_ended_runs_are_removed() {
    let place = std::path::Path::new("/sys/fs/cgroup/pids");
    if !is_root() || !place.exists() {
        skip("it needs root and control groups of version 1");
        return;
    }
    let confinement = "level = \"auto\"\ncgroups = \"v1\"\nmemory = \"64MiB\"\ncpu = 0.5\n";
    let Some(mut backend) = backend(confinement).await else {
        return;
    };
    let (run, said) = run(&backend, "cat /proc/self/cgroup").await;
    let name = said
        .lines()
        .find_map(|line| line.split(":pids:").nth(1))
        .unwrap_or_else(|| panic!("{run} {said}"));
    assert!(name.contains("orket-commands/"), "{said}");
    assert!(
        said.lines()
            .any(|line| line.contains(":memory:") && line.contains("orket-commands/"))
    );
    convergence::settled(&mut backend).await;
    assert!(!place.join(name.trim_start_matches('/')).exists());
    let metrics = backend.get("/v1/system/metrics").await.json();
    assert_eq!(metrics["confinement"]["cgroups"], "v1");
}

#[tokio::test]
async fn memory_is_bounded() {
    let hog = "perl -e 'my $x = \"x\" x (400 << 20); print \"GOT \", length($x)' 2>&1";
    let mut ways = vec![("off", OFF.to_owned(), false)];
    ways.push((
        "rlimit",
        "level = \"auto\"\nmemory = \"100MiB\"\n".into(),
        true,
    ));
    if is_root() && std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        let grouped = "level = \"auto\"\nmemory = \"100MiB\"\ncgroups = \"v1\"\n";
        ways.push(("group", grouped.into(), true));
    } else {
        skip("memory of a control group: it needs root and version 1");
    }
    for (way, confinement, bounded) in ways {
        let Some(backend) = backend(&confinement).await else {
            continue;
        };
        let (_, said) = run(&backend, hog).await;
        assert_eq!(!said.contains("GOT"), bounded, "{way}: {said}");
    }
}

#[tokio::test]
async fn a_file_is_bounded() {
    let fill = "head -c 3000000 /dev/zero > big; echo \"size $(wc -c < big)\"";
    for (way, confinement, most) in [
        (
            "bounded",
            "level = \"auto\"\nfile_size = \"1MiB\"\n",
            1 << 20,
        ),
        ("off", OFF, 3_000_000),
    ] {
        let Some(backend) = backend(confinement).await else {
            continue;
        };
        let (_, said) = run(&backend, fill).await;
        let size = said.lines().find_map(|line| line.strip_prefix("size "));
        let size: u64 = size.unwrap().trim().parse().unwrap();
        assert_eq!(size, most, "{way}: {said}");
    }
}

#[tokio::test]
async fn what_a_run_leaves_behind_ends_with_it() {
    for confinement in ["level = \"auto\"\n", "level = \"confined\"\n"] {
        let Some(mut backend) = backend(confinement).await else {
            continue;
        };
        let script = "env -i setsid sh -c 'trap \"\" TERM; exec sleep 1000' & \
             env -i setsid sleep 1000 & sleep 0.1";
        let (run, said) = run(&backend, script).await;
        assert_eq!(run["state"], "succeeded", "{run} {said}");
        convergence::settled(&mut backend).await;
    }
}

#[tokio::test]
async fn a_killed_supervisor_takes_everything_with_it() {
    let Some(mut backend) = backend("level = \"auto\"\n").await else {
        return;
    };
    let body = serde_json::json!({
        "id": "one",
        "command": ["sh", "-c", "env -i setsid sleep 1000 & touch here; sleep 1000"],
    });
    assert_eq!(backend.post("/v1/runs", &body).await.status, 201);
    let here = backend.workspace().join("here");
    orket_tests::eventually("it works", orket_tests::DEADLINE, || async {
        here.exists()
    })
    .await;
    let claim = backend.state_dir().join("attempts/one.1/claim.json");
    let claim: serde_json::Value = serde_json::from_slice(&std::fs::read(claim).unwrap()).unwrap();
    let supervisor = i32::try_from(claim["supervisor"]["pid"].as_i64().unwrap()).unwrap();
    let supervisor = rustix::process::Pid::from_raw(supervisor).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    orket_tests::eventually("it is lost", orket_tests::DEADLINE, || async {
        backend.get("/v1/runs/one").await.json()["state"] == "lost"
    })
    .await;
    convergence::settled(&mut backend).await;
}
