//! Images that a repository's own Dockerfile makes: what is built, what is refused, what is left.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use orket_tests::engine::program;

use super::*;

pub(super) const ON: &str = "[sandboxes.docker]\nbuild = true\npull = false";

/// A repository with a service `api` that is built from its folder `app`.
pub(super) fn repository(place: &Place, dockerfile: &str) -> PathBuf {
    let root = place.backend.workspace().join("shop");
    let app = root.join("app");
    fs::create_dir_all(app.join("bin")).unwrap();
    let file = "services:\n  api:\n    build: {context: app, args: {GREETING: hello}}\n    ports: [\"80\"]\n    volumes: [/data]\n";
    fs::write(root.join("compose.yaml"), file).unwrap();
    fs::copy(program(), app.join("bin/service")).unwrap();
    fs::write(app.join("Dockerfile"), dockerfile).unwrap();
    app
}

/// What is changed in the folder before it is built.
type Change = fn(PathBuf);
/// A Dockerfile, a change, and what is said against it.
type Case<'a> = (String, Change, &'a str);

pub(super) async fn built(place: &Place) -> String {
    let body = json!({ "stack": { "repository": "shop" } });
    id(&create(&place.backend, &body).await).to_owned()
}

#[tokio::test]
async fn an_image_is_built_for_its_sandbox_and_goes_with_it() {
    let mut place = place!(103, ON);
    let app = repository(
        &place,
        "FROM scratch AS base\n\
         COPY . /app\n\
         FROM base\n\
         ARG GREETING\n\
         ENV GREETING=$GREETING\n\
         RUN [\"/app/bin/service\", \"say\", \"built\", \"0\"]\n\
         LABEL org.example.title=shop\n\
         ENTRYPOINT [\"/app/bin/service\"]\n",
    );
    fs::write(app.join(".dockerignore"), "secret*\n!secret.public\n").unwrap();
    fs::write(app.join("secret.key"), "never").unwrap();
    fs::write(app.join("secret.public"), "always").unwrap();
    symlink("secret.public", app.join("link")).unwrap();
    let id = built(&place).await;
    let sandbox = reaches(&place.backend, &id, "running").await;
    let image = sandbox["services"][0]["image"].as_str().unwrap();
    assert!(
        image.starts_with("orket-01") && image.ends_with("-0:built"),
        "{image}"
    );
    let mark = Place::mark(&id);
    assert!(!place.engine.images(&mark).await.is_empty());
    let port = port(&sandbox, 0);
    let asked = |path: &'static str| async move { ask(port, path).await.unwrap() };
    assert!(asked("/env").await.contains("GREETING=hello\n"));
    assert!(asked("/file/app/link").await.ends_with("always"));
    assert!(!asked("/file/app/secret.key").await.contains("never"));
    let seen = place.engine.api().inspect_image(image).await.unwrap();
    let labels = seen.config.unwrap().labels.unwrap();
    assert_eq!(labels["io.orket.sandbox"], id);

    // A stop keeps it, a deletion does not.
    post(&place.backend, &id, "stop").await;
    reaches(&place.backend, &id, "stopped").await;
    assert!(!place.engine.images(&mark).await.is_empty());
    place.nothing_left().await;
}

#[tokio::test]
async fn a_build_that_fails_says_why_and_reaches_nobody() {
    let mut place = place!(104, ON);
    let base = format!("FROM {}\n", place.image);
    for (line, words) in [
        (
            "RUN [\"/service\", \"say\", \"the compiler is sad\", \"3\"]\n",
            ["the compiler is sad", "non-zero code: 3"],
        ),
        (
            "RUN [\"/service\", \"reach\", \"172.17.0.1\", \"1\"]\n",
            ["not reached: Network is unreachable", "non-zero code: 4"],
        ),
    ] {
        repository(&place, &format!("{base}ENV STEP=made\n{line}"));
        let id = built(&place).await;
        let failed = reaches(&place.backend, &id, "failed").await;
        assert_eq!(failed["reason"], "build_failed", "{failed}");
        let detail = failed["detail"].as_str().unwrap();
        assert!(words.iter().all(|words| detail.contains(words)), "{detail}");
        // What was made before it failed is marked, so that it is found.
        let left = place.engine.images(&Place::mark(&id)).await;
        assert!(!left.is_empty());
    }
    place.nothing_left().await;
}

