//! What a policy file says of its keys, as data: also where it does not load.

use jiff::Timestamp;
use toml::{Table, Value};

use super::{KeysError, asked, edit::EditError};

pub(super) fn data_of(text: &str) -> Result<Table, EditError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.parse()
        .map_err(|e: toml::de::Error| EditError::Toml(e.message().to_owned()))
}

pub(super) fn keys_in(data: &Table) -> impl Iterator<Item = &Table> {
    let keys = data.get("keys").and_then(Value::as_array);
    keys.into_iter().flatten().filter_map(Value::as_table)
}

pub(super) fn key_of<'a>(data: &'a Table, id: &str) -> Option<&'a Table> {
    keys_in(data).find(|key| key.get("id").and_then(Value::as_str) == Some(id))
}

pub(super) fn known<'a>(data: &'a Table, id: &str) -> Result<&'a Table, KeysError> {
    key_of(data, id).ok_or_else(|| {
        let ids: Vec<_> = keys_in(data)
            .filter_map(|key| key.get("id").and_then(Value::as_str))
            .collect();
        asked(format!(
            "there is no key `{id}` in the file; it has {}",
            if ids.is_empty() {
                "none".to_owned()
            } else {
                ids.join(", ")
            }
        ))
    })
}

pub(super) fn list_of(key: &Table) -> Result<&str, KeysError> {
    key.get("secret")
        .and_then(Value::as_str)
        .ok_or_else(|| asked("this key names no secret"))
}

pub(super) fn time(table: &Table) -> Option<Timestamp> {
    table
        .get("expires")?
        .as_datetime()?
        .to_string()
        .parse()
        .ok()
}

/// A name in `[secrets]` that is not taken.
pub(super) fn free_list(data: &Table, id: &str) -> String {
    let taken = |name: &str| data.get("secrets").is_some_and(|s| s.get(name).is_some());
    let mut name = format!("{id}_key");
    let mut number = 2;
    while taken(&name) {
        name = format!("{id}_key_{number}");
        number += 1;
    }
    name
}

/// Who else names this list of secrets.
pub(super) fn other_user(data: &Table, list: &str, id: &str) -> Option<String> {
    let is = |table: &Table, field: &str| table.get(field).and_then(Value::as_str) == Some(list);
    let name = |table: &Table| {
        table
            .get("id")
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    let tables = |section: &str| {
        let found = data.get(section).and_then(Value::as_array);
        found.into_iter().flatten().filter_map(Value::as_table)
    };
    if let Some(key) = tables("keys").find(|key| is(key, "secret") && name(key) != id) {
        return Some(format!("the key `{}`", name(key)));
    }
    let by_route = tables("routes").find(|route| {
        let auth = route.get("auth").and_then(Value::as_table);
        auth.is_some_and(|auth| auth.values().any(|v| v.as_str() == Some(list)))
    });
    if let Some(route) = by_route {
        return Some(format!("the route `{}`", name(route)));
    }
    let upstreams = data.get("upstreams").and_then(Value::as_table)?;
    upstreams.iter().find_map(|(upstream, settings)| {
        let headers = settings.get("set_headers")?.as_table()?;
        headers
            .values()
            .any(|v| v.as_str() == Some(list))
            .then(|| format!("the upstream `{upstream}`"))
    })
}

/// The digests that stand in the file for a key.
pub(super) fn digests_of(data: &Table, id: &str) -> Vec<String> {
    let list = key_of(data, id).and_then(|key| key.get("secret")?.as_str());
    let entries = list.and_then(|list| data.get("secrets")?.get(list)?.as_array());
    let digest = |entry: &Value| entry.get("digest")?.as_str().map(str::to_owned);
    entries.into_iter().flatten().filter_map(digest).collect()
}
