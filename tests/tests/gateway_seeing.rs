//! What the gateway lets an operator see: a record for every request and every refusal, metrics, traces; and that
//! nothing secret is in any of it.

mod access;
mod acts;
mod audit;
mod metrics;
mod planted;
mod trace;

use std::path::Path;

use orket_tests::{DEADLINE, Gateway, eventually};
use serde_json::Value;

/// The records of some log lines.
fn records(text: &str) -> Vec<Value> {
    // The last line may still be on its way.
    let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    complete
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// The records of this target and event.
fn of<'a>(records: &'a [Value], target: &str, event: &str) -> Vec<&'a Value> {
    let wanted = |r: &&Value| r["target"] == target && r["event"] == event;
    records.iter().filter(wanted).collect()
}

/// Stops the gateway, which writes all that waits, and reads what it wrote to standard error.
async fn at_the_end(gateway: &mut Gateway) -> Vec<Value> {
    gateway.program().terminate().await;
    records(&gateway.program().stderr())
}

/// Waits until the file holds a record that fits, and returns it.
async fn record_in(file: &Path, fits: impl Fn(&Value) -> bool) -> Value {
    let found = || records(&std::fs::read_to_string(file).unwrap_or_default());
    eventually("the record is written", DEADLINE, || async {
        found().iter().any(&fits)
    })
    .await;
    found().into_iter().find(|r| fits(r)).unwrap()
}
