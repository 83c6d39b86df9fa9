//! The reference pages that are made from the code are what the code says.
//!
//! `ORKET_WRITE_REFERENCE=1 cargo test -p orket-tests ops_reference` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use orket_gateway::{
    builtin::VARIABLES,
    config::reference,
    denial::Reason,
    log::{
        IN_ALL, Log, PER_ADDRESS,
        field::{EVENTS, FIELDS},
    },
    metrics::{Declared, Metrics},
};
use orket_tests::program;
use orket_tests::repository::{files_of, read, root};
use regex::Regex;

const MADE: &str = "<!-- Made from the code by tests/tests/ops_reference.rs; do not edit. -->\n";

/// Compares a page with what it should be, or writes it when asked to.
fn hold(page: &str, text: &str) {
    let path = root().join("docs/reference").join(page);
    if std::env::var_os("ORKET_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = if path.is_file() {
        read(&path)
    } else {
        String::new()
    };
    assert!(
        found == text,
        "docs/reference/{page} is not what the code says; run\n    ORKET_WRITE_REFERENCE=1 cargo test -p orket-tests ops_reference"
    );
}

/// The doc comment of every variant of an enum, by the variant's name.
fn variants(source: &str, name: &str) -> Vec<(String, String)> {
    let from = source
        .find(&format!("pub enum {name} {{"))
        .expect("the enum");
    let mut found = Vec::new();
    let mut words: Vec<&str> = Vec::new();
    for line in source[from..].lines().skip(1).map(str::trim) {
        if line == "}" {
            break;
        } else if let Some(text) = line.strip_prefix("///") {
            words.push(text.trim());
        } else if let Some(variant) = line.strip_suffix(',') {
            found.push((variant.to_owned(), words.join(" ")));
            words.clear();
        }
    }
    found
}

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

