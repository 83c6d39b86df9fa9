//! Tables within tables.

use std::cell::{Cell, RefCell};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    super::{SecretEntry, SecretList},
    At, Kind, Table, nobody,
};

impl<'a> Table<'a> {
    fn child(&self, name: String, value: &'a Spanned<DeValue<'a>>) -> Option<Table<'a>> {
        let Some(entries) = value.get_ref().as_table() else {
            self.error(
                &value.span(),
                format!("{name} is a table, this is {}", value.get_ref().type_str()),
                Some(Kind::Table.example().into()),
            );
            return None;
        };
        Some(Table {
            entries,
            span: value.span(),
            name,
            asked: RefCell::default(),
            holds_secrets: Cell::new(false),
            problems: self.problems,
            survey: None,
        })
    }

    /// A table within.
    pub fn table<T>(&self, name: &'static str, read: impl FnOnce(&Table<'a>) -> T) -> Option<T> {
        self.note(name, "table");
        if let Some(table) = self.surveyed(name) {
            return Some(read(&table));
        }
        self.asked.borrow_mut().insert(name);
        let (_, value) = self.entries.iter().find(|(k, _)| k.get_ref() == name)?;
        let Some(table) = self.child(format!("`{name}`"), value) else {
            self.unreadable(name);
            return None;
        };
        let out = read(&table);
        table.finish();
        Some(out)
    }

    /// `[[name]]`: tables in their order.
    pub fn array_of_tables<T>(&self, name: &'static str, read: impl Fn(&Table<'a>) -> T) -> Vec<T> {
        self.note(name, "table");
        if let Some(table) = self.surveyed(&format!("{name}[]")) {
            return vec![read(&table)];
        }
        let Some(f) = self.field(name, Kind::Array) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for item in f.value.as_array().into_iter().flatten() {
            if let Some(table) = self.child(format!("an entry of `{name}`"), item) {
                out.push(read(&table));
                table.finish();
            }
        }
        out
    }

    /// `[name.<id>]`: tables by a name the operator chose.
    pub fn tables_by_name<T>(
        &self,
        name: &'static str,
        read: impl Fn(At<String>, &Table<'a>) -> T,
    ) -> Vec<T> {
        if let Some(table) = self.surveyed(&format!("{name}.<id>")) {
            self.note(name, "table");
            return vec![read(nobody(), &table)];
        }
        let Some(f) = self.field(name, Kind::Table) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for (key, value) in f.value.as_table().into_iter().flat_map(DeTable::iter) {
            let id = At {
                value: key.get_ref().to_string(),
                span: key.span(),
            };
            if let Some(table) = self.child(format!("`{name}.{}`", id.value), value) {
                out.push(read(id, &table));
                table.finish();
            }
        }
        out
    }

    /// `[name]` whose entries are lists of tables: the secrets.
    pub fn lists_by_name(
        &self,
        name: &'static str,
        read: impl Fn(&Table<'a>) -> SecretEntry,
    ) -> Vec<SecretList> {
        if let Some(table) = self.surveyed(&format!("{name}.<id>[]")) {
            self.note(name, "table");
            return vec![SecretList {
                id: nobody(),
                entries: vec![read(&table)],
            }];
        }
        let Some(f) = self.field(name, Kind::Table) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for (key, value) in f.value.as_table().into_iter().flat_map(DeTable::iter) {
            let id = At {
                value: key.get_ref().to_string(),
                span: key.span(),
            };
            let Some(items) = value.get_ref().as_array() else {
                self.problems.borrow_mut().error(
                    &value.span(),
                    format!("`{name}.{}` is a list of references, this is {}", id.value, value.get_ref().type_str()),
                    Some("secrets never stand in the file itself: write [{ file = \"…\" }] or [{ env = \"…\" }]".into()),
                );
                // It is there, so whoever names it names something.
                let at = At {
                    value: (),
                    span: value.span(),
                };
                let unread = SecretEntry {
                    at,
                    source: None,
                    expires: None,
                };
                out.push(SecretList {
                    id,
                    entries: vec![unread],
                });
                continue;
            };
            let mut entries = Vec::new();
            for item in items {
                if let Some(table) = self.child(format!("an entry of `{name}.{}`", id.value), item)
                {
                    entries.push(read(&table));
                    table.finish();
                }
            }
            out.push(SecretList { id, entries });
        }
        out
    }
}
