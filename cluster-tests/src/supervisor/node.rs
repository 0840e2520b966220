//! A node of a supervised cluster: where it is, and whether it runs.

use std::net::{IpAddr, SocketAddr};

use super::runner::Life;
use crate::history::Nanos;
use crate::journal::now;

/// What a node is called and where it is, which stays.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) client: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) admin: SocketAddr,
    /// The address that clients and other nodes use instead, with the same ports.
    pub(super) advertised: Option<IpAddr>,
}

/// A node: its addresses, which stay, and its process, which does not.
#[derive(Debug)]
pub struct SupervisedNode {
    /// Its name.
    pub name: String,
    /// Where this machine reaches it as a client.
    pub client: SocketAddr,
    /// Where this machine reaches it as another node.
    pub peer: SocketAddr,
    /// Where the admin HTTP is.
    pub admin: SocketAddr,
    /// The address that clients and other nodes use instead, with the same ports.
    pub(super) advertised: Option<IpAddr>,
    /// Nodes to meet at the start.
    pub(super) join: Vec<SocketAddr>,
    /// How many have to meet for a founding. `None`: it only joins.
    pub(super) expect: Option<usize>,
    pub(super) lifetimes: u32,
    pub(super) life: Option<Box<dyn Life>>,
    pub(super) is_paused: bool,
    pub(super) since: Nanos,
}

impl SupervisedNode {
    /// A node that has not been started.
    pub(super) fn new(place: Place, expect: Option<usize>) -> Self {
        let Place { name, client, peer, admin, advertised } = place;
        let join = Vec::new();
        Self {
            name,
            client,
            peer,
            admin,
            advertised,
            join,
            expect,
            lifetimes: 0,
            life: None,
            is_paused: false,
            since: now(),
        }
    }

    /// Its process, while there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.life.as_ref().map(|life| life.pid())
    }

    /// When its last process was there, which may be a second before the last of several that are started one by one.
    #[must_use]
    pub fn since(&self) -> Nanos {
        self.since
    }

    /// Its process' resident memory.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
    }

    /// Whether its process is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.life.is_some() && self.is_paused
    }

    /// Whether its process runs and is not paused.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.life.is_some() && !self.is_paused
    }

    /// Where clients connect.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        SocketAddr::new(self.advertised.unwrap_or(self.client.ip()), self.client.port())
    }

    /// Where other nodes connect.
    pub(super) fn peer_address(&self) -> SocketAddr {
        SocketAddr::new(self.advertised.unwrap_or(self.peer.ip()), self.peer.port())
    }
}
