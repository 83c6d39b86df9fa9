//! What a webhook route knows of its sender: the scheme, secrets of its form, and for `generic` the description.

use super::{Loader, Origin, Weakness, secrets::Secrets};
use crate::{
    config::{self, Hmac, reader::At},
    policy::{Auth, WebhookAuth, WebhookSecret},
    upstream,
    webhook::{
        self, Provider, Sender, TOLERANCE,
        generic::{self, Algorithm, Description, Encoding, Generic, Piece, Template},
        key::Key,
    },
};

impl Loader<'_> {
    pub(super) fn webhook(
        &mut self,
        w: &config::Route,
        auth: &config::Auth,
        origin: &Origin,
        secrets: &Secrets,
        id: &str,
    ) -> Option<Auth> {
        // Whatever becomes of the rest, this names it.
        if let Some(secret) = &auth.secret {
            secrets.name(&secret.value);
        }
        let provider = self.sender(auth)?;
        let live = match &auth.secret {
            Some(secret) => self.webhook_secrets(&*provider, secret, secrets),
            None if *origin == Origin::BuiltIn => {
                self.weak(
                    Weakness::MissingSecret,
                    &w.at.span,
                    format!("route `{id}` has no webhook secret: it refuses everything"),
                    "set GITEA_WEBHOOK_SECRET, and the same secret on the forge's hook",
                );
                Vec::new()
            }
            None => {
                self.error(
                    &auth.at.span,
                    "a webhook needs `secret`",
                    "name a list of [secrets]",
                );
                return None;
            }
        };
        if let Some(source) = &w.source {
            self.check_name(source);
        }
        let replay = w.replay.as_ref().is_none_or(|r| r.value);
        if let Some(at) = w.replay.as_ref().filter(|r| !r.value) {
            self.weak(
                Weakness::NoReplay,
                &at.span,
                format!("route `{id}` forwards every repetition as new"),
                "take `replay = false` out unless the upstream settles repetitions itself",
            );
        }
        Some(Auth::Webhook(WebhookAuth {
            provider,
            secrets: live,
            source: w.source.as_ref().map_or(id, |s| s.value.as_str()).into(),
            replay,
        }))
    }

    fn sender(&mut self, auth: &config::Auth) -> Option<Sender> {
        let known = || format!("one of: {}", webhook::names().join(", "));
        let Some(name) = &auth.provider else {
            self.error(&auth.at.span, "a webhook needs `provider`", &known());
            return None;
        };
        if name.value == generic::NAME {
            let Some(hmac) = &auth.hmac else {
                self.error(
                    &name.span,
                    "the sender `generic` needs `hmac`",
                    "say what it signs: hmac = { header = \"X-Signature\", algorithm = \"sha256\", encoding = \"hex\", signed = \"{body}\" }",
                );
                return None;
            };
            return self.generic(hmac).map(|g| Sender::Described(g.into()));
        }
        if let Some(hmac) = &auth.hmac {
            self.error(
                &hmac.at.span,
                "`hmac` describes the sender `generic` only: the other schemes are fixed",
                "take it out, or write provider = \"generic\"",
            );
        }
        let provider = webhook::provider(&name.value);
        if provider.is_none() {
            self.error(
                &name.span,
                format!("`{}` is not a sender this version knows", name.value),
                &known(),
            );
        }
        provider.map(Sender::Known)
    }

    /// The secrets of a list, each in the form the sender gives them out.
    fn webhook_secrets(
        &mut self,
        provider: &dyn Provider,
        name: &At<String>,
        secrets: &Secrets,
    ) -> Vec<WebhookSecret> {
        let mut out = Vec::new();
        for entry in secrets.signing(name, self.problems) {
            let list = &name.value;
            match provider.key(&entry.secret) {
                Ok(key) => {
                    if let (Some(least), Key::Sha256(bytes)) = (provider.least_key_bytes(), &key)
                        && bytes.expose().len() < least
                    {
                        self.problems.warning(
                            &entry.span,
                            format!(
                                "the secret `{list}` is shorter than `{}` asks for: {least} bytes",
                                provider.name()
                            ),
                            Some("let the sender make a new one".into()),
                        );
                    }
                    out.push(WebhookSecret {
                        label: format!("{list}.{}", entry.place).into(),
                        text: entry.secret,
                        key,
                        expires: entry.expires,
                    });
                }
                Err(fault) => self.error(
                    &entry.span,
                    format!(
                        "the secret `{list}` is not one of `{}`: {fault}",
                        provider.name()
                    ),
                    fault.hint(),
                ),
            }
        }
        out
    }

    /// The sender a policy describes, or none where the description leaves anything open.
    fn generic(&mut self, hmac: &Hmac) -> Option<Generic> {
        let algorithm = self.one_of(
            hmac,
            "algorithm",
            hmac.algorithm.as_ref(),
            &[("sha256", Algorithm::Sha256), ("sha512", Algorithm::Sha512)],
        );
        let encoding = self.one_of(
            hmac,
            "encoding",
            hmac.encoding.as_ref(),
            &[("hex", Encoding::Hex), ("base64", Encoding::Base64)],
        );
        let template = self.template(hmac);
        if hmac.header.is_none() {
            self.error(
                &hmac.at.span,
                "`hmac` lacks `header`",
                "name the header of the signature, such as \"X-Signature\"",
            );
        }
        let mut names: Vec<String> = Vec::new();
        let mut header = |written: &Option<At<String>>| {
            let written = written.as_ref()?;
            let name = self.sender_header(written)?;
            if names.contains(&name) {
                self.error(
                    &written.span,
                    format!("the header `{}` has two meanings here", written.value),
                    "each is a header of its own",
                );
            }
            names.push(name.clone());
            Some(name)
        };
        let (signature, time, id, event) = (
            header(&hmac.header),
            header(&hmac.timestamp_header),
            header(&hmac.id_header),
            header(&hmac.event_header),
        );
        let prefix = hmac.prefix.as_ref().map_or("", |p| p.value.as_str());
        if let Some(at) = hmac.prefix.as_ref().filter(|p| {
            !p.value.bytes().all(|b| b.is_ascii_graphic() || b == b' ') || p.value.starts_with(' ')
        }) {
            self.error(
                &at.span,
                "no header can begin with this `prefix`",
                "visible ASCII, such as \"sha256=\"",
            );
        }
        Some(
            Description {
                signature: signature?,
                algorithm: algorithm?,
                encoding: encoding?,
                prefix: prefix.to_owned(),
                template: template?,
                time,
                tolerance: hmac.tolerance.as_ref().map_or(TOLERANCE, |t| t.value),
                id,
                event,
            }
            .sender(),
        )
    }

    /// What is signed, and that the headers it takes from are named.
    fn template(&mut self, hmac: &Hmac) -> Option<Template> {
        let Some(signed) = &hmac.signed else {
            self.error(
                &hmac.at.span,
                "`hmac` lacks `signed`",
                "say what is signed: \"{body}\", \"{timestamp}.{body}\" or the like",
            );
            return None;
        };
        let template = match Template::read(&signed.value) {
            Ok(template) => template,
            Err(fault) => {
                self.error(
                    &signed.span,
                    format!("`signed`: {fault}"),
                    "\"{body}\", \"{timestamp}.{body}\", \"{id}.{timestamp}.{body}\" or the like",
                );
                return None;
            }
        };
        match (template.has(&Piece::Time), &hmac.timestamp_header) {
            (true, None) => self.error(
                &signed.span,
                "`{timestamp}` is signed, but no header of it is named",
                "add `timestamp_header`",
            ),
            (false, Some(at)) => self.error(
                &at.span,
                "a time that is not signed proves nothing",
                "put `{timestamp}` into `signed`, or take this out",
            ),
            (true, Some(_)) | (false, None) => {}
        }
        if let (false, Some(at)) = (template.has(&Piece::Time), &hmac.tolerance) {
            self.error(
                &at.span,
                "`tolerance` is of a signed time, and none is signed",
                "put `{timestamp}` into `signed`, or take this out",
            );
        }
        if template.has(&Piece::Id) && hmac.id_header.is_none() {
            self.error(
                &signed.span,
                "`{id}` is signed, but no header of it is named",
                "add `id_header`",
            );
        }
        Some(template)
    }

    fn one_of<T: Copy>(
        &mut self,
        hmac: &Hmac,
        name: &str,
        written: Option<&At<String>>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let known = choices
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect::<Vec<_>>()
            .join(" or ");
        let Some(written) = written else {
            self.error(&hmac.at.span, format!("`hmac` lacks `{name}`"), &known);
            return None;
        };
        let found = choices.iter().find(|(name, _)| *name == written.value);
        if found.is_none() {
            let hint = if written.value == "sha1" {
                format!("{known}; SHA-1 is not taken: let the sender use a newer hash")
            } else {
                known
            };
            self.error(
                &written.span,
                format!("`{}` is not an `{name}` of `hmac`", written.value),
                &hint,
            );
        }
        found.map(|(_, value)| *value)
    }

    /// The name of a header in lower case, when a sender may use it.
    fn sender_header(&mut self, written: &At<String>) -> Option<String> {
        let name = http::HeaderName::try_from(written.value.as_str())
            .ok()
            .map(|name| name.as_str().to_owned())
            .filter(|name| upstream::is_free(name));
        if name.is_none() {
            self.error(
                &written.span,
                format!("`{}` cannot be a header of a sender", written.value),
                "a name without `_` that has no meaning of its own to the gateway, such as \"X-Signature\"",
            );
        }
        name
    }
}
