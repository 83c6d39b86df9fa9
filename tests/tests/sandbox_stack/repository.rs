//! A repository says which stack it has, and reaches nothing outside of itself.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
};

use orket_backend::sandbox::{
    ports::Role,
    registry::Registries,
    spec::Health,
    stack::{
        repository::load,
        template::{self, TEMPLATES},
    },
};
use orket_tests::program;
use tempfile::TempDir;

use super::{check, invariants, json, rendered};

const WEB: &str = "services:\n  web:\n    image: nginx:1.27.2\n    ports: [\"80\"]\n    depends_on: [db]\n  db:\n    image: redis:7.4.1\n  other:\n    image: a:1\n    secrets: [key]\nsecrets:\n  key:\n";

fn repository(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn refusal(files: &[(&str, &str)]) -> String {
    load(repository(files).path(), &Registries::default())
        .unwrap_err()
        .0
}

#[test]
fn a_compose_file_is_enough_and_the_manifest_chooses() {
    let dir = repository(&[("compose.yaml", WEB)]);
    let found = load(dir.path(), &Registries::default()).unwrap();
    let names = |stack: &super::Stack| -> Vec<String> {
        stack.services.iter().map(|s| s.name.clone()).collect()
    };
    assert_eq!(names(&found.stack), ["db", "web", "other"]);
    assert_eq!(found.stack.secrets, ["key"]);

    let manifest = "[stack]\ncompose = \"ops/stack.yaml\"\nservices = [\"web\"]\nimages = { db = \"redis:7.4.2\" }\n[services.web]\nrole = \"admin\"\nhealth = \"/up\"\n";
    let dir = repository(&[(".orket.toml", manifest), ("ops/stack.yaml", WEB)]);
    let found = load(dir.path(), &Registries::default()).unwrap();
    assert_eq!(found.source, "ops/stack.yaml");
    assert_eq!(names(&found.stack), ["db", "web"]);
    assert!(found.stack.secrets.is_empty(), "nobody gets it");
    let [db, web] = &found.stack.services[..] else {
        panic!("{found:?}");
    };
    assert_eq!(db.image.as_deref(), Some("redis:7.4.2"));
    assert_eq!(web.role, Some(Role::Admin));
    assert_eq!(web.health, Health::Path("/up".into()));
}

#[test]
fn a_mistake_in_the_manifest_is_told_with_its_place() {
    let with = |manifest: &str| refusal(&[(".orket.toml", manifest), ("compose.yaml", WEB)]);
    for (manifest, place, words) in [
        (
            "[stack]\ncomposer = \"x\"\n",
            ".orket.toml:2:1:",
            "unknown field",
        ),
        ("[stack\n", ".orket.toml:1:", "error"),
        (
            "[stack]\nservices = [\"web\", \"nobody\"]\n",
            ".orket.toml:2:20:",
            "no service `nobody`",
        ),
        (
            "[services.nobody]\n",
            ".orket.toml:1:11:",
            "no service `nobody`",
        ),
        (
            "[services.web]\nrole = \"king\"\n",
            ".orket.toml:2:8:",
            "unknown variant",
        ),
        (
            "[services.db]\nrole = \"api\"\n",
            ".orket.toml:2:8:",
            "no port",
        ),
        (
            "[stack]\ntemplate = \"lamp\"\n",
            ".orket.toml:2:12:",
            "it may be fastapi-react-postgres",
        ),
        (
            "[stack]\ntemplate = \"fastapi-vue-mongo\"\n",
            ".orket.toml:2:12:",
            "`api`, `frontend` is missing",
        ),
        (
            "[stack]\ntemplate = \"a\"\ncompose = \"b\"\n",
            ".orket.toml:3:11:",
            "keep one",
        ),
        (
            "[stack.images]\nweb = \"nginx\"\n",
            ".orket.toml:1:",
            "other than `latest`",
        ),
        (
            "[stack.images]\nweb = \"library/orket-01arz3ndektsv4rrffq69g5fav-0:built\"\n",
            ".orket.toml:1:",
            "go with their sandbox",
        ),
        (
            "[services.web]\nhealth = \"x\"\n",
            "compose.yaml:",
            "must begin with `/`",
        ),
        (
            "[stack]\ncompose = \"../x\"\n",
            "../x:",
            "inside of the repository",
        ),
        (
            "[stack]\ncompose = \"/etc/passwd\"\n",
            "/etc/passwd:",
            "inside of the repository",
        ),
        (
            "[stack]\ncompose = \"none.yaml\"\n",
            "none.yaml:",
            "no such file",
        ),
        (
            "[stack]\nservices = []\n",
            "compose.yaml:",
            "name at least one",
        ),
    ] {
        let said = with(manifest);
        assert!(
            said.starts_with(place) && said.contains(words),
            "{manifest}\n{said}"
        );
    }
    let large = format!("# {}\n", "x".repeat(70_000));
    assert!(with(&large).contains("too large"));
    let both = refusal(&[("compose.yaml", WEB), ("docker-compose.yml", WEB)]);
    assert!(
        both.contains("compose.yaml and docker-compose.yml"),
        "{both}"
    );
    assert!(refusal(&[]).contains("there is no .orket.toml and no compose.yaml"));
}

#[test]
fn nothing_is_read_through_a_link() {
    let outside = repository(&[("compose.yaml", WEB), (".orket.toml", "[stack]\n")]);
    let linked = |name: &str, to: &Path| {
        let dir = repository(&[]);
        symlink(to, dir.path().join(name)).unwrap();
        let said = load(dir.path(), &Registries::default()).unwrap_err().0;
        assert!(said.contains("symbolic link"), "{said}");
    };
    linked("compose.yaml", &outside.path().join("compose.yaml"));
    linked(".orket.toml", &outside.path().join(".orket.toml"));
    linked("compose.yaml", Path::new("/nowhere"));
    let dir = repository(&[(".orket.toml", "[stack]\ncompose = \"ops/compose.yaml\"\n")]);
    symlink(outside.path(), dir.path().join("ops")).unwrap();
    let said = load(dir.path(), &Registries::default()).unwrap_err().0;
    assert!(said.contains("symbolic link"), "{said}");
    // The repository itself may be exchanged for a link after its path was looked at, or a folder above it.
    let dir = repository(&[]);
    symlink(outside.path(), dir.path().join("it")).unwrap();
    symlink(outside.path().parent().unwrap(), dir.path().join("above")).unwrap();
    let below = Path::new("above").join(outside.path().file_name().unwrap());
    for path in [Path::new("it"), &below] {
        let said = load(&dir.path().join(path), &Registries::default())
            .unwrap_err()
            .0;
        assert!(said.contains("symbolic link"), "{said}");
    }
    assert!(load(&outside.path().join("x/.."), &Registries::default()).is_err());
    assert!(load(outside.path(), &Registries::default()).is_ok());
    // A pipe would be waited for, a folder is no file.
    let dir = repository(&[]);
    let made = Command::new("mkfifo")
        .arg(dir.path().join("compose.yaml"))
        .status();
    assert!(made.unwrap().success());
    assert!(
        load(dir.path(), &Registries::default())
            .unwrap_err()
            .0
            .contains("plain file")
    );
    let dir = repository(&[("compose.yaml/x", "")]);
    assert!(
        load(dir.path(), &Registries::default())
            .unwrap_err()
            .0
            .contains("plain file")
    );
}

#[test]
fn every_template_is_a_stack_once_it_has_the_images_of_the_application() {
    for template in TEMPLATES {
        let bare = template::stack(template.name, &BTreeMap::new()).unwrap_err();
        assert!(bare.0.contains("`api`"), "{bare}");
        let stack = super::template(template.name);
        check(&stack).unwrap();
        let file = json(&rendered(&stack));
        let broken = invariants::broken(&file);
        assert!(broken.is_empty(), "{}: {broken:?}", template.name);
        let db = &file["services"]["db"];
        assert_eq!(
            db["networks"],
            serde_json::json!(["stack.data"]),
            "{}",
            template.name
        );
        assert_eq!(file["networks"]["stack.data"]["internal"], true);
        assert!(db.get("ports").is_none() && db["read_only"] == true);
        assert!(db["healthcheck"]["test"].is_array());
        for service in file["services"].as_object().unwrap().values() {
            assert!(service["image"].as_str().unwrap().contains(':'));
            let granted = service["secrets"].as_array().unwrap();
            let password = service["environment"].to_string().contains("/run/secrets/");
            assert_eq!(password, !granted.is_empty(), "{service}");
        }
    }
}

fn stack_check(dir: &Path) -> Output {
    stack_check_with(dir, &[])
}

fn stack_check_with(dir: &Path, more: &[&str]) -> Output {
    let mut command = program::command("orket-backend", dir);
    command.args(["stack", "check"]).arg(dir).args(more);
    command.output().unwrap()
}

#[test]
fn an_author_is_told_what_would_be_run_or_what_stands_against_it() {
    let said = stack_check(repository(&[("compose.yaml", WEB)]).path());
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success());
    assert_eq!(
        text,
        "compose.yaml: ok\n  db: redis:7.4.1\n  web: nginx:1.27.2, port 80 published on 127.0.0.1 as frontend, after db\n  other: a:1\n  key: a random credential in /run/secrets/key\n"
    );
    let hostile = WEB.replace(
        "    image: a:1\n",
        "    image: a:1\n    privileged: true\n    pid: host\n",
    );
    let said = stack_check(repository(&[("compose.yaml", &hostile)]).path());
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(!said.status.success() && said.stdout.is_empty());
    for place in [
        "compose.yaml:10:5: error: [privilege]",
        "compose.yaml:11:5: error: [host-namespace]",
    ] {
        assert!(text.contains(place), "{text}");
    }
}

