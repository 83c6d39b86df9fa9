//! `orket-gateway explain`: what the policy says of a request, and why, by the pipeline that judges live
//! requests; offline by a file, or by a running gateway. For a wrong signature it looks for the common mistakes. It
//! never prints a secret, nor what was given as a header.

mod account;
pub mod live;
mod signature;

use std::{
    io::{ErrorKind, Read},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use bytes::Bytes;
use clap::Args;
use jiff::Timestamp;
use orket_shared::{complain, say};

use self::account::{Explanation, JudgedBy};
use crate::{
    canary::Format,
    control,
    key_ledger::{KeepError, KeyLedger},
    plain_file,
    rehearsal::{Entrance, Request, Surroundings},
    reload::Source,
    replay::ReplayMemory,
};

/// Options of `orket-gateway explain`.
#[derive(Debug, Args)]
pub struct Options {
    /// The policy file; without one, the built-in policy is filled from the environment.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The method.
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// The path with its query.
    #[arg(long)]
    pub path: String,
    /// A header field, as `Name: value`; may be given again and again. Other users of this machine can see it.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// A file of header fields, one a line; `-` is the standard input. The place for keys.
    #[arg(long = "header-file", value_name = "FILE")]
    pub header_files: Vec<PathBuf>,
    /// A header field whose value stands in a variable, as `Name: VARIABLE`.
    #[arg(long = "header-env", value_name = "NAME: VARIABLE")]
    pub header_env: Vec<String>,
    /// A file that holds the body, byte for byte; `-` is the standard input.
    #[arg(long, value_name = "FILE")]
    pub body_file: Option<PathBuf>,
    /// The address the request comes from.
    #[arg(long, default_value = "127.0.0.1")]
    pub address: IpAddr,
    /// Ask the running gateway: by its policy in force, its budgets and its memory as they are, spending nothing.
    #[arg(long)]
    pub live: bool,
    /// The running gateway's control socket, where `--config` does not tell it.
    #[arg(long, value_name = "SOCKET", requires = "live")]
    pub control: Option<PathBuf>,
    /// The moment it is judged at, such as 2026-11-22T10:00:00Z: for what a sender signed a time into. Now, unless said.
    #[arg(long, value_name = "TIME")]
    pub at: Option<Timestamp>,
    /// How the explanation is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Explains a request. Exit code 0 whatever the verdict; 1 when the policy or the request cannot be read, or no
/// gateway answers.
pub fn run(options: Options) -> ExitCode {
    let format = options.format;
    match told(options) {
        Ok(explanation) => {
            match format {
                Format::Json => say!(
                    "{}",
                    serde_json::to_string_pretty(&explanation).unwrap_or_default()
                ),
                Format::Text => say!("{}", explanation.to_text()),
            }
            ExitCode::SUCCESS
        }
        Err(problem) => {
            complain!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn told(options: Options) -> Result<Explanation, String> {
    let said = |problem: String| format!("orket-gateway: {problem}");
    let (config, control, live) = (
        options.config.clone(),
        options.control.clone(),
        options.live,
    );
    let request = request(options).map_err(said)?;
    if live {
        let socket = control
            .map_or_else(|| control::socket_of(config.as_deref()), Ok)
            .map_err(|e| said(e.to_string()))?;
        let mut explanation = live::ask(&socket, &request).map_err(|e| said(e.to_string()))?;
        if let Some(file) = &config {
            live::compare(&mut explanation, file);
        }
        return Ok(explanation);
    }
    let source = config.map_or(Source::BuiltIn, Source::File);
    let ready = source.read(None).map_err(|problems| {
        format!(
            "{problems}orket-gateway: the policy does not load, so it says nothing of any request"
        )
    })?;
    let judged = &ready.snapshot.policy;
    let ledger = KeyLedger::default();
    let note = revoked_in(&ledger, &judged.state_dir).map_err(|e| said(e.to_string()))?;
    judged.keys.join(&ledger);
    let policy = JudgedBy {
        origin: judged.origin.to_string(),
        fingerprint: judged.fingerprint.clone(),
        live: false,
        note,
    };
    let surroundings = Surroundings {
        replay: &ReplayMemory::new(1),
        entrance: Entrance::of(&judged.listen),
    };
    Ok(account::explain(
        &ready.snapshot,
        surroundings,
        &request,
        policy,
    ))
}

/// Reads which keys were revoked, as a start of the gateway would. Whoever may not read its state is told so: that is no
/// reason to tell nothing.
fn revoked_in(ledger: &KeyLedger, state_dir: &Path) -> Result<Option<String>, KeepError> {
    match ledger.read_from(state_dir) {
        Ok(()) => Ok(None),
        Err(KeepError::Read { path, source }) if source.kind() == ErrorKind::PermissionDenied => {
            Ok(Some(format!(
                "which keys were revoked stands in {}, which you may not read: a revoked key is judged as a live one here. Ask as the gateway's user, or with --live",
                path.display()
            )))
        }
        Err(e) => Err(e),
    }
}

fn request(options: Options) -> Result<Request, String> {
    let mut headers = Vec::new();
    for (n, text) in options.headers.iter().enumerate() {
        headers
            .push(field(text).ok_or_else(|| {
                format!("the {}. `--header` is none: write `Name: value`", n + 1)
            })?);
    }
    for file in &options.header_files {
        headers.extend(fields_of(file)?);
    }
    for text in &options.header_env {
        let (name, variable) = field(text).ok_or("`--header-env` wants `Name: VARIABLE`")?;
        let value = std::env::var(&variable).map_err(|_| {
            format!("the variable that `--header-env` names for `{name}` is not set")
        })?;
        headers.push((name, value));
    }
    let body = match &options.body_file {
        None => Bytes::new(),
        Some(file) => read(file)?.into(),
    };
    Ok(Request {
        headers,
        method: options.method,
        path: options.path,
        body,
        peer: options.address,
        now: options.at.unwrap_or_else(Timestamp::now),
    })
}

/// `Name: value`, without the white space around the value.
fn field(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once(':')?;
    Some((name.to_owned(), value.trim().to_owned()))
}

/// The header fields of a file: one a line, empty lines skipped.
fn fields_of(file: &Path) -> Result<Vec<(String, String)>, String> {
    let text =
        String::from_utf8(read(file)?).map_err(|_| format!("{} is not text", file.display()))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(n, line)| {
            field(line).ok_or_else(|| {
                let file = file.display();
                format!("{file}:{}: this is no header: write `Name: value`", n + 1)
            })
        })
        .collect()
}

/// The largest file of a request: more than any body that is taken.
const MOST_BYTES: u64 = 256 * 1024 * 1024;

/// A plain file's bytes; `-` is the standard input.
fn read(file: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        let input = std::io::stdin().lock();
        input.take(MOST_BYTES).read_to_end(&mut bytes).map(|_| ())
    } else {
        plain_file::read(file, MOST_BYTES).map(|(all, _)| bytes = all)
    };
    read.map_err(|e| format!("{} cannot be read: {e}", file.display()))?;
    Ok(bytes)
}
