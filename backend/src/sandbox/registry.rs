//! Which registries the engine may be sent to for images. Whoever names an image makes the engine ask a
//! machine of his choice: from inside, and in clear text where that is the engine's own machine.
//!
//! Judged is the name, not what it leads to: a public name may have an address within, or send on to one.
//! Who has to rule that out lists the registries.

use std::net::Ipv4Addr;

use super::{spec::Spec, value::image_fault};
use crate::work::Invalid;

/// The registry of images that name none.
const DEFAULT: &str = "docker.io";
/// Endings of names that no public registry has.
const INSIDE: [&str; 12] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "mail",
    "arpa",
    "onion",
];
/// Characters of a registry that a refusal repeats.
const SHOWN: usize = 80;

/// The registries that images may come from: these, or, where none is listed, every one with a public name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries(Vec<String>);

impl Registries {
    /// Those of the configuration, each as [`listed`] gives it.
    pub fn new(listed: Vec<String>) -> Self {
        Self(listed)
    }

    /// What keeps an image from being fetched, or used if it is there, as in "`image` must not …"; nothing
    /// where it is good.
    pub(super) fn fault(&self, image: &str) -> Option<String> {
        let registry = registry(image);
        let shown: String = registry.chars().take(SHOWN).collect();
        if self.0.is_empty() {
            return (!is_public(&registry)).then(|| format!(
                "must not come from `{shown}`: that is an address, or a name of an inside network. Name a registry by its public name, or have the operator list this one ([sandboxes.docker] registries)"
            ));
        }
        (!self.0.contains(&registry)).then(|| format!(
            "must not come from `{shown}`: the operator lists the registries that are asked, and this one is not among them ([sandboxes.docker] registries)"
        ))
    }

    /// What is wrong with an image that somebody names: with its name, or with where it comes from.
    pub(super) fn image_fault(&self, image: &str) -> Option<String> {
        let named = image_fault(image).map(str::to_owned);
        // No name of an image, but an address that deserves to be called one.
        if image.starts_with('[') {
            return self.fault(image).or(named);
        }
        named.or_else(|| self.fault(image))
    }

    /// Refuses a sandbox with an image from elsewhere.
    pub(super) fn check(&self, spec: &Spec) -> Result<(), Invalid> {
        for service in &spec.services {
            let fault = service.image.as_ref().and_then(|image| self.fault(image));
            if let Some(fault) = fault {
                let name = &service.name;
                return Err(Invalid(format!("service `{name}`: `image` {fault}")));
            }
        }
        Ok(())
    }
}

/// The registry that an image's name leads the engine to, as [`listed`] writes it.
fn registry(image: &str) -> String {
    let Some((first, _)) = image.split_once('/') else {
        return DEFAULT.to_owned();
    };
    let lower = first.to_ascii_lowercase();
    // Capitals make it a host's name for newer engines.
    let is_host = first.contains(['.', ':']) || lower == "localhost" || lower != first;
    if !is_host || lower == "index.docker.io" {
        return DEFAULT.to_owned();
    }
    lower
}

/// A registry as the configuration may list it: `host` or `host:port`, as images name it.
pub fn listed(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    let (host, port) = parts(&name).ok_or_else(|| {
        format!("`{text}` is no registry: write it as images name it, `registry.example.org` or `127.0.0.1:5000`, without a scheme, a path or a pattern")
    })?;
    let is_address = host.parse::<Ipv4Addr>().is_ok();
    if !is_address && !is_name(host) {
        return Err(format!(
            "`{text}` is an odd form of an address: write four numbers, e.g. `127.0.0.1:5000`"
        ));
    }
    if !host.contains('.') && host != "localhost" && port.is_none() {
        return Err(format!(
            "`{text}` is no registry to the engine: `{text}/x` is an image of {DEFAULT}. Give the port, `{text}:5000`"
        ));
    }
    if name == "index.docker.io" {
        return Ok(DEFAULT.to_owned());
    }
    Ok(name)
}

