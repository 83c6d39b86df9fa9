//! `.dockerignore`: the files that are not sent.

/// Patterns of one file, and characters of one of them.
const MAX_PATTERNS: usize = 500;
const MAX_LENGTH: usize = 1000;
/// Characters that are compared for all files together: more than any folder needs that may be sent.
const MAX_STEPS: u64 = 1 << 29;

/// Its patterns, in order.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    patterns: Vec<Pattern>,
    steps: u64,
}

#[derive(Debug)]
struct Pattern {
    keeps: bool,
    parts: Vec<Part>,
}

/// What a pattern has between two `/`.
#[derive(Debug)]
enum Part {
    /// Any number of names, also none where more follows.
    Any,
    /// One name: `*` is anything, `?` one character.
    Like(Vec<char>),
}

impl Ignored {
    /// Reads the file. Classes of characters, escapes and `**` beside something else are refused: readers
    /// differ over them.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut patterns = Vec::new();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in (1..).zip(text.lines()) {
            let comment = line.starts_with('#');
            let line = line.trim();
            if line.is_empty() || comment {
                continue;
            }
            let refused = |what: &str| Err(format!(".dockerignore:{number}: {what}"));
            if patterns.len() == MAX_PATTERNS {
                return refused(&format!("up to {MAX_PATTERNS} patterns are read"));
            }
            if line.chars().count() > MAX_LENGTH {
                return refused(&format!("a pattern has up to {MAX_LENGTH} characters"));
            }
            if line.contains(['[', ']', '\\']) {
                return refused("`[`, `]` and `\\` are not understood: write `*` and `?`");
            }
            let (keeps, path) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let names = path.split('/').filter(|name| !matches!(*name, "" | "."));
            if path.split('/').any(|name| name == "..") || names.clone().next().is_none() {
                return refused("a pattern for paths in the folder is expected");
            }
            if names
                .clone()
                .any(|name| name.len() > 2 && name.contains("**"))
            {
                return refused(
                    "`**` stands for folders, alone between two `/`: write `**/` or `*`",
                );
            }
            let part = |name: &str| match name {
                "**" => Part::Any,
                name => Part::Like(name.chars().collect()),
            };
            let parts = names.map(part).collect();
            patterns.push(Pattern { keeps, parts });
        }
        Ok(Self { patterns, steps: 0 })
    }

    /// Whether this path is left out: the last pattern that matches it, or a folder it lies in, decides.
    pub(super) fn leaves_out(&mut self, path: &str) -> Result<bool, String> {
        let names: Vec<Vec<char>> = path.split('/').map(|name| name.chars().collect()).collect();
        let mut last = None;
        for pattern in self.patterns.iter().rev() {
            if pattern.matches(&names, &mut self.steps) {
                last = Some(pattern);
                break;
            }
            if self.steps > MAX_STEPS {
                return Err(".dockerignore: its patterns take too long for so many files: write fewer `*`, or leave whole folders out".to_owned());
            }
        }
        Ok(last.is_some_and(|pattern| !pattern.keeps))
    }

    /// Whether something in a folder that is left out may be sent all the same.
    pub(super) fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.keeps)
    }
}

impl Pattern {
    /// Whether it matches this path or a folder that the path lies in: one pass over the names, with all
    /// places in the pattern that have been come to so far.
    fn matches(&self, names: &[Vec<char>], steps: &mut u64) -> bool {
        let end = self.parts.len();
        let mut places = vec![false; end + 1];
        places[0] = true;
        self.skip(&mut places);
        for name in names {
            let mut next = vec![false; end + 1];
            for (place, part) in self.parts.iter().enumerate() {
                *steps += 1;
                if !places[place] {
                    continue;
                }
                match part {
                    Part::Any if place + 1 == end => next[end] = true,
                    Part::Any => next[place] = true,
                    Part::Like(like) => next[place + 1] |= is_like(like, name, steps),
                }
            }
            self.skip(&mut next);
            if next[end] {
                return true;
            }
            places = next;
        }
        false
    }

    /// Nothing at all may lie between, but there is something in a folder.
    fn skip(&self, places: &mut [bool]) {
        for (place, part) in self.parts.iter().enumerate() {
            if places[place] && matches!(part, Part::Any) && place + 1 < self.parts.len() {
                places[place + 1] = true;
            }
        }
    }
}

