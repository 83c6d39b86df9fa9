//! Stacks: what of a compose file is taken, what is refused and where, and what reaches the compose
//! command.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use orket_backend::sandbox::{
    spec::{Plan, Spec},
    stack::{
        self, Limits, Owner, Rendered,
        compose::{self, Stack},
        rule::Rule,
        table::{ALLOWED, REFUSED},
    },
};
use orket_tests::{
    corpus,
    repository::{files_of, read, root},
};
use serde_json::Value;

mod bounds;
mod command;
mod fuzz;
mod invariants;
mod repository;

const FRIENDLY: &str = "tests/corpus/compose/friendly";
const LIMITS: Limits = Limits {
    memory: 1 << 30,
    cpus: 1.0,
    processes: 256,
    open_files: 4096,
    output: 1 << 20,
};

/// What the compose command would get of a stack.
fn rendered(stack: &Stack) -> Rendered {
    let mut services = stack.services.clone();
    let id = "sbx_01ARZ3NDEKTSV4RRFFQ69G5FAV";
    stack::name_builds(id, &mut services);
    let mut port = 8000;
    for service in &mut services {
        if service.role.is_some() {
            port += 1;
            service.port = Some(port);
        }
    }
    let plan = Plan {
        id: id.into(),
        workdirs: Vec::new(),
        repositories: BTreeMap::new(),
        services,
        secrets: stack.secrets.clone(),
        dir: "/box".into(),
    };
    let owner = Owner {
        instance: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
        epoch: 7,
    };
    stack::render(&plan, &owner, &LIMITS)
}

fn json(rendered: &Rendered) -> Value {
    // Readers of YAML refuse these as they are, or take them for ends of lines.
    let odd = |c: char| {
        matches!(
            c,
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
    };
    assert!(!rendered.compose.contains(odd), "{}", rendered.compose);
    serde_json::from_str(&rendered.compose).unwrap()
}

/// A stack that could be made, by the rules for all sandboxes.
fn check(stack: &Stack) -> Result<(), String> {
    let spec = Spec {
        name: None,
        build_id: None,
        services: stack.services.clone(),
        secrets: stack.secrets.clone(),
        ttl: std::time::Duration::from_secs(1),
    };
    spec.check().map_err(|error| error.to_string())
}

/// A template with images for the application.
fn template(name: &str) -> Stack {
    let mut images = BTreeMap::from([("api".to_owned(), "acme/api:1.0".to_owned())]);
    if name != "csharp-razor-ef" {
        images.insert("frontend".into(), "acme/frontend:1.0".into());
    }
    stack::template::stack(name, &images).unwrap()
}

fn friendly() -> Vec<(String, String)> {
    let files = files_of(FRIENDLY, "yaml");
    assert!(files.len() >= 15, "{}", files.len());
    let named = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| (named(path), read(path))).collect()
}

#[test]
fn every_hostile_file_is_refused_for_its_reason_at_its_line() {
    let folder = corpus::folder().join("compose");
    let index = read(&folder.join("hostile.tsv"));
    let (mut wrong, mut seen, mut rules) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for row in index.lines() {
        let columns: Vec<_> = row.split('\t').collect();
        let [name, rule, line] = columns[..] else {
            panic!("{row}");
        };
        let path = folder.join(format!("hostile/{name}.yaml"));
        seen.insert(path.clone());
        rules.insert(rule);
        let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        match compose::read(&text) {
            Ok(_) => wrong.push(format!("{name}: accepted")),
            Err(findings) => {
                let found: Vec<_> = findings
                    .iter()
                    .map(|found| (found.rule.name(), found.line(&text)))
                    .collect();
                if !found.contains(&(rule, line.parse().unwrap())) {
                    wrong.push(format!("{name}: {found:?}, not {rule} at {line}"));
                }
                for finding in &findings {
                    let shown = finding.render("compose.yaml", &text);
                    assert!(shown.starts_with("compose.yaml:"), "{shown}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        seen,
        files_of("tests/corpus/compose/hostile", "yaml")
            .into_iter()
            .collect(),
        "the index names every file"
    );
    let all: BTreeSet<_> = Rule::ALL.map(Rule::name).into();
    assert_eq!(rules, all, "there is a file for every rule");
}

#[test]
fn every_key_that_is_refused_is_tried_wherever_a_key_may_stand() {
    let text = "services:\n  web:\n    image: a:1\n    deploy: {}\n    KEY\nvolumes:\n  v: {}\n";
    let keys = REFUSED
        .iter()
        .flat_map(|refused| refused.keys.iter().map(move |key| (*key, refused.rule)));
    for (name, rule) in keys {
        for key in [name.to_owned(), format!("'{name}'")] {
            let text = text.replace("KEY", &format!("{key}: ~"));
            let known = name == "configs" || name == "include";
            let found = compose::read(&text).unwrap_err();
            assert!(
                known || found.iter().any(|f| f.rule == rule),
                "{key}: {found:?}"
            );
        }
    }
    let unique: BTreeSet<_> = ALLOWED.iter().map(|allowed| allowed.path).collect();
    assert_eq!(unique.len(), ALLOWED.len());
}

#[test]
fn friendly_files_are_taken_and_what_is_rendered_holds_the_rules() {
    for (name, text) in friendly() {
        let stack = compose::read(&text).unwrap_or_else(|findings| {
            let shown: String = findings.iter().map(|f| f.render(&name, &text)).collect();
            panic!("{shown}");
        });
        check(&stack).unwrap_or_else(|error| panic!("{name}: {error}"));
        let rendered = rendered(&stack);
        let broken = invariants::broken(&json(&rendered));
        assert!(
            broken.is_empty(),
            "{name}: {broken:?}\n{}",
            rendered.compose
        );
    }
}

#[test]
fn the_drop_in_for_containers_gives_the_engine_back_and_nothing_else() {
    let hidden = |file: &str| -> BTreeSet<String> {
        let text = read(&root().join("deploy/systemd").join(file));
        let lists = text
            .lines()
            .filter_map(|line| line.strip_prefix("InaccessiblePaths="));
        lists
            .flat_map(str::split_whitespace)
            .map(str::to_owned)
            .collect()
    };
    let (unit, containers) = (
        hidden("orket-backend.service"),
        hidden("orket-backend.service.d/containers.conf"),
    );
    assert!(containers.is_subset(&unit), "{containers:?}");
    let given: Vec<_> = unit.difference(&containers).collect();
    assert!(
        given.iter().all(|path| ["docker", "containerd", "podman"]
            .iter()
            .any(|engine| path.contains(engine))),
        "{given:?}"
    );
    assert!(!given.is_empty());
}
