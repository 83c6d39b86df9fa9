//! What is changed in a policy's text when a key is made, rotated or revoked, in each form TOML has for it: `[[keys]]` or
//! `keys = [ … ]`, `[secrets]`, `secrets = { … }`, `secrets.name = [ … ]` or `[[secrets.name]]`.
//!
//! `toml_edit` says where things stand; only those places change. [`Change::applied`] says the same once more, of the data alone: whoever
//! writes compares the two, so that a slip here cannot reach the file.

use std::ops::Range;

use jiff::Timestamp;
use toml::{Table, Value};
use toml_edit::{Document, Item, TableLike, value as toml_value};

use super::splice::Splices;

/// What stands at the beginning of some editors' files.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Why a text cannot be edited.
#[derive(Debug, thiserror::Error)]
pub(super) enum EditError {
    #[error("the file is not valid TOML: {0}")]
    Toml(String),
    #[error("`{0}` has a form that cannot be edited here; edit the file by hand")]
    Form(String),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A key with a list of its own in `[secrets]`.
    New {
        id: String,
        list: String,
        digest: String,
        scopes: Vec<String>,
        expires: Option<Timestamp>,
    },
    /// Another secret in a list, and ends for some of those it has, by their place in it.
    Rotate {
        list: String,
        digest: String,
        ends: Vec<(usize, Timestamp)>,
    },
    /// No key of this id any more, and no such list.
    Revoke { id: String, list: Option<String> },
}

/// `{ digest = "sha256:…" }`, as an entry of a list.
fn entry(digest: &str) -> String {
    format!("{{ digest = {} }}", toml_value(digest))
}

impl Change {
    /// The text with this change.
    pub(super) fn made(&self, text: &str) -> Result<String, EditError> {
        let (mark, text) = match text.strip_prefix(BYTE_ORDER_MARK) {
            Some(text) => (Some(BYTE_ORDER_MARK), text),
            None => (None, text),
        };
        let document =
            Document::parse(text).map_err(|e| EditError::Toml(e.message().to_owned()))?;
        let mut edit = Edit {
            root: document.as_table(),
            splices: Splices::of(text),
        };
        match self {
            Self::New {
                id,
                list,
                digest,
                scopes,
                expires,
            } => {
                edit.add_list(list, digest)?;
                edit.add_key(id, list, scopes, *expires)?;
            }
            Self::Rotate { list, digest, ends } => edit.rotate(list, digest, ends)?,
            Self::Revoke { id, list } => {
                edit.remove_key(id)?;
                if let Some(list) = list {
                    edit.remove_list(list)?;
                }
            }
        }
        let edited = edit.splices.finish().ok_or_else(|| form("the file"))?;
        Ok(mark.into_iter().chain(edited.chars()).collect())
    }

    /// The data with this change.
    pub(super) fn applied(&self, mut data: Table) -> Option<Table> {
        match self {
            Self::New {
                id,
                list,
                digest,
                scopes,
                expires,
            } => {
                let secrets = data
                    .entry("secrets")
                    .or_insert_with(|| Table::new().into())
                    .as_table_mut()?;
                secrets.insert(list.clone(), Value::Array(vec![entry_data(digest)]));
                let mut key = Table::new();
                key.insert("id".into(), id.clone().into());
                key.insert("secret".into(), list.clone().into());
                key.insert("scopes".into(), scopes.clone().into());
                if let Some(end) = expires {
                    key.insert("expires".into(), time_data(*end)?);
                }
                data.entry("keys")
                    .or_insert_with(|| Value::Array(Vec::new()))
                    .as_array_mut()?
                    .push(key.into());
            }
            Self::Rotate { list, digest, ends } => {
                let entries = data.get_mut("secrets")?.get_mut(list)?.as_array_mut()?;
                for (index, end) in ends {
                    let entry = entries.get_mut(*index)?.as_table_mut()?;
                    entry.insert("expires".into(), time_data(*end)?);
                }
                entries.push(entry_data(digest));
            }
            Self::Revoke { id, list } => {
                let keys = data.get_mut("keys")?.as_array_mut()?;
                keys.retain(|key| key.get("id").and_then(Value::as_str) != Some(id));
                let no_keys = keys.is_empty();
                if let Some(list) = list {
                    data.get_mut("secrets")?.as_table_mut()?.remove(list)?;
                }
                if no_keys {
                    data.remove("keys");
                }
            }
        }
        Some(bare(data))
    }
}

/// Nothing and an empty list of keys or secrets are the same.
pub(super) fn bare(mut data: Table) -> Table {
    for name in ["keys", "secrets"] {
        let empty = data.get(name).is_some_and(|v| {
            v.as_array().is_some_and(Vec::is_empty) || v.as_table().is_some_and(Table::is_empty)
        });
        if empty {
            data.remove(name);
        }
    }
    data
}

fn entry_data(digest: &str) -> Value {
    let mut entry = Table::new();
    entry.insert("digest".into(), digest.into());
    entry.into()
}

