//! What would get past the reading of a build, tried on the real builder.

use std::{fs, os::unix::fs::symlink};

use bollard::{
    models::ContainerConfig,
    query_parameters::{CommitContainerOptionsBuilder, ListImagesOptions},
};

use orket_tests::{Upstream, upstream::Reaction};

use super::{
    build::{ON, built, repository},
    *,
};

#[tokio::test]
async fn lines_that_go_on_hide_nothing_from_the_reading() {
    let mut place = place!(123, ON);
    // Where the builder would fetch from.
    let inside = Upstream::tcp().await;
    let url = format!("http://{}/x", inside.address());
    let run = "RUN [\"/app/bin/service\", \"say\", \"x\", \"0\"]";
    let begin = "FROM scratch\nCOPY . /app\n";
    for (lines, words) in [
        (format!("{run} \\\u{a0}\nADD {url} /x\n"), "Dockerfile:3:"),
        (format!("A\\\n# c\nDD {url} /x\n"), "Dockerfile:3: `ADD`"),
        (
            "LABEL io.or\\\nket.instance=x io.orket.\\\nsandbox=y\n".into(),
            "Dockerfile:3: a label",
        ),
        (
            "COPY -\\\n-from=orket-test-nowhere:1 /a /b\n".into(),
            "image `orket-test-nowhere:1`",
        ),
        // Not the stage that copies: that would be an image to fetch.
        (
            "FROM scratch AS orket-test-nowhere\nCOPY --from=orket-test-nowhere /a /b\n".into(),
            "Dockerfile:4: `orket-test-nowhere`",
        ),
    ] {
        repository(&place, &format!("{begin}{lines}"));
        let id = built(&place).await;
        let failed = reaches(&place.backend, &id, "failed").await;
        assert!(
            failed["detail"].as_str().unwrap().contains(words),
            "{failed}"
        );
        assert!(place.engine.images(&Place::mark(&id)).await.is_empty());
    }
    inside.untouched("builds that would fetch from it");

    // What is sent as one line is what the author meant by several.
    let app = repository(
        &place,
        "# syntax=x\r\nfr\\\nom scratch as Base\nCOPY \\\n\n# within\n. \\\t\n  /app\nFROM base\n\
         ENV GREETING=he\\\nllo\nLABEL org.example.title=\"a \\\n b\"\n\
         entrypoint [\"/app/bin/service\" \\\n]\n",
    );
    let id = built(&place).await;
    let sandbox = reaches(&place.backend, &id, "running").await;
    let said = ask(port(&sandbox, 0), "/env").await.unwrap();
    assert!(said.contains("GREETING=hello\n"), "{said}");
    let image = sandbox["services"][0]["image"].as_str().unwrap();
    let seen = place.engine.api().inspect_image(image).await.unwrap();
    let labels = seen.config.unwrap().labels.unwrap();
    assert_eq!(labels["org.example.title"], "a  b");
    fs::remove_dir_all(app.parent().unwrap()).unwrap();
    place.nothing_left().await;
}

#[tokio::test]
async fn an_image_made_of_a_sandboxs_own_goes_with_it_whatever_its_marks() {
    let mut place = place!(125, ON);
    repository(
        &place,
        "FROM scratch\nCOPY . /app\nENTRYPOINT [\"/app/bin/service\"]\n",
    );
    let id = built(&place).await;
    let sandbox = reaches(&place.backend, &id, "running").await;
    let container = place.engine.containers(&Place::mark(&id)).await;
    let options = CommitContainerOptionsBuilder::default()
        .container(&container[0])
        .repo("orket-test-child")
        .tag(&id.to_lowercase())
        .changes("LABEL io.orket.instance=x io.orket.sandbox=y")
        .build();
    let made = place.engine.api();
    let made = made
        .commit_container(options, ContainerConfig::default())
        .await
        .unwrap();
    let unmarked = place.engine.images("io.orket.instance=x").await;
    assert!(unmarked.contains(&made.id), "{unmarked:?} {made:?}");

    // A base brings variables that nobody has counted.
    let options = CommitContainerOptionsBuilder::default()
        .container(&container[0])
        .repo("orket-test-large")
        .tag(&id.to_lowercase())
        .changes(&format!("ENV LARGE={}", "x".repeat(17 << 10)))
        .build();
    let large = place.engine.api();
    large
        .commit_container(options, ContainerConfig::default())
        .await
        .unwrap();
    let base = format!("orket-test-large:{}", id.to_lowercase());
    repository(&place, &format!("FROM {base}\n"));
    let refused = built(&place).await;
    let refused = reaches(&place.backend, &refused, "failed").await;
    let detail = refused["detail"].as_str().unwrap();
    assert!(detail.contains("too large an environment"), "{refused}");

    // Nobody else may begin with it, by name or id: it could not be removed then.
    let image = sandbox["services"][0]["image"].as_str().unwrap();
    let own = place.engine.api().inspect_image(image).await.unwrap().id;
    for name in [image, &format!("docker.io/library/{image}"), &own.unwrap()] {
        let service = json!({ "name": "a", "image": name });
        let body = json!({ "services": [service] });
        let refused = place.backend.post("/v1/sandboxes", &body).await;
        assert_eq!(refused.status, 400, "{name}: {}", refused.text());
    }
    place.nothing_left().await;
    let all = ListImagesOptions {
        all: true,
        ..ListImagesOptions::default()
    };
    let all = place.engine.api().list_images(Some(all)).await.unwrap();
    assert!(all.iter().all(|image| image.id != made.id), "{made:?}");
}

