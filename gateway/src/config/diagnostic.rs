//! A problem of a policy file, said so that a person can mend it: file, line and column, the line with a
//! caret under the place, what is wrong, and what to do.

use std::{fmt, ops::Range};

use sha2::{Digest, Sha256};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The policy does not load.
    Error,
    /// The policy loads; the posture is weaker than it could be.
    Warning,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Byte range in the text; empty at 0 for the file as a whole.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What tells one text from another: its SHA-256 in hex.
pub fn fingerprint(text: &[u8]) -> String {
    hex::encode(Sha256::digest(text))
}

/// What stands before the name of a variable in the comment of a built-in policy's line.
pub const SET_BY: &str = "  # set by ";

/// All problems of one text.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    /// The name people know the text by: a path, or `built-in policy`.
    name: String,
    text: String,
    found: Vec<Diagnostic>,
    concealed: Vec<Range<usize>>,
}

impl Diagnostics {
    /// No problems yet, in `text` named `name`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
            found: Vec::new(),
            concealed: Vec::new(),
        }
    }

    /// The [`fingerprint`] of the text.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.text.as_bytes())
    }

    /// Whether the text has this word anywhere.
    pub fn mentions(&self, word: &str) -> bool {
        self.text.contains(word)
    }

    /// Adds an error.
    pub fn error(&mut self, span: &Range<usize>, message: impl Into<String>, hint: Option<String>) {
        self.push(Severity::Error, span, message.into(), hint);
    }

    /// Adds a warning.
    pub fn warning(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.push(Severity::Warning, span, message.into(), hint);
    }

    /// A secret may stand here by mistake: no excerpt shows it.
    pub fn conceal(&mut self, span: &Range<usize>) {
        self.concealed.push(span.clone());
    }

    /// The same for a text that is not even TOML: what stands behind a `=` below `[secrets]`.
    pub fn conceal_in_secrets(&mut self) {
        let (mut start, mut inside) = (0, false);
        for line in self.text.split_inclusive('\n') {
            if line.trim_start().starts_with('[') {
                inside = line
                    .trim_start()
                    .trim_start_matches('[')
                    .trim_start()
                    .starts_with("secrets");
            }
            if inside && let Some(equals) = line.find('=') {
                self.concealed.push(start + equals + 1..start + line.len());
            }
            start += line.len();
        }
    }

    /// A line as an excerpt shows it, from the byte it begins at.
    fn excerpt(&self, start: usize, line: &str) -> String {
        let hidden = |at: usize| self.concealed.iter().any(|range| range.contains(&at));
        line.char_indices()
            .map(|(i, c)| if hidden(start + i) { '*' } else { c })
            .collect()
    }

    fn push(
        &mut self,
        severity: Severity,
        span: &Range<usize>,
        mut message: String,
        hint: Option<String>,
    ) {
        if let Some(variable) = self.set_by(span) {
            message = format!("{message} (set by {variable})");
        }
        self.found.push(Diagnostic {
            severity,
            span: span.clone(),
            message,
            hint,
        });
    }

    /// The variable that a line of the built-in policy says it comes from, in its comment.
    fn set_by(&self, span: &Range<usize>) -> Option<String> {
        let (line, _) = self.position(span.start);
        let (_, comment) = self.text.lines().nth(line - 1)?.rsplit_once(SET_BY)?;
        comment
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b == b'_')
            .then(|| comment.to_owned())
    }

    /// Whether anything keeps the policy from loading.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|d| d.severity == Severity::Error)
    }

    /// The problems, in the order of the text, errors before warnings at the same place.
    pub fn sorted(&self) -> Vec<&Diagnostic> {
        let mut all: Vec<_> = self.found.iter().collect();
        all.sort_by_key(|d| (d.span.start, d.severity == Severity::Warning));
        all
    }

    /// All problems as a program reads them: severity, line, column, message, hint.
    pub fn to_json(&self) -> serde_json::Value {
        let one = |d: &Diagnostic| {
            let (line, column) = self.position(d.span.start);
            let severity = match d.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            serde_json::json!({
                "severity": severity, "file": self.name, "line": line, "column": column,
                "message": d.message, "hint": d.hint,
            })
        };
        self.sorted().into_iter().map(one).collect()
    }

    /// How many errors and warnings there are.
    pub fn counts(&self) -> (usize, usize) {
        let errors = self
            .found
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .count();
        (errors, self.found.len() - errors)
    }

    /// Line and column (both from 1, columns in characters) of a byte offset.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.text.len());
        let before = self.text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    fn render(&self, d: &Diagnostic, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.position(d.span.start);
        let word = match d.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(f, "{}:{line}:{column}: {word}: {}", self.name, d.message)?;
        if let Some(text) = self.text.lines().nth(line - 1) {
            let gutter = line.to_string().len();
            let in_line = text.chars().count().saturating_sub(column - 1).max(1);
            let wide = self
                .text
                .get(d.span.clone())
                .map_or(1, |s| s.lines().next().unwrap_or_default().chars().count());
            writeln!(f, "{:gutter$} |", "")?;
            let before = self.text.get(..d.span.start).unwrap_or_default();
            let start = before.rfind('\n').map_or(0, |i| i + 1);
            let shown = self.excerpt(start, text);
            writeln!(f, "{line} | {shown}")?;
            writeln!(
                f,
                "{:gutter$} | {}{}",
                "",
                " ".repeat(column - 1),
                "^".repeat(wide.clamp(1, in_line))
            )?;
        }
        if let Some(hint) = &d.hint {
            writeln!(f, "  = help: {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for d in self.sorted() {
            self.render(d, f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_where_it_stands() {
        let text = "version = 1\nfoo = \"bär\"\n";
        let mut d = Diagnostics::new("gateway.toml", text);
        let start = text.find("foo").unwrap_or_default();
        d.error(
            &(start..start + 3),
            "unknown field `foo`",
            Some("take it out".into()),
        );
        assert_eq!(
            d.to_string(),
            "gateway.toml:2:1: error: unknown field `foo`\n  |\n2 | foo = \"bär\"\n  | ^^^\n  = help: take it out\n"
        );
    }
}
