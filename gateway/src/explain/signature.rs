//! Which common mistake keeps a delivery from being proven. A mistake is a change after which the sender's own rules
//! prove it: each is tried, and what fits is named, never the secret.

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use serde_json::Value;

use crate::{
    connection::framing::Framing,
    denial::Reason,
    pipeline::Snapshot,
    policy::{Auth, WebhookAuth},
    rehearsal::{Request, parse},
    request_head::{Arrival, RequestHead},
    secret::Secret,
    webhook::{
        PROVIDERS, Provider, Role,
        claim::{Claim, SignedTime},
        key::{self, Key},
    },
};

/// The mistakes that fit, in words; empty when none does.
pub(super) fn mistakes(
    snapshot: &Snapshot,
    request: &Request,
    route: Option<&str>,
    reason: Reason,
) -> Vec<String> {
    let webhooks = || {
        snapshot.policy.routes.iter().filter_map(|r| match &r.auth {
            Auth::Webhook(auth) => Some((r.id.as_ref(), auth)),
            Auth::ApiKey | Auth::TestWebhook(_) | Auth::None => None,
        })
    };
    let Some((id, auth)) = webhooks().find(|(id, _)| Some(*id) == route) else {
        return Vec::new();
    };
    let others: Vec<_> = webhooks().filter(|(other, _)| *other != id).collect();
    let provider = &*auth.provider;
    let keys: Vec<Key> = auth.secrets.iter().map(|s| s.key.clone()).collect();
    let mut found = Vec::new();
    found.extend(off_in_time(provider, &keys, request, reason));
    // With its form mended, what else is wrong can be seen as well.
    let mended = mended(provider, request);
    if mended.iter().any(|m| proven(provider, &keys, m)) {
        found.push(format!(
            "the signature fits, but not its form: wanted is {}",
            provider.form()
        ));
    }
    let tries: Vec<&Request> = std::iter::once(request).chain(&mended).collect();
    let fits = |keys: &[Key]| tries.iter().any(|r| proven(provider, keys, r));
    for (what, body) in bodies(&request.body) {
        let fits = |r: &&Request| {
            let r = Request {
                body: body.clone(),
                ..(*r).clone()
            };
            proven(provider, &keys, &r)
        };
        if tries.iter().any(fits) {
            found.push(format!(
                "it fits the body {what}: sign and send the same bytes"
            ));
        }
    }
    if tries.iter().any(|r| covers_body_alone(provider, &keys, r)) {
        found.push("it covers the body alone: this sender signs the time with it (and some an id), in one text".to_owned());
    }
    for (what, keys) in meant_otherwise(auth) {
        if fits(&keys) {
            found.push(format!("it fits the secret {what}"));
        }
    }
    for (other, theirs) in others {
        let keys: Vec<Key> = theirs
            .secrets
            .iter()
            .filter_map(|s| provider.key(&s.text).ok())
            .collect();
        if fits(&keys) {
            found.push(format!(
                "it fits the secret of the route `{other}`: is this the right path?"
            ));
        }
    }
    found.extend(another_sender(auth, request));
    found
}

/// Whether the sender's own rules prove the delivery, its time aside.
fn proven(provider: &dyn Provider, keys: &[Key], request: &Request) -> bool {
    with_claim(provider, request, |claim, payload| {
        let signed = provider.signed(claim, payload);
        keys.iter().any(|key| key.proves(&claim.proof, &signed))
    })
    .unwrap_or(false)
}

/// What is made of a delivery's claim and payload, where it has both.
fn with_claim<T>(
    provider: &dyn Provider,
    request: &Request,
    make: impl FnOnce(&Claim, &[u8]) -> T,
) -> Option<T> {
    let header = parse(request)?;
    let arrival = Arrival {
        client: request.peer,
        loopback: true,
        framing: Framing::Length(request.body.len() as u64),
    };
    let head = RequestHead::judge(&header, arrival).ok()?;
    let claim = provider.claim(&head).ok()?;
    let payload = provider.payload(&head, request.body.clone()).ok()?;
    Some(make(&claim, payload.bytes()))
}

fn off_in_time(
    provider: &dyn Provider,
    keys: &[Key],
    request: &Request,
    reason: Reason,
) -> Option<String> {
    let side = if reason == Reason::TimestampTooOld {
        "before"
    } else {
        "after"
    };
    let in_time = !matches!(reason, Reason::TimestampTooOld | Reason::TimestampTooNew);
    if in_time || !proven(provider, keys, request) {
        return None;
    }
    let time = with_claim(provider, request, |claim, payload| {
        let within = provider.time_within(payload).ok().flatten();
        claim.time.clone().or(within)
    })??;
    let away = request.now.duration_since(SignedTime::moment(&time)).abs();
    Some(format!(
        "the signature fits; it was signed {} s {side} this moment, and {} s are allowed: is a clock wrong, or was it sent again? `--at` judges it at another moment",
        away.as_secs(),
        provider.tolerance().as_secs()
    ))
}

