//! `orket-gateway explain`: what the policy says of a request, and why, by the pipeline that judges live
//! requests. For a wrong signature it looks for the common mistakes; it never prints a secret.

mod signature;

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use bytes::Bytes;
use clap::Args;
use serde::Serialize;

use crate::{
    canary::Format,
    denial::Reason,
    pipeline::Snapshot,
    rehearsal::{Forwarding, Outcome, Request, rehearse},
    reload::Source,
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
    /// A header field, as `Name: value`; may be given again and again.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// A file that holds the body, byte for byte.
    #[arg(long, value_name = "FILE")]
    pub body_file: Option<PathBuf>,
    /// The address the request comes from.
    #[arg(long, default_value = "127.0.0.1")]
    pub address: IpAddr,
    /// How the explanation is printed.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// The verdict and what led to it.
#[derive(Debug, Serialize)]
struct Explanation {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// The true reason of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What the caller is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow: Option<String>,
    /// What to do about it.
    hints: Vec<String>,
}

/// Explains a request. Exit code 0 whatever the verdict; 1 when the policy or the request cannot be read.
pub fn run(options: Options) -> ExitCode {
    let source = options.config.clone().map_or(Source::BuiltIn, Source::File);
    let ready = match source.read(None) {
        Ok(ready) => ready,
        Err(problems) => {
            eprint!("{problems}");
            eprintln!("orket-gateway: the policy does not load, so it says nothing of any request");
            return ExitCode::FAILURE;
        }
    };
    let format = options.format;
    let request = match request(options) {
        Ok(request) => request,
        Err(problem) => {
            eprintln!("orket-gateway: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let explanation = explain(&ready.snapshot, &request);
    match format {
        Format::Json => println!(
            "{}",
            serde_json::to_string_pretty(&explanation).unwrap_or_default()
        ),
        Format::Text => print_text(&explanation),
    }
    ExitCode::SUCCESS
}

fn request(options: Options) -> Result<Request, String> {
    let field = |text: &String| {
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| format!("`{text}` is not a header: write `Name: value`"))?;
        Ok::<_, String>((name.to_owned(), value.trim().to_owned()))
    };
    let body = match &options.body_file {
        None => Bytes::new(),
        Some(file) => std::fs::read(file)
            .map_err(|e| format!("{} cannot be read: {e}", file.display()))?
            .into(),
    };
    Ok(Request {
        headers: options
            .headers
            .iter()
            .map(field)
            .collect::<Result<_, _>>()?,
        method: options.method,
        path: options.path,
        body,
        peer: options.address,
    })
}

fn explain(snapshot: &Snapshot, request: &Request) -> Explanation {
    let mut explanation = Explanation {
        verdict: "answered",
        status: Some(200),
        reason: None,
        detail: None,
        route: None,
        upstream: None,
        actor: None,
        event: None,
        idempotency_key: None,
        allow: None,
        hints: Vec::new(),
    };
    match rehearse(snapshot, request) {
        Outcome::Answered => {}
        Outcome::Forwarded(Forwarding {
            upstream,
            route,
            actor,
            delivery,
        }) => {
            let (event, key) = delivery.map_or((None, None), |(event, key)| (event, Some(key)));
            explanation = Explanation {
                verdict: "forwarded",
                status: None,
                route: Some(route.to_string()),
                upstream: Some(upstream),
                actor: Some(actor),
                event,
                idempotency_key: key,
                ..explanation
            };
        }
        Outcome::Refused(denial) => {
            let facts = denial.reason.facts();
            let mut hints: Vec<String> = denial
                .reason
                .hint()
                .map(str::to_owned)
                .into_iter()
                .collect();
            if matches!(
                denial.reason,
                Reason::SignatureWrong | Reason::SignatureMalformed
            ) {
                // The first that fits explains it; the general hint only where none does.
                if let Some(mistake) =
                    signature::mistakes(snapshot, request, denial.route.as_deref())
                        .into_iter()
                        .next()
                {
                    hints = vec![mistake];
                }
            }
            explanation = Explanation {
                verdict: "refused",
                status: Some(facts.status),
                reason: Some(facts.word),
                detail: Some(facts.detail),
                route: denial.route.as_deref().map(str::to_owned),
                allow: denial.allow,
                hints,
                ..explanation
            };
        }
    }
    explanation
}

fn print_text(e: &Explanation) {
    let line = |name: &str, value: &Option<String>| {
        if let Some(value) = value {
            println!("{name:<10}{value}");
        }
    };
    println!("{:<10}{}", "verdict", e.verdict);
    line("status", &e.status.map(|s| s.to_string()));
    line("reason", &e.reason.map(str::to_owned));
    line("answer", &e.detail.map(|d| format!("\"{d}\"")));
    line("route", &e.route);
    line("allow", &e.allow);
    line("upstream", &e.upstream);
    line("actor", &e.actor);
    line("event", &e.event);
    line("key", &e.idempotency_key);
    for hint in &e.hints {
        println!("{:<10}{hint}", "hint");
    }
}
