//! YAML as a compose file may have it: one document of maps, lists and scalars that every version of
//! the compose command reads alike. What two readers could take for different things is refused:
//! anchors, merges, tags, keys given twice, and scalars such as `yes`, `0o17` and `22:22`.

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::rule::{Finding, Rule};

/// Bytes of a file.
pub(super) const MAX_BYTES: usize = 64 << 10;
/// Maps and lists within each other.
const MAX_DEPTH: usize = 10;
/// Values of a file.
const MAX_NODES: usize = 4000;

/// A value and where it stands, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) value: Value,
}

/// What is written there.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Map(Vec<Entry>),
    List(Vec<Node>),
    Text(String),
    Int(i64),
    Fraction(String),
    Bool(bool),
    Null,
}

impl Value {
    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Map(_) => "a map",
            Self::List(_) => "a list",
            Self::Text(_) => "text",
            Self::Int(_) | Self::Fraction(_) => "a number",
            Self::Bool(_) => "`true` or `false`",
            Self::Null => "nothing",
        }
    }
}

/// A key of a map with its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) span: Range<usize>,
    pub(super) value: Node,
}

/// Reads a file's text.
pub(super) fn parse(text: &str) -> Result<Node, Finding> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has more than {MAX_BYTES} bytes");
        return Err(Finding::new(Rule::TooLarge, 0..0, message));
    }
    plain(text)?;
    let mut lines = vec![0];
    lines.extend(text.match_indices('\n').map(|(at, _)| at + 1));
    let mut tree = Tree {
        text,
        lines,
        events: Parser::new_from_str(text),
        nodes: 0,
    };
    let mut document = None;
    loop {
        let (event, span) = tree.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) if document.is_some() => {
                let message = "the file has a second document: keep one";
                return Err(Finding::new(Rule::Documents, span, message));
            }
            Event::DocumentStart(_) => {
                let first = tree.next()?;
                document = Some(tree.node(first, 0)?);
            }
            Event::Nothing | Event::StreamStart | Event::DocumentEnd => {}
            Event::Alias(_)
            | Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::SequenceEnd
            | Event::MappingStart(..)
            | Event::MappingEnd => {
                let message = "this is outside of the document";
                return Err(Finding::new(Rule::NotYaml, span, message));
            }
        }
    }
    document.ok_or_else(|| Finding::new(Rule::NotYaml, 0..0, "the file is empty"))
}

/// Refuses characters that end a line for one reader only, or that nobody sees.
fn plain(text: &str) -> Result<(), Finding> {
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        let good = match c {
            '\n' | '\t' => true,
            '\r' => characters.peek().is_some_and(|(_, next)| *next == '\n'),
            c => seen(c),
        };
        if !good {
            let message = format!("the character U+{:04X} does not belong here", c as u32);
            let span = at..at + c.len_utf8();
            return Err(Finding::new(Rule::NotYaml, span, message));
        }
    }
    Ok(())
}

fn seen(c: char) -> bool {
    let hidden = matches!(c, '\u{feff}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !hidden
}

struct Tree<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    events: Parser<'a, saphyr_parser::StrInput<'a>>,
    nodes: usize,
}

impl<'a> Tree<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Range<usize>), Finding> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                let span = self.span(span);
                Ok((event, span))
            }
            Some(Err(error)) => {
                let at = self.place(error.marker().line(), error.marker().col());
                Err(Finding::new(Rule::NotYaml, at..at, error.info().to_owned()))
            }
            None => {
                let at = self.text.len();
                Err(Finding::new(
                    Rule::NotYaml,
                    at..at,
                    "the file ends too early",
                ))
            }
        }
    }

    fn span(&self, span: Span) -> Range<usize> {
        let start = self.place(span.start.line(), span.start.col());
        let end = self.place(span.end.line(), span.end.col());
        start..end.max(start)
    }

    /// The byte at a line (from 1) and a column (from 0, in characters).
    fn place(&self, line: usize, column: usize) -> usize {
        let begin = self.lines.get(line.saturating_sub(1)).copied();
        let begin = begin.unwrap_or(self.text.len());
        let rest = &self.text[begin..];
        rest.char_indices()
            .nth(column)
            .map_or(self.text.len(), |(at, _)| begin + at)
    }

    fn node(
        &mut self,
        (event, span): (Event<'a>, Range<usize>),
        depth: usize,
    ) -> Result<Node, Finding> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            let message = format!("more than {MAX_NODES} values, or more than {MAX_DEPTH} levels");
            return Err(Finding::new(Rule::TooLarge, span, message));
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                unadorned(anchor, tag.is_some(), &span)?;
                let value = scalar(&text, style == ScalarStyle::Plain, &span)?;
                Ok(Node { span, value })
            }
            Event::SequenceStart(anchor, tag) => {
                unadorned(anchor, tag.is_some(), &span)?;
                let mut items = Vec::new();
                loop {
                    let next = self.next()?;
                    if next.0 == Event::SequenceEnd {
                        let value = Value::List(items);
                        return Ok(Node { span, value });
                    }
                    items.push(self.node(next, depth + 1)?);
                }
            }
            Event::MappingStart(anchor, tag) => {
                unadorned(anchor, tag.is_some(), &span)?;
                let mut entries: Vec<Entry> = Vec::new();
                loop {
                    let (event, at) = self.next()?;
                    if event == Event::MappingEnd {
                        let value = Value::Map(entries);
                        return Ok(Node { span, value });
                    }
                    let key = key(event, &at)?;
                    if entries.iter().any(|entry| entry.key == key) {
                        let message = format!("`{key}` is given twice: keep one");
                        return Err(Finding::new(Rule::DuplicateKey, at, message));
                    }
                    let value = self.next()?;
                    let value = self.node(value, depth + 1)?;
                    entries.push(Entry {
                        key,
                        span: at,
                        value,
                    });
                }
            }
            Event::Alias(_) => Err(Finding::new(
                Rule::Anchor,
                span,
                "an alias stands for something else: write that out",
            )),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => Err(Finding::new(Rule::NotYaml, span, "a value is missing")),
        }
    }
}

