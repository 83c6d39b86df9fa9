//! What the sources may not say.

use orket_tests::repository::{self, files, files_of, name, read};

/// Credentials of callers. The inside gets facts, not proofs: its sources need none of these names.
const CREDENTIALS: &[&str] = &[
    "x-api-key",
    "x_api_key",
    "x-gitea-signature",
    "x-gogs-signature",
    "x-forgejo-signature",
    "x-hub-signature",
    "x-gitlab-token",
    "x-webhook-test-token",
    "webhook-signature",
    "proxy-authorization",
    "\"authorization\"",
    "bearer ",
    "orket_api_key",
    "gitea_webhook_secret",
    "orket_webhook_test_token",
    "orket_allow_insecure",
    "orket_enable_webhook_test",
];

/// The credentials that a text names.
fn named(text: &str) -> Vec<&'static str> {
    let text = text.to_lowercase();
    CREDENTIALS
        .iter()
        .copied()
        .filter(|word| text.contains(word))
        .collect()
}

#[test]
fn the_backend_names_no_credential_of_a_caller() {
    let sources = files("backend");
    assert!(sources.len() > 5, "the backend's sources were not found");
    for path in sources {
        let found = named(&read(&path));
        assert!(found.is_empty(), "{} names {found:?}", name(&path));
    }
}

#[test]
fn the_credentials_are_found_where_they_are() {
    let gateway: String = files_of("gateway/src", "rs")
        .iter()
        .map(|path| read(path))
        .collect();
    for word in [
        "x-api-key",
        "x-gitea-signature",
        "orket_api_key",
        "gitea_webhook_secret",
    ] {
        assert!(named(&gateway).contains(&word), "{word}");
    }
}

/// Places of one person's machine: in a repository they are always a mistake. Written in two
/// halves, so that this file does not hold them.
const PLACES: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("/Us", "ers/"),
    ("C:\\Us", "ers"),
];

#[test]
fn no_file_holds_a_path_of_someones_machine() {
    for path in files("") {
        let text = read(&path);
        for (first, second) in PLACES {
            let place = format!("{first}{second}");
            // A path begins where no path goes on: `network/…` is none.
            let found = text.match_indices(&place).find(|(at, _)| {
                text[..*at]
                    .chars()
                    .next_back()
                    .is_none_or(|before| !is_in_a_path(before))
            });
            if let Some((at, _)) = found {
                let line = 1 + text[..at].matches('\n').count();
                panic!("{}:{line} holds {place}", name(&path));
            }
        }
    }
}

fn is_in_a_path(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '.' | '_' | '-' | '}' | '*' | '$' | '~')
}

#[test]
fn no_file_is_named_for_nothing() {
    let nothing = [
        "mod", "utils", "util", "helpers", "helper", "common", "manager", "misc",
    ];
    for path in repository::files_of("", "rs") {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(
            !nothing.contains(&stem.as_str()),
            "{}: name it for what it holds",
            name(&path)
        );
    }
}

#[test]
fn unsafe_code_is_forbidden_everywhere() {
    let manifest = read(&repository::root().join("Cargo.toml"));
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    for member in ["shared", "gateway", "backend", "tests"] {
        let manifest = read(&repository::root().join(member).join("Cargo.toml"));
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{member} has lints of its own"
        );
    }
}
