//! Whom the gateway believes to be an upstream: a name, and those who may vouch for it.
//!
//! Requests go through pingora's connector, deliveries that wait go through [`Trust::connect`]; both verify
//! the chain, the dates and the name against the same roots. pingora takes a verifier
//! that accepts everyone where it is given no name, so the name is a [`ServerName`] from the moment the policy loads.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::Path,
    sync::Arc,
};

use pingora_core::{
    protocols::ALPN as PingoraAlpn, upstreams::peer::HttpPeer, utils::tls::WrappedX509,
};
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{ALPN, VERSIONS, provider};
use crate::{denial::Reason, plain_file};

/// Why nobody could be believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file of the roots cannot be read.
    #[error("the file of trusted certificates cannot be read: {0}")]
    Unreadable(io::Error),
    /// There is no certificate in it.
    #[error("there is no certificate in this file that could vouch for an upstream")]
    NoRoot,
    /// The machine has no roots.
    #[error("this machine has no trusted certificates")]
    NoSystemRoot,
    /// TLS itself could not be set up.
    #[error("TLS could not be set up: {0}")]
    Setup(rustls::Error),
}

/// What an upstream has to prove before a byte of a request is sent to it.
#[derive(Clone)]
pub struct Trust {
    name: ServerName<'static>,
    /// The roots in the form pingora takes.
    roots: Arc<[WrappedX509]>,
    config: Arc<ClientConfig>,
    fingerprint: u64,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("name", &self.name)
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

impl Trust {
    /// Whoever proves to be `name` to the roots of this file, or to those of the machine.
    pub fn new(name: ServerName<'static>, ca_file: Option<&Path>) -> Result<Self, TrustError> {
        let certificates = match ca_file {
            Some(path) => certificates_of(path)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let mut store = RootCertStore::empty();
        let mut roots = Vec::new();
        let mut hasher = DefaultHasher::new();
        name.to_str().hash(&mut hasher);
        for der in certificates {
            // A machine's collection may hold what no longer parses; it vouches for nobody.
            let Some(root) = root(&der) else { continue };
            if store.add(der.clone()).is_ok() {
                der.as_ref().hash(&mut hasher);
                roots.push(root);
            }
        }
        if roots.is_empty() {
            return Err(match ca_file {
                Some(_) => TrustError::NoRoot,
                None => TrustError::NoSystemRoot,
            });
        }
        Ok(Self {
            name,
            roots: roots.into(),
            config: Arc::new(client_config(store).map_err(TrustError::Setup)?),
            // Never that of plain connections.
            fingerprint: hasher.finish() | 1,
        })
    }

    /// Makes a peer of pingora's prove itself. A kept connection serves only requests that would have
    /// trusted it in the same way, also after a reload.
    pub fn demand_of(&self, peer: &mut HttpPeer) {
        peer.group_key = self.fingerprint;
        let options = &mut peer.options;
        options.verify_cert = true;
        options.verify_hostname = true;
        options.alternative_cn = None;
        options.alpn = PingoraAlpn::H1;
        options.ca = Some(self.roots.clone());
    }

    /// The name to be proven, as SNI and as pingora write it. Never empty.
    pub fn name(&self) -> String {
        self.name.to_str().into_owned()
    }

    /// Speaks TLS over this socket; nothing but the handshake is sent before the other side has proven itself.
    pub async fn connect<S>(&self, socket: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsConnector::from(self.config.clone())
            .connect(self.name.clone(), socket)
            .await
    }
}

fn client_config(roots: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let (pem, _) = plain_file::read(path, plain_file::PEM_BYTES).map_err(TrustError::Unreadable)?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| TrustError::NoRoot)
}

fn root(der: &CertificateDer<'_>) -> Option<WrappedX509> {
    WrappedX509::try_new(der.to_vec(), |raw| {
        X509Certificate::from_der(raw).map(|(_, certificate)| certificate)
    })
    .ok()
}

/// Which TLS failure pingora's words for it tell of. They hold rustls' own, so those are looked for.
pub fn reason_of(words: &str) -> Reason {
    let said = |error: CertificateError| words.contains(&error.to_string());
    if words.contains("certificate not valid for name") || said(CertificateError::NotValidForName) {
        Reason::UpstreamTlsName
    } else if words.contains("certificate expired:")
        || words.contains("certificate not valid yet:")
        || said(CertificateError::Expired)
        || said(CertificateError::NotValidYet)
    {
        Reason::UpstreamTlsExpired
    } else if said(CertificateError::UnknownIssuer)
        || said(CertificateError::BadSignature)
        // Signed by itself, and not as a server.
        || words.contains("CaUsedAsEndEntity")
    {
        Reason::UpstreamTlsIssuer
    } else {
        Reason::UpstreamTlsFailed
    }
}
