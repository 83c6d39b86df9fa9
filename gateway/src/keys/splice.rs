//! Changes to a text by place: what is not named stays byte for byte. Knows lines, indents, comments and commas, and nothing of what
//! they mean.

use std::ops::Range;

/// A text and the changes to be made to it.
#[derive(Debug)]
pub(super) struct Splices<'a> {
    text: &'a str,
    changes: Vec<(Range<usize>, String)>,
}

impl<'a> Splices<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self {
            text,
            changes: Vec::new(),
        }
    }

    /// The text with all changes made. `None` if two of them meet, which would be a mistake of ours.
    pub(super) fn finish(mut self) -> Option<String> {
        self.changes.sort_by_key(|(at, _)| (at.start, at.end));
        let mut out = String::new();
        let mut done = 0;
        for (at, with) in &self.changes {
            out.push_str(self.text.get(done..at.start)?);
            out.push_str(with);
            done = at.end;
        }
        out.push_str(self.text.get(done..)?);
        Some(out)
    }

    pub(super) fn insert(&mut self, at: usize, with: String) {
        self.changes.push((at..at, with));
    }

    pub(super) fn replace(&mut self, at: Range<usize>, with: String) {
        self.changes.push((at, with));
    }

    /// Adds lines below the line of `at`, each indented as given.
    pub(super) fn insert_below(&mut self, at: usize, indent: &str, lines: &[String]) {
        let end = self.line_end(at);
        let newline = self.newline();
        let mut with = String::new();
        if !self.before(end).is_empty() && !self.before(end).ends_with('\n') {
            with.push_str(newline);
        }
        for line in lines {
            if !line.is_empty() {
                with.push_str(indent);
                with.push_str(line);
            }
            with.push_str(newline);
        }
        self.insert(end, with);
    }

    /// Removes the lines that a range touches, with the comment lines directly above them; and one of two empty lines that would
    /// meet.
    pub(super) fn remove_lines(&mut self, range: Range<usize>) {
        let mut start = self.line_start(range.start);
        while let Some(above) = self.line_above(start) {
            if !self.text[above.clone()].trim_start().starts_with('#') {
                break;
            }
            start = above.start;
        }
        let mut end = self.line_end(range.end);
        let empty_above = self
            .line_above(start)
            .is_none_or(|l| self.text[l].trim().is_empty());
        if empty_above && self.is_empty_line(end) {
            end = self.line_end(end);
        }
        self.replace(start..end, String::new());
    }

    /// Adds an element to an array that is written at `array`, whose last element is written at `last`.
    pub(super) fn append(
        &mut self,
        array: &Range<usize>,
        last: Option<Range<usize>>,
        element: &str,
    ) {
        let close = array.end.saturating_sub(1);
        let close_line = self.line_start(close);
        let newline = self.newline();
        let from = last.as_ref().map_or(array.start + 1, |l| l.end);
        let own_lines = self.text[from..close].contains('\n');
        let comma = self.comma_after(from, close);
        let Some(last) = last else {
            if own_lines {
                let indent = format!("{}    ", self.indent(close));
                self.insert(close_line, format!("{indent}{element},{newline}"));
            } else {
                self.insert(close, element.to_owned());
            }
            return;
        };
        match comma {
            None if !own_lines => return self.insert(last.end, format!(", {element}")),
            None => self.insert(last.end, ",".to_owned()),
            Some(comma) if !own_lines || comma >= close_line => {
                return self.insert(comma + 1, format!(" {element}"));
            }
            Some(_) => {}
        }
        let indent = if self.text[self.line_start(last.start)..last.start]
            .trim()
            .is_empty()
        {
            self.indent(last.start).to_owned()
        } else {
            format!("{}    ", self.indent(close))
        };
        self.insert(close_line, format!("{indent}{element},{newline}"));
    }

    /// Removes an element with the comma that belongs to it. `before` is the end of the element before, `close` where the list
    /// is closed.
    pub(super) fn remove_element(
        &mut self,
        element: Range<usize>,
        before: Option<usize>,
        close: usize,
    ) {
        let comma = self.comma_after(element.end, close);
        let end = comma.map_or(element.end, |c| c + 1);
        let first_of_line = self.text[self.line_start(element.start)..element.start]
            .trim()
            .is_empty();
        let rest = self.text[end..self.line_end(end)].trim();
        if first_of_line && (rest.is_empty() || rest.starts_with('#')) {
            return self.remove_lines(element.start..end);
        }
        match (comma, before) {
            (None, Some(before)) => self.replace(before..element.end, String::new()),
            (None, None) | (Some(_), _) => {
                let spaces =
                    self.text[end..].len() - self.text[end..].trim_start_matches([' ', '\t']).len();
                self.replace(element.start..end + spaces, String::new());
            }
        }
    }

    /// The white space a line begins with.
    pub(super) fn indent(&self, at: usize) -> &'a str {
        let line = &self.text[self.line_start(at)..];
        let end = line.find(|c| c != ' ' && c != '\t').unwrap_or(line.len());
        &line[..end]
    }

    /// How this text ends its lines.
    pub(super) fn newline(&self) -> &'static str {
        match self.text.find('\n') {
            Some(at) if self.before(at).ends_with('\r') => "\r\n",
            Some(_) | None => "\n",
        }
    }

    fn before(&self, at: usize) -> &'a str {
        self.text.get(..at).unwrap_or_default()
    }

    fn line_start(&self, at: usize) -> usize {
        self.before(at).rfind('\n').map_or(0, |n| n + 1)
    }

    /// Where the next line begins.
    fn line_end(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        rest.find('\n').map_or(self.text.len(), |n| at + n + 1)
    }

    fn line_above(&self, start: usize) -> Option<Range<usize>> {
        let end = start.checked_sub(1)?;
        Some(self.line_start(end)..start)
    }

    fn is_empty_line(&self, at: usize) -> bool {
        at < self.text.len() && self.text[at..self.line_end(at)].trim().is_empty()
    }

    /// The next comma that stands in no comment.
    fn comma_after(&self, from: usize, close: usize) -> Option<usize> {
        let mut comment = false;
        for (at, c) in self.text.get(from..close)?.char_indices() {
            match c {
                '\n' => comment = false,
                '#' => comment = true,
                ',' if !comment => return Some(from + at),
                _ => {}
            }
        }
        None
    }
}
