//! `[listen]` as meant.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use toml::Spanned;

use super::{
    Reading,
    users::{self, Uid},
};
use crate::config::{self, diagnostic::Diagnostic, unit};

/// Where requests come in, and from whom.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The address.
    pub address: Address,
    /// The users admitted on a unix socket beside our own.
    pub peers: Vec<Uid>,
    /// How long a peer may take nothing of what is written to it before it is cut off.
    pub write_timeout: Duration,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// An IP address and port: every local process, at least, can connect.
    Tcp(SocketAddr),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err("`unix:` needs a path behind it".to_owned());
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!("`{text}` is neither `unix:/path` nor `ip:port` such as 127.0.0.1:8082")
        })
    }
}

impl Reading {
    pub(super) fn listen(&mut self, listen: config::Listen) -> Listen {
        let span = listen.address.as_ref().map(Spanned::span);
        let default = Address::Unix(PathBuf::from("/run/orket/backend.sock"));
        let address = self.value(listen.address, default, |text| text.parse());
        match &address {
            Address::Unix(_) => {}
            Address::Tcp(tcp) if tcp.ip().is_loopback() => {
                self.warnings.push(Diagnostic::warning(
                    span,
                    "every process of this machine can connect to a loopback address, also what \
                     runs execute: prefer `unix:/path`",
                ));
            }
            Address::Tcp(tcp) if listen.allow_remote => {
                self.warnings.push(Diagnostic::warning(
                    span,
                    format!(
                        "{tcp} may be reached from other machines, and the backend asks nobody \
                         for proof: only the gateway may get there"
                    ),
                ));
            }
            Address::Tcp(tcp) => self.errors.push(Diagnostic::error(
                span,
                format!(
                    "{tcp} is not a loopback address: use `unix:/path`, or set `allow_remote = \
                     true` when only the gateway can reach it"
                ),
            )),
        }
        let write_timeout = self.value(listen.write_timeout, Duration::from_secs(30), |text| {
            let time = unit::duration(&text)?;
            if time.is_zero() {
                return Err("`write_timeout` must be more than 0: nobody is that fast".to_owned());
            }
            Ok(time)
        });
        let Some(names) = listen.peers else {
            // The default peer: admitted where that user exists.
            let peers = users::resolve("orket-gateway").into_iter().collect();
            return Listen {
                address,
                peers,
                write_timeout,
            };
        };
        let mut peers = Vec::new();
        for name in names {
            match users::resolve(name.as_ref()) {
                Ok(uid) => peers.push(uid),
                Err(why) => self.warnings.push(Diagnostic::warning(
                    Some(name.span()),
                    format!("{why}: nobody is admitted by this entry"),
                )),
            }
        }
        Listen {
            address,
            peers,
            write_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::super::Settings;

    #[test]
    fn loopback_is_warned_of_and_remote_has_to_be_allowed() {
        let warned = Settings::load("[listen]\naddress = \"127.0.0.1:8082\"").unwrap();
        assert_eq!(warned.warnings.len(), 1);
        assert!(Settings::load("[listen]\naddress = \"192.0.2.1:1\"").is_err());
        let allowed = "[listen]\naddress = \"192.0.2.1:1\"\nallow_remote = true";
        assert_eq!(Settings::load(allowed).unwrap().warnings.len(), 1);
    }

    #[test]
    fn an_unknown_peer_admits_nobody_and_is_said() {
        let loaded = Settings::load("[listen]\npeers = [\"no-such-user-here\", \"4242\"]").unwrap();
        assert_eq!(loaded.settings.listen.peers, [4242]);
        assert_eq!(loaded.warnings.len(), 1);
    }
}
