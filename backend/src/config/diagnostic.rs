//! What is wrong with a file, where, and what to do: shown with line, column and a caret.

use std::{fmt::Write as _, ops::Range};

use unicode_width::UnicodeWidthChar as _;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// It can, but someone should look.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where, in bytes of the file; `None` when it is about a default.
    pub span: Option<Range<usize>>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Diagnostic {
    /// An error.
    pub fn error(span: Option<Range<usize>>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span,
            message: message.into(),
        }
    }

    /// A warning.
    pub fn warning(span: Option<Range<usize>>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            span,
            message: message.into(),
        }
    }

    /// The finding as a person reads it: `file:line:column`, the line itself and a caret.
    pub fn render(&self, file: &str, text: &str) -> String {
        let kind = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let Some(span) = &self.span else {
            return format!("{file}: {kind}: {}\n", short(&self.message));
        };
        let start = floor(text, span.start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let number = before.matches('\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        let end = floor(text, span.end.clamp(start, line_end));
        let line = text[line_start..line_end].trim_end();
        let excerpt = Excerpt::of(line, column - 1, start - line_start..end - line_start);
        let margin = " ".repeat(number.to_string().len());
        let message = short(&self.message);
        let mut out = format!("{file}:{number}:{column}: {kind}: {message}\n");
        let _ = writeln!(out, "{margin} |");
        let _ = writeln!(out, "{number} | {}", excerpt.shown);
        let _ = writeln!(
            out,
            "{margin} | {}{}",
            " ".repeat(excerpt.before),
            "^".repeat(excerpt.under.max(1))
        );
        out
    }
}

/// Characters of a line that are shown, and how many of them before the place at most. Somebody else may
/// have written the line, as long as he likes.
const WINDOW: usize = 200;
const BEFORE: usize = 120;
/// Characters of a message, which may repeat what was written.
const MESSAGE: usize = 600;

/// A part of a line, and how many columns of a terminal it takes before the place and under it.
struct Excerpt {
    shown: String,
    before: usize,
    under: usize,
}

impl Excerpt {
    /// The part around `place`, in bytes of the line, before which there are so many characters.
    fn of(line: &str, characters: usize, place: Range<usize>) -> Self {
        let from = characters.saturating_sub(BEFORE);
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
        for (at, c) in rest.by_ref().take(WINDOW) {
            let c = harmless(c);
            let width = c.width().unwrap_or(0);
            excerpt.shown.push(c);
            if at < place.start {
                excerpt.before += width;
            } else if at < place.end {
                excerpt.under += width;
            }
        }
        if place.start >= line.len() {
            // Behind the end, where blanks were not shown.
            excerpt.before += characters.saturating_sub(line.chars().count()).min(BEFORE);
        }
        if rest.next().is_some() {
            excerpt.shown.push('…');
        }
        excerpt
    }
}

/// As it is shown: nothing that a terminal acts on.
pub(crate) fn harmless(c: char) -> char {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    match c {
        '\t' => ' ',
        c if c.is_control() || turns => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

fn short(message: &str) -> String {
    let mut rest = message.chars();
    let shown = |c: char| if c == '\n' { c } else { harmless(c) };
    let mut short: String = rest.by_ref().take(MESSAGE).map(shown).collect();
    if rest.next().is_some() {
        short.push('…');
    }
    short
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_points_at_its_place() {
        let text = "a = 1\n\tö = \"xyz\"\n";
        let at = text.find('"').unwrap_or(0);
        let shown = Diagnostic::error(Some(at..at + 5), "not that").render("f.toml", text);
        assert_eq!(
            shown,
            "f.toml:2:6: error: not that\n  |\n2 |  ö = \"xyz\"\n  |      ^^^^^\n"
        );
        let end = Diagnostic::warning(Some(999..1200), "eh").render("f.toml", text);
        assert_eq!(end, "f.toml:3:1: warning: eh\n  |\n3 | \n  | ^\n");
        assert_eq!(
            Diagnostic::error(None, "no").render("f", ""),
            "f: error: no\n"
        );
    }

    /// The excerpt of a finding, without the line that says what is wrong.
    fn shown(text: &str, at: Range<usize>) -> String {
        let said = Diagnostic::error(Some(at), "no").render("f", text);
        said.lines().skip(2).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_caret_stands_under_wide_and_combined_characters() {
        let text = "a: \u{65e5}\u{672c} e\u{301} !\n";
        for (what, carets) in [
            ("\u{65e5}\u{672c}", "   ^^^^"),
            ("e\u{301}", "        ^"),
            ("!", "          ^"),
        ] {
            let at = text.find(what).unwrap_or(0);
            let said = shown(text, at..at + what.len());
            assert_eq!(said, format!("1 | {}\n  | {carets}", text.trim_end()));
        }
    }

    #[test]
    fn of_a_long_line_the_part_around_the_place_is_shown() {
        let text = format!("{}HERE{}\n", "\u{65e5}".repeat(5000), "b".repeat(5000));
        let said = shown(&text, 15_000..15_004);
        let (line, carets) = said.split_once('\n').unwrap_or_default();
        let (left, right) = ("\u{65e5}".repeat(BEFORE), "b".repeat(WINDOW - BEFORE - 4));
        assert_eq!(line, format!("1 | …{left}HERE{right}…"));
        assert_eq!(carets, format!("  | {}^^^^", " ".repeat(1 + 2 * BEFORE)));
        // A finding of the whole line, and one behind it.
        for at in [0..text.len(), text.len()..text.len(), 10_000..text.len()] {
            assert!(shown(&text, at).len() < 2000);
        }
        let said = Diagnostic::error(None, "\u{1b}[2J".repeat(5000)).render("f", "");
        assert!(said.len() < 3000 && !said.contains('\u{1b}'));
    }
}
