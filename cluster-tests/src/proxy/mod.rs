//! A network that can be broken: a proxy in this process through which all links of a cluster of real nodes pass.
//!
//! A node listens on 127.0.0.1 and advertises another loopback address, with the same ports. There this proxy listens,
//! and passes on what comes: TCP to the client and the peer port, and gossip datagrams to the peer port. So every node,
//! and every client, reaches every other node through it. For each *directed* link ([`Party`] to [`Party`]) it can be
//! said, and changed while connections are open, what is wrong with it ([`Faults`]); [`Counts`] tell what that has
//! done, so that a run can prove that a fault was there.
//!
//! Who sends is told by the address for a datagram and by the process for a connection (`source`). Chance comes from
//! one seed (`dice`); what it can decide again is limited by what the kernel and the nodes do, which is not seeded.
//!
//! **Invariant:** a link without faults is as if the proxy were not there: a byte, an EOF, a reset, a refused connection
//! and a slow reader are seen at the other end as what they are (`pump`, `door`).
//!
//! What it cannot do: refuse a connection to one dialler and not to another, so that of a dead node is heard through
//! a cut; lose a connection's acknowledgements, so that the other direction goes on when one is cut; and tell raft from
//! replication, as both use connections to one port.

mod accept;
mod dice;
mod door;
mod faults;
mod held;
mod link;
mod pump;
mod shared;
mod source;
#[cfg(test)]
mod tests;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use self::faults::{Faults, Party, TcpFaults, UdpFaults};
pub use self::link::Counts;
use self::shared::Shared;
pub use self::shared::{Place, Strangers};
use crate::error::HarnessError;

/// A handle on the network. When the last one is dropped, everything that passes through it ends.
#[derive(Clone, Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    _last: Arc<Last>,
}

/// Ends what runs when the last handle is gone.
#[derive(Debug)]
struct Last(Arc<Shared>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Proxy {
    /// A network without nodes, whose chance comes from `seed`.
    ///
    /// # Panics
    /// Outside of a tokio runtime, which is the one it will run on.
    #[must_use]
    pub fn start(seed: u64) -> Self {
        let shared = Shared::start(seed);
        Self { _last: Arc::new(Last(shared.clone())), shared }
    }

    /// Adds a node, which is down. Gives its index: 0, 1 and so on.
    ///
    /// # Errors
    /// When its gossip address is taken.
    pub fn add_node(&self, place: Place) -> Result<usize, HarnessError> {
        self.shared.add_node(place)
    }

    /// The node's process runs from now on, as `pid`: connections to it are taken as soon as it listens. To be called
    /// before it can have dialled anybody. Ends the life before, if there is one.
    ///
    /// # Errors
    /// When there is no such node, or its address is taken.
    pub fn set_up(&self, node: usize, pid: u32) -> Result<(), HarnessError> {
        self.shared.set_up(node, pid)
    }

    /// The node's process is gone: when this returns, connections to it are refused. Its own connections end as the
    /// kernel has ended them, after its last bytes; those that have no end are reset a moment later.
    pub fn set_down(&self, node: usize) {
        self.shared.set_down(node);
    }

    /// What is wrong from now on with what goes from one to the other.
    pub fn set(&self, from: Party, to: Party, faults: Faults) {
        self.shared.link(from, to).set(|now| *now = faults);
    }

    /// What is wrong now with what goes from one to the other.
    #[must_use]
    pub fn faults(&self, from: Party, to: Party) -> Faults {
        self.shared.link(from, to).faults()
    }

    /// Nothing passes any more from one to the other; what comes back does. What else is wrong stays.
    pub fn cut(&self, from: Party, to: Party) {
        self.shared.link(from, to).set(|faults| (faults.tcp.is_cut, faults.udp.is_cut) = (true, true));
    }

    /// Cuts a node off from all nodes there are, in both directions. Clients still reach it.
    pub fn isolate(&self, node: usize) {
        let node = Party::Node(node);
        for other in self.shared.nodes().filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Cuts a node off from all nodes there are and from all clients.
    pub fn isolate_from_all(&self, node: usize) {
        self.isolate(node);
        self.cut(Party::Node(node), Party::Clients);
        self.cut(Party::Clients, Party::Node(node));
    }

    /// Nothing is wrong any more with any link. What cuts have held flows, in order.
    pub fn heal(&self) {
        self.shared.links().iter().for_each(|link| link.set(|faults| *faults = Faults::default()));
    }

    /// Resets all open connections that `from` has dialled to `to`. Gives how many.
    pub fn reset(&self, from: Party, to: Party) -> u64 {
        let link = self.shared.link(from, to);
        let open = link.counts().connections_open;
        link.reset();
        open
    }

    /// What has passed from one to the other, and what was done to it.
    #[must_use]
    pub fn counts(&self, from: Party, to: Party) -> Counts {
        self.shared.link(from, to).counts()
    }

    /// The same of all links on which there was something.
    #[must_use]
    pub fn all_counts(&self) -> Vec<(Party, Party, Counts)> {
        let links = self.shared.links();
        let counts = links.iter().map(|link| (link.from, link.to, link.counts()));
        counts.filter(|(_, _, counts)| *counts != Counts::default()).collect()
    }

    /// Who could not be told.
    #[must_use]
    pub fn strangers(&self) -> Strangers {
        self.shared.strangers()
    }

    /// The address by which others know the node of this index: 127.1.0.10 for the first, and so on.
    #[must_use]
    pub fn address_of(node: usize) -> IpAddr {
        shared::address_of(node)
    }

    /// A node's client port as others know it. `None`: there is no such node.
    #[must_use]
    pub fn client_address(&self, node: usize) -> Option<SocketAddr> {
        self.shared.place(node).map(|place| SocketAddr::new(place.advertised, place.client.port()))
    }
}
