//! What lets a test kill the backend is in no program that is shipped.

use orket_tests::repository::{files_of, name, read, root};

/// The variable, in two halves: this file is searched, too.
const VARIABLE: (&str, &str) = ("ORKET_BACKEND_", "CRASH_AT");

#[test]
fn only_debug_builds_read_the_variable() {
    let variable = format!("{}{}", VARIABLE.0, VARIABLE.1);
    let module = "backend/src/crash_point.rs";
    for source in files_of("", "rs") {
        let name = name(&source);
        let text = read(&source);
        let code: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let Some(at) = code.find(&variable) else {
            continue;
        };
        if name.starts_with("tests/") {
            continue;
        }
        assert_eq!(name, module, "another source reads {variable}");
        let gate = code
            .find("#[cfg(debug_assertions)]\nmod armed {")
            .expect("the module is for debug builds only");
        assert!(gate < at, "{module} names {variable} outside of it");
    }
    let calls = read(&root().join(module));
    assert!(calls.contains("#[cfg(debug_assertions)]\n        armed::reached(self);"));
}

#[test]
fn no_profile_that_is_shipped_has_debug_assertions() {
    let manifest: toml::Table = read(&root().join("Cargo.toml")).parse().unwrap();
    let profiles = manifest["profile"].as_table().unwrap();
    for name in ["release", "quick"] {
        let profile = profiles[name].as_table().unwrap();
        assert!(!profile.contains_key("debug-assertions"), "{name}");
        let inherits = profile.get("inherits").and_then(toml::Value::as_str);
        assert!(matches!(
            (name, inherits),
            ("release", None) | ("quick", Some("release"))
        ));
    }
    let smoke = read(&root().join("scripts/release-smoke"));
    assert!(
        smoke.contains(VARIABLE.1),
        "the built program is not searched"
    );
}
