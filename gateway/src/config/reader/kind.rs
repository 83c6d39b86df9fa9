//! The types of fields, in the words that people are told.

use toml::de::DeValue;

/// The types a field can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// An array.
    Array,
    /// A table.
    Table,
    /// A date and time with its offset.
    Timestamp,
}

impl Kind {
    pub(super) fn of(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::String(_) => Some(Self::String),
            DeValue::Integer(_) => Some(Self::Integer),
            DeValue::Boolean(_) => Some(Self::Boolean),
            DeValue::Array(_) => Some(Self::Array),
            DeValue::Table(_) => Some(Self::Table),
            DeValue::Datetime(_) => Some(Self::Timestamp),
            DeValue::Float(_) => None,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::String => "text",
            Self::Integer => "whole number",
            Self::Boolean => "true or false",
            Self::Array => "list of text",
            Self::Table => "table",
            Self::Timestamp => "time",
        }
    }

    pub(super) fn example(self) -> &'static str {
        match self {
            Self::String => "write it in quotes, e.g. \"text\"",
            Self::Integer => "write the number without quotes, e.g. 100",
            Self::Boolean => "write true or false, without quotes",
            Self::Array => "write a list, e.g. [\"one\", \"two\"]",
            Self::Table => "write a table, e.g. { name = \"value\" }",
            Self::Timestamp => "write the time without quotes, e.g. 2027-01-01T00:00:00Z",
        }
    }

    pub(super) fn phrase(self) -> &'static str {
        match self {
            Self::String => "a string",
            Self::Integer => "a whole number",
            Self::Boolean => "true or false",
            Self::Array => "an array",
            Self::Table => "a table",
            Self::Timestamp => "a time such as 2027-01-01T00:00:00Z",
        }
    }
}
