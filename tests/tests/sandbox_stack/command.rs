//! What the real compose command makes of our files.

use std::process::Command;

use orket_backend::sandbox::stack::{
    Rendered,
    compose::{self, Stack},
    template::TEMPLATES,
};
use serde_json::Value;

use super::{friendly, rendered, template};

/// The compose commands of this machine, with the one that the tests are to use.
fn commands() -> Vec<Vec<String>> {
    let found = [&["docker-compose"][..], &["docker", "compose"]];
    let found = found.map(|words| words.iter().map(|word| (*word).to_owned()).collect());
    let mut forms: Vec<Vec<String>> = found.into();
    if let Some(named) = orket_tests::engine::compose() {
        assert!(there(&named), "ORKET_TEST_COMPOSE does not answer");
        forms.push(named);
    }
    let found: Vec<_> = forms.into_iter().filter(|words| there(words)).collect();
    if found.is_empty() {
        let expected = std::env::var("ORKET_EXPECT_DOCKER").is_ok_and(|set| set == "1");
        assert!(!expected, "a compose command is expected, and none answers");
        eprintln!(
            "SKIPPED: no compose command answers, so it was not asked what it thinks of our files"
        );
    }
    found
}

fn there(words: &[String]) -> bool {
    let asked = Command::new(&words[0])
        .args(&words[1..])
        .arg("version")
        .output();
    asked.is_ok_and(|said| said.status.success())
}

/// What `config` says of it, where it finds no fault.
fn config(words: &[String], rendered: &Rendered) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("compose.json");
    std::fs::write(&file, &rendered.compose).unwrap();
    let ran = Command::new(&words[0])
        .args(&words[1..])
        .arg("-f")
        .arg(&file)
        .arg("config")
        .env("HOME", "/somewhere")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{said}\n{}", rendered.compose);
    assert!(
        !said.contains("WARNING") && !said.contains("warning"),
        "{said}"
    );
    String::from_utf8(ran.stdout).unwrap()
}

fn stacks() -> Vec<(String, Stack)> {
    let own = friendly().into_iter().map(|(name, text)| {
        let stack = compose::read(&text).unwrap();
        (name, stack)
    });
    let built_in = TEMPLATES
        .iter()
        .map(|t| (t.name.to_owned(), template(t.name)));
    own.chain(built_in).collect()
}

#[test]
fn the_compose_command_takes_every_file_and_reads_no_more_into_it() {
    for words in commands() {
        for (name, stack) in stacks() {
            let rendered = rendered(&stack);
            let file: Value = serde_json::from_str(&rendered.compose).unwrap();
            let said = config(&words, &rendered);
            for line in said.lines().map(str::trim) {
                let line = line.trim_start_matches("- ");
                let (key, value) = line.split_once(": ").unwrap_or((line, ""));
                assert!(
                    ![
                        "privileged",
                        "pid",
                        "ipc",
                        "network_mode",
                        "devices",
                        "cap_add",
                        "build",
                        "env_file"
                    ]
                    .contains(&key.trim_end_matches(':')),
                    "{name}: {line}"
                );
                assert!(!(key == "type" && value != "volume"), "{name}: {line}");
                if key == "file" {
                    assert!(value.starts_with("/box/credentials/"), "{name}: {line}");
                }
            }
            let ports: usize = file["services"]
                .as_object()
                .unwrap()
                .values()
                .filter(|service| service["ports"].is_array())
                .count();
            let local =
                said.matches("127.0.0.1:80").count() + said.matches("host_ip: 127.0.0.1").count();
            assert_eq!(local, ports, "{name}: {said}");
            assert!(
                !said.contains("/somewhere") && !said.contains("0.0.0.0:"),
                "{name}: {said}"
            );
        }
    }
}
