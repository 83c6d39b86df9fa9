//! What is wrong with a file, where, and what to do: shown with line, column and a caret.

use std::{fmt::Write as _, ops::Range};

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
            return format!("{file}: {kind}: {}\n", self.message);
        };
        let start = floor(text, span.start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let number = before.matches('\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        let end = floor(text, span.end.clamp(start, line_end));
        let carets = text[start..end].chars().count().max(1);
        let margin = " ".repeat(number.to_string().len());
        let mut out = format!("{file}:{number}:{column}: {kind}: {}\n", self.message);
        let line = text[line_start..line_end].replace('\t', " ");
        let _ = writeln!(out, "{margin} |");
        let _ = writeln!(out, "{number} | {}", line.trim_end());
        let _ = writeln!(
            out,
            "{margin} | {}{}",
            " ".repeat(column - 1),
            "^".repeat(carets)
        );
        out
    }
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
}
