//! How the canary speaks: ordinary requests through an HTTP client, malformed ones as raw bytes.

use std::time::Duration;

use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Options;
use crate::secret::Secret;

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The deployment that is checked.
#[derive(Debug)]
pub(super) struct Target {
    client: reqwest::Client,
    url: url::Url,
    pub(super) key: Option<String>,
    pub(super) secret: Option<Secret>,
    pub(super) webhook_path: String,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    /// The `detail` of a refusal.
    pub(super) fn detail(&self) -> &str {
        self.body
            .get("detail")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The answer in a few words, for a person.
    pub(super) fn brief(&self) -> String {
        let detail = self.detail();
        if detail.is_empty() {
            self.status.to_string()
        } else {
            format!("{} `{detail}`", self.status)
        }
    }
}

impl Target {
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        if !matches!(options.url.scheme(), "http" | "https") || options.url.host_str().is_none() {
            return Err(format!(
                "--url {} is not an http(s) address, e.g. http://127.0.0.1:8080",
                options.url
            ));
        }
        let value = |name: &Option<String>| match name {
            None => Ok(None),
            Some(name) => match std::env::var(name) {
                Ok(value) if !value.trim().is_empty() => Ok(Some(value)),
                Ok(_) | Err(_) => Err(format!("the variable {name} is not set, or blank")),
            },
        };
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("orket-canary/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| format!("no HTTP client: {e}"))?;
        Ok(Self {
            client,
            url: options.url.clone(),
            key: value(&options.api_key_env)?,
            secret: value(&options.webhook_secret_env)?.map(|s| Secret::new(s.into_bytes())),
            webhook_path: options.webhook_path.clone(),
        })
    }

    /// Sends an ordinary request.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, String> {
        let url = self.url.join(path).map_err(|e| format!("{path}: {e}"))?;
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request
            .send()
            .await
            .map_err(|e| format!("no answer: {e}"))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response
            .bytes()
            .await
            .map_err(|e| format!("a broken answer: {e}"))?;
        Ok(Answer {
            status,
            headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        })
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        self.send(Method::GET, path, headers, None).await
    }

    /// Whether raw bytes can be sent: not through TLS.
    pub(super) fn speaks_raw(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// Sends these bytes and returns the status of the first answer; `HOST` stands for the host.
    pub(super) async fn raw(&self, request: &str) -> Result<u16, String> {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or(80);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let exchange = async {
            let mut socket = tokio::net::TcpStream::connect((bare, port)).await?;
            socket
                .write_all(
                    request
                        .replace("HOST", &format!("{host}:{port}"))
                        .as_bytes(),
                )
                .await?;
            let mut answer = Vec::new();
            let mut buffer = [0; 1024];
            while !answer.contains(&b'\n') {
                match socket.read(&mut buffer).await? {
                    0 => break,
                    n => answer.extend_from_slice(&buffer[..n]),
                }
            }
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|e| format!("no answer: {e}"))?;
        let text = String::from_utf8_lossy(&answer);
        text.split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| "the connection was closed without an answer".to_owned())
    }
}
