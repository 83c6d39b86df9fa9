//! The pages about the backend.

use super::*;

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
    page.push_str(
        "\n## Registries\nWhere an image comes from is what stands before its first `/`, if that has a `.`, a `:` or a capital, or is `localhost`; else it is `docker.io`. It holds for `image`, for `FROM` and `COPY --from` of Dockerfiles, for the `images` of a template, and for `services` of `POST /v1/sandboxes`; also when the image is on the engine already.\n\n\
         Where the operator lists registries (`[sandboxes.docker] registries`), exactly these are asked. Where none is listed, every one with a public name is; refused are `localhost`, names without a dot, addresses in every spelling (`127.0.0.1`, `[::1]`, `127.1`, `0x7f000001`, `2130706433`), and names that end in `.localhost`, `.localdomain`, `.local`, `.internal`, `.intranet`, `.private`, `.corp`, `.home`, `.lan`, `.mail`, `.arpa` or `.onion`. Only names are judged, see [SECURITY](../SECURITY.md#containers). `stack check DIR --config FILE` judges by the list of that file.\n",
    );
    let taken: Vec<_> = TAKEN.iter().map(|name| format!("`{name}`")).collect();
    writeln!(
        page,
        "\n## Builds\nImages are built where `[sandboxes.docker] build` is on, by the engine's own builder: without a network, within the limits of a container and `build_timeout`. \
         Instructions that are taken: {}. `ADD` and `ONBUILD` are not, nor options but `--from` and `--chown` of `COPY`; a base image has a tag other than `latest` or a digest, written without a variable, is not what another sandbox has built, and brings no `ONBUILD`. \
         Each instruction is sent on one line: heredocs (`<<`), `# escape=` and characters that nobody sees are refused, as are more than 300 instructions, and variables that would make more than 1 MiB of the file. \
         Up to 500 patterns of `.dockerignore` may have `*`, `?`, `!`, and `**` alone between two `/`; it and the Dockerfile have up to 64 KiB. A symbolic link must stay in the context.",
        taken.join(", ")
    )
    .unwrap();
    hold("stacks.md", &page);
}
