//! Lists that are narrowed by whatever was asked for.

use rusqlite::{Connection, Row, ToSql};

use super::StoreError;

/// What comes first.
#[derive(Clone, Copy)]
pub(super) enum Order {
    /// The newest.
    Newest,
    /// The oldest.
    Oldest,
}

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

    /// What fits, in this order.
    pub(super) fn rows<T>(
        mut self,
        conn: &Connection,
        select: &str,
        order: Order,
        limit: i64,
        read: fn(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let order = match order {
            Order::Newest => "seq DESC",
            Order::Oldest => "seq",
        };
        let sql = format!("{select}{} ORDER BY {order} LIMIT ?", self.sql);
        self.values.push(Box::new(limit));
        conn.prepare_cached(&sql)?
            .query_map(rusqlite::params_from_iter(self.values), |row| Ok(read(row)))?
            .map(|row| row?)
            .collect()
    }
}
