//! Who reads credentials: whoever the container runs as, and nobody else, whichever user the backend is.

use std::{
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    process::Command,
};

use orket_tests::engine::{Relay, Way};

use super::*;

/// A user of no name, who owns nothing.
const USER: u32 = 61_234;

/// A credential as the service sees it.
async fn credential(port: u16) -> String {
    let asked = ask(port, "/file/run/secrets/password").await;
    asked.unwrap_or_else(|| "nobody answers".to_owned())
}

fn is_a_credential(seen: &str) -> bool {
    seen.strip_prefix("600 ")
        .is_some_and(|text| text.len() >= 32)
}

#[tokio::test]
async fn every_user_of_a_container_reads_its_own_credentials() {
    whom_an_image_names(116).await;
    killed_while_an_image_is_asked(116).await;
    as_another_user(116, "+chown").await;
    as_another_user(116, "-all").await;
    let mut place = place!(116);
    let image = place.engine.image_saying(&["USER 1234:77"]).await;
    let mut own = place.api();
    own["image"] = json!(image);
    place.running(&[own.clone()]).await;
    let seen = credential(place.base).await;
    assert!(is_a_credential(&seen), "{seen}");

    // Whom nobody knows, since the image has no list: refused, with what to do about it.
    let named = place.engine.image_saying(&["USER somebody"]).await;
    own["image"] = json!(named);
    let id = place.create(&[own.clone()]).await;
    let failed = reaches(&place.backend, &id, "failed").await;
    assert_eq!(failed["reason"], "launch_failed", "{failed}");
    let detail = failed["detail"].as_str().unwrap();
    for word in ["`api`", "`somebody`", "`user`", "1000:1000"] {
        assert!(detail.contains(word), "{detail}");
    }
    assert_eq!(place.engine.holds(&Place::mark(&id)).await, [0, 0, 0]);
    // As it says, with a number it is made.
    own["user"] = json!("4321");
    let sandbox = place.running(&[own]).await;
    let seen = credential(port(&sandbox, 0)).await;
    assert!(is_a_credential(&seen), "{seen}");
    place.nothing_left().await;
}

/// A list of users as images have it, with lines that say nothing.
const USERS: &str = "root:x:0:0:root:/:/bin/sh\n\nshort\n:x:1:1\nother:x:many:1\nnodes:x:1:1\n\
                     node:x:4711:4712::/srv/node:/bin/sh\nnode:x:1:1::/:/bin/sh\n\
                     huge:x:2147483648:1::/:/bin/sh\nodd:x:many:1::/:/bin/sh\nodd:x:5:5::/:/bin/sh\n";
const GROUPS: &str = "root:x:0:\nnode:x:4712:\nstaff:x:815:node\n";

/// An image that holds this as its list of users, where it is given, and that of groups.
async fn image_of(engine: &Engine, users: Option<&str>, lines: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let etc = folder.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    std::fs::write(etc.join("group"), GROUPS).unwrap();
    if let Some(users) = users {
        std::fs::write(etc.join("passwd"), users).unwrap();
    }
    engine.image_holding(folder.path(), lines).await
}

/// Users and groups that are numbers only in the image.
async fn whom_an_image_names(test: u16) {
    let mut place = place!(test);
    let mut own = place.api();
    for (user, owner) in [
        ("node", (4711, 4712)),
        ("node:staff", (4711, 815)),
        ("node:77", (4711, 77)),
        ("1234:staff", (1234, 815)),
    ] {
        let line = format!("USER {user}");
        own["image"] = json!(image_of(&place.engine, Some(USERS), &[&line]).await);
        let sandbox = place.running(&[own.clone()]).await;
        let seen = credential(port(&sandbox, 0)).await;
        assert!(is_a_credential(&seen), "{user}: {seen}");
        let id = id(&sandbox);
        let file = folder(&place.backend, id).join("credentials/api.password");
        let file = std::fs::metadata(file).unwrap();
        assert_eq!((file.uid(), file.gid()), owner, "{user}");
        assert_eq!(place.engine.holds(&Place::mark(id)).await, [1, 1, 0]);
        delete(&place.backend, id).await;
        reaches(&place.backend, id, "deleted").await;
    }

    let linked = tempfile::tempdir().unwrap();
    std::fs::create_dir(linked.path().join("etc")).unwrap();
    std::fs::write(linked.path().join("etc/users"), USERS).unwrap();
    symlink("users", linked.path().join("etc/passwd")).unwrap();
    let nested = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(nested.path().join("etc/passwd")).unwrap();
    std::fs::write(nested.path().join("etc/passwd/node"), USERS).unwrap();
    let large = format!("{USERS}{}", "#\n".repeat(512 << 10));
    let engine = &place.engine;
    let mut refused = Vec::new();
    for user in ["nobody", "odd", "huge", "node:nobody"] {
        let line = format!("USER {user}");
        refused.push((user, image_of(engine, Some(USERS), &[&line]).await));
    }
    for users in [None, Some(large.as_str())] {
        refused.push(("node", image_of(engine, users, &["USER node"]).await));
    }
    for folder in [&linked, &nested] {
        let image = engine.image_holding(folder.path(), &["USER node"]).await;
        refused.push(("node", image));
    }
    for (user, image) in refused {
        own["image"] = json!(image);
        let id = place.create(&[own.clone()]).await;
        let failed = reaches(&place.backend, &id, "failed").await;
        assert_eq!(failed["reason"], "launch_failed", "{user}: {failed}");
        let detail = failed["detail"].as_str().unwrap();
        for word in ["`api`", &format!("`{user}`"), "`user`", "1000:1000"] {
            assert!(detail.contains(word), "{detail}");
        }
        assert_eq!(place.engine.holds(&Place::mark(&id)).await, [0, 0, 0]);
        delete(&place.backend, &id).await;
        reaches(&place.backend, &id, "deleted").await;
    }
    place.nothing_left().await;
}

