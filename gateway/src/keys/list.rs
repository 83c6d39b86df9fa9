//! `orket-gateway keys list`: what the file says of each key, and what the running gateway knows of it.

use std::path::{Path, PathBuf};

use http::Method;
use jiff::Timestamp;
use orket_shared::say;
use serde::Serialize;
use toml::{Table, Value};

use super::{
    KeysError,
    data::{data_of, keys_in},
    file::PolicyFile,
    judged,
    revoke::nobody_listens,
};
use crate::{
    canary::Format,
    control,
    key_ledger::{KeyLedger, KeyStanding},
};

/// One key.
#[derive(Debug, Serialize)]
struct Row {
    scopes: Vec<String>,
    /// How many of its secrets open something now.
    live_secrets: usize,
    #[serde(flatten)]
    standing: KeyStanding,
}

pub(super) fn print(
    config: &Path,
    control: Option<PathBuf>,
    format: Format,
) -> Result<(), KeysError> {
    let file = PolicyFile::open(config)?;
    let data = data_of(file.text())?;
    let snapshot = judged(file.text(), config).map_err(KeysError::DoesNotLoad)?;
    drop(file);
    let in_file = KeyLedger::default().standings(&snapshot.policy.keys, Timestamp::now());
    let running = running(config, control)?;
    let rows: Vec<Row> = in_file
        .into_iter()
        .map(|key| row(key, &data, running.as_deref()))
        .collect();
    match format {
        Format::Json => say!(
            "{}",
            serde_json::json!({ "gateway_answers": running.is_some(), "keys": rows })
        ),
        Format::Text => print_text(&rows, running.is_some()),
    }
    Ok(())
}

/// What the running gateway says of its keys; `None` when none runs.
fn running(config: &Path, control: Option<PathBuf>) -> Result<Option<Vec<KeyStanding>>, KeysError> {
    let socket = control.map_or_else(|| control::socket_of(Some(config)), Ok)?;
    match control::ask(&socket, &Method::GET, "/keys", None, control::PATIENCE) {
        Ok(keys) => Ok(Some(keys)),
        Err(e) if nobody_listens(&e) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn row(mut standing: KeyStanding, data: &Table, running: Option<&[KeyStanding]>) -> Row {
    let known = running.and_then(|keys| keys.iter().find(|key| key.id == standing.id));
    if let Some(known) = known {
        standing.uses = known.uses;
        standing.last_used = known.last_used;
        for secret in &mut standing.secrets {
            let same = known
                .secrets
                .iter()
                .find(|s| s.fingerprint == secret.fingerprint);
            if let Some(same) = same {
                secret.last_used = same.last_used;
                secret.revoked = same.revoked;
                secret.live &= !same.revoked;
            }
        }
    }
    let written = keys_in(data)
        .find(|key| key.get("id").and_then(Value::as_str) == Some(&standing.id))
        .and_then(|key| key.get("scopes")?.as_array());
    Row {
        scopes: written
            .into_iter()
            .flatten()
            .filter_map(|scope| scope.as_str().map(str::to_owned))
            .collect(),
        live_secrets: standing.secrets.iter().filter(|s| s.live).count(),
        standing,
    }
}

fn print_text(rows: &[Row], answers: bool) {
    let width = rows
        .iter()
        .map(|r| r.standing.id.len())
        .max()
        .unwrap_or(0)
        .max(2);
    let time = |at: Option<Timestamp>, none: &str| {
        at.map_or_else(|| none.to_owned(), |at| format!("{at:.0}"))
    };
    let unused = if answers { "never" } else { "?" };
    say!(
        "{:<width$}  {:<22}  {:<22}  {:>8}  scopes",
        "id",
        "expires",
        "last used",
        "secrets"
    );
    for Row {
        scopes,
        live_secrets,
        standing,
    } in rows
    {
        let (expires, used) = (
            time(standing.expires, "never"),
            time(standing.last_used, unused),
        );
        say!(
            "{:<width$}  {expires:<22}  {used:<22}  {live_secrets:>8}  {}",
            standing.id,
            scopes.join(",")
        );
        if standing.secrets.len() > 1 || standing.secrets.iter().any(|s| !s.live) {
            for secret in &standing.secrets {
                let state = match (secret.revoked, secret.live) {
                    (true, _) => "revoked",
                    (false, true) => "live",
                    (false, false) => "expired",
                };
                let (expires, used) = (
                    time(secret.expires, "never"),
                    time(secret.last_used, unused),
                );
                say!(
                    "{:<width$}  {expires:<22}  {used:<22}  {state:>8}  {}",
                    "",
                    secret.fingerprint
                );
            }
        }
    }
    if !answers {
        say!("no gateway answers, so when a key was used last is not known");
    }
}
