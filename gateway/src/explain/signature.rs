//! Which common mistake makes a signature wrong. Each is tried; what fits is named, never the secret.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::{
    pipeline::Snapshot,
    policy::{Auth, LiveSecret},
    rehearsal::Request,
};

/// The mistakes that fit, in words; empty when none does.
pub(super) fn mistakes(snapshot: &Snapshot, request: &Request, route: Option<&str>) -> Vec<String> {
    let policy = &snapshot.policy;
    let Some((auth, id)) = policy.routes.iter().find_map(|r| match &r.auth {
        Auth::Webhook(auth) if Some(r.id.as_ref()) == route => Some((auth, r.id.as_ref())),
        Auth::Webhook(_) | Auth::ApiKey | Auth::TestWebhook(_) | Auth::None => None,
    }) else {
        return Vec::new();
    };
    let header = auth
        .provider
        .security_headers()
        .first()
        .copied()
        .unwrap_or_default();
    let Some((_, given)) = request
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(header))
    else {
        return Vec::new();
    };
    let fits = |secret: &LiveSecret, body: &[u8], given: &str| {
        sign(secret, body).is_some_and(|s| s == given)
    };
    let mut found = Vec::new();
    let plain = given
        .trim()
        .trim_start_matches("sha256=")
        .to_ascii_lowercase();
    if auth.secrets.iter().any(|s| fits(s, &request.body, &plain)) {
        found.push("the signature fits, but not its form: bare lower-case hex is wanted, without `sha256=`".to_owned());
    }
    for (what, body) in variants(&request.body) {
        if auth.secrets.iter().any(|s| fits(s, &body, &plain)) {
            found.push(format!(
                "it fits the body {what}: sign and send the same bytes"
            ));
        }
    }
    for other in policy.routes.iter().filter(|r| r.id.as_ref() != id) {
        if let Auth::Webhook(theirs) = &other.auth
            && theirs
                .secrets
                .iter()
                .any(|s| fits(s, &request.body, &plain))
        {
            found.push(format!(
                "it fits the secret of the route `{}`: is this the right path?",
                other.id
            ));
        }
    }
    found
}

/// The body as it might have been when it was signed.
fn variants(body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = vec![("with a line break at its end", [body, b"\n"].concat())];
    if let Some(shorter) = body.strip_suffix(b"\n") {
        all.push(("without the line break at its end", shorter.to_vec()));
    }
    if let Ok(json) = serde_json::from_slice::<Value>(body) {
        all.push((
            "re-serialised without white space",
            serde_json::to_vec(&json).unwrap_or_default(),
        ));
        all.push((
            "re-serialised with white space",
            serde_json::to_vec_pretty(&json).unwrap_or_default(),
        ));
    }
    if let Some((_, payload)) =
        url::form_urlencoded::parse(body).find(|(name, _)| name == "payload")
    {
        all.push((
            "taken as form data: the content type should be application/x-www-form-urlencoded",
            payload.as_bytes().to_vec(),
        ));
    }
    all.retain(|(_, variant)| variant != body);
    all
}

fn sign(secret: &LiveSecret, body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.secret.expose()).ok()?;
    mac.update(body);
    Some(hex::encode(mac.finalize().into_bytes()))
}
