//! Who takes part, as the SWIM library sees it.

use std::net::SocketAddr;

use broky_proto::id::{Member, NodeId};

/// One process of the cluster and where it takes datagrams.
///
/// Two are equal when they name the same process: the address says how to reach it, and may be known in several ways.
#[derive(Clone, Copy, Debug)]
pub(in crate::gossip) struct Identity {
    pub(in crate::gossip) member: Member,
    pub(in crate::gossip) address: SocketAddr,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.member == other.member
    }
}

impl Eq for Identity {}

impl foca::Identity for Identity {
    /// Processes of one node take each other's place, wherever they are.
    type Addr = NodeId;

    /// There is no other identity to be had here: raft alone gives incarnations. A local counter would start too low
    /// after a restart, and its owner would be held for dead without knowing.
    fn renew(&self) -> Option<Self> {
        None
    }

    fn addr(&self) -> NodeId {
        self.member.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.member.incarnation >= adversary.member.incarnation
    }
}
