//! Reads maps of a compose file against the allow-list, and keeps what is wrong.

use std::ops::Range;

use super::{
    rule::{Finding, Rule},
    table::{ALLOWED, REFUSED},
    yaml::{Entry, Node, Value},
};

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) findings: Vec<Finding>,
}

/// A map whose keys are all allowed.
pub(super) struct Fields<'n>(&'n [Entry]);

impl<'n> Fields<'n> {
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        let found = self.0.iter().find(|entry| entry.key == key);
        found.map(|entry| &entry.value)
    }
}

impl Reader {
    pub(super) fn refuse(&mut self, rule: Rule, span: &Range<usize>, message: impl Into<String>) {
        self.findings
            .push(Finding::new(rule, span.clone(), message));
    }

    /// What was read, or nothing and a finding.
    pub(super) fn take<T>(&mut self, rule: Rule, at: &Node, read: Result<T, String>) -> Option<T> {
        read.map_err(|message| self.refuse(rule, &at.span, message))
            .ok()
    }

    /// Reads a value if it is there.
    pub(super) fn read<T>(
        &mut self,
        node: Option<&Node>,
        read: impl FnOnce(&Node) -> Result<T, String>,
    ) -> Option<T> {
        let node = node?;
        self.take(Rule::Value, node, read(node))
    }

    /// The entries of a map.
    pub(super) fn map<'n>(&mut self, node: &'n Node) -> &'n [Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            other @ (Value::List(_)
            | Value::Text(_)
            | Value::Int(_)
            | Value::Fraction(_)
            | Value::Bool(_)
            | Value::Null) => {
                let message = format!("a map is expected, and this is {}", other.kind());
                self.refuse(Rule::Value, &node.span, message);
                &[]
            }
        }
    }

    /// The items of a list.
    pub(super) fn list<'n>(&mut self, node: &'n Node) -> &'n [Node] {
        match &node.value {
            Value::List(items) => items,
            other @ (Value::Map(_)
            | Value::Text(_)
            | Value::Int(_)
            | Value::Fraction(_)
            | Value::Bool(_)
            | Value::Null) => {
                let message = format!("a list is expected, and this is {}", other.kind());
                self.refuse(Rule::Value, &node.span, message);
                &[]
            }
        }
    }

    /// The map at a path of the allow-list; whatever is not on it is refused.
    pub(super) fn fields<'n>(&mut self, node: &'n Node, path: &str) -> Fields<'n> {
        let entries = self.map(node);
        for entry in entries {
            self.allow(entry, path);
        }
        Fields(entries)
    }

    /// As [`Self::fields`], for a map that may be empty.
    pub(super) fn optional<'n>(&mut self, node: &'n Node, path: &str) -> Fields<'n> {
        if node.value == Value::Null {
            return Fields(&[]);
        }
        self.fields(node, path)
    }

    fn allow(&mut self, entry: &Entry, path: &str) {
        let key = entry.key.as_str();
        if children(path).any(|child| child == key) {
            return;
        }
        let known = REFUSED.iter().find(|refused| refused.keys.contains(&key));
        if let Some(refused) = known {
            let message = format!("`{key}` is not allowed: {}", refused.instead);
            return self.refuse(refused.rule, &entry.span, message);
        }
        if key.starts_with("x-") {
            let message = format!("`{key}` is an extension, which nothing reads: take it away");
            return self.refuse(Rule::Extension, &entry.span, message);
        }
        let may: Vec<_> = children(path).collect();
        let message = format!("`{key}` is not known here: it may be {}", may.join(", "));
        self.refuse(Rule::UnknownKey, &entry.span, message);
    }
}

/// The keys that may stand in the map at a path.
fn children(path: &str) -> impl Iterator<Item = &'static str> + '_ {
    ALLOWED.iter().filter_map(move |allowed| {
        let (parent, key) = allowed.path.rsplit_once('.').unwrap_or(("", allowed.path));
        (parent == path && key != "*").then_some(key)
    })
}
