//! Where the gateway listens, and where it sends.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderName, HeaderValue};

use super::{DEFAULT_ADMIN, DEFAULT_HTTP, Loader, Weakness, secrets::Secrets};
use crate::{
    config::{self, Written, reader::At},
    policy::{Listen, SetHeader, Upstream, UpstreamAddress},
};

impl Loader<'_> {
    pub(super) fn listen(&mut self, written: &Written, state_dir: &Path) -> Option<Listen> {
        let https = self.https(written);
        let http = match (&written.listen.http, &written.listen.https) {
            (None, Some(_)) => None,
            (at, _) => Some(address_or(at.as_ref(), DEFAULT_HTTP)?),
        };
        let admin = address_or(written.listen.admin.as_ref(), DEFAULT_ADMIN)?;
        if let Some(at) = written
            .listen
            .http
            .as_ref()
            .filter(|at| !at.value.ip().is_loopback())
        {
            let http = at.value;
            self.weak(
                Weakness::PlainHttp,
                &at.span,
                format!("`{http}` offers plain HTTP beyond loopback: keys and bodies can be read on the way"),
                "listen on loopback behind something that ends TLS, or use [listen] https",
            );
        }
        if let Some(at) = &written.listen.admin
            && !admin.ip().is_loopback()
        {
            self.error(
                &at.span,
                format!("the admin listener `{admin}` is not on loopback"),
                "it shows metrics to whoever connects: use 127.0.0.1",
            );
        }
        let listeners = [http, https, Some(admin)];
        let shared = listeners.iter().enumerate().any(|(n, a)| {
            a.is_some_and(|a| a.port() != 0) && listeners.iter().skip(n + 1).any(|b| a == b)
        });
        if shared {
            let at = written
                .listen
                .admin
                .as_ref()
                .or(written.listen.http.as_ref());
            self.error(
                &at.map_or(0..0, |a| a.span.clone()),
                "two listeners share one address",
                "give each of `http`, `https` and `admin` a port of its own",
            );
        }
        let threads = match &written.listen.threads {
            Some(n) if n.value == 0 || n.value > 256 => {
                self.error(
                    &n.span,
                    "`threads` is between 1 and 256",
                    "leave it out for one per core",
                );
                1
            }
            Some(n) => usize::try_from(n.value).unwrap_or(1),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let control = self.control(written.listen.control.as_ref(), state_dir);
        Some(Listen {
            http,
            https,
            admin,
            control,
            threads,
        })
    }

    pub(super) fn control(&mut self, written: Option<&At<String>>, state_dir: &Path) -> PathBuf {
        let default = state_dir.join(crate::control::SOCKET_NAME);
        let Some(at) = written else { return default };
        match self.upstream_address(at) {
            Some(UpstreamAddress::Unix(path)) => PathBuf::from(path),
            Some(UpstreamAddress::Tcp(_)) => {
                self.error(
                    &at.span,
                    "the control socket is a unix socket: whoever reaches it steers the gateway",
                    "e.g. \"unix:/run/orket/gateway.sock\"",
                );
                default
            }
            None => default,
        }
    }

    pub(super) fn upstreams(&mut self, written: &Written, secrets: &Secrets) -> Vec<Upstream> {
        let mut out = Vec::new();
        for upstream in &written.upstreams {
            self.half_read
                .insert(format!("upstream {}", upstream.id.value));
            let Some(address) = &upstream.address else {
                if self.problems.is_unreadable(&upstream.at.span, "address") {
                    continue;
                }
                self.error(
                    &upstream.id.span,
                    format!("upstream `{}` lacks `address`", upstream.id.value),
                    "e.g. address = \"unix:/run/orket/backend.sock\"",
                );
                continue;
            };
            let Some(parsed) = self.upstream_address(address) else {
                continue;
            };
            match (&upstream.tls, &upstream.clear_text) {
                (None, _) => self.clear_text(written, upstream, address, &parsed),
                (Some(_), Some(clear)) if clear.value => self.error(
                    &clear.span,
                    format!(
                        "`clear_text` contradicts `tls`: nothing goes to `{}` in clear text",
                        upstream.id.value
                    ),
                    "take one of them out",
                ),
                (Some(_), _) => {}
            }
            let trust = match &upstream.tls {
                None => None,
                // What was to be verified is never sent to unverified.
                Some(tls) => match self.trust(tls, address, &parsed) {
                    Some(trust) => Some(trust),
                    None => continue,
                },
            };
            let mut set_headers = Vec::new();
            for (name, secret) in &upstream.set_headers {
                let Ok(header) = HeaderName::from_bytes(name.value.as_bytes()) else {
                    self.error(
                        &name.span,
                        format!("`{}` is not a header name", name.value),
                        "letters, digits and `-`, e.g. \"X-API-Key\"",
                    );
                    continue;
                };
                if header.as_str().starts_with("x-orket-")
                    || matches!(
                        header.as_str(),
                        "host" | "content-length" | "transfer-encoding" | "connection"
                    )
                {
                    self.error(
                        &name.span,
                        format!("`{}` is the gateway's own", name.value),
                        "take it out",
                    );
                    continue;
                }
                let Some(value) = secrets.first_text(secret, self.problems) else {
                    continue;
                };
                match HeaderValue::from_bytes(value.expose()) {
                    Ok(mut value) => {
                        value.set_sensitive(true);
                        set_headers.push(SetHeader {
                            name: header,
                            value,
                            secret: secret.value.clone(),
                        });
                    }
                    Err(_) => self.error(
                        &secret.span,
                        format!("secret `{}` cannot stand in a header", secret.value),
                        "it holds control characters",
                    ),
                }
            }
            out.push(Upstream {
                id: upstream.id.value.clone(),
                address: parsed,
                trust,
                connect_timeout: upstream
                    .connect_timeout
                    .as_ref()
                    .map_or(Duration::from_secs(1), |d| d.value),
                response_timeout: upstream
                    .response_timeout
                    .as_ref()
                    .map_or(Duration::from_secs(30), |d| d.value),
                set_headers,
            });
        }
        out
    }

    pub(super) fn upstream_address(&mut self, address: &At<String>) -> Option<UpstreamAddress> {
        if let Some(path) = address.value.strip_prefix("unix:") {
            // 107 bytes: sun_path less its terminating NUL (unix(7)).
            let named = path;
            let path = self.lies(Path::new(path)).to_string_lossy().into_owned();
            if named.is_empty() || path.len() > 107 {
                self.error(
                    &address.span,
                    "the path of a unix socket has 1 to 107 bytes",
                    "use a shorter path; a relative one is taken from the directory of the policy file",
                );
                return None;
            }
            return Some(UpstreamAddress::Unix(path));
        }
        if address.value.contains('@') {
            self.problems.conceal(&address.span);
            self.error(
                &address.span,
                "an upstream's address holds no user or password",
                "write `host:port`; set a header with `set_headers`",
            );
            return None;
        }
        let found = std::net::ToSocketAddrs::to_socket_addrs(address.value.as_str())
            .ok()
            .and_then(|mut all| all.next());
        if found.is_none() {
            self.error(
                &address.span,
                format!(
                    "`{}` is neither `host:port` nor `unix:/path`, or the name is not known",
                    address.value
                ),
                "e.g. \"127.0.0.1:8082\" or \"unix:/run/orket/backend.sock\"",
            );
        }
        found.map(UpstreamAddress::Tcp)
    }

    /// Says what goes to another machine in clear text. That it is meant has to be written.
    fn clear_text(
        &mut self,
        written: &Written,
        upstream: &config::Upstream,
        at: &At<String>,
        address: &UpstreamAddress,
    ) {
        let beyond = match address {
            UpstreamAddress::Tcp(beyond) if !beyond.ip().is_loopback() => beyond,
            UpstreamAddress::Tcp(_) | UpstreamAddress::Unix(_) => return,
        };
        let keeps = |kept: &Option<At<bool>>| kept.as_ref().is_some_and(|k| k.value);
        let authorized = written.routes.iter().any(|route| {
            let here = |to: &At<String>| to.value == upstream.id.value;
            route.upstream.as_ref().is_some_and(here) && keeps(&route.keep_authorization)
        });
        let mut goes = vec!["bodies", "and whom the gateway admitted"];
        if authorized {
            goes.insert(0, "`Authorization`,");
        }
        if !upstream.set_headers.is_empty() {
            goes.insert(0, "the secrets of `set_headers`,");
        }
        let meant = keeps(&upstream.clear_text);
        self.weak(
            if meant {
                Weakness::ClearUpstreamMeant
            } else {
                Weakness::ClearUpstream
            },
            &at.span,
            format!(
                "requests to `{beyond}` leave this machine as plain HTTP: {} can be read and changed on the way",
                goes.join(" ")
            ),
            if meant {
                "give the upstream `tls` as soon as it speaks it"
            } else {
                "give the upstream `tls`, or let it listen on loopback or a unix socket; `clear_text = true` says that the network between is trusted"
            },
        );
    }
}

fn address_or(written: Option<&At<SocketAddr>>, default: &str) -> Option<SocketAddr> {
    match written {
        Some(at) => Some(at.value),
        None => default.parse().ok(),
    }
}
