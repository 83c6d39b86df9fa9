//! The tests that the page on admission names are there.

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
