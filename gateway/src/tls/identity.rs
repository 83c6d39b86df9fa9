//! The certificate and the key of the `https` listener, read from files together with the policy.
//!
//! The private key is held by rustls alone: nothing here can print it, and no message quotes what a file holds.

use std::{fmt, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use rustls::{
    InconsistentKeys, ServerConfig,
    crypto::aws_lc_rs::Ticketer,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, public_key::PublicKey,
};

use super::{ALPN, VERSIONS, provider};
use crate::{plain_file, secret::Secret};

/// Certificates that end within this time are warned of.
pub const EXPIRES_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// The fewest bits of an RSA key (NIST SP 800-131A).
const RSA_BITS: usize = 2048;

/// Which of the two files a problem is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `cert_file`
    Certificate,
    /// `key_file`
    Key,
}

/// Why a certificate and a key do not serve.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate's file cannot be read.
    #[error("the certificate's file cannot be read: {0}")]
    CertificateUnreadable(std::io::Error),
    /// There is none in it.
    #[error("there is no certificate in this file")]
    NoCertificate,
    /// What is in it is not one.
    #[error("the certificate in this file is damaged")]
    CertificateMalformed,
    /// It is over.
    #[error("the certificate expired at {0}")]
    Expired(Timestamp),
    /// It has not begun.
    #[error("the certificate is not valid before {0}")]
    NotYetValid(Timestamp),
    /// Its key can be guessed.
    #[error("the certificate's RSA key has {0} bits, and less than 2048 are too few")]
    Weak(usize),
    /// The key's file cannot be read.
    #[error("the key's file cannot be read: {0}")]
    KeyUnreadable(std::io::Error),
    /// There is none in it.
    #[error("there is no private key in this file")]
    NoKey,
    /// It is of no use.
    #[error("the private key in this file cannot be used")]
    KeyUnusable,
    /// It belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// TLS itself could not be set up.
    #[error("TLS could not be set up: {0}")]
    Setup(rustls::Error),
}

impl IdentityError {
    /// Which file it is in.
    pub fn place(&self) -> Place {
        match self {
            Self::CertificateUnreadable(_)
            | Self::NoCertificate
            | Self::CertificateMalformed
            | Self::Expired(_)
            | Self::NotYetValid(_)
            | Self::Weak(_)
            | Self::Setup(_) => Place::Certificate,
            Self::KeyUnreadable(_) | Self::NoKey | Self::KeyUnusable | Self::Mismatch => Place::Key,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::CertificateUnreadable(_) => "name a PEM file that the gateway's user can read",
            Self::NoCertificate => {
                "it holds the server's own certificate first, then those that signed it: `-----BEGIN CERTIFICATE-----`"
            }
            Self::CertificateMalformed => "fetch or make it anew",
            Self::Expired(_) => "renew it; clients refuse it",
            Self::NotYetValid(_) => "is the clock of this machine right?",
            Self::Weak(_) => "make a new key, e.g. `openssl ecparam -genkey -name prime256v1`",
            Self::KeyUnreadable(_) => {
                "name a PEM file, readable by the gateway's user alone (chmod 600)"
            }
            Self::NoKey => "a PKCS#8, PKCS#1 or SEC1 key in PEM, not encrypted",
            Self::KeyUnusable => "use an ECDSA P-256 or P-384, Ed25519 or RSA key",
            Self::Mismatch => "both come from one issue: was only one of the files replaced?",
            Self::Setup(_) => "this is a fault of the gateway or of its machine",
        }
    }
}

/// What the listener proves itself with.
pub struct Identity {
    config: Arc<ServerConfig>,
    names: String,
    not_after: Timestamp,
    key_is_exposed: bool,
}

impl fmt::Debug for Identity {
    /// Never goes into the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads both files. What a client would refuse is refused here.
    pub fn read(cert_file: &Path, key_file: &Path, now: Timestamp) -> Result<Self, IdentityError> {
        let (pem, _) = plain_file::read(cert_file, plain_file::PEM_BYTES)
            .map_err(IdentityError::CertificateUnreadable)?;
        let chain = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| IdentityError::CertificateMalformed)?;
        let facts = Facts::of(chain.first().ok_or(IdentityError::NoCertificate)?, now)?;
        let (key, key_is_exposed) = read_key(key_file)?;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|e| {
            if e == rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
                IdentityError::Mismatch
            } else {
                IdentityError::KeyUnusable
            }
        })?;
        Ok(Self {
            config: Arc::new(server_config(certified).map_err(IdentityError::Setup)?),
            names: facts.names,
            not_after: facts.not_after,
            key_is_exposed,
        })
    }

    /// What new handshakes are made with.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// The names the certificate is for, as it writes them.
    pub fn names(&self) -> &str {
        &self.names
    }

    /// When it ends.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether other users can read or change the key's file.
    pub fn key_is_exposed(&self) -> bool {
        self.key_is_exposed
    }
}

fn server_config(certified: CertifiedKey) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Sessions are resumed by tickets under keys that rustls makes and rotates; nothing is kept here. Early data
    // stays off: a request in it could be played again (RFC 8446, section 8).
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// The key, and whether other users can get at its file.
fn read_key(path: &Path) -> Result<(PrivateKeyDer<'static>, bool), IdentityError> {
    let (pem, metadata) =
        plain_file::read(path, plain_file::PEM_BYTES).map_err(IdentityError::KeyUnreadable)?;
    let mode = metadata.permissions().mode();
    let pem = Secret::new(pem);
    let key = PrivateKeyDer::from_pem_slice(pem.expose()).map_err(|_| IdentityError::NoKey)?;
    Ok((key, mode & 0o026 != 0))
}

/// What a certificate says of itself.
struct Facts {
    names: String,
    not_after: Timestamp,
}

impl Facts {
    fn of(der: &CertificateDer<'_>, now: Timestamp) -> Result<Self, IdentityError> {
        let malformed = || IdentityError::CertificateMalformed;
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| malformed())?;
        let moment = |at: x509_parser::time::ASN1Time| {
            Timestamp::from_second(at.timestamp()).map_err(|_| malformed())
        };
        let not_before = moment(certificate.validity().not_before)?;
        let not_after = moment(certificate.validity().not_after)?;
        if now < not_before {
            return Err(IdentityError::NotYetValid(not_before));
        }
        if now > not_after {
            return Err(IdentityError::Expired(not_after));
        }
        let key = certificate.public_key().parsed().map_err(|_| malformed())?;
        if let PublicKey::RSA(rsa) = key
            && rsa.key_size() < RSA_BITS
        {
            return Err(IdentityError::Weak(rsa.key_size()));
        }
        Ok(Self {
            names: names(&certificate),
            not_after,
        })
    }
}

/// The names clients look for; a certificate without any is known by its subject.
fn names(certificate: &X509Certificate<'_>) -> String {
    let names: Vec<String> = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|extension| {
            extension
                .value
                .general_names
                .iter()
                .filter_map(name)
                .collect()
        })
        .unwrap_or_default();
    if names.is_empty() {
        certificate.subject().to_string()
    } else {
        names.join(" ")
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(std::net::IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from))
            .ok()
            .map(|ip| ip.to_string()),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::RegisteredID(_) => None,
    }
}
