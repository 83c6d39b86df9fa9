//! Lists that are narrowed by whatever was asked for.

use rusqlite::{Connection, Row, ToSql, types::ValueRef};

use super::StoreError;
use crate::store::{LISTING_BYTES, Listing};

/// Conditions of a list; those without a value do not count.
#[derive(Default)]
pub(super) struct Conditions {
    sql: String,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    /// Adds a condition, in which `?` stands for the value, when there is one.
    pub(super) fn also<V: ToSql + 'static>(&mut self, condition: &str, value: Option<V>) {
        if let Some(value) = value {
            self.raw(condition);
            self.values.push(Box::new(value));
        }
    }

    /// Adds that a column has one of these values.
    pub(super) fn one_of(&mut self, column: &str, values: &[&'static str]) {
        let places = vec!["?"; values.len()].join(", ");
        self.raw(&format!("{column} IN ({places})"));
        for value in values {
            self.values.push(Box::new(*value));
        }
    }

    /// Adds a condition without a value.
    pub(super) fn raw(&mut self, condition: &str) {
        self.sql.push_str(if self.sql.is_empty() {
            " WHERE "
        } else {
            " AND "
        });
        self.sql.push_str(condition);
    }

    /// What fits, the newest first, as a part of a list.
    pub(super) fn listing<T>(
        mut self,
        conn: &Connection,
        select: &str,
        limit: i64,
        read: fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Listing<T>, StoreError> {
        let sql = format!("{select}{} ORDER BY seq DESC LIMIT ?", self.sql);
        self.values.push(Box::new(limit.saturating_add(1)));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut statement = conn.prepare_cached(&sql)?;
        let mut found = statement.query(rusqlite::params_from_iter(self.values))?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = found.next()? {
            if rows.len() >= limit || bytes >= LISTING_BYTES {
                return Ok(Listing { rows, more: true });
            }
            bytes += texts(row)?;
            rows.push(read(row)?);
        }
        Ok(Listing { rows, more: false })
    }

    /// What fits, the oldest first.
    pub(super) fn oldest<T>(
        mut self,
        conn: &Connection,
        select: &str,
        limit: i64,
        read: fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let sql = format!("{select}{} ORDER BY seq LIMIT ?", self.sql);
        self.values.push(Box::new(limit));
        conn.prepare_cached(&sql)?
            .query_map(rusqlite::params_from_iter(self.values), |row| Ok(read(row)))?
            .map(|row| row?)
            .collect()
    }
}

/// Bytes of the texts of a row.
fn texts(row: &Row<'_>) -> Result<usize, StoreError> {
    let mut bytes = 0;
    for column in 0..row.as_ref().column_count() {
        bytes += match row.get_ref(column)? {
            ValueRef::Text(text) | ValueRef::Blob(text) => text.len(),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
        };
    }
    Ok(bytes)
}
