//! Both programs together, as an operator runs them.

use crate::backend::Backend;
use crate::gateway::{API_KEY, Gateway, WEBHOOK_SECRET};
use crate::gitea::Delivery;
use crate::wire::{Address, Answer, Request};

/// A gateway in front of a backend.
#[derive(Debug)]
pub struct Stack {
    /// The door. Dropped first.
    pub gateway: Gateway,
    /// The work.
    pub backend: Backend,
}

impl Stack {
    /// Starts both: the backend with `config` (see [`Backend::start`]), the gateway with its
    /// built-in policy, [`API_KEY`] and [`WEBHOOK_SECRET`].
    pub async fn start(config: &str) -> Self {
        Self::start_with_env(config, &[]).await
    }

    /// As [`Stack::start`], with further variables in the gateway's environment.
    pub async fn start_with_env(config: &str, env: &[(&str, &str)]) -> Self {
        let backend = Backend::start(config).await;
        let gateway = Gateway::before(backend.address())
            .env("ORKET_API_KEY", API_KEY)
            .env("GITEA_WEBHOOK_SECRET", WEBHOOK_SECRET)
            .envs(env)
            .start()
            .await;
        Self { gateway, backend }
    }

    /// Where the gateway takes requests.
    pub fn address(&self) -> &Address {
        self.gateway.address()
    }

    /// `GET target` through the gateway, with the key.
    pub async fn get(&self, target: &str) -> Answer {
        Request::get(target).key(API_KEY).send(self.address()).await
    }

    /// `POST target` through the gateway with a JSON body, with the key.
    pub async fn post(&self, target: &str, body: &serde_json::Value) -> Answer {
        Request::post_json(target, body)
            .key(API_KEY)
            .send(self.address())
            .await
    }

    /// Delivers a signed webhook through the gateway.
    pub async fn deliver(&self, delivery: &Delivery) -> Answer {
        delivery
            .signed("/webhook/gitea", WEBHOOK_SECRET)
            .send(self.address())
            .await
    }
}
