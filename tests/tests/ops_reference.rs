//! The reference pages that are made from the code are what the code says.
//!
//! `ORKET_WRITE_REFERENCE=1 cargo test -p orket-tests ops_reference` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use orket_shared::metrics::Declared;
use orket_tests::program;
use orket_tests::repository::{read, root};
use regex::Regex;

mod backend;
mod gateway;

const MADE: &str = "<!-- Made from the code by tests/tests/ops_reference.rs; do not edit. -->\n";

/// Compares a page with what it should be, or writes it when asked to.
fn hold(page: &str, text: &str) {
    let path = root().join("docs/reference").join(page);
    if std::env::var_os("ORKET_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = if path.is_file() {
        read(&path)
    } else {
        String::new()
    };
    assert!(
        found == text,
        "docs/reference/{page} is not what the code says; run\n    ORKET_WRITE_REFERENCE=1 cargo test -p orket-tests ops_reference"
    );
}

/// The doc comment of every variant of an enum, by the variant's name.
fn variants(source: &str, name: &str) -> Vec<(String, String)> {
    let from = source
        .find(&format!("pub enum {name} {{"))
        .expect("the enum");
    let mut found = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    for line in source[from..].lines().skip(1).map(str::trim) {
        if line == "}" {
            break;
        } else if let Some(text) = line.strip_prefix("///") {
            words.push(text.trim());
        } else if let Some(variant) = line.strip_suffix(',') {
            found.push((variant.to_owned(), words.join(" ")));
            words.clear();
        }
    }
    found
}

/// A page of metrics: its words, every metric, every label.
fn page_of_metrics(words: &str, table: &[Declared]) -> String {
    let mut page = format!("{words}\n| name | type | counts | labels |\n|---|---|---|---|\n");
    let mut labels: Vec<(&str, &str, Vec<String>)> = Vec::new();
    let mut names = BTreeSet::new();
    for metric in table {
        let name = metric.exposed();
        let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(is_plain, "{name} is no name of the convention");
        assert!(names.insert(name.clone()), "{name} is declared twice");
        let (help, ends) = (metric.help, metric.help.ends_with('.'));
        assert!(!help.is_empty() && !ends, "{name}: {help:?}");
        let by: Vec<_> = metric
            .labels
            .iter()
            .map(|l| format!("`{}`", l.name))
            .collect();
        writeln!(
            page,
            "| `{name}` | {} | {} | {} |",
            metric.kind,
            metric.help,
            by.join(" ")
        )
        .unwrap();
        for label in metric.labels {
            let known = labels
                .iter_mut()
                .find(|(l, meaning, _)| *l == label.name && *meaning == label.meaning);
            match known {
                Some((.., users)) => users.push(format!("`{name}`")),
                None => labels.push((label.name, label.meaning, vec![format!("`{name}`")])),
            }
        }
    }
    page.push_str("\n## Labels\n| label | values | of |\n|---|---|---|\n");
    for (label, meaning, users) in labels {
        writeln!(page, "| `{label}` | {meaning} | {} |", users.join(" ")).unwrap();
    }
    page.push_str("\nA histogram `X` is exposed as `X_bucket{le}`, `X_sum` and `X_count`.\n");
    page
}

/// A command's help, and that of its subcommands.
async fn help(program_name: &str, arguments: &[&str]) -> String {
    let mut command = program::command(program_name, root());
    command.args(arguments).arg("--help");
    let ended = program::run(command).await;
    assert!(ended.status.success(), "{}", ended.output());
    let text: Vec<&str> = ended.stdout.trim_end().lines().map(str::trim_end).collect();
    text.join("\n")
}

#[tokio::test]
async fn the_page_of_commands_is_what_the_programs_say() {
    let mut page = format!("# Commands\n{MADE}\nWhat the programs say to `--help`.\n");
    let listed = Regex::new(r"(?m)^  ([a-z-]+)  ").unwrap();
    for name in ["orket-gateway", "orket-backend"] {
        let own = help(name, &[]).await;
        write!(page, "\n## {name}\n```text\n{own}\n```\n").unwrap();
        for found in listed.captures_iter(&own) {
            let command = &found[1];
            if command != "help" {
                let text = help(name, &[command]).await;
                write!(page, "\n### {name} {command}\n```text\n{text}\n```\n").unwrap();
                let below = text.split_once("Commands:\n").map_or("", |(_, rest)| rest);
                for found in listed.captures_iter(below).filter(|f| &f[1] != "help") {
                    let text = help(name, &[command, &found[1]]).await;
                    let under = format!("{name} {command} {}", &found[1]);
                    write!(page, "\n#### {under}\n```text\n{text}\n```\n").unwrap();
                }
            }
        }
    }
    hold("commands.md", &page);
}

#[test]
fn doc_comments_are_read_as_they_are_written() {
    let source =
        "pub enum A {\n    /// One,\n    /// and on.\n    First,\n    /// Two.\n    Second,\n}\n";
    let read = variants(source, "A");
    let words: Vec<&str> = read.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(words, ["One, and on.", "Two."]);
}

#[test]
fn the_page_on_testing_lists_every_stand_in() {
    let source = read(&root().join("tests/tests/guards/stand_ins.rs"));
    let from = source.find("const ALLOWED").expect("the list");
    let list = &source[from..from + source[from..].find("];").expect("its end")];
    let place = Regex::new(r#"(?s)\(\s*"([^"]+\.rs)",\s*"([^"]+)""#).unwrap();
    let page = read(&root().join("docs/TESTING.md"));
    let rows: Vec<String> = place
        .captures_iter(list)
        .map(|found| format!("| `{}` | {} |", &found[1], &found[2]))
        .collect();
    assert!(!rows.is_empty());
    for row in &rows {
        assert!(page.contains(row), "docs/TESTING.md lacks: {row}");
    }
    let listed = page
        .lines()
        .filter(|line| line.starts_with("| `") && line.contains(".rs` | "))
        .count();
    assert_eq!(listed, rows.len(), "docs/TESTING.md lists more");
}

#[test]
fn the_page_on_testing_names_every_suite() {
    let all = read(&root().join("tests/tests/all.rs"));
    let page = read(&root().join("docs/TESTING.md"));
    for suite in all
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
    {
        assert!(
            page.contains(&format!("`{suite}`")),
            "docs/TESTING.md does not name {suite}"
        );
    }
}
