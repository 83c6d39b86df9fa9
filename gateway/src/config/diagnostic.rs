//! A problem of a policy file, said so that a person can mend it: file, line and column, the line with a
//! caret under the place, what is wrong, and what to do.

mod show;

use std::{collections::BTreeSet, fmt, ops::Range};

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

/// What tells one text from another: its SHA-256 in hex, without a byte order mark.
pub fn fingerprint(text: &[u8]) -> String {
    hex::encode(Sha256::digest(
        text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text),
    ))
}

/// What stands before the name of a variable in the comment of a built-in policy's line.
pub const SET_BY: &str = "  # set by ";

/// All problems of one text.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    written: Box<Source>,
    /// The first [`MOST`] of them.
    found: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    concealed: Vec<Range<usize>>,
    /// Fields that could not be read, by the place of their table.
    unreadable: BTreeSet<(usize, usize, &'static str)>,
}

/// What they are problems of.
#[derive(Debug, Clone)]
struct Source {
    /// The name people know the text by: a path, or `built-in policy`.
    name: String,
    text: String,
    /// Where each line begins.
    lines: Vec<usize>,
}

/// So many problems are shown; the rest is counted. Whoever has that many has one mistake many times.
const MOST: usize = 200;

impl Diagnostics {
    /// No problems yet, in `text` named `name`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let ends = memchr::memchr_iter(b'\n', text.as_bytes()).map(|end| end + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        let written = Source {
            name: name.into(),
            lines,
            text,
        };
        Self {
            written: Box::new(written),
            found: Vec::new(),
            errors: 0,
            warnings: 0,
            concealed: Vec::new(),
            unreadable: BTreeSet::new(),
        }
    }

    /// The [`fingerprint`] of the text.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.written.text.as_bytes())
    }

    /// Whether the text has this word anywhere.
    pub fn mentions(&self, word: &str) -> bool {
        self.written.text.contains(word)
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

    /// The same for a text that is not even TOML, where nobody knows what is a secret: excerpts show headings and the names of settings.
    pub fn conceal_values(&mut self) {
        let mut start = 0;
        for line in self.written.text.split_inclusive('\n') {
            let text = line.trim_start();
            let value = line.find('=').map(|equals| equals + 1);
            let quote = line.find(['"', '\'']);
            let from = match (value, quote) {
                (Some(value), Some(quote)) => value.min(quote),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) if text.starts_with(['[', '#']) => line.len(),
                (None, None) => 0,
            };
            self.concealed.push(start + from..start + line.len());
            start += line.len();
        }
    }

    /// Whether an excerpt must not show this byte.
    fn is_concealed(&self, at: usize) -> bool {
        self.concealed.iter().any(|range| range.contains(&at))
    }

    /// A field stands there and could not be read: it is not missing as well.
    pub fn unreadable(&mut self, table: &Range<usize>, field: &'static str) {
        self.unreadable.insert((table.start, table.end, field));
    }

    /// Whether a field of the table at this place stands there and could not be read.
    pub fn is_unreadable(&self, table: &Range<usize>, field: &'static str) -> bool {
        self.unreadable.contains(&(table.start, table.end, field))
    }

    fn push(
        &mut self,
        severity: Severity,
        span: &Range<usize>,
        mut message: String,
        hint: Option<String>,
    ) {
        match severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        if self.found.len() >= MOST {
            return;
        }
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
        let (_, comment) = self.line_at(span.start).1.rsplit_once(SET_BY)?;
        comment
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b == b'_')
            .then(|| comment.to_owned())
    }

    /// Whether anything keeps the policy from loading.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether this is what to do about every error.
    pub fn is_the_only_hint(&self, hint: &str) -> bool {
        let errors = self.found.iter().filter(|d| d.severity == Severity::Error);
        let such = errors.filter(|d| d.hint.as_deref() == Some(hint)).count();
        such == self.errors
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
                "severity": severity, "file": self.written.name, "line": line, "column": column,
                "message": d.message, "hint": d.hint,
            })
        };
        self.sorted().into_iter().map(one).collect()
    }

    /// How many errors and warnings there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.errors, self.warnings)
    }

    /// Line and column (both from 1, columns in characters) of a byte offset.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let offset = offset.min(self.written.text.len());
        let line = self.written.lines.partition_point(|start| *start <= offset);
        let start = self.line_at(offset).0;
        let before = self.written.text.get(start..offset).unwrap_or_default();
        (line.max(1), before.chars().count() + 1)
    }

    /// Where the line of a byte offset begins, and the line without its end.
    fn line_at(&self, offset: usize) -> (usize, &str) {
        let line = self
            .written
            .lines
            .partition_point(|start| *start <= offset.min(self.written.text.len()));
        let start = self
            .written
            .lines
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0);
        let end = self
            .written
            .lines
            .get(line)
            .copied()
            .unwrap_or(self.written.text.len());
        let text = self.written.text.get(start..end).unwrap_or_default();
        (start, text.trim_end_matches(['\n', '\r']))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for d in self.sorted() {
            show::problem(self, d, f)?;
        }
        let unsaid = self.errors + self.warnings - self.found.len();
        if unsaid > 0 {
            writeln!(f, "… and {unsaid} more: mend these first")?;
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