fn unadorned(anchor: usize, tagged: bool, span: &Range<usize>) -> Result<(), Finding> {
    if tagged {
        let message = "a tag changes what a value is: leave it out, and quote what is text";
        return Err(Finding::new(Rule::Tag, span.clone(), message));
    }
    if anchor != 0 {
        let message = "an anchor serves aliases, which are not read: write out what they stand for";
        return Err(Finding::new(Rule::Anchor, span.clone(), message));
    }
    Ok(())
}

fn key(event: Event<'_>, span: &Range<usize>) -> Result<String, Finding> {
    let refuse = |rule, message: &str| Err(Finding::new(rule, span.clone(), message));
    match event {
        Event::Scalar(text, style, anchor, tag) => {
            unadorned(anchor, tag.is_some(), span)?;
            if text == "<<" {
                return refuse(
                    Rule::MergeKey,
                    "`<<` merges another map: write its keys out",
                );
            }
            if text.contains('$') {
                return refuse(
                    Rule::Interpolation,
                    "a key is plain text: take the `$` away",
                );
            }
            match scalar(&text, style == ScalarStyle::Plain, span)? {
                Value::Text(text) => Ok(text),
                Value::Map(_)
                | Value::List(_)
                | Value::Int(_)
                | Value::Fraction(_)
                | Value::Bool(_)
                | Value::Null => refuse(Rule::Ambiguous, "a key must be text: quote it"),
            }
        }
        Event::Alias(_) => refuse(Rule::Anchor, "an alias stands for something else"),
        Event::Nothing
        | Event::StreamStart
        | Event::StreamEnd
        | Event::DocumentStart(_)
        | Event::DocumentEnd
        | Event::SequenceStart(..)
        | Event::SequenceEnd
        | Event::MappingStart(..)
        | Event::MappingEnd => refuse(Rule::NotYaml, "a key must be text"),
    }
}

fn scalar(text: &str, is_plain: bool, span: &Range<usize>) -> Result<Value, Finding> {
    if let Some(c) = text
        .chars()
        .find(|c| !seen(*c) && !matches!(c, '\n' | '\t'))
    {
        let message = format!("the character U+{:04X} does not belong here", c as u32);
        return Err(Finding::new(Rule::NotYaml, span.clone(), message));
    }
    let value = if is_plain {
        resolve(text).ok_or_else(|| {
            let message = format!(
                "`{text}` is text for one reader and something else for another: put it in quotes, or write it in the usual form"
            );
            Finding::new(Rule::Ambiguous, span.clone(), message)
        })?
    } else {
        Value::Text(text.to_owned())
    };
    match value {
        Value::Text(text) => undollar(&text).map(Value::Text).ok_or_else(|| {
            let message = "`$` would be filled in from an environment: write the value itself, and `$$` for a `$`";
            Finding::new(Rule::Interpolation, span.clone(), message)
        }),
        other @ (Value::Map(_)
        | Value::List(_)
        | Value::Int(_)
        | Value::Fraction(_)
        | Value::Bool(_)
        | Value::Null) => Ok(other),
    }
}

/// Text with `$$` as the `$` it stands for; nothing when a `$` stands alone.
fn undollar(text: &str) -> Option<String> {
    let without = text.replace("$$", "");
    (!without.contains('$')).then(|| text.replace("$$", "$"))
}

