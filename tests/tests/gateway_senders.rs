//! Every sender over the real gateway: what is proven goes in as it is, and nothing else does.

mod events;
mod explained;
mod loading;
mod proven;
mod refused;

use std::fmt::Write as _;

use orket_tests::gateway::PREAMBLE;
use orket_tests::sender::{SENDERS, Sender};
use orket_tests::{Gateway, Upstream};

/// Secrets that every scheme but Discord's can take as they are.
const FIRST: &str = "whsec_dGhpcnR5LXR3byBieXRlcyBvZiBhIGZpcnN0IG9uZS4=";
const SECOND: &str = "whsec_dGhpcnR5LXR3byBieXRlcyBvZiBhIHNlY29uZCBvbmU=";
const OTHER: &str = "whsec_dGhpcnR5LXR3byBieXRlcyBvZiBubyBvbmUncyBrZXk=";

fn path(sender: &Sender) -> String {
    format!("/webhook/{}", sender.name)
}

/// One route for each sender; each has two secrets.
fn policy() -> String {
    let mut secrets = String::new();
    let mut routes = String::new();
    for sender in SENDERS {
        let (name, auth) = (sender.name, sender.auth);
        writeln!(
            secrets,
            "{name} = [{{ file = \"{{dir}}/{name}-1\" }}, {{ file = \"{{dir}}/{name}-2\", expires = 2099-01-01T00:00:00Z }}]"
        )
        .unwrap();
        writeln!(
            routes,
            "[[routes]]\nid = \"{name}\"\npath = \"/webhook/{name}\"\nmethods = [\"POST\"]\nauth = {{ kind = \"webhook\", provider = \"{name}\", secret = \"{name}\"{auth} }}\nupstream = \"backend\""
        )
        .unwrap();
    }
    format!("{PREAMBLE}\n[limits]\nfailures_per_address = \"none\"\n[secrets]\n{secrets}\n{routes}")
}

async fn gateway(upstream: &Upstream) -> Gateway {
    let mut builder = Gateway::before(upstream.address()).policy(&policy());
    for sender in SENDERS {
        for (n, secret) in [(1, FIRST), (2, SECOND)] {
            let file = format!("{}-{n}", sender.name);
            builder = builder.file(&file, sender.configured(secret).as_bytes());
        }
    }
    builder.start().await
}