fn time_data(at: Timestamp) -> Option<Value> {
    at.to_string().parse().ok().map(Value::Datetime)
}

fn form(what: &str) -> EditError {
    EditError::Form(what.to_owned())
}

struct Edit<'a> {
    root: &'a toml_edit::Table,
    splices: Splices<'a>,
}

impl Edit<'_> {
    fn add_list(&mut self, list: &str, digest: &str) -> Result<(), EditError> {
        let name = toml_edit::Key::new(list).to_string();
        let line = format!("{name} = [{}]", entry(digest));
        let unknown = || form("secrets");
        match self.root.get("secrets") {
            None => {
                let end = end_of_table(self.root).unwrap_or(0);
                let lines = [String::new(), "[secrets]".to_owned(), line];
                self.splices
                    .insert_below(end.max(self.last_place()), "", &lines);
            }
            Some(Item::Value(toml_edit::Value::InlineTable(table))) => {
                let span = table.span().ok_or_else(unknown)?;
                match table.iter().filter_map(|(_, v)| Some(v.span()?.end)).max() {
                    Some(last) => self.splices.insert(last, format!(", {line}")),
                    None => self.splices.insert(span.end - 1, format!(" {line} ")),
                }
            }
            Some(Item::Table(table)) => {
                let last = table.iter().filter_map(|(_, item)| match item {
                    Item::Value(value) => value.span(),
                    Item::None | Item::Table(_) | Item::ArrayOfTables(_) => None,
                });
                let last = last.max_by_key(|span| span.end);
                match (last, table.span()) {
                    (Some(last), _) => {
                        let indent = self.splices.indent(last.start);
                        let dotted = if table.is_dotted() { "secrets." } else { "" };
                        self.splices
                            .insert_below(last.end, indent, &[format!("{dotted}{line}")]);
                    }
                    (None, Some(header)) if !table.is_implicit() => {
                        self.splices.insert_below(header.start, "", &[line]);
                    }
                    (None, _) => {
                        let end = end_of_table(table).ok_or_else(unknown)?;
                        let lines = [
                            String::new(),
                            format!("[[secrets.{name}]]"),
                            format!("digest = {}", toml_value(digest)),
                        ];
                        self.splices.insert_below(end, "", &lines);
                    }
                }
            }
            Some(Item::None | Item::Value(_) | Item::ArrayOfTables(_)) => return Err(unknown()),
        }
        Ok(())
    }

    fn add_key(
        &mut self,
        id: &str,
        list: &str,
        scopes: &[String],
        expires: Option<Timestamp>,
    ) -> Result<(), EditError> {
        let scopes: toml_edit::Array = scopes.iter().collect();
        let mut fields = vec![
            format!("id = {}", toml_value(id)),
            format!("secret = {}", toml_value(list)),
            format!("scopes = {}", toml_value(scopes)),
        ];
        fields.extend(expires.map(|end| format!("expires = {end}")));
        match self.root.get("keys") {
            Some(Item::Value(toml_edit::Value::Array(keys))) => {
                let span = keys.span().ok_or_else(|| form("keys"))?;
                let last = keys.iter().last().and_then(toml_edit::Value::span);
                let element = format!("{{ {} }}", fields.join(", "));
                self.splices.append(&span, last, &element);
            }
            Some(Item::ArrayOfTables(keys)) => {
                let last = keys.iter().last().ok_or_else(|| form("keys"))?;
                let start = last.span().ok_or_else(|| form("keys"))?.start;
                let end = end_of_table(last).unwrap_or(start);
                self.add_key_table(end, start, fields);
            }
            None => {
                let end = self.last_place();
                self.add_key_table(end, end, fields);
            }
            Some(Item::None | Item::Value(_) | Item::Table(_)) => return Err(form("keys")),
        }
        Ok(())
    }

    fn add_key_table(&mut self, below: usize, like: usize, fields: Vec<String>) {
        let mut lines = vec![String::new(), "[[keys]]".to_owned()];
        lines.extend(fields);
        let indent = self.splices.indent(like);
        self.splices.insert_below(below, indent, &lines);
    }

    /// The end of everything that is written, where a new section can begin.
    fn last_place(&self) -> usize {
        end_of_table(self.root).unwrap_or(0)
    }

    fn rotate(
        &mut self,
        list: &str,
        digest: &str,
        ends: &[(usize, Timestamp)],
    ) -> Result<(), EditError> {
        let unknown = || form(&format!("secrets.{list}"));
        let secrets = self.root.get("secrets").and_then(Item::as_table_like);
        match secrets.and_then(|s| s.get(list)).ok_or_else(unknown)? {
            Item::Value(toml_edit::Value::Array(entries)) => {
                for (index, end) in ends {
                    let entry = entries
                        .get(*index)
                        .and_then(toml_edit::Value::as_inline_table);
                    let entry = entry.ok_or_else(unknown)?;
                    match time_of(entry) {
                        Some(written) => self.splices.replace(written, end.to_string()),
                        None => {
                            let last = entry.iter().filter_map(|(_, v)| Some(v.span()?.end)).max();
                            self.splices
                                .insert(last.ok_or_else(unknown)?, format!(", expires = {end}"));
                        }
                    }
                }
                let span = entries.span().ok_or_else(unknown)?;
                let last = entries.iter().last().and_then(toml_edit::Value::span);
                self.splices.append(&span, last, &entry(digest));
            }
            Item::ArrayOfTables(entries) => {
                for (index, end) in ends {
                    let entry = entries.get(*index).ok_or_else(unknown)?;
                    let last = end_of_table(entry).ok_or_else(unknown)?;
                    match time_of(entry) {
                        Some(written) => self.splices.replace(written, end.to_string()),
                        None => {
                            let indent = self.splices.indent(last);
                            self.splices
                                .insert_below(last, indent, &[format!("expires = {end}")]);
                        }
                    }
                }
                let last = entries.iter().last().ok_or_else(unknown)?;
                let name = toml_edit::Key::new(list).to_string();
                let lines = [
                    String::new(),
                    format!("[[secrets.{name}]]"),
                    format!("digest = {}", toml_value(digest)),
                ];
                let end = end_of_table(last).ok_or_else(unknown)?;
                let indent = self.splices.indent(end);
                self.splices.insert_below(end, indent, &lines);
            }
            Item::None | Item::Value(_) | Item::Table(_) => return Err(unknown()),
        }
        Ok(())
    }

    fn remove_key(&mut self, id: &str) -> Result<(), EditError> {
        let has_id = |table: &dyn TableLike| table.get("id").and_then(Item::as_str) == Some(id);
        match self.root.get("keys") {
            Some(Item::Value(toml_edit::Value::Array(keys))) => {
                let close = keys.span().ok_or_else(|| form("keys"))?.end - 1;
                let mut before = None;
                for key in keys {
                    let span = key.span().ok_or_else(|| form("keys"))?;
                    let end = span.end;
                    if key.as_inline_table().is_some_and(|t| has_id(t)) {
                        self.splices.remove_element(span, before, close);
                    }
                    before = Some(end);
                }
            }
            Some(Item::ArrayOfTables(keys)) => {
                for key in keys.iter().filter(|key| has_id(*key)) {
                    self.remove_table(key)?;
                }
            }
            Some(Item::None | Item::Value(_) | Item::Table(_)) | None => return Err(form("keys")),
        }
        Ok(())
    }

    fn remove_table(&mut self, table: &toml_edit::Table) -> Result<(), EditError> {
        let start = table.span().ok_or_else(|| form("a table"))?.start;
        let end = end_of_table(table).unwrap_or(start);
        self.splices.remove_lines(start..end);
        Ok(())
    }

    fn remove_list(&mut self, list: &str) -> Result<(), EditError> {
        let unknown = || form(&format!("secrets.{list}"));
        match self.root.get("secrets").ok_or_else(unknown)? {
            Item::Value(toml_edit::Value::InlineTable(table)) => {
                let close = table.span().ok_or_else(unknown)?.end - 1;
                let (key, value) = table.get_key_value(list).ok_or_else(unknown)?;
                let (key, value) = (
                    key.span().ok_or_else(unknown)?,
                    value.span().ok_or_else(unknown)?,
                );
                let ends = table.iter().filter_map(|(_, v)| Some(v.span()?.end));
                let before = ends.filter(|end| *end < key.start).max();
                self.splices
                    .remove_element(key.start..value.end, before, close);
            }
            Item::Table(table) => match table.get_key_value(list).ok_or_else(unknown)? {
                (_, Item::ArrayOfTables(entries)) => {
                    for entry in entries {
                        self.remove_table(entry)?;
                    }
                }
                (key, item) => {
                    let (key, value) = (
                        key.span().ok_or_else(unknown)?,
                        item.span().ok_or_else(unknown)?,
                    );
                    self.splices.remove_lines(key.start..value.end);
                }
            },
            Item::None | Item::Value(_) | Item::ArrayOfTables(_) => return Err(unknown()),
        }
        Ok(())
    }
}

/// Where an entry's `expires` is written.
fn time_of(entry: &dyn TableLike) -> Option<Range<usize>> {
    entry.get("expires")?.span()
}

/// Where the last value of a table and of the tables below it ends; of an empty one, where its header begins.
fn end_of_table(table: &toml_edit::Table) -> Option<usize> {
    let below = table.iter().filter_map(|(_, item)| match item {
        Item::Value(value) => value.span().map(|span| span.end),
        Item::Table(table) => end_of_table(table),
        Item::ArrayOfTables(tables) => tables.iter().filter_map(end_of_table).max(),
        Item::None => None,
    });
    below.max().or_else(|| table.span().map(|span| span.start))
}

#[cfg(test)]
mod tests;