#[test]
fn an_author_is_told_which_registry_is_not_asked_and_an_operator_may_list_it() {
    let web = |image: &str| format!("services:\n  web:\n    image: {image}\n");
    let built = "services:\n  web:\n    build: .\n";
    let inside = "127.0.0.1:5000/x:1";
    let chosen =
        |image: &str| format!("[stack]\ncompose = \"c.yaml\"\nimages = {{ web = \"{image}\" }}\n");
    let template =
        "[stack]\ntemplate = \"csharp-razor-ef\"\nimages = { api = \"127.0.0.1:5000/x:1\" }\n";
    let cases: [(Vec<(&str, String)>, &str); 5] = [
        (
            vec![("compose.yaml", web(inside))],
            "compose.yaml:3:12: error: [image] `image` must not come from `127.0.0.1:5000`",
        ),
        (
            vec![
                ("compose.yaml", built.into()),
                ("Dockerfile", format!("FROM {inside}\n")),
            ],
            "web: Dockerfile:1: the image `127.0.0.1:5000/x:1` must not come from",
        ),
        (
            vec![
                ("compose.yaml", built.into()),
                (
                    "Dockerfile",
                    format!("FROM scratch\nCOPY --from={inside} /a /b\n"),
                ),
            ],
            "web: Dockerfile:2: the image `127.0.0.1:5000/x:1` must not come from",
        ),
        (
            vec![
                (".orket.toml", chosen(inside)),
                ("c.yaml", web("127.0.0.1:5000/y:1")),
            ],
            ".orket.toml:3:10: error: `images.web` must not come from `127.0.0.1:5000`",
        ),
        (
            vec![(".orket.toml", template.into())],
            ".orket.toml:3:10: error: `images.api` must not come from `127.0.0.1:5000`",
        ),
    ];
    let config = tempfile::tempdir().unwrap();
    let path = config.path().join("backend.toml");
    let list = "[sandboxes.docker]\nregistries = [\"127.0.0.1:5000\", \"docker.io\"]\n";
    fs::write(&path, list).unwrap();
    let with = ["--config", path.to_str().unwrap()];
    for (files, words) in &cases {
        let files: Vec<_> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
        let dir = repository(&files);
        let said = stack_check(dir.path());
        let text = String::from_utf8(said.stderr).unwrap();
        assert!(!said.status.success() && text.contains(words), "{text}");
        let said = stack_check_with(dir.path(), &with);
        let text = String::from_utf8(said.stderr).unwrap();
        assert!(said.status.success(), "{files:?}: {text}");
    }
    // What is listed is all there is, for stacks that are built in as well.
    fs::write(&path, list.replace(", \"docker.io\"", "")).unwrap();
    for (files, words) in [
        (
            [("compose.yaml", web("redis:7.4.1"))],
            "compose.yaml:3:12: error: [image] `image` must not come from `docker.io`",
        ),
        (
            [(".orket.toml", template.into())],
            "csharp-razor-ef: error: service `db`: `image` must not come from `docker.io`",
        ),
    ] {
        let dir = repository(&files.each_ref().map(|(n, t)| (*n, t.as_str())));
        let said = stack_check_with(dir.path(), &with);
        let text = String::from_utf8(said.stderr).unwrap();
        assert!(!said.status.success() && text.contains(words), "{text}");
    }
}

#[test]
fn no_name_of_a_repository_gives_orders_to_a_terminal() {
    let manifest = "[stack]\ncompose = \"\\u001b[31mX\"\n";
    let compose = "services:\n  a:\n    build: .\n";
    let dirs = [
        repository(&[(".orket.toml", manifest)]),
        repository(&[(".orket.toml", &manifest.replace("001b", "202e"))]),
        repository(&[("compose.yaml", compose), ("Dockerfile", "FROM scratch\n")]),
    ];
    // No file that could be packed: a socket.
    let odd = dirs[2].path().join("\u{1b}[31mX\u{202e}");
    let _socket = std::os::unix::net::UnixListener::bind(odd).unwrap();
    for dir in dirs {
        let said = stack_check(dir.path());
        let text = String::from_utf8(said.stderr).unwrap();
        assert!(!said.status.success() && text.contains("[31mX"), "{text:?}");
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }
}
