//! Reads the secrets a policy names: from files and from the environment, never from the file itself.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    ops::Range,
    os::unix::{ffi::OsStringExt, fs::PermissionsExt},
    path::Path,
};

use jiff::Timestamp;

use super::{Loader, TOP, Weakness};
use crate::{
    config::{SecretEntry, SecretSource, Written, diagnostic::Diagnostics, reader::At},
    plain_file,
    secret::{self, Secret, SecretDigest},
};

/// Names of this length and longer are not repeated in messages.
const SHORTEST_SECRET: usize = 16;

/// One entry, read.
enum Read {
    /// The secret itself.
    Text(Secret),
    /// Its digest only.
    Digest(SecretDigest),
}

struct Entry {
    read: Read,
    expires: Option<Timestamp>,
    /// Its place in the list as written, from 1.
    place: usize,
    span: Range<usize>,
}

/// A secret itself, with its place.
pub(super) struct Signing {
    pub(super) secret: Secret,
    pub(super) expires: Option<Timestamp>,
    pub(super) place: usize,
    pub(super) span: Range<usize>,
}

/// All lists of a policy.
pub(super) struct Secrets {
    lists: BTreeMap<String, (Range<usize>, Vec<Entry>)>,
    /// Digests past their end, so that the log can say of one that it is expired.
    ended: BTreeMap<String, Vec<Presented>>,
    used: RefCell<BTreeSet<String>>,
}

/// A secret that callers present: its digest and until when it counts.
#[derive(Clone, Copy)]
pub(super) struct Presented {
    pub(super) digest: SecretDigest,
    pub(super) expires: Option<Timestamp>,
}

impl Secrets {
    fn list(&self, name: &At<String>, problems: &mut Diagnostics) -> &[Entry] {
        self.used.borrow_mut().insert(name.value.clone());
        if let Some((_, entries)) = self.lists.get(&name.value) {
            return entries;
        }
        if problems.is_unreadable(&TOP, "secrets") {
            return &[];
        }
        let known: Vec<&str> = self.lists.keys().map(String::as_str).collect();
        let hint = if known.is_empty() {
            "add it to [secrets]".into()
        } else {
            format!("known: {}", known.join(", "))
        };
        // What is as long as a secret may be one, pasted where its name belongs.
        let shown = if name.value.len() < SHORTEST_SECRET {
            format!("there is no secret `{}`", name.value)
        } else {
            problems.conceal(&name.span);
            "this names no list of [secrets]; a secret itself never stands in the file".to_owned()
        };
        problems.error(&name.span, shown, Some(hint));
        &[]
    }

    /// Notes that something names a list.
    pub(super) fn name(&self, name: &str) {
        self.used.borrow_mut().insert(name.to_owned());
    }

    /// Whether nothing came of a list, so that nothing can be said of what would be in it.
    pub(super) fn is_refused(&self, name: &str) -> bool {
        self.lists
            .get(name)
            .is_none_or(|(_, entries)| entries.is_empty())
    }

    /// The list's secrets as callers present them, those past their end last.
    pub(super) fn presented(
        &self,
        name: &At<String>,
        problems: &mut Diagnostics,
    ) -> Vec<Presented> {
        self.list(name, problems)
            .iter()
            .map(|e| Presented {
                digest: match &e.read {
                    Read::Text(secret) => secret.digest(),
                    Read::Digest(digest) => *digest,
                },
                expires: e.expires,
            })
            .chain(self.ended.get(&name.value).into_iter().flatten().copied())
            .collect()
    }

    /// The list's secrets themselves, as a MAC needs them.
    pub(super) fn signing(&self, name: &At<String>, problems: &mut Diagnostics) -> Vec<Signing> {
        let mut out = Vec::new();
        for entry in self.list(name, problems) {
            match &entry.read {
                Read::Text(secret) => out.push(Signing {
                    secret: secret.clone(),
                    expires: entry.expires,
                    place: entry.place,
                    span: entry.span.clone(),
                }),
                Read::Digest(_) => problems.error(
                    &name.span,
                    format!(
                        "secret `{}` is a digest, but here the secret itself is needed",
                        name.value
                    ),
                    Some(
                        "a digest serves API keys and test tokens only: name a file or a variable"
                            .into(),
                    ),
                ),
            }
        }
        out
    }

    /// The first live secret itself, to be sent to an upstream.
    pub(super) fn first_text(
        &self,
        name: &At<String>,
        problems: &mut Diagnostics,
    ) -> Option<Secret> {
        self.signing(name, problems)
            .into_iter()
            .next()
            .map(|s| s.secret)
    }

    /// Warns of lists that nothing names.
    pub(super) fn warn_unused(&self, problems: &mut Diagnostics) {
        let used = self.used.borrow();
        for (name, (span, _)) in self.lists.iter().filter(|(name, _)| !used.contains(*name)) {
            problems.warning(
                span,
                format!("nothing uses the secret `{name}`"),
                Some("take it out, or name it where it belongs".into()),
            );
        }
    }
}

