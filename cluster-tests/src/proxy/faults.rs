//! What can be wrong with a link, and between whom links are.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

/// One end of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Party {
    /// The node of this index.
    Node(usize),
    /// Everybody who is no node.
    Clients,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(at) => write!(f, "n{at}"),
            Self::Clients => f.write_str("clients"),
        }
    }
}

/// What is wrong with a link in one direction. Default: nothing.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Faults {
    /// With its connections.
    pub tcp: TcpFaults,
    /// With its datagrams.
    pub udp: UdpFaults,
}

impl Faults {
    /// Nothing passes: neither bytes nor datagrams.
    #[must_use]
    pub fn cut() -> Self {
        let tcp = TcpFaults { is_cut: true, ..TcpFaults::default() };
        Self { tcp, udp: UdpFaults { is_cut: true, ..UdpFaults::default() } }
    }

    /// Everything takes `delay`, give or take `jitter`.
    #[must_use]
    pub fn delayed(delay: Duration, jitter: Duration) -> Self {
        let tcp = TcpFaults { delay, jitter, ..TcpFaults::default() };
        Self { tcp, udp: UdpFaults { delay, jitter, ..UdpFaults::default() } }
    }
}

/// What is wrong with the connections of a link in one direction. Whatever happens, bytes keep their order.
///
/// Probabilities are of a chunk, which is what one read gives: at most 16 KiB, and what lies between two pauses of the
/// sender otherwise. They are from 0 to 1; what is more is 1, and what is less, or no number, is 0.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct TcpFaults {
    /// How long each chunk takes. Throughput sinks with it: a connection has at most 1 MiB under way.
    pub delay: Duration,
    /// By how much that varies, to either side, uniformly.
    pub jitter: Duration,
    /// How probable it is that a chunk, and all behind it, is held for 200 ms to 1 s, as a retransmission holds it.
    pub stall: f64,
    /// How much passes in a second, on each connection. `None`: as much as comes.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Bytes, ends and resets stop; connections stay. They go on when this ends.
    pub is_cut: bool,
    /// How probable it is that one bit of a KiB is flipped.
    pub flip: f64,
}

/// What is wrong with the datagrams of a link in one direction. Probabilities as in [`TcpFaults`], but of a datagram.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct UdpFaults {
    /// How long each datagram takes.
    pub delay: Duration,
    /// By how much that varies, to either side, uniformly: later ones overtake earlier ones.
    pub jitter: Duration,
    /// How probable it is that it is lost.
    pub loss: f64,
    /// How probable it is that it comes twice.
    pub duplication: f64,
    /// How probable it is that it is held for 1 to 50 ms more, so that later ones overtake it.
    pub reorder: f64,
    /// All are lost, those that are under way as well.
    pub is_cut: bool,
    /// How probable it is that one of its bits is flipped.
    pub flip: f64,
}
