//! A Dockerfile, read as the engine's own builder reads it, before that does.
//!
//! Refused is whatever that builder would fetch by itself or leave to a base image to decide, and what
//! its versions cut differently. Every stage is marked as ours at its beginning, so that what a build
//! leaves behind that came to nothing can be found.

use crate::sandbox::spec::is_image;

/// Bytes that it may have.
pub(super) const MOST: usize = 64 << 10;
/// What an instruction of a Dockerfile may begin with.
pub const TAKEN: &[&str] = &[
    "FROM",
    "RUN",
    "COPY",
    "LABEL",
    "ENV",
    "ARG",
    "WORKDIR",
    "USER",
    "EXPOSE",
    "ENTRYPOINT",
    "CMD",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "SHELL",
    "VOLUME",
    "MAINTAINER",
];

/// What is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct Recipe {
    /// The Dockerfile with our marks.
    pub(in crate::sandbox) text: String,
    /// The images that it begins with, or copies from.
    pub(in crate::sandbox) images: Vec<String>,
}

/// One instruction with its lines.
struct Step {
    /// Of its first line, from 1.
    line: usize,
    /// Behind its last line.
    end: usize,
    name: String,
    rest: String,
}

impl Recipe {
    /// Reads it; `labels` are what marks what is ours. A refusal begins with the line.
    pub(in crate::sandbox) fn read(text: &str, labels: &[String]) -> Result<Self, String> {
        let lines: Vec<&str> = text.lines().collect();
        let mark = format!("LABEL {}", labels.join(" "));
        let mut stages: Vec<Option<String>> = Vec::new();
        let (mut images, mut marked, mut copied) = (Vec::new(), Vec::new(), 0);
        for step in steps(&lines)? {
            let at = |message: String| format!("{}: {message}", step.line);
            match step.name.as_str() {
                "FROM" => {
                    let (image, name) = base(&step.rest, &stages).map_err(at)?;
                    images.extend(image);
                    stages.push(name);
                    marked.extend_from_slice(&lines[copied..step.end]);
                    marked.push(&mark);
                    copied = step.end;
                }
                "COPY" => images.extend(source(&step.rest, &stages).map_err(at)?),
                "RUN" if step.rest.starts_with("--") => {
                    return Err(at("`RUN` takes no options here".into()));
                }
                "LABEL" => own_label(&step.rest).map_err(at)?,
                name if TAKEN.contains(&name) => {}
                "ADD" => return Err(at("`ADD` may fetch from elsewhere: use `COPY`".into())),
                name => {
                    let may = TAKEN.join(", ");
                    return Err(at(format!(
                        "`{name}` is not taken: a line begins with one of {may}"
                    )));
                }
            }
        }
        if stages.is_empty() {
            return Err("1: there is no `FROM`".into());
        }
        marked.extend_from_slice(&lines[copied..]);
        images.sort_unstable();
        images.dedup();
        Ok(Self {
            text: marked.join("\n") + "\n",
            images,
        })
    }
}

fn steps(lines: &[&str]) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open = false;
    for (index, line) in lines.iter().enumerate() {
        let number = index + 1;
        let odd = |c: char| (c.is_control() && c != '\t') || c == '\u{feff}';
        if line.contains(odd) {
            return Err(format!("{number}: there is an invisible character"));
        }
        let words = line.trim();
        if let Some(comment) = words.strip_prefix('#') {
            if comment
                .trim_start()
                .to_ascii_lowercase()
                .starts_with("escape")
            {
                return Err(format!(
                    "{number}: lines go on with `\\` only: take `escape` away"
                ));
            }
            if open && !line.starts_with('#') {
                return Err(format!(
                    "{number}: a comment within an instruction begins at the line's beginning"
                ));
            }
            continue;
        }
        if words.is_empty() {
            continue;
        }
        if words.ends_with("\\\\") {
            return Err(format!(
                "{number}: a line that ends with two `\\` is cut in several ways"
            ));
        }
        let (words, goes_on) = match words.strip_suffix('\\') {
            Some(words) => (words, true),
            None => (words, false),
        };
        match steps.last_mut().filter(|_| open) {
            Some(step) => {
                step.rest.push(' ');
                step.rest.push_str(words.trim());
                step.end = number;
            }
            None => {
                let (name, rest) = words.split_once([' ', '\t']).unwrap_or((words, ""));
                steps.push(Step {
                    line: number,
                    end: number,
                    name: name.to_ascii_uppercase(),
                    rest: rest.trim().to_owned(),
                });
            }
        }
        open = goes_on;
    }
    Ok(steps)
}

/// The image that a stage begins with, unless it is an earlier stage or nothing, and the stage's name.
fn base(rest: &str, stages: &[Option<String>]) -> Result<(Option<String>, Option<String>), String> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (from, name) = match words[..] {
        [from] => (from, None),
        [from, be, name] if be.eq_ignore_ascii_case("as") => {
            (from, Some(name.to_ascii_lowercase()))
        }
        _ => return Err("`FROM image` or `FROM image AS name` is expected".into()),
    };
    let named = name.as_deref().is_none_or(|name| {
        name != "scratch" && name.starts_with(|c: char| c.is_ascii_lowercase()) && is_plain(name)
    });
    if !named {
        return Err("a stage's name is letters, digits, `.`, `-` and `_`".into());
    }
    Ok((image(from, stages)?, name))
}

