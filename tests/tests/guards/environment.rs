//! The environment matrix of `docs/SECURITY.md` is what the gateway really does.
//!
//! Expected there: a table headed `| setting | local | ci | production |`, one row for each of
//! [`SETTINGS`] (named in the first cell, in backticks or not), the cells `allowed`, `warned` or
//! `refused`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use orket_tests::gateway::{self, API_KEY, TEST_TOKEN, WEBHOOK_SECRET};
use orket_tests::policy::SECRET_FILE;
use orket_tests::repository::{read, root};
use orket_tests::tls::Authority;
use orket_tests::{Gateway, Policy, Upstream};
use tempfile::TempDir;

const ENVIRONMENTS: [&str; 3] = ["local", "ci", "production"];
const HEADER: &str = "| setting | local | ci | production |";

/// A setting that some environment does not take: its name in the table, and how it is made.
const SETTINGS: &[(&str, Setting)] = &[
    (
        "insecure switch",
        Setting::Add("ORKET_ALLOW_INSECURE_NO_API_KEY", "true"),
    ),
    (
        "test webhook",
        Setting::Add("ORKET_ENABLE_WEBHOOK_TEST_ENDPOINT", "true"),
    ),
    ("missing API key", Setting::Remove("ORKET_API_KEY")),
    (
        "missing webhook secret",
        Setting::Remove("GITEA_WEBHOOK_SECRET"),
    ),
    (
        "placeholder API key",
        Setting::Add("ORKET_API_KEY", "change-me-0aZ9bY8cX7dW6eV5fU4gT3hS2"),
    ),
    (
        "placeholder webhook secret",
        Setting::Add(
            "GITEA_WEBHOOK_SECRET",
            "change-me-0aZ9bY8cX7dW6eV5fU4gT3hS2",
        ),
    ),
    (
        "weak API key",
        Setting::Add("ORKET_API_KEY", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ),
    (
        "weak webhook secret",
        Setting::Add(
            "GITEA_WEBHOOK_SECRET",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ),
    ),
    (
        "plain HTTP beyond the loopback",
        Setting::Listen("0.0.0.0:8080"),
    ),
    ("TLS key that other users can read", Setting::KeyMode(0o644)),
    (
        "upstream on another machine in clear text",
        Setting::Instead(UPSTREAM, "address = \"192.0.2.1:80\""),
    ),
    (
        "… with clear_text = true",
        Setting::Instead(UPSTREAM, "address = \"192.0.2.1:80\"\nclear_text = true"),
    ),
    (
        "limit or address rule in shadow mode",
        Setting::Instead(
            WEBHOOK,
            "path = \"/webhook/gitea\"\naddresses = { deny = [\"192.0.2.0/24\"], mode = \"shadow\" }",
        ),
    ),
    (
        "route that asks for no proof",
        Setting::Instead(
            "methods = [\"GET\"]\nauth = { kind = \"api_key\" }",
            "methods = [\"GET\"]\nauth = { kind = \"none\" }",
        ),
    ),
    (
        "webhook with replay = false",
        Setting::Instead(WEBHOOK, "path = \"/webhook/gitea\"\nreplay = false"),
    ),
];

/// Where they can be written only on purpose, production warns of them.
const WARNED_OF: [&str; 4] = [
    "… with clear_text = true",
    "limit or address rule in shadow mode",
    "route that asks for no proof",
    "webhook with replay = false",
];

const UPSTREAM: &str = "address = \"{upstream}\"";
const WEBHOOK: &str = "path = \"/webhook/gitea\"";

#[derive(Debug, Clone, Copy)]
enum Setting {
    /// A variable and its value.
    Add(&'static str, &'static str),
    /// A variable that is not set.
    Remove(&'static str),
    /// A listener; judged by `check`, so that nothing listens there.
    Listen(&'static str),
    /// The mode of the TLS key's file; judged by `check`.
    KeyMode(u32),
    /// Lines of a policy file, and what stands in their place; judged by `check`.
    Instead(&'static str, &'static str),
}

fn warnings(output: &str) -> usize {
    output
        .lines()
        .filter(|line| line.to_lowercase().contains("warn"))
        // How many files may be open is this machine's to say, and no setting.
        .filter(|line| !line.contains("few_descriptors"))
        .count()
}

/// What the gateway does with a setting in an environment.
async fn verdict(setting: Setting, environment: &str) -> &'static str {
    let (plain, tried) = match setting {
        Setting::Add(..) | Setting::Remove(_) => (
            started(environment, None).await,
            started(environment, Some(setting)).await,
        ),
        Setting::Listen(_) | Setting::KeyMode(_) | Setting::Instead(..) => (
            checked(environment, None).await,
            checked(environment, Some(setting)).await,
        ),
    };
    let plain = plain.expect("without the setting it is taken");
    match tried {
        None => "refused",
        Some(count) if count > plain => "warned",
        Some(_) => "allowed",
    }
}

/// Starts the gateway: how many warnings it gave, or nothing if it refused.
async fn started(environment: &str, setting: Option<Setting>) -> Option<usize> {
    let mut env = vec![
        ("ORKET_ENV", environment),
        ("ORKET_API_KEY", API_KEY),
        ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
        ("ORKET_WEBHOOK_TEST_TOKEN", TEST_TOKEN),
    ];
    match setting {
        Some(Setting::Add(name, value)) => {
            env.retain(|(n, _)| *n != name);
            env.push((name, value));
        }
        Some(Setting::Remove(name)) => env.retain(|(n, _)| *n != name),
        Some(Setting::Listen(_) | Setting::KeyMode(_) | Setting::Instead(..)) | None => {}
    }
    let upstream = Upstream::tcp().await;
    let dir = TempDir::new().unwrap();
    let address = upstream.address().to_string();
    let mut command = orket_tests::program::command("orket-gateway", dir.path());
    command.arg("serve").envs(env).envs([
        ("ORKET_GATEWAY_LISTEN", "127.0.0.1:0"),
        ("ORKET_GATEWAY_ADMIN", "127.0.0.1:0"),
        ("ORKET_BACKEND", address.as_str()),
        ("ORKET_STATE_DIR", "state"),
    ]);
    let mut program = orket_tests::program::Program::spawn(command);
    let listening = orket_tests::wait::obtain("it listens or ends", orket_tests::DEADLINE, || {
        let ended = program.ended().is_some();
        let listening = program.stdout().contains("listening on");
        async move { (ended || listening).then_some(listening) }
    })
    .await;
    if !listening {
        return None;
    }
    program.terminate().await;
    Some(warnings(&program.stderr()) + warnings(&program.stdout()))
}

/// Asks `check` about a plain listener beside one for TLS: how many warnings it gave, or nothing if it refused.
async fn checked(environment: &str, setting: Option<Setting>) -> Option<usize> {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new("the test's");
    authority.certificate(&["localhost"]).write(dir.path());
    let key_mode = match setting {
        Some(Setting::KeyMode(mode)) => mode,
        _ => 0o600,
    };
    let mode = Permissions::from_mode(key_mode);
    std::fs::set_permissions(dir.path().join("key.pem"), mode).unwrap();
    std::fs::write(dir.path().join(SECRET_FILE.0), SECRET_FILE.1).unwrap();
    let mut policy = Policy::new().https().to_string().replace(
        "environment = \"local\"",
        &format!("environment = \"{environment}\""),
    );
    let address = "http = \"127.0.0.1:0\"";
    match setting {
        Some(Setting::Listen(beyond)) => {
            policy = policy.replace(address, &format!("http = \"{beyond}\""));
        }
        Some(Setting::Instead(lines, instead)) => {
            assert!(policy.contains(lines), "{lines}: {policy}");
            policy = policy.replace(lines, instead);
        }
        Some(Setting::Add(..) | Setting::Remove(_) | Setting::KeyMode(_)) | None => {}
    }
    let ended = gateway::check(dir.path(), &policy).await;
    ended.status.success().then(|| warnings(&ended.output()))
}

/// The rows of the table: the setting and its three cells.
fn rows(page: &str) -> Vec<(String, Vec<String>)> {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_start_matches('|').trim_end_matches('|');
        line.split('|')
            .map(|cell| cell.replace(['`', '*'], "").trim().to_owned())
            .collect()
    };
    let spaced = |line: &str| cells(line).join("|").to_lowercase();
    page.lines()
        .skip_while(|line| spaced(line) != spaced(HEADER))
        .skip(2)
        .take_while(|line| line.trim_start().starts_with('|'))
        .map(|line| {
            let mut cells = cells(line);
            (cells.remove(0), cells)
        })
        .collect()
}

#[tokio::test]
async fn the_environment_matrix_is_what_the_gateway_does() {
    let file = root().join("docs/SECURITY.md");
    let names: Vec<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
    let expected = format!(
        "expected in docs/SECURITY.md: a table headed `{HEADER}` with one row for each of {names:?}, cells `allowed`, `warned` or `refused`"
    );
    assert!(file.is_file(), "docs/SECURITY.md is missing; {expected}");
    let rows = rows(&read(&file));
    assert!(!rows.is_empty(), "no such table; {expected}");
    let mut wrong = Vec::new();
    for (name, _) in &rows {
        if !names.contains(&name.as_str()) {
            wrong.push(format!("`{name}` is a row this test cannot try"));
        }
    }
    for (name, setting) in SETTINGS {
        let mut really = Vec::new();
        for environment in ENVIRONMENTS {
            really.push(verdict(*setting, environment).await);
        }
        match rows.iter().find(|(row, _)| row == name) {
            None => wrong.push(format!(
                "a row is missing: | {name} | {} |",
                really.join(" | ")
            )),
            Some((_, cells)) if cells.iter().map(String::as_str).ne(really.iter().copied()) => {
                wrong.push(format!(
                    "`{name}` says {cells:?}, the gateway does {really:?}"
                ));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}\n{expected}", wrong.join("\n"));
}

#[tokio::test]
async fn production_refuses_every_setting_that_is_not_written_on_purpose() {
    for (name, setting) in SETTINGS {
        let expected = if WARNED_OF.contains(name) {
            "warned"
        } else {
            "refused"
        };
        assert_eq!(verdict(*setting, "production").await, expected, "{name}");
    }
}

#[tokio::test]
async fn a_gateway_as_it_should_be_is_taken_everywhere_without_a_warning() {
    let upstream = Upstream::tcp().await;
    for environment in ENVIRONMENTS {
        let env = [
            ("ORKET_ENV", environment),
            ("ORKET_API_KEY", API_KEY),
            ("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET),
        ];
        let mut gateway = Gateway::builtin(upstream.address(), &env).await;
        gateway.program().terminate().await;
        assert_eq!(warnings(&gateway.output()), 0, "{}", gateway.output());
    }
}

#[test]
fn the_table_is_read_as_it_is_written() {
    let page = "text\n| setting | local | ci | production |\n|---|---|---|---|\n| `a b` | **allowed** | warned | `refused` |\n\nend";
    let cells = ["allowed", "warned", "refused"].map(str::to_owned).to_vec();
    assert_eq!(rows(page), [("a b".to_owned(), cells)]);
    assert_eq!(rows("no table"), []);
}
