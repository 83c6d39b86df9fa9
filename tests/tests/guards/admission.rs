//! The page on admission has every class that has to be refused, with tests that are there and reasons that are known.

use orket_gateway::denial::Reason;
use orket_tests::repository::{read, root};
use regex::Regex;

#[test]
fn every_test_that_the_page_on_admission_names_is_there() {
    let page = read(&root().join("docs/reference/admission.md"));
    let named = Regex::new(r"`([a-z_]+)::([a-z_]+)::([a-z0-9_]+)`").unwrap();
    let mut count = 0;
    for found in named.captures_iter(&page) {
        let file = format!("tests/tests/{}/{}.rs", &found[1], &found[2]);
        let source = read(&root().join(&file));
        let test = Regex::new(&format!(
            r"#\[tokio::test[^\]]*\]\nasync fn {}\(",
            &found[3]
        ))
        .unwrap();
        assert!(test.is_match(&source), "{file} has no test {}", &found[3]);
        count += 1;
    }
    assert!(count > 25, "{count}");
    let rows = page
        .lines()
        .filter(|l| l.starts_with("| ") && !l.contains("---"));
    for row in rows.filter(|l| !l.starts_with("| class") && !l.starts_with("| advisory")) {
        assert!(named.is_match(row), "no test: {row}");
    }
}

/// What a page on strict admission has to speak of, in the words of the page.
const CLASSES: [&str; 30] = [
    "`Content-Length` with `Transfer-Encoding`",
    "`Content-Length` twice",
    "one lone `chunked`",
    "in HTTP/1.0 any",
    "chunk extensions",
    "trailers",
    "bare LF",
    "bare CR",
    "NUL and other controls",
    "folded lines",
    "blanks before the colon",
    "`Host` missing, twice",
    "absolute form with another host",
    "dot segments",
    "empty segments",
    "encoded slashes",
    "backslashes",
    "double encoding",
    "overlong UTF-8",
    "matrix parameters",
    "fragments",
    "a path in other letters",
    "`TRACE`, unknown methods",
    "method and path overrides",
    "a security header twice",
    "`Connection` that names what must not be lost",
    "`Expect` other than `100-continue`",
    "an upgrade where the route has none",
    "a head that is slow",
    "within the unread body of a refused one",
];

#[test]
fn the_page_on_admission_has_every_class_and_no_unknown_reason() {
    let page = read(&root().join("docs/reference/admission.md"));
    let rows: Vec<&str> = page.lines().filter(|l| l.starts_with("| ")).collect();
    for class in CLASSES {
        let found = rows.iter().any(|row| {
            let first = row.split(" | ").next().unwrap_or_default();
            first.contains(class)
        });
        assert!(found, "no row speaks of: {class}");
    }
    let word = Regex::new("`([a-z_]+)`").unwrap();
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        for found in word.captures_iter(cells.get(1).unwrap_or(&"")) {
            if found[1].contains('_') {
                let known = Reason::ALL.iter().any(|r| r.facts().word == &found[1]);
                assert!(known, "no such reason: {} in {row}", &found[1]);
            }
        }
    }
}
