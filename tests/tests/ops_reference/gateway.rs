//! The pages about the gateway.

use orket_gateway::{
    builtin::VARIABLES,
    config::reference,
    denial::Reason,
    log::{
        IN_ALL, Log, PER_ADDRESS,
        field::{EVENTS, FIELDS},
    },
    metrics::Metrics,
};
use orket_tests::repository::files_of;

use super::*;

#[test]
fn the_page_of_reasons_is_the_table_of_the_gateway() {
    let source = read(&root().join("gateway/src/denial.rs"));
    let meanings = variants(&source, "Reason");
    assert_eq!(meanings.len(), Reason::ALL.len());
    let mut page = format!(
        "# Reasons of refusals\n{MADE}\n\
         Every refusal of the gateway has one true reason. It stands in the log (`reason`) and in the metrics (`outcome`). The answer carries the\n\
         status, the detail and only the public word, which gives nothing away. How to get from an answer to its reason:\n\
         [Why was this denied?](../RUNBOOK.md#why-was-this-denied)\n\n\
         | true reason | means | status | detail | public word | counts as a failed proof |\n|---|---|---|---|---|---|\n"
    );
    let mut hints = String::new();
    for reason in Reason::ALL {
        let facts = reason.facts();
        let variant = format!("{reason:?}");
        let (_, meaning) = meanings
            .iter()
            .find(|(name, _)| *name == variant)
            .unwrap_or_else(|| panic!("{variant} has no doc comment"));
        let counts = if facts.failed_proof { "yes" } else { "" };
        let (word, detail, public) = (facts.word, facts.detail, facts.public);
        writeln!(
            page,
            "| `{word}` | {meaning} | {} | {detail} | `{public}` | {counts} |",
            facts.status
        )
        .unwrap();
        if let Some(hint) = reason.hint() {
            writeln!(hints, "| `{word}` | {hint} |").unwrap();
        }
    }
    write!(
        page,
        "\nA failed proof counts against the client's address; see `failures_per_address` in [the policy](policy.md#limits).\n\n\
         ## Hints\nThe log adds these, in the field `hint`:\n\n| true reason | hint |\n|---|---|\n{hints}"
    )
    .unwrap();
    hold("reasons.md", &page);
}

#[test]
fn the_page_of_metrics_is_the_declarations_of_the_gateway() {
    let words = format!(
        "# Metrics of the gateway\n{MADE}\n\
         `GET /metrics` on the admin listener, in the OpenMetrics text form. A number is in the unit its name ends in. Labels are ids of the policy and words of\n\
         closed lists: nothing that a client sends becomes one, so the number of series is bounded by the policy. Which to watch:\n\
         [Alerts](../RUNBOOK.md#alerts).\n"
    );
    hold("metrics.md", &page_of_metrics(&words, Metrics::TABLE));
}

