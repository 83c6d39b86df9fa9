//! Explaining by a running gateway: the question over the control socket, and its answer there. The answer looks at
//! budgets and memory as they are, and changes neither.

use std::{net::IpAddr, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::account::{Explanation, JudgedBy, explain};
use crate::{
    config::diagnostic,
    control::{self, ControlError},
    edge::Edge,
    plain_file,
    policy::Origin,
    rehearsal::{Request, Surroundings},
};

/// The path of the question.
pub const PATH: &str = "/explain";

/// A request, as it is put to a running gateway.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    method: String,
    path: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// In Base64.
    #[serde(default)]
    body: String,
    address: IpAddr,
    /// The moment it is judged at; now, unless said.
    at: Option<Timestamp>,
}

/// Asks the gateway behind `socket`.
pub(super) fn ask(socket: &Path, request: &Request) -> Result<Explanation, ControlError> {
    let question = Question {
        method: request.method.clone(),
        path: request.path.clone(),
        headers: request.headers.clone(),
        body: STANDARD.encode(&request.body),
        address: request.peer,
        at: Some(request.now),
    };
    let question = serde_json::json!(question);
    control::ask(
        socket,
        &http::Method::POST,
        PATH,
        Some(&question),
        control::PATIENCE,
    )
}

/// Notes where `file` is not the policy that `explanation` was made by.
pub(super) fn compare(explanation: &mut Explanation, file: &Path) {
    let by = &mut explanation.policy;
    by.note = by.note.take().or_else(|| differs(&by.fingerprint, file));
}

/// Answers a question. `Err` says what is wrong with it.
pub fn answer(edge: &Edge, question: &[u8]) -> Result<Explanation, String> {
    let question: Question = serde_json::from_slice(question).map_err(|e| {
        format!(
            "This is not a question: line {}, column {}",
            e.line(),
            e.column()
        )
    })?;
    let body = STANDARD
        .decode(question.body)
        .map_err(|_| "The body is not Base64".to_owned())?;
    let request = Request {
        method: question.method,
        path: question.path,
        headers: question.headers,
        body: body.into(),
        peer: question.address,
        now: question.at.unwrap_or_else(Timestamp::now),
    };
    let snapshot = edge.snapshot().looking();
    let policy = JudgedBy {
        origin: snapshot.policy.origin.to_string(),
        fingerprint: snapshot.policy.fingerprint.clone(),
        live: true,
        note: match &snapshot.policy.origin {
            Origin::BuiltIn => None,
            Origin::File(path) => differs(&snapshot.policy.fingerprint, path),
        },
    };
    let surroundings = Surroundings {
        replay: &edge.replay,
        entrance: edge.entrance,
    };
    Ok(explain(&snapshot, surroundings, &request, policy))
}

fn differs(fingerprint: &str, file: &Path) -> Option<String> {
    match plain_file::read(file, plain_file::POLICY_BYTES) {
        Ok((bytes, _)) if diagnostic::fingerprint(&bytes) == fingerprint => None,
        Ok(_) => Some(format!(
            "{} is not what is in force: it was changed since, or does not load; `orket-gateway reload` tells",
            file.display()
        )),
        Err(e) => Some(format!(
            "{} cannot be compared with what is in force: {e}",
            file.display()
        )),
    }
}
