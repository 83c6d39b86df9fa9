//! How much a Dockerfile becomes once its variables are put in.
//!
//! The builder does that in the engine's own process, outside of any limit, and keeps the outcome with
//! every step: `ENV A=$A$A`, thirty times, would be gibibytes. Bounds are counted here, never the values.

use std::collections::BTreeMap;

/// Bytes of all instructions with their variables put in.
const MOST: usize = 1 << 20;
/// What a variable that nothing is known of may have: of the base image, or the builder's own.
const UNKNOWN: usize = 4 << 10;

/// The most that each variable may have become.
#[derive(Debug)]
pub(super) struct Growth {
    known: BTreeMap<String, usize>,
    /// Of all others.
    others: usize,
    all: usize,
}

impl Growth {
    /// `longest` is the longest value that is given from outside.
    pub(super) fn new(longest: usize) -> Self {
        Self {
            known: BTreeMap::new(),
            others: longest.max(UNKNOWN),
            all: 0,
        }
    }

    /// Takes an instruction in; an error says what is wrong.
    pub(super) fn take(&mut self, name: &str, rest: &str) -> Result<(), String> {
        // The shell's own, and words that nothing is put into.
        let verbatim = ["RUN", "CMD", "ENTRYPOINT", "SHELL", "HEALTHCHECK"];
        let mut size = rest.len();
        if !verbatim.contains(&name) {
            for (at, _) in rest.match_indices('$') {
                size = size.saturating_add(self.of_reference(&rest[at + 1..])?);
            }
        }
        self.all = self.all.saturating_add(size);
        if self.all > MOST {
            return Err(format!(
                "with its variables put in, the file would have more than {MOST} bytes"
            ));
        }
        if matches!(name, "ENV" | "ARG") {
            // The value of an `ARG` may be given from outside.
            let given = if name == "ARG" { self.others } else { 0 };
            self.set(rest, size.max(given));
        }
        Ok(())
    }

    /// The size of what stands for a `$`, behind which `text` begins.
    fn of_reference(&self, text: &str) -> Result<usize, String> {
        let (braced, text) = match text.strip_prefix('{') {
            Some(text) => (true, text),
            None => (false, text),
        };
        let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
        let (name, behind) = text.split_at(end);
        if braced && behind.starts_with('/') {
            return Err("`${NAME/...}` is not read by all builders: take it away".into());
        }
        // Builders cut such a name elsewhere, some of them.
        if !name.is_ascii() || name.starts_with(|c: char| c.is_ascii_digit()) {
            let known = self.known.values().max().copied();
            return Ok(self.others.max(known.unwrap_or(0)));
        }
        Ok(self.known.get(name).copied().unwrap_or(self.others))
    }

    /// Every name that this could give a value has one of this size now.
    fn set(&mut self, rest: &str, size: usize) {
        let first = rest.split(super::BLANK).next().unwrap_or_default();
        let mut names = Vec::new();
        let mut plain = true;
        if !first.contains('=') {
            plain &= first.is_ascii() && first.chars().all(is_name);
            names.push(first);
        }
        for (at, _) in rest.match_indices('=') {
            let before = &rest[..at];
            let (before, name) = before.split_at(before.trim_end_matches(is_name).len());
            plain &= name.is_ascii() && !before.ends_with(JOINS);
            names.push(name);
        }
        if !plain {
            self.others = self.others.max(size);
            self.known
                .values_mut()
                .for_each(|known| *known = size.max(*known));
        }
        // Never less than before: what looks like a name may be a part of a value.
        for name in names {
            let known = self.known.entry(name.to_owned()).or_default();
            *known = size.max(*known);
        }
    }
}

/// What makes one name of that on its left and that on its right.
const JOINS: [char; 5] = ['"', '\'', '\\', '$', '}'];

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step at which it is refused, of as many as are given.
    fn refused(steps: impl IntoIterator<Item = (&'static str, String)>) -> Option<usize> {
        let mut growth = Growth::new(0);
        let mut steps = steps.into_iter();
        steps.position(|(name, rest)| growth.take(name, &rest).is_err())
    }

    #[test]
    fn what_grows_without_a_bound_is_refused() {
        for line in [
            "A=$A$A",
            "A $A$A",
            "A=${A}${A}",
            "A=${A:-$A}$A",
            "\"A\"=$A$A",
            "A\"\"B=$AB$AB",
            "A\\B=$AB$AB",
            "${X}=$A$A",
            "A=1 B=$A$A$B C=$B$B$C A=$C$C",
            "B='x' A=$A$A",
            "A=\"$A $A\"",
            "1=$1A$1A",
            "1 $1$1",
            "\u{e9}=$\u{e9}$\u{e9}",
            "A=${A\u{345}}$A\u{345}$A",
            "@=$@$@",
            "$A$A$A",
        ] {
            for name in ["ENV", "ARG"] {
                let steps = (0..30).map(|_| (name, line.to_owned()));
                assert!(refused(steps).is_some(), "{name} {line}");
            }
        }
        // Nothing makes a variable smaller again.
        let words = |n: usize| ["A=$A$A", "B=\"A=1\""][n % 2].to_owned();
        assert!(refused((0..60).map(|n| ("ENV", words(n)))).is_some());
        // Over several names, and where it ends up.
        let chain = (0..20).map(|n| ("ENV", format!("A{}=$A{n}$A{n}", n + 1)));
        assert!(refused(chain).is_some());
        for name in ["WORKDIR", "VOLUME", "EXPOSE", "COPY", "USER"] {
            let used = (0..300).map(|_| (name, "$A$A$A".to_owned()));
            assert!(refused(used).is_some(), "{name}");
        }
        assert_eq!(refused([("ENV", "A=${A/a/aa}".to_owned())]), Some(0));
    }

    #[test]
    fn what_people_write_is_not() {
        let lines = [
            ("ARG", "VERSION=1.2"),
            ("ENV", "PATH=$PATH:/opt/bin"),
            (
                "ENV",
                "URL=https://example.com/$NAME/$VERSION/${NAME}-${VERSION}.tar",
            ),
            ("ENV", "OPTS=\"-Da=$VERSION -Db=$VERSION\""),
            ("WORKDIR", "/opt/$VERSION"),
            ("RUN", "$A$A$A$A$A$A$A$A${A/b/c}"),
        ];
        let steps = (0..90).map(|n| lines[n % lines.len()]);
        assert_eq!(
            refused(steps.map(|(name, rest)| (name, rest.to_owned()))),
            None
        );
    }
}