/// A page of metrics: its words, every metric, every label.
fn page_of_metrics(words: &str, table: &[Declared]) -> String {
    let mut page = format!("{words}\n| name | type | counts | labels |\n|---|---|---|---|\n");
    let mut labels: Vec<(&str, &str, Vec<String>)> = Vec::new();
    let mut names = BTreeSet::new();
    for metric in table {
        let name = metric.exposed();
        let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(is_plain, "{name} is no name of the convention");
        assert!(names.insert(name.clone()), "{name} is declared twice");
        let (help, ends) = (metric.help, metric.help.ends_with('.'));
        assert!(!help.is_empty() && !ends, "{name}: {help:?}");
        let by: Vec<_> = metric
            .labels
            .iter()
            .map(|l| format!("`{}`", l.name))
            .collect();
        writeln!(
            page,
            "| `{name}` | {} | {} | {} |",
            metric.kind,
            metric.help,
            by.join(" ")
        )
        .unwrap();
        for label in metric.labels {
            let known = labels
                .iter_mut()
                .find(|(l, meaning, _)| *l == label.name && *meaning == label.meaning);
            match known {
                Some((.., users)) => users.push(format!("`{name}`")),
                None => labels.push((label.name, label.meaning, vec![format!("`{name}`")])),
            }
        }
    }
    page.push_str("\n## Labels\n| label | values | of |\n|---|---|---|\n");
    for (label, meaning, users) in labels {
        writeln!(page, "| `{label}` | {meaning} | {} |", users.join(" ")).unwrap();
    }
    page.push_str("\nA histogram `X` is exposed as `X_bucket{le}`, `X_sum` and `X_count`.\n");
    page
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

#[test]
fn the_page_of_metrics_of_the_backend_is_its_declarations() {
    let words = format!(
        "# Metrics of the backend\n{MADE}\n\
         `GET /metrics` on the backend's own listener, in the OpenMetrics text form, for whoever is admitted there ([`listen.peers`](backend.md)); the gateway\n\
         offers it to nobody. A number is in the unit its name ends in. Changes of runs are counted once they are on disk, from the start of this process. Labels are\n\
         names of queues and words of closed lists: nothing that is submitted becomes one.\n"
    );
    let table = orket_backend::metrics::Metrics::TABLE;
    hold("backend-metrics.md", &page_of_metrics(&words, table));
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

/// A table of what each step leads to from each state: `-` where it is refused.
fn transitions<S: Copy, T: Copy>(
    states: &[S],
    steps: &[T],
    name: impl Fn(S) -> &'static str,
    step: impl Fn(T) -> String,
    after: impl Fn(S, T) -> Option<S>,
) -> String {
    let mut table = "| step |".to_owned();
    for state in states {
        write!(table, " `{}` |", name(*state)).unwrap();
    }
    write!(table, "\n|---|{}", "---|".repeat(states.len())).unwrap();
    for one in steps {
        write!(table, "\n| {} |", step(*one)).unwrap();
        for state in states {
            let to = after(*state, *one).map_or("-", &name);
            write!(table, " {to} |").unwrap();
        }
    }
    table + "\n"
}

/// A step as people say it: `RunEnded(TimedOut)` is "run ended: timed out".
fn words(step: &str) -> String {
    let mut said = String::new();
    for letter in step.trim_end_matches(')').chars() {
        match letter {
            '(' => said.push_str(": "),
            letter if letter.is_ascii_uppercase() => {
                if !said.is_empty() && !said.ends_with(' ') {
                    said.push(' ');
                }
                said.push(letter.to_ascii_lowercase());
            }
            letter => said.push(letter),
        }
    }
    said
}

#[test]
fn the_page_of_states_is_what_the_backend_does() {
    use orket_backend::{card, plan::deadline::Bound, run};
    let mut page = format!(
        "# States of cards and runs\n{MADE}\n\
         Every change goes through these tables; a step that is not in them is refused, never repaired. Read: the state on top, the step at the left, the state it\n\
         leads to.\n\n## Runs\n"
    );
    let source = read(&root().join("backend/src/run.rs"));
    let list = |page: &mut String, source: &str, kind: &str| {
        writeln!(page, "| {} | means |\n|---|---|", kind.to_lowercase()).unwrap();
        for (name, meaning) in variants(source, kind) {
            let name = name.split('(').next().unwrap();
            writeln!(page, "| {} | {meaning} |", words(name)).unwrap();
        }
        page.push('\n');
    };
    list(&mut page, &source, "State");
    list(&mut page, &source, "Step");
    page.push_str(&transitions(
        &run::State::ALL,
        &run::Step::ALL,
        run::State::as_str,
        |step| words(&format!("{step:?}")),
        |state, step| state.after(step).ok(),
    ));
    page.push_str("\n`running` and `canceling` are active: what `active_tasks` counts. ");
    page.push_str("A run that overstepped a bound says so in its reason:\n\n");
    page.push_str("| reason | means | tried again within `retries` |\n|---|---|---|\n");
    for bound in Bound::ALL {
        let again = if bound.is_retryable() { "yes" } else { "" };
        writeln!(
            page,
            "| `{}` | {} | {again} |",
            bound.reason(),
            bound.detail()
        )
        .unwrap();
    }
    page.push_str("\n## Cards\n");
    let source = read(&root().join("backend/src/card.rs"));
    list(&mut page, &source, "Status");
    list(&mut page, &source, "Step");
    page.push_str(&transitions(
        &card::Status::ALL,
        &card::Step::ALL,
        card::Status::as_str,
        |step| words(&format!("{step:?}")),
        |state, step| state.after(step).ok(),
    ));
    hold("states.md", &page);
}

#[test]
fn the_page_of_sandboxes_is_what_the_backend_does() {
    use orket_backend::{
        sandbox::reconcile::{self, Action, Holding, Record},
        sandbox_state::{Reason, State, Step},
    };
    let states = read(&root().join("backend/src/sandbox_state.rs"));
    let table = read(&root().join("backend/src/sandbox/reconcile.rs"));
    let mut page = format!("# Sandboxes\n{MADE}\n## States\n");
    let list = |page: &mut String, source: &str, kind: &str, head: &str| {
        writeln!(page, "| {head} | means |\n|---|---|").unwrap();
        for (name, meaning) in variants(source, kind) {
            writeln!(page, "| {} | {meaning} |", words(&name)).unwrap();
        }
        page.push('\n');
    };
    list(&mut page, &states, "State", "state");
    list(&mut page, &states, "Step", "step");
    page.push_str(&transitions(
        &State::ALL,
        &Step::ALL,
        State::as_str,
        |step| words(&format!("{step:?}")),
        |state, step| state.after(step).ok(),
    ));
    page.push_str("\n## Reasons\nWhy one ends or ended. A start that fails for one that may pass is repeated within `start_timeout`.\n\n");
    page.push_str("| reason | means | may pass |\n|---|---|---|\n");
    for (reason, (_, meaning)) in Reason::ALL.into_iter().zip(variants(&states, "Reason")) {
        let passes = if reason.may_pass() { "yes" } else { "" };
        writeln!(page, "| `{}` | {meaning} | {passes} |", reason.as_str()).unwrap();
    }
    page.push_str("\n## Records and the engine\nCompared at the start, every `[sandboxes] reconcile`, and whenever the engine's events were lost. Only what carries the label of this store is seen at all;\nwhat does not is never touched.\n\n");
    list(&mut page, &table, "Record", "the record says");
    list(&mut page, &table, "Holding", "the engine holds");
    list(&mut page, &table, "Action", "what is done");
    page.push_str("| the engine holds |");
    for record in Record::ALL {
        write!(page, " {} |", words(&format!("{record:?}"))).unwrap();
    }
    page.push_str("\n|---|---|---|---|---|---|---|---|\n");
    for holding in Holding::ALL {
        write!(page, "| {} |", words(&format!("{holding:?}"))).unwrap();
        for record in Record::ALL {
            let action: Action = reconcile::decide(record, holding);
            write!(page, " {} |", words(&format!("{action:?}"))).unwrap();
        }
        page.push('\n');
    }
    hold("sandboxes.md", &page);
}

#[test]
fn the_page_of_stacks_is_the_allow_list() {
    use orket_backend::sandbox::build::TAKEN;
    use orket_backend::sandbox::stack::{
        repository::{COMPOSE_FILES, MANIFEST},
        rule::Rule,
        table::{ALLOWED, REFUSED},
        template::TEMPLATES,
    };
    let source = read(&root().join("backend/src/sandbox/stack/rule.rs"));
    let mut page = format!(
        "# Stacks\n{MADE}\n\
         How a repository gets one: [run a repository's own stack](../guides/run-a-repositorys-own-stack.md). `orket-backend stack check DIR` tells what would be run.\n\n\
         ## Built in\n| `template` | its file |\n|---|---|\n"
    );
    for template in TEMPLATES {
        let name = template.name;
        writeln!(
            page,
            "| `{name}` | [`deploy/stacks/{name}.yaml`](../../deploy/stacks/{name}.yaml) |"
        )
        .unwrap();
    }
    let files: Vec<_> = COMPOSE_FILES
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    writeln!(
        page,
        "\n## Compose files\nOne of {}, or the one that `{MANIFEST}` names. These keys may be there, and no others; `*` is any name.\n\n| key | takes |\n|---|---|",
        files.join(", ")
    )
    .unwrap();
    for allowed in ALLOWED {
        writeln!(page, "| `{}` | {} |", allowed.path, allowed.takes).unwrap();
    }
    page.push_str("\n## Rules\nEvery refusal names the file, the line, the column and one of these.\n\n| rule | what is refused |\n|---|---|\n");
    let meanings = variants(&source, "Rule");
    for rule in Rule::ALL {
        let variant = format!("{rule:?}");
        let meaning = meanings.iter().find(|(name, _)| *name == variant);
        writeln!(page, "| `{}` | {} |", rule.name(), meaning.unwrap().1).unwrap();
    }
    page.push_str("\n## Keys that are never taken\n| key | rule | instead |\n|---|---|---|\n");
    for refused in REFUSED {
        let (rule, instead) = (refused.rule.name(), refused.instead);
        for key in refused.keys {
            writeln!(page, "| `{key}` | `{rule}` | {instead} |").unwrap();
        }
    }
    let taken: Vec<_> = TAKEN.iter().map(|name| format!("`{name}`")).collect();
    writeln!(
        page,
        "\n## Builds\nImages are built where `[sandboxes.docker] build` is on, by the engine's own builder: without a network, within the limits of a container and `build_timeout`. \
         Instructions that are taken: {}. `ADD` and `ONBUILD` are not, nor options but `--from` and `--chown` of `COPY`; a base image has a tag other than `latest` or a digest, written without a variable, and brings no `ONBUILD`. \
         Patterns of `.dockerignore` may have `*`, `?`, `**` and `!`. A symbolic link must stay in the context.",
        taken.join(", ")
    )
    .unwrap();
    hold("stacks.md", &page);
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

/// A command's help, and that of its subcommands.
async fn help(program_name: &str, arguments: &[&str]) -> String {
    let mut command = program::command(program_name, root());
    command.args(arguments).arg("--help");
    let ended = program::run(command).await;
    assert!(ended.status.success(), "{}", ended.output());
    let text: Vec<&str> = ended.stdout.trim_end().lines().map(str::trim_end).collect();
    text.join("\n")
}

#[tokio::test]
async fn the_page_of_commands_is_what_the_programs_say() {
    let mut page = format!("# Commands\n{MADE}\nWhat the programs say to `--help`.\n");
    let listed = Regex::new(r"(?m)^  ([a-z-]+)  ").unwrap();
    for name in ["orket-gateway", "orket-backend"] {
        let own = help(name, &[]).await;
        write!(page, "\n## {name}\n```text\n{own}\n```\n").unwrap();
        for found in listed.captures_iter(&own) {
            let command = &found[1];
            if command != "help" {
                let text = help(name, &[command]).await;
                write!(page, "\n### {name} {command}\n```text\n{text}\n```\n").unwrap();
                let below = text.split_once("Commands:\n").map_or("", |(_, rest)| rest);
                for found in listed.captures_iter(below).filter(|f| &f[1] != "help") {
                    let text = help(name, &[command, &found[1]]).await;
                    let under = format!("{name} {command} {}", &found[1]);
                    write!(page, "\n#### {under}\n```text\n{text}\n```\n").unwrap();
                }
            }
        }
    }
    hold("commands.md", &page);
}

#[test]
fn doc_comments_are_read_as_they_are_written() {
    let source =
        "pub enum A {\n    /// One,\n    /// and on.\n    First,\n    /// Two.\n    Second,\n}\n";
    let read = variants(source, "A");
    let words: Vec<&str> = read.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(words, ["One, and on.", "Two."]);
}

#[test]
fn the_page_on_testing_lists_every_stand_in() {
    let source = read(&root().join("tests/tests/guards/stand_ins.rs"));
    let from = source.find("const ALLOWED").expect("the list");
    let list = &source[from..from + source[from..].find("];").expect("its end")];
    let place = Regex::new(r#"(?s)\(\s*"([^"]+\.rs)",\s*"([^"]+)""#).unwrap();
    let page = read(&root().join("docs/TESTING.md"));
    let rows: Vec<String> = place
        .captures_iter(list)
        .map(|found| format!("| `{}` | {} |", &found[1], &found[2]))
        .collect();
    assert!(!rows.is_empty());
    for row in &rows {
        assert!(page.contains(row), "docs/TESTING.md lacks: {row}");
    }
    let listed = page
        .lines()
        .filter(|line| line.starts_with("| `") && line.contains(".rs` | "))
        .count();
    assert_eq!(listed, rows.len(), "docs/TESTING.md lists more");
}

#[test]
fn the_page_on_testing_names_every_suite() {
    let all = read(&root().join("tests/tests/all.rs"));
    let page = read(&root().join("docs/TESTING.md"));
    for suite in all
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
    {
        assert!(
            page.contains(&format!("`{suite}`")),
            "docs/TESTING.md does not name {suite}"
        );
    }
}