/// The image behind a name; nothing where that is a stage, or nothing at all.
fn image(name: &str, stages: &[Option<String>]) -> Result<Option<String>, String> {
    let lower = name.to_ascii_lowercase();
    if lower == "scratch" || stages.iter().flatten().any(|stage| *stage == lower) {
        return Ok(None);
    }
    if is_image(name) {
        return Ok(Some(name.to_owned()));
    }
    Err(format!(
        "`{name}` must name an earlier stage, or an image with a tag other than `latest`, or a digest, without a variable"
    ))
}

/// The image that files are copied from, if they come from one.
fn source(rest: &str, stages: &[Option<String>]) -> Result<Option<String>, String> {
    let mut from = None;
    for word in rest.split_whitespace() {
        let Some(option) = word.strip_prefix("--") else {
            break;
        };
        match option.split_once('=') {
            Some(("from", name))
                if name.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty() =>
            {
                let known = name
                    .parse()
                    .is_ok_and(|number: usize| number < stages.len());
                if !known {
                    return Err(format!("there is no stage {name} yet"));
                }
            }
            Some(("from", name)) => from = image(name, stages)?,
            Some(("chown", user))
                if user
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b":_-.".contains(&b)) => {}
            Some(_) | None => {
                return Err(format!(
                    "`--{option}` is not taken: `--from=` and `--chown=` are"
                ));
            }
        }
    }
    Ok(from)
}

/// Labels are the repository's own, but not those that say whose everything is.
fn own_label(rest: &str) -> Result<(), String> {
    let plain: String = rest.chars().filter(|c| !"\"'\\".contains(*c)).collect();
    if plain.to_ascii_lowercase().contains("io.orket") || plain.contains('$') {
        return Err("a label has neither a variable nor a name of Orket's".into());
    }
    Ok(())
}

fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    fn read(text: &str) -> Result<Recipe, String> {
        Recipe::read(text, &["a=b".to_owned()])
    }

    #[test]
    fn every_stage_is_marked_and_its_images_are_named() {
        let text = "# syntax=x\nARG V=1\nfrom rust:1.90 as Build\nRUN a \\\n# a comment\n  && b\nCOPY --from=tools:2 --chown=1:1 /x /y\n\nFROM scratch\nCOPY --from=build /a /a\nCOPY --from=0 /b /b\nFROM build\nENTRYPOINT [\"/a\"]\n";
        let recipe = read(text).unwrap();
        assert_eq!(recipe.images, ["rust:1.90", "tools:2"]);
        assert_eq!(recipe.text.matches("LABEL a=b\n").count(), 3);
        assert!(
            recipe
                .text
                .contains("from rust:1.90 as Build\nLABEL a=b\nRUN a \\\n")
        );
        assert_eq!(recipe.text.replace("LABEL a=b\n", ""), text);
    }

    #[test]
    fn what_the_builder_would_fetch_or_read_otherwise_is_refused() {
        for (text, line) in [
            ("", 1),
            ("ADD https://192.0.2.1/x /x\n", 1),
            ("FROM scratch\nadd x /x\n", 2),
            ("FROM scratch\nONBUILD RUN x\n", 2),
            ("FROM alpine\n", 1),
            ("FROM alpine:latest\n", 1),
            ("ARG I=evil:1\nFROM $I\n", 2),
            ("FROM --platform=x a:1\n", 1),
            ("FROM a:1 AS scratch\n", 1),
            ("FROM a:1 AS b c\n", 1),
            ("FROM a:1\nCOPY --from=other /a /a\n", 2),
            ("FROM a:1\nCOPY --from=1 /a /a\n", 2),
            ("FROM a:1\nCOPY --fr\\om=evil:1 /a /a\n", 2),
            ("FROM a:1\nCOPY --link /a /a\n", 2),
            ("FROM a:1\nRUN --network=host x\n", 2),
            ("FROM a:1\nRUN --mount=type=ssh x\n", 2),
            ("FROM a:1\nRUN <<EOF\nADD x /x\nEOF\n", 3),
            ("FROM a:1\nRUN a \\\\\nADD http://x /x\n", 2),
            ("FROM a:1\nRUN a \\\n  # b\nADD http://x /x\n", 3),
            ("# escape=`\nFROM a:1\n", 1),
            ("FROM a:1\nLABEL \"io.or\"ket.instance=x\n", 2),
            ("FROM a:1\nLABEL $A=x\n", 2),
            ("FROM a:1\nRUN a\u{b}b\n", 2),
            ("\u{feff}FROM a:1\n", 1),
        ] {
            let refused = read(text).unwrap_err();
            assert!(
                refused.starts_with(&format!("{line}: ")),
                "{text:?}: {refused}"
            );
        }
    }
}
