//! The repository as files, for the tests that guard it.

use std::path::{Path, PathBuf};

/// Folders that are not the repository's own: built, made at run time, or an operator's.
const NOT_OURS: [&str; 5] = [".git", "target", ".orket", "product", "node_modules"];

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the repository")
}

/// All files under `folder` (a path from the root, `""` for all), in order.
pub fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort();
    found
}

/// All files under `folder` whose name ends in `.extension`.
pub fn files_of(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut files = files(folder);
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files
}

/// A path as it is written in the repository: from the root, with `/`.
pub fn name(path: &Path) -> String {
    path.strip_prefix(root())
        .unwrap_or(path)
        .to_string_lossy()
        .replace('\\', "/")
}

/// The text of a file.
pub fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        // In a worktree `.git` is a file.
        if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_dir() {
            walk(&path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

/// Rust source with comments and the contents of string literals blanked out, lines kept: what is
/// left is code.
pub fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").map_or(rest.len(), |end| end + 2);
            keep_lines(&rest[..end], &mut code);
            at += end;
        } else if let Some(length) = literal(rest) {
            code.push_str("\"\"");
            keep_lines(&rest[..length], &mut code);
            at += length;
        } else {
            let character = rest.chars().next().expect("not at the end");
            code.push(character);
            at += character.len_utf8();
        }
    }
    code
}

fn keep_lines(text: &str, code: &mut String) {
    code.extend(text.chars().filter(|c| *c == '\n'));
}

/// The length of the string literal that `text` begins with, if it does.
fn literal(text: &str) -> Option<usize> {
    let hashes = |text: &str| text.bytes().take_while(|b| *b == b'#').count();
    if let Some(raw) = text.strip_prefix("r").or_else(|| text.strip_prefix("br")) {
        let count = hashes(raw);
        if raw[count..].starts_with('"') {
            let prefix = text.len() - raw.len() + count + 1;
            let end = format!("\"{}", "#".repeat(count));
            let length = text[prefix..]
                .find(&end)
                .map_or(text.len(), |at| prefix + at + end.len());
            return Some(length);
        }
    }
    if text.starts_with('"') {
        let mut escaped = false;
        for (at, character) in text.char_indices().skip(1) {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return Some(at + 1),
                _ => {}
            }
        }
        return Some(text.len());
    }
    // A quotation mark as a character is no literal's beginning.
    text.starts_with("'\"'")
        .then_some(3)
        .or_else(|| text.starts_with("'\\\"'").then_some(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_is_neither_comment_nor_text() {
        let source = "let a = \"text \\\" more\"; // comment\nlet b = r#\"raw \" text\"#; /* x\ny */ c('\"')";
        let code = code(source);
        for gone in ["text", "more", "comment", "raw", "x\n"] {
            assert!(!code.contains(gone), "{gone}: {code}");
        }
        assert!(code.contains("let a") && code.contains("let b") && code.contains("c("));
        assert_eq!(code.lines().count(), source.lines().count());
    }
}
