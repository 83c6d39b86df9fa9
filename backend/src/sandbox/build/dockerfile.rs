//! A Dockerfile, read before the engine's own builder reads it.
//!
//! What is judged is what is sent: each instruction is written anew, on one line, so that nothing is left
//! for the builder to join, to skip or to read as a directive. Refused is whatever it would fetch by itself
//! or leave to a base image to decide, and what its versions cut differently. Every stage is marked as ours
//! at its beginning, so that what a build leaves behind that came to nothing can be found.

use crate::sandbox::{registry::Registries, value::image_fault};

mod growth;
#[cfg(test)]
mod tests;

use growth::Growth;

/// Bytes of one instruction: the builder reads no longer line.
const MOST_OF_ONE: usize = 60_000;
/// Instructions: the engine keeps an image of each.
const MOST_STEPS: usize = 300;
/// Characters of somebody's word that a refusal repeats.
const WORD: usize = 60;
/// What stands between words. Builders that know more of it cut at every other kind as well, so that is
/// refused.
const BLANK: [char; 2] = [' ', '\t'];
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
    /// The instructions with our marks.
    pub(in crate::sandbox) text: String,
    /// The images that it begins with, or copies from.
    pub(in crate::sandbox) images: Vec<String>,
}

/// One instruction, its lines joined.
struct Step {
    /// Of its first line, from 1.
    line: usize,
    name: String,
    rest: String,
}

impl Recipe {
    /// Reads it; `labels` are what marks what is ours, `longest` is the longest value that is given for an
    /// `ARG`, and images come from these registries. A refusal begins with the line.
    pub(in crate::sandbox) fn read(
        text: &str,
        labels: &[String],
        longest: usize,
        registries: &Registries,
    ) -> Result<Self, String> {
        let mark = format!("LABEL {}", labels.join(" "));
        let mut stages: Vec<Option<String>> = Vec::new();
        let (mut images, mut written) = (Vec::new(), Vec::new());
        let mut growth = Growth::new(longest);
        for (number, Step { line, name, rest }) in steps(text)?.into_iter().enumerate() {
            let at = |message: String| format!("{line}: {message}");
            let known = |image: &Option<String>| match image {
                Some(image) => registries.fault(image).map_or(Ok(()), |fault| {
                    Err(at(format!("the image `{}` {fault}", shown(image))))
                }),
                None => Ok(()),
            };
            if number == MOST_STEPS {
                return Err(at(format!("up to {MOST_STEPS} instructions are taken")));
            }
            growth.take(&name, &rest).map_err(at)?;
            match name.as_str() {
                "FROM" => {
                    let base = base(&rest, &stages).map_err(at)?;
                    known(&base.image)?;
                    let name = base.name.as_ref().map(|name| format!(" AS {name}"));
                    written.push(format!("FROM {}{}", base.from, name.unwrap_or_default()));
                    written.push(mark.clone());
                    images.extend(base.image);
                    stages.push(base.name);
                    continue;
                }
                "COPY" => {
                    let from = source(&rest, &stages).map_err(at)?;
                    known(&from)?;
                    images.extend(from);
                }
                "RUN" if rest.starts_with("--") => {
                    return Err(at("`RUN` takes no options here".into()));
                }
                "LABEL" => own_label(&rest).map_err(at)?,
                name if TAKEN.contains(&name) => {}
                "ADD" => return Err(at("`ADD` may fetch from elsewhere: use `COPY`".into())),
                name => {
                    let may = TAKEN.join(", ");
                    return Err(at(format!(
                        "`{}` is not taken: a line begins with one of {may}",
                        shown(name)
                    )));
                }
            }
            // Whether lines below belong to it is a matter of the builder's version.
            if matches!(name.as_str(), "RUN" | "COPY") && rest.contains("<<") {
                return Err(at("`<<` begins a text within the file for some builders: put that into a file of its own".into()));
            }
            written.push(format!("{name} {rest}").trim_end().to_owned());
        }
        if stages.is_empty() {
            return Err("1: there is no `FROM`".into());
        }
        images.sort_unstable();
        images.dedup();
        Ok(Self {
            text: written.join("\n") + "\n",
            images,
        })
    }
}

