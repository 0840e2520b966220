//! Ports for nodes that will be killed and started again at the same place.
//!
//! They lie below the range from which the system takes ports for outgoing connections. From within that range another
//! process could be given a dead node's port, and a connection that a peer tries to a dead node's port could even
//! connect to itself; either would look like a node that lives.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;

/// Ports below are left to services.
const FIRST: u16 = 10_000;
/// Where ports for outgoing connections begin, if the system does not say.
const EPHEMERAL_FIRST: u16 = 32_768;

/// Hands out free loopback ports, each once.
#[derive(Debug)]
pub struct Ports {
    range: Range<u16>,
    next: u16,
    left: u16,
}

impl Ports {
    /// Ports that no other process of this machine is after.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::new(std::process::id().wrapping_mul(97))
    }

    /// Ports from somewhere in the range: `start` decides where, so that two processes are not after the same ones.
    #[must_use]
    pub fn new(start: u32) -> Self {
        let end = ephemeral_first().max(FIRST + 1_000);
        let range = FIRST..end;
        let len = end - FIRST;
        let start = u16::try_from(start % u32::from(len)).unwrap_or_default();
        Self { next: FIRST + start, range, left: len }
    }

    /// A loopback address on which nobody listens, by TCP or by UDP.
    ///
    /// # Errors
    /// When every port of the range was tried.
    pub fn free(&mut self) -> io::Result<SocketAddr> {
        while self.left > 0 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next));
            self.left -= 1;
            self.next = if self.next + 1 < self.range.end { self.next + 1 } else { self.range.start };
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                return Ok(address);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "no free port"))
    }
}

fn ephemeral_first() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(EPHEMERAL_FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_handed_out_once_and_is_not_ephemeral() {
        let mut ports = Ports::new(7);
        let (one, other) = (ports.free().unwrap(), ports.free().unwrap());
        assert_ne!(one, other);
        assert!(one.port() < ephemeral_first() && other.port() < ephemeral_first());
    }
}
