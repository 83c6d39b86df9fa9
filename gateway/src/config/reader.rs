//! Walks a TOML document with its spans and collects every problem of form.
//!
//! Each table hands out its fields once; what nobody asked for is an unknown field, reported with the
//! nearest known name. A field of the wrong type is reported and treated as absent.
//!
//! Reading can also be asked what it would ask for ([`Document::Survey`]): it reads nothing and notes every field with
//! its table and type, so that no setting can be read and not be in the reference.

mod kind;
mod nested;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    ops::Range,
};

use jiff::Timestamp;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

pub use self::kind::Kind;
use super::diagnostic::Diagnostics;

/// A value and the place it stands at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Byte range in the text.
    pub span: Range<usize>,
}

impl<T> At<T> {
    /// The same place, another value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> At<U> {
        At {
            value: f(self.value),
            span: self.span,
        }
    }
}

/// Where a shadow mode may be written.
const ONLY_THERE: &str = "only a [[rate_limits]] entry and a route's `addresses` have a mode; proof, admission and body caps have none, and nothing else can be in shadow mode";

type Field<'a> = At<&'a DeValue<'a>>;

/// A setting that reading asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The table it stands in: `limits`, `routes[].auth`, `upstreams.<id>`; empty for the top.
    pub table: String,
    /// Its name.
    pub field: &'static str,
    /// What it is: a word for people.
    pub kind: &'static str,
}

/// The id of what a catalogue finds.
fn nobody() -> At<String> {
    At {
        value: String::new(),
        span: 0..0,
    }
}

/// What is read.
#[derive(Debug)]
pub enum Document<'a> {
    /// This text.
    Text(&'a str),
    /// Nothing: what would be asked for is noted here, in its order; of each kind of table one is found.
    Survey(&'a RefCell<Vec<Asked>>),
}

/// Where a catalogue is written, and of which table.
#[derive(Debug)]
struct Survey<'a> {
    path: String,
    asked: &'a RefCell<Vec<Asked>>,
}

/// What is wrong, and what to do: the two parts of a message of [`super::value`].
pub fn apart(message: &str) -> (&str, Option<String>) {
    match message.split_once("; ") {
        Some((wrong, hint)) => (wrong, Some(hint.to_owned())),
        None => (message, None),
    }
}

/// The word for a type that a setting is parsed into.
fn word_of<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    [
        ("Duration", "duration"),
        ("Size", "size"),
        ("RateWritten", "rate"),
        ("SocketAddr", "address with port"),
        ("IpAddr", "address"),
    ]
    .into_iter()
    .find(|(end, _)| name.rsplit("::").next() == Some(*end))
    .map_or("text", |(_, word)| word)
}

/// One table of the document.
pub struct Table<'a> {
    entries: &'a DeTable<'a>,
    span: Range<usize>,
    /// How the table is called in a message: `[limits]`, `a route`.
    name: String,
    asked: RefCell<BTreeSet<&'static str>>,
    /// Names that are not known are not repeated.
    holds_secrets: Cell<bool>,
    problems: &'a RefCell<&'a mut Diagnostics>,
    /// What is asked for is only noted.
    survey: Option<Survey<'a>>,
}