/// What a plain scalar is to YAML 1.1 (the first compose) and to YAML 1.2 (the second) alike;
/// nothing where they differ.
fn resolve(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" => return Some(Value::Null),
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        "=" => return None,
        _ => {}
    }
    let lower = text.to_ascii_lowercase();
    let word = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    if word.contains(&lower.as_str()) {
        return None;
    }
    let unsigned = lower.trim_start_matches(['+', '-']);
    if [".inf", ".nan"].contains(&unsigned) {
        return None;
    }
    let digit = |c: char| c.is_ascii_digit();
    if !unsigned.starts_with(|c: char| digit(c) || c == '.') || !unsigned.contains(digit) {
        return Some(Value::Text(text.to_owned()));
    }
    if let Ok(number) = text.parse::<i64>()
        && number.to_string() == text
    {
        return Some(Value::Int(number));
    }
    let fraction = text.split_once('.').is_some_and(|(whole, rest)| {
        whole.parse::<u32>().is_ok_and(|n| n.to_string() == whole)
            && !rest.is_empty()
            && rest.chars().all(digit)
    });
    if fraction {
        return Some(Value::Fraction(text.to_owned()));
    }
    let prefixed = ["0x", "0o", "0b"].iter().any(|p| unsigned.starts_with(p));
    let numeric = |c: char| digit(c) || matches!(c, '_' | '.' | 'e' | '+' | '-');
    let dotted = unsigned.matches('.').count() > 1 && text.chars().all(|c| digit(c) || c == '.');
    if prefixed || (unsigned.chars().all(numeric) && !dotted) || is_moment(text) || is_clock(text) {
        return None;
    }
    Some(Value::Text(text.to_owned()))
}

/// Whether it begins like a date.
fn is_moment(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let mut figures = |length: usize| {
        parts.next().is_some_and(|part| {
            part.len() <= length && !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())
        })
    };
    figures(4) && figures(2) && text.matches('-').count() >= 2
}

/// Whether it is a number of base 60 in YAML 1.1.
fn is_clock(text: &str) -> bool {
    let text = text.trim_start_matches(['+', '-']);
    let (whole, _) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    let mut rest = parts.peekable();
    rest.peek().is_some()
        && first.bytes().all(|b| b.is_ascii_digit() || b == b'_')
        && rest.all(|part| part.len() <= 2 && part.parse::<u8>().is_ok_and(|n| n < 60))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn scalars_are_what_every_reader_takes_them_for() {
        let text = |t: &str| Some(Value::Text(t.into()));
        for plain in [
            "8000:8000",
            "3000:80",
            "1.2.3",
            "web",
            "-c",
            "--port=1",
            "512m",
            "1m30s",
        ] {
            assert_eq!(resolve(plain), text(plain), "{plain}");
        }
        assert_eq!(resolve("15"), Some(Value::Int(15)));
        assert_eq!(resolve("-1"), Some(Value::Int(-1)));
        assert_eq!(resolve("0.50"), Some(Value::Fraction("0.50".into())));
        for odd in [
            "yes",
            "No",
            "ON",
            "y",
            "True",
            "NULL",
            "0o17",
            "017",
            "0x1F",
            "0b1",
            "1_000",
            "22:22",
            "1:30:00",
            "190:20:30.15",
            "1e3",
            "+1",
            ".5",
            "5.",
            ".inf",
            "-.INF",
            ".NaN",
            "2001-01-01",
            "2001-12-14t21:59:43.10-05:00",
            "=",
            "99999999999999999999",
            "01.5",
            "-0",
        ] {
            assert_eq!(resolve(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_dollar_is_written_twice() {
        assert_eq!(undollar("a$$b"), Some("a$b".into()));
        assert_eq!(undollar("$$$$"), Some("$$".into()));
        for open in ["$A", "${A}", "$", "$$$A", "a$"] {
            assert_eq!(undollar(open), None, "{open}");
        }
    }

    #[test]
    fn places_are_bytes_of_the_file() {
        let text = "ä: [1, \"ö\", &x 1]\n";
        let found = parse(text).unwrap_err();
        assert_eq!(found.rule, Rule::Anchor);
        assert_eq!(found.span.start, text.find('&').unwrap());
        let text = "a:\r\n  b: ö\r\n  b: 2\r\n";
        let found = parse(text).unwrap_err();
        assert_eq!(found.rule, Rule::DuplicateKey);
        assert_eq!(found.span.start, text.rfind('b').unwrap());
    }

    #[test]
    fn a_file_that_would_grow_is_refused_at_once() {
        let deep = "[".repeat(2000) + &"]".repeat(2000);
        assert!(parse(&deep).is_err());
        assert_eq!(
            parse(&"a".repeat(MAX_BYTES + 1)).unwrap_err().rule,
            Rule::TooLarge
        );
        let many = "- 1\n".repeat(MAX_NODES);
        assert_eq!(parse(&many).unwrap_err().rule, Rule::TooLarge);
    }
}