/// The instructions. Lines are joined with nothing between them, as the builder does.
fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let at = |message: &str| Err(format!("{number}: {message}"));
        if let Some(odd) = line.chars().find(|c| is_odd(*c)) {
            return at(&format!(
                "the character U+{:04X} does not belong here: nobody sees it",
                u32::from(odd)
            ));
        }
        let words = line.trim_matches(BLANK);
        if let Some(comment) = words.strip_prefix('#') {
            if is_escape(comment) {
                return at("lines go on with `\\` only: take `escape` away");
            }
            if open.is_some() && !line.starts_with('#') {
                return at("a comment within an instruction begins at the line's beginning");
            }
            continue;
        }
        if words.is_empty() {
            continue;
        }
        let (first, mut joined) = open.take().unwrap_or((number, String::new()));
        let ended = line.trim_end_matches(BLANK);
        let going_on = ended.strip_suffix('\\');
        if going_on.is_some_and(|part| part.ends_with('\\')) {
            return at("a line that ends with two `\\` is cut in several ways");
        }
        joined.push_str(going_on.unwrap_or(line));
        if joined.len() > MOST_OF_ONE {
            return at(&format!("an instruction has more than {MOST_OF_ONE} bytes"));
        }
        if going_on.is_some() {
            open = Some((first, joined));
        } else {
            steps.push(step(first, &joined)?);
        }
    }
    if let Some((first, joined)) = open {
        steps.push(step(first, &joined)?);
    }
    Ok(steps)
}

/// Characters that nobody sees, or that are a blank for some readers only.
fn is_odd(c: char) -> bool {
    let hidden = matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let blank = c.is_whitespace() && !BLANK.contains(&c);
    hidden || blank || (c.is_control() && c != '\t')
}

/// Whether a comment would choose what lines go on with.
fn is_escape(comment: &str) -> bool {
    let lower = comment.trim_start_matches(BLANK).to_ascii_lowercase();
    let rest = lower.strip_prefix("escape");
    rest.is_some_and(|rest| rest.trim_start_matches(BLANK).starts_with('='))
}

fn step(line: usize, joined: &str) -> Result<Step, String> {
    let words = joined.trim_matches(BLANK);
    // Written anew it would go on with whatever comes next.
    if words.ends_with('\\') {
        return Err(format!("{line}: an instruction ends with `\\`"));
    }
    let (name, rest) = words.split_once(BLANK).unwrap_or((words, ""));
    Ok(Step {
        line,
        name: name.to_ascii_uppercase(),
        rest: rest.trim_matches(BLANK).to_owned(),
    })
}

/// How a stage begins.
struct Base<'t> {
    /// As it is written.
    from: &'t str,
    /// The image that has to be there; none where it is an earlier stage, or nothing at all.
    image: Option<String>,
    /// The stage's name.
    name: Option<String>,
}

fn base<'t>(rest: &'t str, stages: &[Option<String>]) -> Result<Base<'t>, String> {
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
    if name.is_some() && stages.contains(&name) {
        return Err("there is a stage of this name already".into());
    }
    let image = if from == "scratch" {
        None
    } else {
        image(from, stages)?
    };
    Ok(Base { from, image, name })
}

/// The image behind a name; nothing where that is one of these stages.
fn image(name: &str, stages: &[Option<String>]) -> Result<Option<String>, String> {
    let lower = name.to_ascii_lowercase();
    if stages.iter().flatten().any(|stage| *stage == lower) {
        return Ok(None);
    }
    match image_fault(name) {
        None => Ok(Some(name.to_owned())),
        Some(fault) => Err(format!(
            "`{}` must name an earlier stage, or an image without a variable, and as an image it {fault}",
            shown(name)
        )),
    }
}

/// The image that files are copied from, if they come from one. `stages` ends with the stage that copies.
fn source(rest: &str, stages: &[Option<String>]) -> Result<Option<String>, String> {
    // The builder does not know the stage it is in: its name would be that of an image to fetch.
    let done = &stages[..stages.len().saturating_sub(1)];
    let (mut from, mut given) = (None, Vec::new());
    for word in rest.split_whitespace() {
        let Some(option) = word.strip_prefix("--") else {
            break;
        };
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match (key, value) {
            ("from", number)
                if number.bytes().all(|b| b.is_ascii_digit()) && !number.is_empty() =>
            {
                let known = number
                    .parse()
                    .is_ok_and(|number: usize| number < done.len());
                if !known {
                    return Err(format!("there is no stage {} yet", shown(number)));
                }
            }
            ("from", name) => from = image(name, done)?,
            ("chown", user)
                if !user.is_empty()
                    && user
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b":_-.".contains(&b)) => {}
            _ => {
                return Err(format!(
                    "`--{}` is not taken: `--from=` and `--chown=` are",
                    shown(option)
                ));
            }
        }
        if given.contains(&key) {
            return Err(format!("`--{key}` is given twice"));
        }
        given.push(key);
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

/// So much of a word that people know it again.
fn shown(text: &str) -> String {
    match text.char_indices().nth(WORD) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
