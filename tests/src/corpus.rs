//! The bodies and test vectors in `tests/corpus/`, whose sources its README names.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// The folder of the corpus.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// One body of a real delivery, with the headers that go with it.
#[derive(Debug, Clone, Deserialize)]
pub struct Body {
    /// Its file in `corpus/gitea/`.
    pub file: String,
    /// The length of the file in bytes.
    #[serde(rename = "bytes")]
    pub length: usize,
    /// The SHA-256 of the file, in hex.
    pub sha256: String,
    /// `X-Gitea-Event`.
    pub event: String,
    /// `X-Gitea-Event-Type`.
    pub event_type: String,
    /// The secret its signatures were made with.
    pub secret: String,
    /// The whole header set a real sender sends with it.
    pub headers: Vec<(String, String)>,
    /// The public file it was taken from.
    pub source: String,
    /// The bytes themselves.
    #[serde(skip)]
    pub body: Vec<u8>,
}

/// The 26 bodies of real Gitea and Forgejo deliveries.
pub fn gitea() -> Vec<Body> {
    let folder = folder().join("gitea");
    let index = std::fs::read(folder.join("index.json")).expect("corpus/gitea/index.json");
    let mut bodies: Vec<Body> = serde_json::from_slice(&index).expect("the index");
    for entry in &mut bodies {
        entry.body = std::fs::read(folder.join(&entry.file)).expect("a body of the index");
    }
    bodies
}

/// One body by its file name.
pub fn gitea_body(file: &str) -> Body {
    gitea()
        .into_iter()
        .find(|body| body.file == file)
        .unwrap_or_else(|| panic!("no body {file}"))
}

/// A published or third-party test vector of a signature scheme.
#[derive(Debug, Clone, Deserialize)]
pub struct Vector {
    /// Its name.
    pub id: String,
    /// The sender's scheme.
    pub provider: String,
    /// The secret as text.
    #[serde(default)]
    pub secret: Option<String>,
    /// The secret as bytes, where it is not text.
    #[serde(default)]
    secret_b64: Option<String>,
    /// The header lines.
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_b64: Option<String>,
    /// Whether it verifies.
    pub valid: bool,
    /// Why not, where it does not.
    #[serde(default)]
    pub reason: Option<String>,
    /// The clock to judge it by, in seconds since 1970, where the scheme signs a time.
    #[serde(default)]
    pub now: Option<i64>,
    /// Whether it marks a choice rather than a fact.
    #[serde(default)]
    pub ambiguous: bool,
    /// Where it was published.
    pub source: String,
}

impl Vector {
    /// The body's bytes.
    pub fn body(&self) -> Vec<u8> {
        match (&self.body, &self.body_b64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(coded)) => STANDARD.decode(coded).expect("base64"),
            (Some(_), Some(_)) | (None, None) => panic!("{} has no single body", self.id),
        }
    }

    /// The secret's bytes, where it has one.
    pub fn secret_bytes(&self) -> Option<Vec<u8>> {
        let coded = self
            .secret_b64
            .as_ref()
            .map(|coded| STANDARD.decode(coded).expect("base64"));
        coded.or_else(|| self.secret.clone().map(String::into_bytes))
    }
}

/// All vectors.
pub fn all_vectors() -> Vec<Vector> {
    let bytes = std::fs::read(folder().join("webhook_vectors.json")).expect("the vectors");
    serde_json::from_slice(&bytes).expect("the vectors")
}

/// The vectors of the given schemes.
pub fn vectors(providers: &[&str]) -> Vec<Vector> {
    all_vectors()
        .into_iter()
        .filter(|vector| providers.contains(&vector.provider.as_str()))
        .collect()
}