/// What is made of an image to read it never runs, and goes also when the backend dies or the engine hangs.
async fn killed_while_an_image_is_asked(test: u16) {
    let more = "start_timeout = \"10s\"\n[sandboxes.docker]\nsocket = \"{dir}/engine.sock\"\nanswer_timeout = \"5s\"";
    let mut place = place!(test, more);
    let relay = Relay::open(place.backend.dir());
    let mut own = place.api();
    let lines = ["USER node", "VOLUME /kept"];
    own["image"] = json!(image_of(&place.engine, Some(USERS), &lines).await);
    let held = async |place: &Place, id: &str| {
        let mark = Place::mark(id);
        obtain("the image is looked into", PATIENCE, || async {
            let container = place.engine.containers(&mark).await.pop()?;
            // The engine lists it a moment before it knows it.
            let api = place.engine.api();
            api.inspect_container(&container, None).await.ok()
        })
        .await
    };
    for ends in ["killed", "hung"] {
        relay.turn(Way::HungAt("/archive?"));
        let id = place.create(&[own.clone()]).await;
        let seen = held(&place, &id).await;
        let container = seen.id.unwrap();
        let config = seen.config.unwrap();
        assert_eq!(
            seen.host_config.unwrap().network_mode.as_deref(),
            Some("none")
        );
        let labels = config.labels.unwrap();
        let (key, instance) = (INSTANCE, place.label());
        assert_eq!(format!("{key}={}", labels[key]), instance);
        let started = seen.state.unwrap().started_at.unwrap();
        assert!(started.starts_with("0001-"), "never started: {started}");
        let volume = seen.mounts.unwrap().remove(0).name.unwrap();
        match ends {
            "killed" => {
                place.backend.kill().await;
                assert_eq!(
                    place.engine.containers(&Place::mark(&id)).await,
                    [container]
                );
                relay.turn(Way::Open);
                place.backend.restart().await;
                let sandbox = reaches(&place.backend, &id, "running").await;
                let seen = credential(port(&sandbox, 0)).await;
                assert!(is_a_credential(&seen), "{seen}");
                assert_eq!(place.engine.holds(&Place::mark(&id)).await[0], 1);
                delete(&place.backend, &id).await;
                reaches(&place.backend, &id, "deleted").await;
            }
            _ => {
                let failed = reaches(&place.backend, &id, "failed").await;
                assert_eq!(failed["reason"], "engine_unreachable", "{failed}");
                assert_eq!(place.engine.holds(&Place::mark(&id)).await, [0, 0, 0]);
                relay.turn(Way::Open);
            }
        }
        let volumes = place.engine.all_volumes().await;
        assert!(!volumes.contains(&volume), "its nameless volume is left");
    }
    place.nothing_left().await;
}

/// The same by a backend that is not root, as its unit starts it, with these capabilities.
async fn as_another_user(test: u16, capabilities: &str) {
    let group = std::fs::metadata(SOCKET).map(|socket| socket.gid());
    let can = Command::new("setpriv").arg("--version").output().is_ok();
    if !rustix::process::geteuid().is_root() || !can {
        eprintln!("SKIPPED: only root, with setpriv, starts a backend as another user");
        return;
    }
    let Some(engine) = Engine::get().await else {
        return;
    };
    let under = |dir: &Path| {
        let given = Command::new("chown")
            .args(["-R", &format!("{USER}:{USER}")])
            .arg(dir)
            .status();
        assert!(given.unwrap().success());
        let capabilities = match capabilities {
            "-all" => capabilities.to_owned(),
            more => format!("-all,{more}"),
        };
        let mut words = vec!["setpriv".to_owned()];
        words.extend([
            format!("--reuid={USER}"),
            format!("--regid={USER}"),
            format!("--groups={}", group.unwrap()),
            format!("--inh-caps={capabilities}"),
            format!("--ambient-caps={capabilities}"),
            format!("--bounding-set={capabilities}"),
            "--no-new-privs".to_owned(),
        ]);
        words
    };
    let image = engine.image().await;
    let config = format!("[listen]\npeers = [\"root\"]\n{}", config(test, ""));
    let backend = Backend::start_under(&config, under).await;
    let mut place = Place {
        backend,
        engine,
        image,
        base: base(test),
    };
    let owner = std::fs::metadata(format!("/proc/{}", place.pid()));
    assert_eq!(owner.unwrap().uid(), USER, "it runs as another user");
    let mut web = place.api();
    web["name"] = json!("web");
    web["role"] = json!("frontend");
    web["user"] = json!("1234:1234");
    let services = [place.api(), web];
    if capabilities == "-all" {
        // Without the capability nobody could read it: it is said, and not found out by the service.
        let id = place.create(&services).await;
        let failed = reaches(&place.backend, &id, "failed").await;
        assert_eq!(failed["reason"], "launch_failed", "{failed}");
        let detail = failed["detail"].as_str().unwrap();
        assert!(detail.contains("CAP_CHOWN"), "{detail}");
        // Whose container has the backend's own number reads it all the same.
        let mut same = place.api();
        same["user"] = json!(USER.to_string());
        let sandbox = place.running(&[same]).await;
        let seen = credential(port(&sandbox, 0)).await;
        assert!(is_a_credential(&seen), "{seen}");
    } else {
        place.running(&services).await;
        for port in [place.base, place.base + 20] {
            let seen = credential(port).await;
            assert!(is_a_credential(&seen), "{port}: {seen}");
        }
    }
    place.nothing_left().await;
}
