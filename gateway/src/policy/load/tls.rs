//! Certificates: the listener's own, and what upstreams have to prove.

use std::net::SocketAddr;

use jiff::Timestamp;
use rustls::pki_types::ServerName;

use super::{Loader, Weakness};
use crate::{
    config::{self, Written, reader::At},
    policy::UpstreamAddress,
    tls::{
        identity::{EXPIRES_SOON, Identity, Place},
        trust::{Trust, TrustError},
    },
};

impl Loader<'_> {
    /// The address of the `https` listener.
    pub(super) fn https(&mut self, written: &Written) -> Option<SocketAddr> {
        let https = written.listen.https.as_ref()?;
        if https.address.is_none() || https.cert_file.is_none() || https.key_file.is_none() {
            self.error(
                &https.at.span,
                "`https` needs `address`, `cert_file` and `key_file`",
                "e.g. https = { address = \"0.0.0.0:8443\", cert_file = \"/etc/orket/tls/cert.pem\", key_file = \"/etc/orket/tls/key.pem\" }",
            );
        }
        https.address.as_ref().map(|a| a.value)
    }

    /// What the `https` listener proves itself with.
    pub(super) fn identity(&mut self, written: &Written) -> Option<Identity> {
        let https = written.listen.https.as_ref()?;
        let (cert_file, key_file) = (https.cert_file.as_ref()?, https.key_file.as_ref()?);
        let now = Timestamp::now();
        match Identity::read(
            &self.lies(&cert_file.value),
            &self.lies(&key_file.value),
            now,
        ) {
            Ok(identity) => {
                if now.duration_until(identity.not_after()) < EXPIRES_SOON {
                    self.problems.warning(
                        &cert_file.span,
                        format!("the certificate expires at {}", identity.not_after()),
                        Some("renew it, then reload (SIGHUP)".into()),
                    );
                }
                if identity.key_is_exposed() {
                    self.weak(
                        Weakness::ExposedKey,
                        &key_file.span,
                        "other users can read or change the file of the private key",
                        "chmod 600, owned by the gateway's user",
                    );
                }
                Some(identity)
            }
            Err(e) => {
                let at = match e.place() {
                    Place::Certificate => cert_file,
                    Place::Key => key_file,
                };
                self.error(&at.span, e.to_string(), e.hint());
                None
            }
        }
    }

    /// What an upstream has to prove.
    pub(super) fn trust(
        &mut self,
        written: &config::UpstreamTls,
        address: &At<String>,
        parsed: &UpstreamAddress,
    ) -> Option<Trust> {
        if let UpstreamAddress::Unix(_) = parsed {
            self.error(
                &written.at.span,
                "a unix socket does not leave this machine: there is no TLS to it",
                "take `tls` out, or give the upstream a TCP address",
            );
            return None;
        }
        let (name, span) = match &written.server_name {
            Some(at) => (at.value.as_str(), &at.span),
            None => (host_of(&address.value), &address.span),
        };
        // pingora takes `_` for `-` when it compares names, which would be another name.
        let server_name = (!name.contains('_'))
            .then(|| ServerName::try_from(name.to_owned()).ok())
            .flatten();
        let Some(server_name) = server_name else {
            self.error(
                span,
                format!("`{name}` is not a name a certificate could be for"),
                "set `server_name` to the DNS name or IP address in the upstream's certificate",
            );
            return None;
        };
        let ca_file = written.ca_file.as_ref();
        let roots = ca_file.map(|f| self.lies(&f.value));
        match Trust::new(server_name, roots.as_deref()) {
            Ok(trust) => Some(trust),
            Err(e) => {
                let hint = match e {
                    TrustError::Unreadable(_) | TrustError::NoRoot => {
                        "a PEM file with the certificates that may vouch for the upstream"
                    }
                    TrustError::NoSystemRoot => {
                        "install the ca-certificates of this system, or name a `ca_file`"
                    }
                    TrustError::Setup(_) => "this is a fault of the gateway or of its machine",
                };
                self.error(
                    ca_file.map_or(&written.at.span, |f| &f.span),
                    e.to_string(),
                    hint,
                );
                None
            }
        }
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}