impl Loader<'_> {
    pub(super) fn secrets(&mut self, written: &Written) -> Secrets {
        let mut lists = BTreeMap::new();
        let mut ended: BTreeMap<String, Vec<Presented>> = BTreeMap::new();
        for list in &written.secrets {
            let mut entries = Vec::new();
            let mut refused = false;
            for (place, entry) in (1..).zip(&list.entries) {
                match self.secret(&list.id.value, entry) {
                    Outcome::Read(read) => entries.push(Entry {
                        place,
                        span: entry.at.span.clone(),
                        expires: entry.expires.as_ref().map(|e| e.value),
                        read,
                    }),
                    Outcome::Expired => {
                        let past = ended_digest(entry).into_iter();
                        ended.entry(list.id.value.clone()).or_default().extend(past);
                    }
                    Outcome::Refused => refused = true,
                }
            }
            if entries.is_empty() && !refused {
                self.error(
                    &list.id.span,
                    format!("the secret `{}` has no live entry", list.id.value),
                    "add one that is not expired; an empty list proves nothing",
                );
            }
            lists.insert(list.id.value.clone(), (list.id.span.clone(), entries));
        }
        Secrets {
            lists,
            ended,
            used: RefCell::default(),
        }
    }

    fn secret(&mut self, list: &str, entry: &SecretEntry) -> Outcome {
        if let Some(at) = &entry.expires
            && at.value <= Timestamp::now()
        {
            self.problems.warning(
                &at.span,
                format!("this entry of `{list}` is expired and not read"),
                Some("take it out".into()),
            );
            return Outcome::Expired;
        }
        let Some(source) = &entry.source else {
            return Outcome::Refused;
        };
        let read = match source {
            SecretSource::Digest(at) => {
                return match SecretDigest::parse(&at.value) {
                    Some(digest) => Outcome::Read(Read::Digest(digest)),
                    None => {
                        self.error(
                            &at.span,
                            "a digest is `sha256:` and 64 hex digits",
                            "printf %s \"$KEY\" | sha256sum",
                        );
                        Outcome::Refused
                    }
                };
            }
            SecretSource::File(at) => match read_file(&self.lies(&at.value)) {
                Ok((bytes, exposed)) => {
                    if exposed {
                        self.problems.warning(
                            &at.span,
                            format!(
                                "other users can read or change the secret's file `{}`",
                                at.value.display()
                            ),
                            Some("chmod 600, owned by the gateway's user".into()),
                        );
                    }
                    (bytes, &at.span)
                }
                Err(e) => {
                    let hint = if e.kind() == ErrorKind::NotFound {
                        "create it, readable by the gateway's user alone (chmod 600)"
                    } else {
                        "name a plain file that the gateway's user can read, and nobody else (chmod 600)"
                    };
                    if at.value.components().count() > 1 {
                        self.error(
                            &at.span,
                            format!(
                                "the secret's file `{}` cannot be read: {e}",
                                at.value.display()
                            ),
                            hint,
                        );
                    } else {
                        // Not a path at all, so perhaps the secret itself.
                        self.problems.conceal(&at.span);
                        self.error(
                            &at.span,
                            format!("the file of the secret `{list}` cannot be read: {e}"),
                            hint,
                        );
                    }
                    return Outcome::Refused;
                }
            },
            SecretSource::Env(at) => match (self.env)(&at.value) {
                Some(value) => (value.into_vec(), &at.span),
                None => {
                    let hint = "set it in the gateway's environment, or use a file";
                    if is_variable_name(&at.value) {
                        self.error(
                            &at.span,
                            format!("the variable `{}` is not set", at.value),
                            hint,
                        );
                    } else {
                        self.problems.conceal(&at.span);
                        self.error(
                            &at.span,
                            format!("the variable that the secret `{list}` names is not set"),
                            hint,
                        );
                    }
                    return Outcome::Refused;
                }
            },
        };
        let (bytes, span) = read;
        self.judge_secret(list, bytes, span)
    }

    /// What can be told of a secret from its bytes.
    fn judge_secret(&mut self, list: &str, bytes: Vec<u8>, span: &Range<usize>) -> Outcome {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            self.error(
                span,
                format!("the secret `{list}` is empty"),
                "an empty secret proves nothing: put one in, e.g. `openssl rand -hex 32`",
            );
            return Outcome::Refused;
        }
        if bytes.trim_ascii().len() != bytes.len() || bytes.iter().any(u8::is_ascii_control) {
            self.problems.warning(
                span,
                format!(
                    "the secret `{list}` has white space at its ends or control characters in it"
                ),
                Some(
                    "no header can carry such a key or token; is there a line break too many?"
                        .into(),
                ),
            );
        }
        match secret::weakness(&bytes) {
            Some(secret::Weakness::Placeholder) => self.weak(
                Weakness::PlaceholderSecret,
                span,
                format!("the secret `{list}` is a placeholder"),
                "replace it, e.g. with the output of `openssl rand -hex 32`",
            ),
            Some(secret::Weakness::Weak) => self.weak(
                Weakness::WeakSecret,
                span,
                format!("the secret `{list}` is weak: under 128 bits even by the kindest count"),
                "replace it, e.g. with the output of `openssl rand -hex 32`",
            ),
            None => {}
        }
        Outcome::Read(Read::Text(Secret::new(bytes)))
    }
}

enum Outcome {
    Read(Read),
    Expired,
    Refused,
}

/// The digest of an entry past its end. What only refers to a secret is not read any more.
fn ended_digest(entry: &SecretEntry) -> Option<Presented> {
    match &entry.source {
        Some(SecretSource::Digest(at)) => SecretDigest::parse(&at.value).map(|digest| Presented {
            digest,
            expires: entry.expires.as_ref().map(|e| e.value),
        }),
        Some(SecretSource::File(_) | SecretSource::Env(_)) | None => None,
    }
}

/// A secret's file without its last line break, and whether other users can get at it.
fn read_file(path: &Path) -> std::io::Result<(Vec<u8>, bool)> {
    let (mut bytes, metadata) = plain_file::read(path, plain_file::SECRET_BYTES)?;
    let mode = metadata.permissions().mode();
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok((bytes, mode & 0o026 != 0))
}

/// Names as shells take them, in the upper case that variables are written in.
fn is_variable_name(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}
