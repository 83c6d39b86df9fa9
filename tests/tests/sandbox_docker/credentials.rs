//! Who reads credentials: whoever the container runs as, and nobody else, whichever user the backend is.

use std::{os::unix::fs::MetadataExt as _, path::Path, process::Command};

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
    as_another_user(116, "+chown").await;
    as_another_user(116, "-all").await;
    let mut place = place!(116);
    let image = place.engine.image_saying(&["USER 1234:77"]).await;
    let mut own = place.api();
    own["image"] = json!(image);
    place.running(&[own.clone()]).await;
    let seen = credential(place.base).await;
    assert!(is_a_credential(&seen), "{seen}");

    // Whose number only the image knows: refused, with what to do about it.
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
