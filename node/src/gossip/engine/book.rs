//! Where members take datagrams.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use broky_proto::id::{Member, NodeId};

/// How an address is known, from weak to strong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Source {
    /// Another member says so.
    Hearsay,
    /// The map's entry says so, or what its name resolves to.
    Map,
    /// The member itself says so.
    Itself,
}

/// Where members take datagrams.
#[derive(Debug, Default)]
pub(super) struct Book(BTreeMap<NodeId, Entry>);

#[derive(Debug)]
struct Entry {
    member: Member,
    address: SocketAddr,
    source: Source,
}

impl Book {
    /// Notes an address unless a better one is known. Who is replaced by it is overwritten.
    pub(super) fn learn(&mut self, member: Member, address: SocketAddr, source: Source) {
        if address.ip().is_unspecified() || address.port() == 0 {
            return;
        }
        let known = self.0.get(&member.node).filter(|entry| entry.member == member);
        if known.is_none_or(|entry| entry.source <= source) {
            self.0.insert(member.node, Entry { member, address, source });
        }
    }

    pub(super) fn address(&self, member: Member) -> Option<SocketAddr> {
        self.0.get(&member.node).filter(|entry| entry.member == member).map(|entry| entry.address)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Member) -> bool) {
        self.0.retain(|_, entry| keep(entry.member));
    }
}