/// Every `event = "…"` of the gateway's sources, and every field of its records.
fn said_in_the_sources() -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut events, mut fields) = (BTreeSet::new(), BTreeSet::new());
    let call = Regex::new(r"(?s)tracing::(?:error|warn|info|debug|trace)!\((.*?)\);").unwrap();
    let text = Regex::new(r#""(?:[^"\\]|\\.)*""#).unwrap();
    let event = Regex::new(r#"event = "([a-z_]+)""#).unwrap();
    let field = Regex::new(r"^[%?]?([a-z_]+)\b(?:\s*=|\s*$)").unwrap();
    for file in files_of("gateway/src", "rs") {
        let source = read(&file);
        for call in call.captures_iter(&source) {
            events.extend(event.captures_iter(&call[1]).map(|e| e[1].to_owned()));
            let call = text.replace_all(&call[1], "");
            let (mut depth, mut parts) = (0, vec![String::new()]);
            for c in call.chars() {
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth -= 1,
                    ',' if depth == 0 => {
                        parts.push(String::new());
                        continue;
                    }
                    _ => {}
                }
                parts.last_mut().unwrap().push(c);
            }
            for part in parts {
                if let Some(found) = field.captures(part.trim()) {
                    fields.insert(found[1].to_owned());
                }
            }
        }
    }
    let records = read(&root().join("gateway/src/log/record.rs"));
    let row = Regex::new(r"(?m)^    ([a-z_]+): [A-Za-z&]").unwrap();
    let event = Regex::new(r#"event: "([a-z_]+)""#).unwrap();
    events.extend(event.captures_iter(&records).map(|e| e[1].to_owned()));
    let queue = read(&root().join("gateway/src/log/queue.rs"));
    let named = Regex::new(r#"self\.connection\("([a-z_]+)""#).unwrap();
    events.extend(named.captures_iter(&queue).map(|e| e[1].to_owned()));
    fields.extend(row.captures_iter(&records).map(|f| f[1].to_owned()));
    (events, fields)
}

#[test]
fn the_page_of_logs_is_the_list_of_the_gateway_and_the_sources_use_no_other() {
    let (events, fields) = said_in_the_sources();
    let listed: BTreeSet<_> = EVENTS.iter().map(|(_, e, _)| (*e).to_owned()).collect();
    assert_eq!(
        listed, events,
        "gateway/src/log/field.rs, EVENTS, beside the sources"
    );
    let listed: BTreeSet<_> = FIELDS.iter().map(|(f, _)| (*f).to_owned()).collect();
    let mut fields = fields;
    fields.extend(["message".to_owned(), "target".to_owned()]);
    assert_eq!(
        listed, fields,
        "gateway/src/log/field.rs, FIELDS, beside the sources"
    );
    let (own, all) = (PER_ADDRESS, IN_ALL);
    let mut page = format!(
        "# Logs of the gateway\n{MADE}\n\
         Three logs, one record a line: `access` has one record for every request, `audit` has every refusal and whatever an operator did, and the program's\n\
         own has the rest. Records hold ids of the policy, words of closed lists and figures; never a path or query that was asked for, a header, a body, a\n\
         credential or a signature.\n\n\
         By default all go to standard error; `target` tells them apart. `ORKET_LOG_ACCESS` and `ORKET_LOG_AUDIT` give each a file of its own (made with mode\n\
         0640, appended to). A file that was moved away is made anew within a second, so any log rotation will do and no signal is needed. `ORKET_LOG_ACCESS=off`\n\
         switches access records off; audit records cannot be. `ORKET_LOG_FORMAT=text` is for people. All variables: [environment](environment.md).\n\n\
         A refused request has one access record and one audit record, with the same `request_id`.\n\n\
         ## The bound\n\
         What proved itself always has its record. Of everything else (refusals, `/health`, connections over a cap) each address has {} records a second, {} at\n\
         once, and all addresses together {} a second, {} at once. What is beyond is counted by route and reason, and the counts are written once a second\n\
         (`left_out`): a flood cannot fill the disk, and nothing is refused without a trace. The [metrics](metrics.md) count everything.\n\n\
         No request waits for a log. Records pass through a bounded queue; what does not fit, or cannot be written, is counted in\n\
         `orket_gateway_log_records_dropped_total` and stated by `records_dropped` once there is room. What an operator did has a queue of its own.\n\n\
         ## Events\n| log | event | means |\n|---|---|---|\n",
        own.count, own.burst, all.count, all.burst
    );
    for (log, event, meaning) in EVENTS {
        let log = match log {
            Log::Access => "access",
            Log::Audit => "audit",
            Log::Gateway => "own",
        };
        writeln!(page, "| {log} | `{event}` | {meaning} |").unwrap();
    }
    page.push_str(
        "\n## Fields\nA field that has nothing to say is absent.\n\n| field | is |\n|---|---|\n",
    );
    for (field, meaning) in FIELDS {
        writeln!(page, "| `{field}` | {meaning} |").unwrap();
    }
    hold("logs.md", &page);
}

#[test]
fn the_page_of_variables_is_the_list_of_the_gateway() {
    let mut page = format!(
        "# Environment variables of the gateway\n{MADE}\n\
         Without a policy file the gateway's policy is filled from these: each becomes a line of a policy that goes through the same loader as a file. It has the\n\
         routes `/v1/*`, `/ws/events`, `/webhook/gitea` and `/webhook/test`. A value is taken verbatim; a blank one counts as unset. With a policy file\n\
         only the file counts.\n\n\
         | variable | meaning | default |\n|---|---|---|\n"
    );
    for variable in VARIABLES {
        writeln!(
            page,
            "| `{}` | {} | {} |",
            variable.name, variable.meaning, variable.default
        )
        .unwrap();
    }
    page.push_str(
        "\nAlways, with and without a file:\n\n\
         | variable | meaning | default |\n|---|---|---|\n\
         | `ORKET_LOG` | which of the program's own records are logged: a level, or `info,orket_gateway::server=debug` | `info` |\n\
         | `ORKET_LOG_ACCESS` | where [access records](logs.md) go: `stderr`, a file (`/…` or `./…`) or `off` | `stderr` |\n\
         | `ORKET_LOG_AUDIT` | where [audit records](logs.md) go: `stderr` or a file | `stderr` |\n\
         | `ORKET_LOG_FORMAT` | `json` or `text` | `text` on a terminal, else `json` |\n\
         | `NO_COLOR` | no colours on a terminal | |\n",
    );
    hold("environment.md", &page);
}

/// What stands around the settings in the page of the policy; the rest of it is written by hand.
const FROM_HERE: &str = "<!-- From here on made from gateway/src/config/reference.rs by tests/tests/ops_reference.rs; do not edit. -->\n";
const UNTIL_HERE: &str = "<!-- Until here. -->\n";

#[test]
fn the_settings_on_the_page_of_the_policy_are_those_that_are_read() {
    let page = read(&root().join("docs/reference/policy.md"));
    let (before, rest) = page.split_once(FROM_HERE).expect("the first mark");
    let (_, after) = rest.split_once(UNTIL_HERE).expect("the second mark");
    let settings = reference::tables();
    hold(
        "policy.md",
        &format!("{before}{FROM_HERE}{settings}{UNTIL_HERE}{after}"),
    );
}
