//! How a problem is shown: its line, with a caret under the place as it looks on a terminal. Tabs and wide characters
//! count as wide as they are; what a terminal would act on is not shown; of a long line only the part around the place.

use std::fmt;

use unicode_width::UnicodeWidthChar;

use super::{Diagnostic, Diagnostics, Severity};

pub(super) fn problem(
    all: &Diagnostics,
    d: &Diagnostic,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let (line, column) = all.position(d.span.start);
    let word = match d.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    writeln!(
        f,
        "{}:{line}:{column}: {word}: {}",
        all.written.name,
        plain(&d.message)
    )?;
    if !all.written.text.is_empty() {
        let excerpt = Excerpt::of(all, d, column);
        let gutter = line.to_string().len();
        writeln!(f, "{:gutter$} |", "")?;
        writeln!(f, "{line} | {}", excerpt.shown)?;
        let (before, under) = (" ".repeat(excerpt.before), "^".repeat(excerpt.under.max(1)));
        writeln!(f, "{:gutter$} | {before}{under}", "")?;
    }
    if let Some(hint) = &d.hint {
        writeln!(f, "  = help: {}", plain(hint))?;
    }
    Ok(())
}

/// A part of a line, and how many columns of it stand before the place and at it.
struct Excerpt {
    shown: String,
    before: usize,
    under: usize,
}

impl Excerpt {
    fn of(all: &Diagnostics, d: &Diagnostic, column: usize) -> Self {
        let (start, line) = all.line_at(d.span.start);
        let from = column.saturating_sub(BEFORE);
        let mut excerpt = Self {
            shown: String::new(),
            before: 0,
            under: 0,
        };
        if from > 0 {
            excerpt.shown.push('…');
            excerpt.before = 1;
        }
        let mut rest = line.char_indices().skip(from);
        for (offset, c) in rest.by_ref().take(WINDOW) {
            let at = start + offset;
            let width = excerpt.push(if all.is_concealed(at) { '*' } else { c });
            if at < d.span.start {
                excerpt.before += width;
            } else if at < d.span.end {
                excerpt.under += width;
            }
        }
        if rest.next().is_some() {
            excerpt.shown.push('…');
        }
        excerpt
    }

    /// Shows a character; how many columns it takes.
    fn push(&mut self, c: char) -> usize {
        if c == '\t' {
            self.shown.push_str(TAB);
            return TAB.len();
        }
        let c = harmless(c);
        self.shown.push(c);
        c.width().unwrap_or(0)
    }
}

/// How many characters of a line are shown, and how many of them before the place at most.
const WINDOW: usize = 160;
const BEFORE: usize = 100;

const TAB: &str = "    ";

/// What a terminal would act on: control characters, and those that turn the direction of text.
fn harmless(c: char) -> char {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns {
        char::REPLACEMENT_CHARACTER
    } else {
        c
    }
}

fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c == '\n' { c } else { harmless(c) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Diagnostics;

    /// The line with the caret below it, for the first `needle` of a text.
    fn shown(text: &str, needle: &str) -> String {
        let mut all = Diagnostics::new("f", text);
        let start = text.find(needle).unwrap_or_default();
        all.error(&(start..start + needle.len()), "m", None);
        let said = all.to_string();
        said.lines().skip(2).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_caret_stands_where_the_place_looks_to_be() {
        assert_eq!(shown("\ta = 1\n", "a"), "1 |     a = 1\n  |     ^");
        assert_eq!(
            shown("x = \"日本\" # y\n", "y"),
            "1 | x = \"日本\" # y\n  |              ^"
        );
        assert_eq!(
            shown("x = \"日本\"\n", "日本"),
            "1 | x = \"日本\"\n  |      ^^^^"
        );
        assert_eq!(shown("a = 1\r\nb = 2\r\n", "b"), "2 | b = 2\n  | ^");
        assert_eq!(shown("a = 1\nb", "b"), "2 | b\n  | ^");
        assert_eq!(shown("e\u{301}x", "x"), "1 | e\u{301}x\n  |  ^");
    }

    #[test]
    fn a_terminal_is_told_nothing() {
        let said = shown("a = \"\u{1b}[31m\u{202e}\u{7}\"\n", "a");
        assert!(!said.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{said:?}");
    }

    #[test]
    fn of_a_long_line_the_part_around_the_place_is_shown() {
        let text = format!("{}!{}", "a".repeat(100_000), "b".repeat(100_000));
        let said = shown(&text, "!");
        assert!(said.len() < 600, "{}", said.len());
        let (line, caret) = said.split_once('\n').unwrap_or_default();
        let at = line.chars().position(|c| c == '!');
        assert_eq!(at, caret.chars().position(|c| c == '^'));
    }

    #[test]
    fn many_problems_are_counted_and_the_first_are_shown() {
        let mut all = Diagnostics::new("f", "x\n".repeat(100_000));
        for n in 0..100_000 {
            all.error(&(2 * n..2 * n + 1), "m", None);
        }
        assert_eq!(all.counts(), (100_000, 0));
        let said = all.to_string();
        assert!(said.contains("… and 99800 more"), "{}", said.len());
    }
}