/// Parses a text and hands its root table to `read`. A text that is not TOML yields its syntax errors
/// and what the default of `T` is.
pub fn with_root<T: Default>(
    document: &Document<'_>,
    problems: &mut Diagnostics,
    read: impl FnOnce(&Table<'_>) -> T,
) -> T {
    let (text, survey) = match document {
        Document::Text(text) => (*text, None),
        Document::Survey(asked) => ("", Some(*asked)),
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    for e in &errors {
        problems.error(
            &e.span().unwrap_or_default(),
            e.message().to_owned(),
            Some("the file is not valid TOML here".into()),
        );
    }
    if !errors.is_empty() {
        problems.conceal_values();
        return T::default();
    }
    let cell = RefCell::new(problems);
    let root = Table {
        entries: document.get_ref(),
        span: 0..0,
        name: "the policy".into(),
        asked: RefCell::default(),
        holds_secrets: Cell::new(false),
        problems: &cell,
        survey: survey.map(|asked| Survey {
            path: String::new(),
            asked,
        }),
    };
    let out = read(&root);
    root.finish();
    out
}

impl<'a> Table<'a> {
    /// The place of the table, for problems of the table as a whole.
    pub fn at(&self) -> At<()> {
        At {
            value: (),
            span: self.span.clone(),
        }
    }

    /// Reports an error at a place.
    pub fn error(&self, span: &Range<usize>, message: String, hint: Option<String>) {
        self.problems.borrow_mut().error(span, message, hint);
    }

    /// Reports an error of the table as a whole.
    pub fn error_here(&self, message: &str, hint: Option<&str>) {
        self.error(&self.span, message.to_owned(), hint.map(str::to_owned));
    }

    /// Notes that a field is asked for, by its first and closest word.
    fn note(&self, field: &'static str, kind: &'static str) {
        let Some(Survey { path, asked }) = &self.survey else {
            return;
        };
        let mut asked = asked.borrow_mut();
        if !asked.iter().any(|a| a.table == *path && a.field == field) {
            asked.push(Asked {
                table: path.clone(),
                field,
                kind,
            });
        }
    }

    /// Whoever reads this table expects secrets, or what leads to them, in it: names that are not known are not repeated.
    pub fn holds_secrets(&self) {
        self.holds_secrets.set(true);
    }

    /// The table within that a catalogue finds.
    fn surveyed(&self, step: &str) -> Option<Table<'a>> {
        let Survey { path, asked } = self.survey.as_ref()?;
        let dot = if path.is_empty() { "" } else { "." };
        Some(Table {
            entries: self.entries,
            span: 0..0,
            name: String::new(),
            asked: RefCell::default(),
            holds_secrets: Cell::new(false),
            problems: self.problems,
            survey: Some(Survey {
                path: format!("{path}{dot}{step}"),
                asked,
            }),
        })
    }

    fn field(&self, name: &'static str, kind: Kind) -> Option<Field<'a>> {
        self.note(name, kind.word());
        self.asked.borrow_mut().insert(name);
        let (_, value) = self.entries.iter().find(|(k, _)| k.get_ref() == name)?;
        if Kind::of(value.get_ref()) == Some(kind) {
            return Some(At {
                value: value.get_ref(),
                span: value.span(),
            });
        }
        self.error(
            &value.span(),
            format!(
                "`{name}` wants {}, this is {}",
                kind.phrase(),
                value.get_ref().type_str()
            ),
            Some(kind.example().into()),
        );
        self.unreadable(name);
        None
    }

    /// It stands there and could not be read, so it is not missing as well.
    fn unreadable(&self, field: &'static str) {
        self.problems.borrow_mut().unreadable(&self.span, field);
    }

    /// A field that has to be there.
    pub fn required(&self, name: &'static str, kind: Kind) -> Option<Field<'a>> {
        self.note(name, kind.word());
        if !self.entries.iter().any(|(k, _)| k.get_ref() == name) {
            self.asked.borrow_mut().insert(name);
            self.error(
                &self.span,
                format!("{} lacks `{name}`", self.name),
                Some(format!("add `{name} = …` ({})", kind.phrase())),
            );
            return None;
        }
        self.field(name, kind)
    }

    /// A string.
    pub fn string(&self, name: &'static str) -> Option<At<String>> {
        let f = self.field(name, Kind::String)?;
        Some(At {
            value: f.value.as_str()?.to_owned(),
            span: f.span,
        })
    }

    /// A string that means something else.
    pub fn parsed<T>(
        &self,
        name: &'static str,
        parse: fn(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        self.note(name, word_of::<T>());
        let text = self.string(name)?;
        match parse(&text.value) {
            Ok(value) => Some(At {
                value,
                span: text.span,
            }),
            Err(message) => {
                let (message, hint) = apart(&message);
                self.error(&text.span, format!("`{name}`: {message}"), hint);
                self.unreadable(name);
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self, name: &'static str) -> Option<At<bool>> {
        let f = self.field(name, Kind::Boolean)?;
        Some(At {
            value: f.value.as_bool()?,
            span: f.span,
        })
    }

    /// A whole number, not negative.
    pub fn integer(&self, name: &'static str) -> Option<At<u64>> {
        let f = self.field(name, Kind::Integer)?;
        let number = self.integer_of(&f);
        if number.is_none() {
            self.unreadable(name);
        }
        number
    }

    /// The number of a field that was already asked for.
    pub fn integer_of(&self, f: &Field<'a>) -> Option<At<u64>> {
        let digits = f.value.as_integer()?;
        let value = u64::from_str_radix(digits.as_str(), digits.radix()).ok();
        if value.is_none() {
            self.error(
                &f.span,
                "this number is negative or too large".into(),
                Some("write a whole number, 0 or more".into()),
            );
        }
        Some(At {
            value: value?,
            span: f.span.clone(),
        })
    }

    /// A time with its offset.
    pub fn timestamp(&self, name: &'static str) -> Option<At<Timestamp>> {
        let f = self.field(name, Kind::Timestamp)?;
        let text = f.value.as_datetime()?.to_string();
        match text.parse() {
            Ok(value) => Some(At {
                value,
                span: f.span,
            }),
            Err(_) => {
                self.error(
                    &f.span,
                    format!("`{name}` wants a time with its offset"),
                    Some("e.g. 2027-01-01T00:00:00Z".into()),
                );
                self.unreadable(name);
                None
            }
        }
    }

    /// An array of strings with the place of the whole.
    pub fn strings_at(&self, name: &'static str) -> Option<At<Vec<At<String>>>> {
        let f = self.field(name, Kind::Array)?;
        let mut out = Vec::new();
        for item in f.value.as_array()? {
            match item.get_ref().as_str() {
                Some(s) => out.push(At {
                    value: s.to_owned(),
                    span: item.span(),
                }),
                None => self.error(
                    &item.span(),
                    format!("`{name}` is a list of strings"),
                    Some(Kind::Array.example().into()),
                ),
            }
        }
        Some(At {
            value: out,
            span: f.span,
        })
    }

    /// An array of strings; none when absent.
    pub fn strings(&self, name: &'static str) -> Vec<At<String>> {
        self.strings_at(name).map(|a| a.value).unwrap_or_default()
    }

    /// A table of strings: names and values with their places.
    pub fn string_map(&self, name: &'static str) -> Vec<(At<String>, At<String>)> {
        self.note(name, "table of text");
        let Some(f) = self.field(name, Kind::Table) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for (key, value) in f.value.as_table().into_iter().flat_map(DeTable::iter) {
            match value.get_ref().as_str() {
                Some(s) => out.push((
                    At {
                        value: key.get_ref().to_string(),
                        span: key.span(),
                    },
                    At {
                        value: s.to_owned(),
                        span: value.span(),
                    },
                )),
                None => self.error(
                    &value.span(),
                    format!("`{name}` maps names to strings"),
                    Some("e.g. { \"Name\" = \"value\" }".into()),
                ),
            }
        }
        out
    }

    /// Keeps every string below a field out of the excerpts, save those that only refer to a secret: values
    /// of `file` and `env`.
    pub fn conceal_strings(&self, name: &str) {
        if let Some((_, value)) = self.entries.iter().find(|(k, _)| k.get_ref() == name) {
            self.conceal(value);
        }
    }

    fn conceal(&self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::String(_) => self.problems.borrow_mut().conceal(&value.span()),
            DeValue::Array(items) => items.iter().for_each(|item| self.conceal(item)),
            DeValue::Table(table) => {
                for (key, value) in table {
                    if !matches!(key.get_ref().as_ref(), "file" | "env") {
                        self.conceal(value);
                    }
                }
            }
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }

    fn finish(&self) {
        let asked = self.asked.borrow();
        for (key, value) in self.entries {
            let name: &str = key.get_ref();
            if asked.contains(name) {
                continue;
            }
            // Whatever an unknown field holds may be a secret.
            self.conceal(value);
            let near = asked
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, name), *known))
                .filter(|(distance, known)| *distance <= 2.max(known.len() / 3))
                .min();
            let hint = match near {
                _ if name == "mode" => ONLY_THERE.to_owned(),
                Some((_, known)) => {
                    self.unreadable(known);
                    format!("did you mean `{known}`?")
                }
                None => format!(
                    "known here: {}",
                    asked.iter().copied().collect::<Vec<_>>().join(", ")
                ),
            };
            // A secret may even stand where a name belongs.
            let message = if self.holds_secrets.get() && near.is_none() {
                self.problems.borrow_mut().conceal(&key.span());
                format!("unknown field in {}", self.name)
            } else {
                format!("unknown field `{name}` in {}", self.name)
            };
            self.error(&key.span(), message, Some(hint));
        }
    }
}
