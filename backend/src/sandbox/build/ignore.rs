//! `.dockerignore`: the files that are not sent.

/// Its patterns, in order.
#[derive(Debug, Default)]
pub(super) struct Ignored(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    keeps: bool,
    parts: Vec<String>,
}

impl Ignored {
    /// Reads the file. Classes of characters and escapes are refused: readers differ over them.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut patterns = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.contains(['[', ']', '\\']) {
                return Err(format!(
                    ".dockerignore:{}: `[`, `]` and `\\` are not understood: write `*` and `?`",
                    number + 1
                ));
            }
            let (keeps, path) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let parts: Vec<_> = path
                .split('/')
                .filter(|part| !matches!(*part, "" | "."))
                .map(str::to_owned)
                .collect();
            if parts.is_empty() || parts.iter().any(|part| part == "..") {
                return Err(format!(
                    ".dockerignore:{}: a pattern for paths in the folder is expected",
                    number + 1
                ));
            }
            patterns.push(Pattern { keeps, parts });
        }
        Ok(Self(patterns))
    }

    /// Whether this path is left out: the last pattern that matches it, or a folder it lies in, decides.
    pub(super) fn leaves_out(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let within = |pattern: &Pattern| {
            (1..=parts.len()).any(|length| matches(&pattern.parts, &parts[..length]))
        };
        let last = self.0.iter().rev().find(|pattern| within(pattern));
        last.is_some_and(|pattern| !pattern.keeps)
    }

    /// Whether something in a folder that is left out may be sent all the same.
    pub(super) fn has_exceptions(&self) -> bool {
        self.0.iter().any(|pattern| pattern.keeps)
    }
}

fn matches(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "**" => {
            // Also nothing at all lies between.
            (0..=path.len()).any(|skipped| matches(rest, &path[skipped..]))
        }
        (Some((first, rest)), Some((name, more))) => {
            is_like(first.as_bytes(), name.as_bytes()) && matches(rest, more)
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// One name; `*` is anything, `?` one byte.
fn is_like(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|taken| is_like(rest, &name[taken..])),
        Some((b'?', rest)) => !name.is_empty() && is_like(rest, &name[1..]),
        Some((byte, rest)) => name.first() == Some(byte) && is_like(rest, &name[1..]),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let text =
            "# notes\n/node_modules/\n*.log\n**/secret*\ndocs/**\n!docs/keep.md\n.git\na?c\n";
        let ignored = Ignored::read(text).unwrap();
        for path in [
            "node_modules",
            "node_modules/x/y",
            "a.log",
            "secret",
            "a/b/secret.txt",
            "docs/x.md",
            ".git/config",
            "abc",
        ] {
            assert!(ignored.leaves_out(path), "{path}");
        }
        for path in ["src/a.log", "docs/keep.md", "src/node_modules", "ac", "git"] {
            assert!(!ignored.leaves_out(path), "{path}");
        }
        assert!(ignored.has_exceptions());
        for bad in ["[ab]", "a\\b", "../x", "!", "/"] {
            assert!(Ignored::read(bad).is_err(), "{bad}");
        }
    }
}
