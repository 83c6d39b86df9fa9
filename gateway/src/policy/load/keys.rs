//! API keys and what each may do.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, OnceLock},
};

use http::Method;
use jiff::Timestamp;

use super::{Loader, TOP, secrets::Secrets};
use crate::{
    config::{self, Written, reader::At},
    policy::keys::{ApiKey, Grant, KeyRing, Scopes},
};

/// The scope that covers everything.
pub(super) const ALL: &str = "*";

/// What [`Loader::half_read`] holds when a key or its secret was not understood.
pub(super) const KEYS: &str = "a key";

type ScopeTable = BTreeMap<String, Vec<Grant>>;

impl Loader<'_> {
    pub(super) fn keys(&mut self, written: &Written, secrets: &Secrets) -> KeyRing {
        let scopes = self.scopes(written);
        let mut ring = KeyRing::default();
        let mut seen = HashSet::new();
        for key in &written.keys {
            let (Some(id), Some(secret)) = (&key.id, &key.secret) else {
                self.lacking(
                    &key.at,
                    "a key",
                    &[("id", key.id.is_none()), ("secret", key.secret.is_none())],
                    "e.g. id = \"ci\", secret = \"ci_key\"",
                );
                self.half_read.insert(KEYS.to_owned());
                continue;
            };
            self.check_name(id);
            if !seen.insert(id.value.clone()) {
                self.error(
                    &id.span,
                    format!("there are two keys `{}`", id.value),
                    "give each its own id",
                );
            }
            let scopes = self.scopes_of(key, &id.value, &scopes);
            self.warn_expired(key, &id.value);
            if secrets.is_refused(&secret.value) {
                self.half_read.insert(KEYS.to_owned());
            }
            for entry in secrets.presented(secret, self.problems) {
                let expires = match (&key.expires, entry.expires) {
                    (Some(a), Some(b)) => Some(a.value.min(b)),
                    (Some(a), None) => Some(a.value),
                    (None, b) => b,
                };
                let api_key = ApiKey {
                    id: id.value.as_str().into(),
                    scopes: scopes.clone(),
                    expires,
                    digest: entry.digest,
                    uses: OnceLock::new(),
                };
                let past = entry.expires.is_some_and(|end| end <= Timestamp::now());
                if let Err(other) = ring.add(api_key)
                    && !past
                {
                    self.error(
                        &secret.span,
                        format!("this secret is already the key `{other}`"),
                        "two keys with one secret cannot be told apart",
                    );
                }
            }
        }
        ring
    }

    /// A key past its end opens nothing, which somebody may have forgotten.
    fn warn_expired(&mut self, key: &config::Key, id: &str) {
        if let Some(at) = &key.expires
            && at.value <= Timestamp::now()
        {
            self.problems.warning(
                &at.span,
                format!("the key `{id}` is expired and opens nothing"),
                Some("give it a later end, or take it out".into()),
            );
        }
    }

    fn scopes(&mut self, written: &Written) -> ScopeTable {
        let mut table = ScopeTable::new();
        for scope in &written.scopes {
            let (Some(id), Some(allow)) = (&scope.id, &scope.allow) else {
                self.lacking(
                    &scope.at,
                    "a scope",
                    &[("id", scope.id.is_none()), ("allow", scope.allow.is_none())],
                    "e.g. id = \"runs\", allow = [\"POST /v1/runs\"]",
                );
                let id = scope.id.as_ref().map(|id| format!("scope {}", id.value));
                self.half_read.extend(id);
                continue;
            };
            // A scope may be called as programs like to call theirs: `runs:write`.
            if id.value == ALL || !orket_shared::id::is_name(&id.value.replace(':', "-")) {
                self.error(
                    &id.span,
                    format!("`{}` is not a name for a scope", id.value),
                    "letters, digits, `-`, `_`, `.` and `:`",
                );
            }
            if allow.value.is_empty() {
                self.error(
                    &allow.span,
                    format!("scope `{}` allows nothing", id.value),
                    "e.g. [\"POST /v1/runs\"]",
                );
            }
            let grants = allow
                .value
                .iter()
                .filter_map(|text| self.grant(text))
                .collect();
            if table.insert(id.value.clone(), grants).is_some() {
                self.error(
                    &id.span,
                    format!("there are two scopes `{}`", id.value),
                    "give each its own id",
                );
            }
        }
        table
    }

    fn grant(&mut self, text: &At<String>) -> Option<Grant> {
        let found = text.value.split_once(' ').and_then(|(method, path)| {
            let method = super::routes::METHODS
                .iter()
                .find(|m| m.as_str() == method)?;
            Some((method, path))
        });
        let Some((method, path)) = found else {
            self.error(
                &text.span,
                format!("`{}` is not `METHOD /path`", text.value),
                "e.g. \"POST /v1/runs\" or \"GET /v1/*\"",
            );
            return None;
        };
        let path = self.path(
            Some(&At {
                value: path.to_owned(),
                span: text.span.clone(),
            }),
            &text.span,
            "scope",
        )?;
        Some(Grant {
            method: Method::clone(method),
            path,
        })
    }

    fn scopes_of(&mut self, key: &config::Key, id: &str, table: &ScopeTable) -> Scopes {
        let nothing = Scopes::Only(Arc::default());
        let Some(named) = &key.scopes else {
            self.lacking(
                &key.at,
                &format!("key `{id}`"),
                &[("scopes", true)],
                "write scopes = [\"*\"] for all",
            );
            return nothing;
        };
        if named.value.is_empty() {
            self.error(
                &named.span,
                "a key without a scope opens nothing",
                "write [\"*\"], or take the key out",
            );
        }
        let mut grants = Vec::new();
        for scope in &named.value {
            match table.get(&scope.value) {
                _ if scope.value == ALL => return Scopes::All,
                Some(of_scope) => grants.extend_from_slice(of_scope),
                None if self.half_read.contains(&format!("scope {}", scope.value))
                    || self.problems.is_unreadable(&TOP, "scopes") => {}
                None => {
                    let known: Vec<&str> = table.keys().map(String::as_str).chain([ALL]).collect();
                    self.error(
                        &scope.span,
                        format!("there is no scope `{}`", scope.value),
                        &format!("known: {}", known.join(", ")),
                    );
                }
            }
        }
        if grants.is_empty() {
            nothing
        } else {
            Scopes::Only(grants.into())
        }
    }
}
