//! Groups addresses that count as one client.

use std::net::{IpAddr, Ipv6Addr};

/// The addresses that count as one client: an IPv4 address, or an IPv6 /64 network, because one host can use all addresses
/// of its network. All requests without a peer address count as one client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct ClientNetwork(Option<IpAddr>);

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        // A listener for both families reports IPv4 addresses as IPv4-mapped IPv6 addresses.
        Self(Some(match address.to_canonical() {
            IpAddr::V6(address) => {
                Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into()
            }
            address @ IpAddr::V4(_) => address,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_grouped_by_address_or_ipv6_network() {
        let network = |address: &str| {
            let address: IpAddr = address.parse().expect("an address");
            ClientNetwork::from(address)
        };
        for (one, other, is_same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:1:2:3", true),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::1", "::", true),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(network(one) == network(other), is_same, "{one} {other}");
        }
    }
}