#[tokio::test]
async fn what_a_build_may_not_have_is_told_with_its_place() {
    let mut place = place!(
        105,
        "[sandboxes.docker]\nbuild = true\npull = false\nbuild_context = \"4MiB\""
    );
    let triggers = place.engine.image_that_triggers("RUN true").await;
    let plain = "FROM scratch\nCOPY . /app\n".to_owned();
    let nothing: Change = |_| {};
    let cases: [Case<'_>; 9] = [
        (
            "FROM scratch\nADD http://192.0.2.1/x /x\n".into(),
            nothing,
            "Dockerfile:2: `ADD`",
        ),
        (
            "FROM scratch\nRUN --network=host x\n".into(),
            nothing,
            "Dockerfile:2:",
        ),
        (format!("FROM {triggers}\n"), nothing, "ONBUILD"),
        (
            "FROM orket-test-nowhere:1\n".into(),
            nothing,
            "orket-test-nowhere:1",
        ),
        (
            plain.clone(),
            |app| symlink("../../../secret", app.join("out")).unwrap(),
            "`out`: is a symbolic link",
        ),
        (
            plain.clone(),
            |app| {
                let made = std::process::Command::new("mkfifo")
                    .arg(app.join("pipe"))
                    .status();
                assert!(made.unwrap().success());
            },
            "`pipe`: is neither",
        ),
        (
            plain.clone(),
            |app| fs::write(app.join("much"), vec![0; 5 << 20]).unwrap(),
            "`much`: the context has more",
        ),
        (
            plain.clone(),
            |app| {
                fs::remove_file(app.join("Dockerfile")).unwrap();
                symlink("/etc/passwd", app.join("Dockerfile")).unwrap();
            },
            "Dockerfile: cannot be read",
        ),
        (
            plain,
            |app| {
                fs::rename(&app, app.with_file_name("moved")).unwrap();
                symlink("/etc", &app).unwrap();
            },
            "its context `app` cannot be read",
        ),
    ];
    for (dockerfile, prepare, words) in cases {
        let app = repository(&place, &dockerfile);
        prepare(app.clone());
        let id = built(&place).await;
        let failed = reaches(&place.backend, &id, "failed").await;
        let detail = failed["detail"].as_str().unwrap();
        assert!(detail.contains(words), "{failed}");
        assert!(
            place.engine.images(&Place::mark(&id)).await.is_empty(),
            "{words}"
        );
        let root = app.parent().unwrap();
        fs::remove_dir_all(root).unwrap();
    }
    place.nothing_left().await;
}

#[tokio::test]
async fn builds_are_off_unless_they_are_switched_on() {
    let mut place = place!(106);
    repository(&place, "FROM scratch\n");
    let body = json!({ "stack": { "repository": "shop" } });
    let refused = place.backend.post("/v1/sandboxes", &body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(
        refused.text().contains("[sandboxes.docker] build"),
        "{}",
        refused.text()
    );
    assert!(listed(&place.backend).await.is_empty());
    place.nothing_left().await;
}

#[tokio::test]
async fn a_build_that_does_not_end_is_ended_by_its_limit_a_deletion_or_a_kill() {
    let more = "[sandboxes.docker]\nbuild = true\npull = false\nbuild_timeout = \"15s\"";
    let mut place = place!(107, more);
    let line = format!("FROM {}\nRUN [\"/service\", \"sleep\"]\n", place.image);
    repository(&place, &line);
    let builds = |id: String| {
        let engine = place.engine.clone();
        async move {
            eventually("it builds", PATIENCE, || async {
                !engine.containers(&Place::mark(&id)).await.is_empty()
            })
            .await;
        }
    };
    let late = built(&place).await;
    let failed = reaches(&place.backend, &late, "failed").await;
    assert_eq!(failed["reason"], "build_failed", "{failed}");
    assert!(
        failed["detail"].as_str().unwrap().contains("within 15 s"),
        "{failed}"
    );

    let unwanted = built(&place).await;
    builds(unwanted.clone()).await;
    delete(&place.backend, &unwanted).await;
    reaches(&place.backend, &unwanted, "deleted").await;

    // What a kill broke off is begun again, beside what is left of it.
    let killed = built(&place).await;
    builds(killed.clone()).await;
    place.backend.kill_and_restart().await;
    let failed = reaches(&place.backend, &killed, "failed").await;
    assert_eq!(failed["reason"], "build_failed", "{failed}");
    place.nothing_left().await;
}

#[tokio::test]
async fn what_a_killed_build_leaves_later_is_found() {
    let mut place = place!(118);
    let id = place.create(&[place.api()]).await;
    delete(&place.backend, &id).await;
    reaches(&place.backend, &id, "deleted").await;
    let mark = Place::mark(&id);
    place.engine.image_marked(&[&place.label(), &mark]).await;
    eventually("it is removed", PATIENCE, || async {
        place.engine.images(&mark).await.is_empty()
    })
    .await;
    place.nothing_left().await;
}