fn covers_body_alone(provider: &dyn Provider, keys: &[Key], request: &Request) -> bool {
    with_claim(provider, request, |claim, payload| {
        provider.signed(claim, payload).len() > 1
            && keys.iter().any(|key| key.proves(&claim.proof, &[payload]))
    })
    .unwrap_or(false)
}

/// The request with its signature written as the sender would write it, once for each tag that can be made out.
fn mended(provider: &dyn Provider, request: &Request) -> Vec<Request> {
    let header = provider
        .headers()
        .iter()
        .find(|h| h.role == Role::Signature);
    let Some((header, given)) = header.and_then(|header| {
        let (_, given) = request
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&header.name))?;
        Some((header, given))
    }) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for tag in tags(given) {
        let written = provider.written(&tag, given);
        if written == *given {
            continue;
        }
        let mut mended = request.clone();
        for (name, value) in &mut mended.headers {
            if name.eq_ignore_ascii_case(&header.name) {
                value.clone_from(&written);
            }
        }
        all.push(mended);
    }
    all
}

/// Whatever in a header may be a signature, in hex of any case or in any base64.
fn tags(given: &str) -> Vec<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let engines = [&STANDARD, &URL_SAFE].map(|a| GeneralPurpose::new(a, lenient));
    let is_tag = |bytes: &Vec<u8>| matches!(bytes.len(), 32 | 64);
    let mut found = Vec::new();
    for item in given.split([',', ' ', '"', ';']) {
        let behind = |mark| item.split_once(mark).map(|(_, value)| value);
        for text in [Some(item), behind('='), behind(':')].into_iter().flatten() {
            found.extend(hex::decode(text).ok().filter(is_tag));
            for engine in &engines {
                found.extend(engine.decode(text).ok().filter(is_tag));
            }
        }
    }
    found
}

/// The body as it might have been when it was signed.
fn bodies(body: &Bytes) -> Vec<(&'static str, Bytes)> {
    let mut all = vec![(
        "with a line break at its end",
        [body.as_ref(), b"\n"].concat(),
    )];
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
    all.into_iter()
        .map(|(what, variant)| (what, variant.into()))
        .collect()
}

/// The route's secrets as someone might have taken them by mistake.
fn meant_otherwise(auth: &WebhookAuth) -> Vec<(&'static str, Vec<Key>)> {
    let with = |change: fn(&[u8]) -> Option<Vec<u8>>| {
        let mut keys = Vec::new();
        for secret in &auth.secrets {
            let Some(changed) = change(secret.text.expose()).map(Secret::new) else {
                continue;
            };
            keys.extend(match &secret.key {
                Key::Sha256(_) => Some(Key::Sha256(changed)),
                Key::Sha512(_) => Some(Key::Sha512(changed)),
                Key::Token(_) => Some(Key::Token(changed.digest())),
                Key::Ed25519(_) => None,
            });
        }
        keys
    };
    vec![
        (
            "with a line break at its end: was it copied with one into the sender?",
            with(|text| Some([text, b"\n"].concat())),
        ),
        (
            "without the white space at its ends: take it out of the file or the variable",
            with(|text| (text.trim_ascii() != text).then(|| text.trim_ascii().to_vec())),
        ),
        (
            "taken as text: this sender's key is what the base64 behind `whsec_` stands for",
            with(|text| Some(text.to_vec())),
        ),
        (
            "without `whsec_`, taken as text: this sender's key is what the base64 behind it stands for",
            with(|text| text.strip_prefix(b"whsec_").map(<[u8]>::to_vec)),
        ),
        (
            "taken as base64: this sender's key is the text as it stands",
            with(|text| {
                let decoded = key::whsec(&Secret::new(text.to_vec())).ok()?;
                Some(decoded.expose().to_vec())
            }),
        ),
        (
            "taken as hex: this sender's key is the text as it stands",
            with(|text| hex::decode(text).ok()),
        ),
    ]
}

/// Another sender whose rules prove the delivery with the route's secrets.
fn another_sender(auth: &WebhookAuth, request: &Request) -> Option<String> {
    let theirs = PROVIDERS.iter().find(|p| {
        let keys: Vec<Key> = auth
            .secrets
            .iter()
            .filter_map(|s| p.key(&s.text).ok())
            .collect();
        p.name() != auth.provider.name() && proven(**p, &keys, request)
    })?;
    Some(format!(
        "it is signed as `{}` signs, and the route says `{}`: which of them sends this?",
        theirs.name(),
        auth.provider.name()
    ))
}