#[tokio::test]
async fn a_repository_exchanged_for_a_link_before_its_turn_is_not_read() {
    let mut place = place!(124, &format!("running = 1\n{ON}"));
    let first = place.running(&[place.api()]).await;
    let app = repository(
        &place,
        "FROM scratch\nCOPY . /app\nENTRYPOINT [\"/app/bin/service\"]\n",
    );
    let second = built(&place).await;
    // Its place is taken: what it is built of may change meanwhile.
    let shop = app.parent().unwrap();
    let outside = place.backend.dir().join("outside");
    fs::rename(shop, &outside).unwrap();
    symlink(&outside, shop).unwrap();
    let first = id(&first).to_owned();
    assert_eq!(delete(&place.backend, &first).await.status, 202);
    let failed = reaches(&place.backend, &second, "failed").await;
    assert_eq!(failed["reason"], "build_failed", "{failed}");
    let detail = failed["detail"].as_str().unwrap();
    assert!(detail.contains("symbolic link"), "{detail}");
    let made = place.engine.images(&Place::mark(&second)).await;
    assert!(made.is_empty(), "{made:?}");
    place.nothing_left().await;
}

#[tokio::test]
async fn no_image_sends_the_engine_to_a_registry_within_unless_it_is_listed() {
    let inside = Upstream::tcp().await;
    let image = format!("{}/x:1", inside.address());
    let mut place = place!(126, "[sandboxes.docker]\nbuild = true");
    for body in [
        json!({ "services": [{ "name": "a", "image": image }] }),
        json!({ "stack": { "template": { "name": "csharp-razor-ef", "images": { "api": image } } } }),
    ] {
        let refused = place.backend.post("/v1/sandboxes", &body).await;
        let text = refused.text();
        assert_eq!(refused.status, 400, "{body}: {text}");
        assert!(text.contains("must not come from `127.0.0.1:"), "{text}");
    }
    for line in [
        format!("FROM {image}\n"),
        format!("FROM scratch\nCOPY --from={image} /a /b\n"),
    ] {
        repository(&place, &line);
        let failed = reaches(&place.backend, &built(&place).await, "failed").await;
        assert_eq!(failed["reason"], "build_failed", "{failed}");
        let detail = failed["detail"].as_str().unwrap();
        assert!(detail.contains("must not come from"), "{detail}");
    }
    let file = format!("services:\n  a:\n    image: {image}\n");
    fs::write(place.backend.workspace().join("shop/compose.yaml"), file).unwrap();
    let body = json!({ "stack": { "repository": "shop" } });
    let refused = place.backend.post("/v1/sandboxes", &body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("compose.yaml:3:12: error: [image]"));
    inside.untouched("images of a registry within");

    // The engine on its own image is as before.
    place.running(&[place.api()]).await;
    place.nothing_left().await;
}

#[tokio::test]
async fn a_registry_that_is_listed_is_asked_and_no_longer_once_it_is_not() {
    let inside = Upstream::tcp().await;
    inside.react(Reaction::Hang);
    let list = format!("registries = [\"{}\"]", inside.address());
    let mut place = place!(33, &format!("[sandboxes.docker]\n{list}"));
    let image = format!("{}/x:1", inside.address());
    let id = place
        .create(&[json!({ "name": "a", "image": image })])
        .await;
    eventually("the engine asks the registry", PATIENCE, || async {
        inside.connections() > 0
    })
    .await;
    let other = json!({ "services": [place.api()] });
    let refused = place.backend.post("/v1/sandboxes", &other).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("must not come from `docker.io`"));

    // It was recorded under a list that is another one now.
    place.backend.kill().await;
    let config = place.backend.dir().join("backend.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(&list, "")).unwrap();
    place.backend.restart().await;
    let failed = reaches(&place.backend, &id, "failed").await;
    assert_eq!(failed["reason"], "image_not_found", "{failed}");
    let detail = failed["detail"].as_str().unwrap();
    assert!(detail.contains("must not come from"), "{detail}");
    place.nothing_left().await;
}