/// Host and port, where it is made of what both are made of.
fn parts(registry: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match registry.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    let port = match port {
        Some(text) => {
            let number: u16 = text.parse().ok()?;
            Some(number)
                .filter(|n| *n > 0 && n.to_string() == text)?
                .into()
        }
        None => None,
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (host.len() <= 253 && host.split('.').all(label)).then_some((host, port))
}

/// Whether a host is a name, and no address in any spelling: `127.1`, `0x7f.1` and `2130706433` are addresses.
fn is_name(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    last.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Whether a registry has a name that everybody may look up.
fn is_public(registry: &str) -> bool {
    let Some((host, _)) = parts(registry) else {
        return false;
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.contains('.') && is_name(host) && !INSIDE.contains(&last)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
    use super::*;

    fn only(list: &[&str]) -> Registries {
        Registries::new(list.iter().map(|text| listed(text).unwrap()).collect())
    }

    #[test]
    fn without_a_list_public_names_are_good_and_nothing_else() {
        let any = Registries::default();
        for good in [
            "postgres:16.4",
            "acme/api:1",
            "orket-test-service:1",
            "registry/x:1",
            "docker.io/library/postgres:16.4",
            "index.docker.io/library/postgres:16.4",
            "ghcr.io/acme/shop/api:1",
            "registry.example:5000/a/b:1.2",
            "xn--bcher-kva.example/a:1",
            "internal.example.org/a:1",
            "1and1.example/a@sha256:0123abcd",
            // No host to any engine, but a name and its tag.
            "127.0.0.1:5000",
        ] {
            assert_eq!(any.fault(good), None, "{good}");
        }
        for bad in [
            "localhost/x:1",
            "localhost:5000/x:1",
            "LocalHost:5000/x:1",
            "LOCALHOST/x:1",
            "Registry/x:1",
            "registry:5000/x:1",
            "x.localhost/x:1",
            "localhost.localdomain/x:1",
            "printer.local:80/x:1",
            "metadata.google.internal/x:1",
            "METADATA.GOOGLE.INTERNAL/x:1",
            "nas.home.arpa/x:1",
            "127.0.0.1/x:1",
            "127.0.0.1:5000/x@sha256:0123abcd",
            "10.0.0.7/x:1",
            "169.254.169.254/latest:1",
            "8.8.8.8/x:1",
            "127.1/x:1",
            "127.0.1:80/x:1",
            "0177.0.0.1/x:1",
            "0x7f.1/x:1",
            "0x7f.0x0.0x0.0x1/x:1",
            "0x7f000001:80/x:1",
            "2130706433:5000/x:1",
            "00000000000000000000000177.1/x:1",
            "[::1]:5000/x:1",
            "[::ffff:127.0.0.1]/x:1",
            "::1/x:1",
            "localhost./x:1",
            "127.0.0.1./x:1",
            "registry.example.:443/x:1",
            "registry.example:/x:1",
            "registry.example:0/x:1",
            "registry.example:65536/x:1",
            "registry.example:+5/x:1",
            "user@registry.example/x:1",
            "registry.example:80:80/x:1",
            "127。0。0。1:5000/x:1",
            ".example/x:1",
            "-.example/x:1",
        ] {
            let fault = any.fault(bad).unwrap_or_else(|| panic!("{bad}"));
            assert!(fault.contains("[sandboxes.docker] registries"), "{fault}");
        }
    }

    #[test]
    fn a_list_is_all_there_is() {
        let two = only(&["127.0.0.1:5000", "Registry.Example.org"]);
        for good in [
            "127.0.0.1:5000/x:1",
            "registry.example.org/a/b:1",
            "REGISTRY.example.org/a/b:1",
        ] {
            assert_eq!(two.fault(good), None, "{good}");
        }
        for bad in [
            "127.0.0.1/x:1",
            "127.0.0.1:5001/x:1",
            "127.0.0.1:05000/x:1",
            "127.1:5000/x:1",
            "localhost:5000/x:1",
            "registry.example.org:443/a:1",
            "a.registry.example.org/a:1",
            "registry.example.org.evil.example/a:1",
            "postgres:16.4",
            "docker.io/library/postgres:16.4",
            "ghcr.io/a/b:1",
            "registry/x:1",
        ] {
            assert!(two.fault(bad).is_some(), "{bad}");
        }
        for docker in ["docker.io", "index.docker.io"] {
            let docker = only(&[docker]);
            for good in ["postgres:16.4", "acme/x:1", "index.docker.io/acme/x:1"] {
                assert_eq!(docker.fault(good), None, "{good}");
            }
            assert!(docker.fault("ghcr.io/a:1").is_some());
        }
    }

    #[test]
    fn a_registry_is_listed_as_images_name_it() {
        for good in [
            "docker.io",
            "localhost",
            "localhost:5000",
            "registry:5000",
            "10.0.0.7",
        ] {
            assert_eq!(listed(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            " ",
            "*",
            "*.example.org",
            "https://registry.example.org",
            "registry.example.org/",
            "registry.example.org/acme",
            "registry.example.org:",
            "registry.example.org:0",
            "registry.example.org:65536",
            "registry.example.org:https",
            "registry.example.org.",
            "user@registry.example.org",
            "registry",
            "127.1:5000",
            "0x7f000001:5000",
            "2130706433",
            "256.1.1.1",
            "[::1]:5000",
            "::1",
            "10.0.0.0/8",
        ] {
            assert!(listed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_with_an_image_is_said_of_the_part_that_is_wrong() {
        let any = Registries::default();
        let fault = |image: &str| any.image_fault(image).unwrap();
        assert!(fault("[::1]:5000/x:1").contains("must not come from `[::1]:5000`"));
        assert!(fault("127.0.0.1:5000/x:1").contains("must not come from"));
        assert!(fault("${R}.example/x:1").contains("a tag other"));
        assert_eq!(any.image_fault("ghcr.io/a:1"), None);
    }
}
