//! Every example an operator may copy loads: the `toml` blocks of the docs and the files in
//! `deploy/`.
//!
//! A block says whose it is: ```` ```toml gateway ```` or ```` ```toml backend ````. Secrets that an
//! example refers to are made for the test, strong enough for production.

use std::path::Path;

use orket_tests::gitea::sha256;
use orket_tests::program::Ended;
use orket_tests::repository::{files_of, name, read};
use orket_tests::tls::Authority;
use orket_tests::{backend, gateway};
use regex::{Captures, Regex};
use tempfile::TempDir;

/// Whose an example is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Gateway,
    Backend,
}

/// The `toml` blocks of a page: the line they begin at, whose they are, their text.
fn blocks(page: &str) -> Vec<(usize, Result<Program, String>, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Result<Program, String>, String)> = None;
    for (at, line) in page.lines().enumerate() {
        let fence = line.trim_start();
        match &mut open {
            Some((_, _, text)) if !fence.starts_with("```") => {
                text.push_str(line);
                text.push('\n');
            }
            Some(_) => blocks.extend(open.take()),
            None => {
                if let Some(tag) = fence.strip_prefix("```toml") {
                    let program = match tag.trim() {
                        "gateway" => Ok(Program::Gateway),
                        "backend" => Ok(Program::Backend),
                        other => Err(other.to_owned()),
                    };
                    open = Some((at + 1, program, String::new()));
                } else if fence.starts_with("```") {
                    // Another language: passed over up to its end.
                    open = Some((0, Ok(Program::Gateway), String::new()));
                }
            }
        }
    }
    blocks.retain(|(line, _, _)| *line > 0);
    blocks
}

/// Makes what an example refers to: secret files, variables, digests. Returns the text with its
/// references led to them, and the variables.
fn provided(text: &str, dir: &Path) -> (String, Vec<(String, String)>) {
    let strong = |n: usize| sha256(format!("example {n}").as_bytes());
    let mut made = 0;
    let files = Regex::new(r#"\bfile\s*=\s*"[^"]*""#).unwrap();
    let text = files.replace_all(text, |_: &Captures<'_>| {
        made += 1;
        let path = dir.join(format!("secret-{made}"));
        std::fs::write(&path, strong(made)).unwrap();
        format!("file = {:?}", path.to_string_lossy())
    });
    let certificate = Authority::new("the example's").certificate(&["localhost"]);
    certificate.write(dir);
    std::fs::write(dir.join("ca.pem"), certificate.pem()).unwrap();
    let pem = Regex::new(r#"\b(cert|key|ca)_file\s*=\s*"[^"]*""#).unwrap();
    let text = pem.replace_all(&text, |found: &Captures<'_>| {
        let path = dir.join(format!("{}.pem", &found[1]));
        format!("{}_file = {:?}", &found[1], path.to_string_lossy())
    });
    let digests = Regex::new(r#""sha256:[^"]*""#).unwrap();
    let text = digests.replace_all(&text, |_: &Captures<'_>| {
        made += 1;
        format!("\"sha256:{}\"", strong(made))
    });
    let variables = Regex::new(r#"\benv\s*=\s*"([^"]*)""#).unwrap();
    let env = variables
        .captures_iter(&text)
        .enumerate()
        .map(|(n, found)| (found[1].to_owned(), strong(1000 + n)))
        .collect();
    (text.into_owned(), env)
}

async fn check(program: Program, text: &str) -> Ended {
    let dir = TempDir::new().unwrap();
    match program {
        Program::Gateway => {
            let (text, env) = provided(text, dir.path());
            let path = dir.path().join("example.toml");
            std::fs::write(&path, text).unwrap();
            let env: Vec<(&str, &str)> =
                env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            gateway::run(dir.path(), &["check", path.to_str().unwrap()], &env).await
        }
        Program::Backend => backend::check(dir.path(), text).await,
    }
}

#[tokio::test]
async fn every_toml_block_of_the_docs_loads() {
    let mut wrong = Vec::new();
    for page in files_of("", "md") {
        for (line, program, text) in blocks(&read(&page)) {
            let place = format!("{}:{line}", name(&page));
            match program {
                Err(tag) => wrong.push(format!(
                    "{place}: tag the block ```toml gateway or ```toml backend, not {tag:?}"
                )),
                Ok(program) => {
                    let ended = check(program, &text).await;
                    if !ended.status.success() {
                        wrong.push(format!("{place} ({program:?}):\n{}", ended.output()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_example_in_deploy_loads() {
    let mut wrong = Vec::new();
    let examples: Vec<_> = files_of("deploy", "toml")
        .into_iter()
        .filter(|p| !name(p).starts_with("deploy/stacks/"))
        .collect();
    for path in &examples {
        let place = name(path);
        let program = match (place.contains("gateway"), place.contains("backend")) {
            (true, false) => Program::Gateway,
            (false, true) => Program::Backend,
            (true, true) | (false, false) => {
                wrong.push(format!("{place}: name the file for the program it is for"));
                continue;
            }
        };
        let ended = check(program, &read(path)).await;
        if !ended.status.success() {
            wrong.push(format!("{place}:\n{}", ended.output()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!examples.is_empty(), "deploy/ holds no example policy");
}

#[tokio::test]
async fn an_example_that_does_not_load_is_found() {
    let page = "text\n```toml gateway\nversion = 1\nnonsense = true\n```\n```rust\nlet a = 1;\n```\n```toml\na = 1\n```\n```toml backend\n[nonsense]\n```\n";
    let blocks = blocks(page);
    let lines: Vec<usize> = blocks.iter().map(|(line, _, _)| *line).collect();
    assert_eq!(lines, [2, 9, 12]);
    assert!(blocks[1].1.is_err());
    for (_, program, text) in [&blocks[0], &blocks[2]] {
        let ended = check(*program.as_ref().unwrap(), text).await;
        assert!(
            !ended.status.success() && ended.output().contains("nonsense"),
            "{}",
            ended.output()
        );
    }
}
