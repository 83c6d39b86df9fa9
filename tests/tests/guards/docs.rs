//! The docs: every link leads somewhere.

use std::path::Path;

use orket_tests::repository::{files_of, name, read, root};
use regex::Regex;

/// A Markdown text without its code blocks and code spans.
fn prose(text: &str) -> String {
    let span = Regex::new("`[^`]*`").unwrap();
    let mut within = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            within = !within;
        } else if !within {
            prose.push_str(&span.replace_all(line, "``"));
        }
        prose.push('\n');
    }
    prose
}

/// The anchors of a page, as the usual renderers make them from headings.
fn anchors(text: &str) -> Vec<String> {
    let mut within = false;
    let mut anchors = Vec::new();
    for line in text.lines() {
        within ^= line.trim_start().starts_with("```");
        if !within && line.starts_with('#') {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let anchor: String = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect();
            anchors.push(anchor);
        }
    }
    anchors
}

/// The links of a page that lead nowhere.
fn broken(page: &Path, text: &str) -> Vec<String> {
    let links = Regex::new(r"\[[^\]]*\]\(([^)\s]+)(?:\s+[^)]*)?\)").unwrap();
    let mut broken = Vec::new();
    let prose = prose(text);
    for link in links.captures_iter(&prose).map(|found| found[1].to_owned()) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (place, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let target = match place {
            "" => page.to_owned(),
            place => page.parent().unwrap().join(place),
        };
        if !target.exists() {
            broken.push(format!("{link}: no such file"));
        } else if !target.starts_with(root()) {
            broken.push(format!("{link}: leads out of the repository"));
        } else if !anchor.is_empty() && target.is_file() {
            let headings = if place.is_empty() {
                anchors(text)
            } else {
                anchors(&read(&target))
            };
            if !headings.contains(&anchor.to_owned()) {
                broken.push(format!("{link}: no such heading"));
            }
        }
    }
    broken
}

#[test]
fn every_link_of_every_page_leads_somewhere() {
    let mut all = Vec::new();
    for page in files_of("", "md") {
        for link in broken(&page, &read(&page)) {
            all.push(format!("{}: {link}", name(&page)));
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn a_broken_link_is_found() {
    let page = root().join("tests/corpus/README.md");
    assert_eq!(
        broken(
            &page,
            "[a](nowhere.md) [b](../Cargo.toml) [c](https://example.com)"
        )
        .len(),
        1
    );
    assert_eq!(broken(&page, "# Here\n[a](#here) [b](#there)").len(), 1);
    assert_eq!(
        broken(&page, "```\n[a](nowhere.md)\n```\n`[b](nowhere.md)`").len(),
        0
    );
}

/// The pages an operator is promised.
const PAGES: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "docs/SECURITY.md",
    "docs/RUNBOOK.md",
    "docs/TESTING.md",
    "docs/architecture.md",
];

#[test]
fn the_promised_pages_exist() {
    let missing: Vec<&&str> = PAGES
        .iter()
        .filter(|page| !root().join(page).is_file())
        .collect();
    assert!(missing.is_empty(), "still to be written: {missing:?}");
}
