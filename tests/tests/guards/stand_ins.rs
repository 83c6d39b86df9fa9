//! Nothing is stood in for, but in the places listed here.

use orket_tests::repository::{code, files_of, name, read, root};
use regex::Regex;

/// The only places where something stands in for the real thing, and why it cannot be had there.
/// `docs/TESTING.md` says the same.
const ALLOWED: &[(&str, &str)] = &[
    (
        "tests/src/upstream.rs",
        "only a server that writes down what it gets can show what reached the inside",
    ),
    (
        "tests/tests/sandbox/service.rs",
        "a sandbox runs someone's service: the test brings one, as a program of its own",
    ),
    (
        "tests/images/service.rs",
        "the same in an image, which can hold nothing but one program of its own",
    ),
    (
        "tests/src/engine.rs",
        "a relay before the real engine: only so can it be cut off or hang for one test alone",
    ),
    (
        "backend/src/sandbox/health.rs",
        "a health probe asks a service: one that answers and one that does not have to be there",
    ),
    (
        "tests/benches/edge/main.rs",
        "a measure of the gateway needs an inside that costs nothing",
    ),
];

/// Words of stand-ins, as parts of names in code.
const WORDS: &str = r"(?i)\b\w*(mock|fake|faux|dummy|test_?double)\w*\b|\b(\w+_)?stub(s|bed|bing)?(_\w+)?\b|\bStub(?-i:[A-Z])\w*";
/// Test code that takes connections stands in for a server. (A bound port that takes none only
/// occupies it.)
const SERVERS: &str = r"\.(accept|incoming|recv_from)\(\)|\baxum::serve\b|\bserve_connection\b";

/// The first word of a stand-in in a source, with its line.
fn stand_in(source: &str, pattern: &Regex) -> Option<(usize, String)> {
    code(source).lines().enumerate().find_map(|(at, line)| {
        pattern
            .find(line)
            .map(|found| (at + 1, found.as_str().to_owned()))
    })
}

/// The part of a source that is test code: all of it in the crate of tests, elsewhere what stands
/// behind `#[cfg(test)]`.
fn test_code(path: &str, source: &str) -> String {
    if path.starts_with("tests/") || path.contains("/tests/") {
        return source.to_owned();
    }
    match source.find("#[cfg(test)]") {
        // The lines before are kept empty, so that numbers stay right.
        Some(at) => "\n".repeat(source[..at].matches('\n').count()) + &source[at..],
        None => String::new(),
    }
}

fn allowed(path: &str) -> bool {
    ALLOWED.iter().any(|(place, _)| *place == path)
}

#[test]
fn nothing_is_stood_in_for_outside_the_listed_places() {
    let (words, servers) = (Regex::new(WORDS).unwrap(), Regex::new(SERVERS).unwrap());
    let mut found = Vec::new();
    for path in files_of("", "rs") {
        let (name, source) = (name(&path), read(&path));
        if allowed(&name) {
            continue;
        }
        if let Some((line, word)) = stand_in(&source, &words) {
            found.push(format!("{name}:{line} names {word}"));
        }
        if let Some((line, word)) = stand_in(&test_code(&name, &source), &servers) {
            found.push(format!("{name}:{line} makes a server of its own: {word}"));
        }
    }
    assert!(
        found.is_empty(),
        "test against the real thing, or list the place in ALLOWED with its reason:\n{}",
        found.join("\n")
    );
}

#[test]
fn no_manifest_depends_on_a_crate_of_stand_ins() {
    let words = Regex::new(WORDS).unwrap();
    for path in files_of("", "toml")
        .into_iter()
        .filter(|path| path.ends_with("Cargo.toml"))
    {
        for line in read(&path)
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default())
        {
            assert!(!words.is_match(line), "{}: {line}", name(&path));
        }
    }
}

#[test]
fn every_listed_place_exists() {
    for (place, reason) in ALLOWED {
        assert!(
            root().join(place).is_file(),
            "{place} is gone: take it off the list"
        );
        assert!(!reason.is_empty());
    }
}

#[test]
fn this_guard_can_fail() {
    let (words, servers) = (Regex::new(WORDS).unwrap(), Regex::new(SERVERS).unwrap());
    for source in [
        "struct MockStore;",
        "fn fake_clock() {}",
        "use wiremock::MockServer;",
        "let stubbed = 1;",
        "struct StubStore;",
        "fn store_stub() {}",
    ] {
        assert!(stand_in(source, &words).is_some(), "{source}");
    }
    assert_eq!(
        stand_in("\nlet a = 1;\nlet mocked = 2;", &words),
        Some((3, "mocked".to_owned()))
    );
    for source in [
        "// a mock is not wanted here",
        "let text = \"fake\";",
        "/* stub */ let a = 1;",
        "let stubborn = 1;",
    ] {
        assert_eq!(stand_in(source, &words), None, "{source}");
    }
    let server =
        "fn main() { a.accept() }\n#[cfg(test)]\nmod tests { fn t() { listener.incoming() } }";
    let found = stand_in(&test_code("gateway/src/a.rs", server), &servers);
    assert_eq!(found, Some((3, ".incoming()".to_owned())));
    assert!(stand_in(&test_code("tests/tests/a.rs", server), &servers).is_some());
}