/// One name. Only the last `*` is ever taken back, so its length times the pattern's bounds the work.
fn is_like(pattern: &[char], name: &[char], steps: &mut u64) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < name.len() {
        *steps += 1;
        if pattern.get(at) == Some(&'*') {
            at += 1;
            star = Some((at, read));
        } else if pattern
            .get(at)
            .is_some_and(|c| *c == '?' || *c == name[read])
        {
            at += 1;
            read += 1;
        } else if let Some((behind, taken)) = star {
            at = behind;
            read = taken + 1;
            star = Some((behind, read));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    fn leaves_out(text: &str, path: &str) -> bool {
        Ignored::read(text).unwrap().leaves_out(path).unwrap()
    }

    #[test]
    fn the_last_pattern_that_matches_decides() {
        let text =
            "# notes\n/node_modules/\n*.log\n**/secret*\ndocs/**\n!docs/keep.md\n.git\na?c\n";
        let mut ignored = Ignored::read(text).unwrap();
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
            assert!(ignored.leaves_out(path).unwrap(), "{path}");
        }
        for path in ["src/a.log", "docs/keep.md", "src/node_modules", "ac", "git"] {
            assert!(!ignored.leaves_out(path).unwrap(), "{path}");
        }
        assert!(ignored.has_exceptions());
    }

    #[test]
    fn a_pattern_is_read_as_the_builder_reads_it() {
        for (pattern, path, out) in [
            ("*", "a", true),
            ("*", "a/b", true),
            ("*", ".a", true),
            ("*/b", "a/b", true),
            ("*/b", "b", false),
            ("*/b", "a/x/b", false),
            ("a*", "a", true),
            ("a*c", "abxc", true),
            ("a*c", "a/c", false),
            ("*a*b", "xaybzb", true),
            ("*a*b", "xaybz", false),
            ("?", "\u{e9}", true),
            ("?", "ab", false),
            ("a?b", "a/b", false),
            ("a.c", "abc", false),
            ("**", "a/b", true),
            ("**/b", "b", true),
            ("**/b", "a/x/b/c", true),
            ("**/b", "a/xb", false),
            ("a/**", "a/b/c", true),
            // What is in the folder is left out, not the folder.
            ("a/**", "a", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "x/a/b", false),
            ("**/a/**/b", "x/a/y/a/z/b", true),
            ("**/**/b", "b", true),
            ("**/*.pyc", "a/b.pyc", true),
            ("./a//b/", "a/b", true),
            ("/a", "b/a", false),
            ("!a", "a", false),
            ("a\n!a/b", "a/b/c", false),
            ("!a/b\na", "a/b", true),
            ("# a", "# a", false),
            (" # a", "# a", true),
            ("\u{feff}a", "a", true),
            ("b\r\n a \r\n", "a", true),
            ("A", "a", false),
        ] {
            assert_eq!(leaves_out(pattern, path), out, "{pattern:?} {path:?}");
        }
        for bad in [
            "[a-z]", "a]", "a\\*b", "../x", "a/..", "!", "/", "a**", "**.go", "x/a**b",
        ] {
            assert!(Ignored::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_pattern_takes_more_than_its_length_times_that_of_a_name() {
        let name = "a".repeat(200);
        let pattern = format!("{}*b", "*a".repeat(25));
        let mut ignored = Ignored::read(&pattern).unwrap();
        assert!(!ignored.leaves_out(&name).unwrap());
        assert!(ignored.steps < 60 * 250, "{}", ignored.steps);
        let deep = "a/".repeat(64) + "a";
        let mut ignored = Ignored::read(&format!("{}b", "**/a/".repeat(40))).unwrap();
        assert!(!ignored.leaves_out(&deep).unwrap());
        assert!(ignored.steps < 65 * 80 * 3, "{}", ignored.steps);
    }

    #[test]
    fn patterns_are_bounded_in_number_length_and_work() {
        let many = |number: usize| Ignored::read(&"a\n".repeat(number));
        assert!(many(MAX_PATTERNS).is_ok());
        let refused = many(MAX_PATTERNS + 1).unwrap_err();
        assert!(refused.starts_with(".dockerignore:501: "), "{refused}");
        assert!(Ignored::read(&"a".repeat(MAX_LENGTH)).is_ok());
        assert!(Ignored::read(&"a".repeat(MAX_LENGTH + 1)).is_err());
        let mut ignored = Ignored::read("*a*b").unwrap();
        ignored.steps = MAX_STEPS;
        assert!(ignored.leaves_out("aaa").unwrap_err().contains("too long"));
    }
}
