//! Networks, and who a client is when it comes through a proxy.

use std::net::{IpAddr, Ipv6Addr};

use http::HeaderMap;
use ipnet::IpNet;
use orket_shared::header::FORWARDED_FOR;

use super::Mode;

/// A set of networks.
#[derive(Debug, Clone, Default)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// A set of these.
    pub fn new(nets: Vec<IpNet>) -> Self {
        Self(nets)
    }

    /// Whether the address is in one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|n| n.contains(&address))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `192.0.2.0/24`, or one address. A network of IPv4 addresses in IPv6 clothes is that IPv4 network, as
/// clients are judged by their plain addresses.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        format!("`{text}` is neither an address nor a network; write e.g. \"192.0.2.10\" or \"10.0.0.0/8\"")
    })?;
    let IpNet::V6(six) = net else { return Ok(net) };
    match (
        six.addr().to_ipv4_mapped(),
        six.prefix_len().checked_sub(96),
    ) {
        (Some(four), Some(length)) => ipnet::Ipv4Net::new(four, length)
            .map(IpNet::V4)
            .map_err(|e| e.to_string()),
        (Some(_) | None, _) => Ok(net),
    }
}

/// A route's address rules. Denied beats allowed; with an allow list, the rest is denied.
#[derive(Debug, Clone, Default)]
pub struct AddressRules {
    /// When not empty, only these.
    pub allow: Networks,
    /// Never these.
    pub deny: Networks,
    /// Not counted as failing, never slowed down for it.
    pub exempt: Networks,
    /// Whether `allow` and `deny` refuse.
    pub mode: Mode,
}

impl AddressRules {
    /// Whether a client of this address may ask at all.
    pub fn admits(&self, client: IpAddr) -> bool {
        !self.deny.contains(client) && (self.allow.is_empty() || self.allow.contains(client))
    }
}

/// The client's address: the peer's, or, when the peer is a trusted proxy, the first hop of
/// `X-Forwarded-For` from the right that is not trusted. A hop that is not an address ends the search
/// at the last one that was: what stands left of it is anybody's claim.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> IpAddr {
    let mut client = plain(peer);
    if !trusted.contains(client) {
        return client;
    }
    for value in headers.get_all(FORWARDED_FOR).iter().rev() {
        let Ok(text) = value.to_str() else {
            return client;
        };
        for hop in text.rsplit(',') {
            let Ok(address) = hop.trim().parse::<IpAddr>() else {
                return client;
            };
            client = plain(address);
            if !trusted.contains(client) {
                return client;
            }
        }
    }
    client
}

/// An IPv4 address in IPv6 clothes is that IPv4 address.
pub fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
    }
}

/// The address a budget is kept for: an IPv6 client owns at least its /64.
pub fn budget_address(address: IpAddr) -> IpAddr {
    match plain(address) {
        IpAddr::V6(six) => {
            let bits = u128::from(six) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(bits))
        }
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn from(peer: &str, forwarded: &[&str]) -> String {
        let trusted = Networks::new(vec![parse_network("10.0.0.0/8").unwrap()]);
        let mut headers = HeaderMap::new();
        for f in forwarded {
            headers.append(FORWARDED_FOR, f.parse().unwrap());
        }
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(from("192.0.2.1", &["1.2.3.4"]), "192.0.2.1");
        assert_eq!(from("10.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn the_list_is_read_from_the_right_and_claims_beyond_are_ignored() {
        assert_eq!(from("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.7"]), "1.2.3.4");
        assert_eq!(from("10.0.0.1", &["6.6.6.6", "1.2.3.4"]), "1.2.3.4");
        assert_eq!(from("10.0.0.1", &["1.2.3.4, junk, 10.0.0.7"]), "10.0.0.7");
        assert_eq!(from("::ffff:10.0.0.1", &["::ffff:1.2.3.4"]), "1.2.3.4");
    }

    #[test]
    fn a_mapped_network_is_the_network_it_maps() {
        assert_eq!(
            parse_network("::ffff:127.0.0.0/104").unwrap().to_string(),
            "127.0.0.0/8"
        );
        assert_eq!(
            parse_network("::ffff:1.2.3.4").unwrap().to_string(),
            "1.2.3.4/32"
        );
        assert_eq!(
            parse_network("2001:db8::/32").unwrap().to_string(),
            "2001:db8::/32"
        );
    }

    #[test]
    fn an_ipv6_client_is_its_64() {
        let a: IpAddr = "2001:db8:1:2:3:4:5:6".parse().unwrap();
        assert_eq!(budget_address(a).to_string(), "2001:db8:1:2::");
    }
}
