//! What others are told to connect to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::process::host_name;

/// The `host:port` that others are told for a listener: the host that is advertised, if one is, and else what the
/// listener is bound to, or this host by name when that is every address. A port that is advertised is that of clients.
pub(crate) fn advertised(advertise: Option<&str>, bound: SocketAddr, is_for_clients: bool) -> String {
    match advertise.map(split) {
        Some((host, Some(port))) if is_for_clients => format!("{host}:{port}"),
        Some((host, _)) => format!("{host}:{}", bound.port()),
        None if bound.ip().is_unspecified() => format!("{}:{}", host_name(), bound.port()),
        None => bound.to_string(),
    }
}

/// Where others are told to send gossip. A name that is advertised is not looked up: with an unspecified IP address
/// they take the one they see a packet come from.
pub(crate) fn gossip_address(advertise: Option<&str>, bound: SocketAddr) -> SocketAddr {
    let Some((host, _)) = advertise.map(split) else { return bound };
    let unspecified = if bound.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse().unwrap_or(unspecified);
    SocketAddr::new(ip, bound.port())
}

/// The host, and the port if there is one. An IPv6 address is in brackets, or has no port.
pub(crate) fn split(address: &str) -> (&str, Option<u16>) {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (address, None),
        },
        Some(_) | None => (address, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_alone_is_told_with_the_ports_listened_on() {
        let bound = SocketAddr::from(([0, 0, 0, 0], 7401));
        assert_eq!(advertised(Some("a.example"), bound, true), "a.example:7401");
        assert_eq!(advertised(Some("[::1]"), bound, false), "[::1]:7401");
    }

    #[test]
    fn port_that_is_told_is_that_of_clients() {
        let bound = SocketAddr::from(([0, 0, 0, 0], 7401));
        assert_eq!(advertised(Some("a.example:80"), bound, true), "a.example:80");
        assert_eq!(advertised(Some("[::1]:80"), bound, false), "[::1]:7401");
    }

    #[test]
    fn address_listened_on_is_told_by_default() {
        assert_eq!(advertised(None, SocketAddr::from(([127, 0, 0, 1], 7400)), true), "127.0.0.1:7400");
    }

    #[test]
    fn gossip_goes_where_the_node_is_advertised() {
        let bound = SocketAddr::from(([127, 0, 0, 1], 7401));
        assert_eq!(gossip_address(None, bound), bound);
        assert_eq!(gossip_address(Some("127.1.0.10"), bound), SocketAddr::from(([127, 1, 0, 10], 7401)));
        assert_eq!(gossip_address(Some("10.0.0.7:80"), bound), SocketAddr::from(([10, 0, 0, 7], 7401)));
        assert_eq!(gossip_address(Some("[::1]"), bound), SocketAddr::from((Ipv6Addr::LOCALHOST, 7401)));
        assert!(gossip_address(Some("a.example"), bound).ip().is_unspecified());
    }
}
