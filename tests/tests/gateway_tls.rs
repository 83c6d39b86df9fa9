//! TLS on both sides: handshakes, requests within, certificates and their reload, upstreams.

mod certificates;
mod handshakes;
mod renewal;
mod requests;
mod upstreams;

use orket_tests::tls::{Authority, Client};
use orket_tests::{Gateway, Policy, Upstream};

/// A gateway that listens by TLS as well, an upstream behind it, and who vouches for the gateway.
struct Secured {
    gateway: Gateway,
    upstream: Upstream,
    authority: Authority,
}

impl Secured {
    async fn start(policy: Policy) -> Self {
        let authority = Authority::new("the test's");
        let upstream = Upstream::tcp().await;
        let builder = Gateway::before(upstream.address()).standard(&policy.https());
        authority
            .certificate(&["localhost", "127.0.0.1"])
            .write(builder.dir());
        let gateway = builder.start().await;
        Self {
            gateway,
            upstream,
            authority,
        }
    }

    fn client(&self) -> Client {
        self.authority.client()
    }
}

/// The value of a metric without or with its labels, as the page writes them; 0 where it is not there.
async fn metric(gateway: &Gateway, name: &str) -> i64 {
    let page = orket_tests::Request::get("/metrics")
        .send(gateway.admin())
        .await
        .text();
    page.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(0)
}

fn failures(reason: &str) -> String {
    format!("orket_gateway_tls_handshake_failures_total{{reason=\"{reason}\"}}")
}
