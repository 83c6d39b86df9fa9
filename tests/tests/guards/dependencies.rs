//! Who may depend on whom.

use cargo_metadata::{Metadata, MetadataCommand};
use orket_tests::repository::{self, root};

/// Crates of authentication and of the edge: the inside has no use for them.
const NOT_INSIDE: &[&str] = &[
    "hmac",
    "subtle",
    "governor",
    "secrecy",
    "jsonwebtoken",
    "argon2",
    "orket-gateway",
];
/// Beginnings of names of such crates.
const NOT_INSIDE_FAMILIES: &[&str] = &["pingora"];
/// All that the shared crate may depend on: nothing that does I/O.
const SHARED_MAY: &[&str] = &[
    "parking_lot",
    "prometheus-client",
    "serde",
    "serde_json",
    "ulid",
];
/// What the shared crate's code may not name.
const SHARED_MAY_NOT: &[&str] = &[
    "std::fs",
    "std::net",
    "std::io",
    "std::process",
    "std::env",
    "std::thread",
    "std::os",
    "tokio",
    "File::",
    "TcpStream",
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo metadata")
}

/// The direct dependencies of a member, of every kind.
fn direct(metadata: &Metadata, member: &str) -> Vec<String> {
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == member);
    let package = package.unwrap_or_else(|| panic!("no member {member}"));
    package
        .dependencies
        .iter()
        .map(|dependency| dependency.name.clone())
        .collect()
}

fn not_inside(names: &[String]) -> Vec<&String> {
    names
        .iter()
        .filter(|name| {
            NOT_INSIDE.contains(&name.as_str())
                || NOT_INSIDE_FAMILIES
                    .iter()
                    .any(|family| name.starts_with(family))
        })
        .collect()
}

#[test]
fn the_backend_depends_on_nothing_of_authentication() {
    let names = direct(&metadata(), "orket-backend");
    assert!(!names.is_empty());
    assert_eq!(not_inside(&names), Vec::<&String>::new());
}

#[test]
fn this_guard_can_fail() {
    let names = direct(&metadata(), "orket-gateway");
    for expected in ["hmac", "subtle", "pingora-core", "governor"] {
        assert!(
            not_inside(&names).iter().any(|name| *name == expected),
            "{expected}"
        );
    }
}

#[test]
fn the_gateway_knows_nothing_of_the_backend() {
    let names = direct(&metadata(), "orket-gateway");
    assert!(
        !names
            .iter()
            .any(|name| name == "orket-backend" || name == "rusqlite"),
        "{names:?}"
    );
}

#[test]
fn the_shared_crate_does_no_io() {
    let names = direct(&metadata(), "orket-shared");
    let more: Vec<&String> = names
        .iter()
        .filter(|name| !SHARED_MAY.contains(&name.as_str()))
        .collect();
    assert!(
        more.is_empty(),
        "orket-shared depends on more than {SHARED_MAY:?}: {more:?}"
    );
    for path in repository::files_of("shared/src", "rs") {
        let code = repository::code(&repository::read(&path));
        for word in SHARED_MAY_NOT {
            assert!(
                !code.contains(word),
                "{} names {word}",
                repository::name(&path)
            );
        }
    }
}
