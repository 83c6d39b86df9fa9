//! What proof a route wants: complete, and with nothing of another kind in it.

use super::{Loader, Origin, Weakness, secrets::Secrets};
use crate::{
    config,
    policy::{Auth, TestWebhookAuth, keys::KeyRing},
};

impl Loader<'_> {
    pub(super) fn auth(
        &mut self,
        w: &config::Route,
        origin: &Origin,
        secrets: &Secrets,
        keys: &KeyRing,
        id: &str,
    ) -> Option<Auth> {
        let Some(auth) = &w.auth else {
            if self.problems.is_unreadable(&w.at.span, "auth") {
                return None;
            }
            self.error(
                &w.at.span,
                format!("route `{id}` does not say what proof it wants"),
                "add auth = { kind = \"api_key\" }; { kind = \"none\" } has to be written, too",
            );
            return None;
        };
        let Some(kind) = &auth.kind else {
            self.lacking(
                &auth.at,
                "`auth`",
                &[("kind", true)],
                "\"api_key\", \"webhook\", \"test_webhook\" or \"none\"",
            );
            return None;
        };
        let mut foreign = Vec::new();
        if kind.value != "webhook" {
            foreign.extend([
                ("provider", auth.provider.as_ref().map(|a| &a.span)),
                ("secret", auth.secret.as_ref().map(|a| &a.span)),
                ("hmac", auth.hmac.as_ref().map(|a| &a.at.span)),
            ]);
        }
        if kind.value != "test_webhook" {
            foreign.extend([
                ("token", auth.token.as_ref().map(|a| &a.span)),
                ("enabled", auth.enabled.as_ref().map(|a| &a.span)),
            ]);
        }
        for (name, span) in foreign {
            if let Some(span) = span {
                self.error(
                    span,
                    format!("`{name}` does not belong to auth kind `{}`", kind.value),
                    "take it out",
                );
            }
        }
        if kind.value != "webhook" {
            for (name, span) in [
                ("replay", w.replay.as_ref().map(|a| &a.span)),
                ("source", w.source.as_ref().map(|a| &a.span)),
            ] {
                if let Some(span) = span {
                    self.error(
                        span,
                        format!("`{name}` belongs to webhook routes"),
                        "take it out",
                    );
                }
            }
        }
        match kind.value.as_str() {
            "api_key" => Some(Auth::ApiKey),
            "none" => {
                self.weak(
                    Weakness::OpenRoute,
                    &kind.span,
                    format!("route `{id}` asks for no proof"),
                    "is everything behind it meant to be public?",
                );
                Some(Auth::None)
            }
            "webhook" => self.webhook(w, auth, origin, secrets, id),
            "test_webhook" => Some(Auth::TestWebhook(self.test_webhook(auth, secrets, keys))),
            other => {
                self.error(
                    &kind.span,
                    format!("`{other}` is not a kind of proof"),
                    "\"api_key\", \"webhook\", \"test_webhook\" or \"none\"",
                );
                None
            }
        }
    }

    fn test_webhook(
        &mut self,
        auth: &config::Auth,
        secrets: &Secrets,
        keys: &KeyRing,
    ) -> TestWebhookAuth {
        let tokens: Vec<_> = auth
            .token
            .as_ref()
            .map(|name| {
                secrets
                    .presented(name, self.problems)
                    .into_iter()
                    .map(|p| (p.digest, p.expires))
                    .collect()
            })
            .unwrap_or_default();
        let Some(switch) = auth.enabled.as_ref().filter(|e| e.value) else {
            return TestWebhookAuth::Disabled;
        };
        self.weak(
            Weakness::TestWebhook,
            &switch.span,
            "the test webhook is switched on: it takes deliveries without a sender's signature",
            "switch it off when you are done",
        );
        if auth.token.is_some() {
            TestWebhookAuth::Token(tokens)
        } else if keys.is_empty() {
            TestWebhookAuth::NotConfigured
        } else {
            TestWebhookAuth::ApiKey
        }
    }
}
