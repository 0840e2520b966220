//! What gossip suggests, held until somebody takes it.
//!
//! Nothing here queues up: a later suggestion about the same thing takes the place of the earlier, so a consumer that
//! is slow misses no outcome, and what is held is bounded by the vbuckets this node leads and the nodes there are.

use std::collections::BTreeMap;
use std::mem;
use std::net::SocketAddr;

use broky_proto::id::{Epoch, MapVersion, Member, NodeId, VBucketId};

/// A suggestion. Raft decides what is true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum GossipEvent {
    /// A peer has a newer cluster map: pull the difference from it. Said again after a second while it is so.
    NewerMap {
        /// Who has it.
        from: Member,
        /// Where it takes peers' connections.
        address: SocketAddr,
        /// Which it has.
        version: MapVersion,
    },
    /// A peer leads what this node leads, in newer epochs: stop to lead it.
    LeaderElsewhere {
        /// Who leads.
        member: Member,
        /// What, and in which epochs, ascending.
        vbuckets: Vec<(VBucketId, Epoch)>,
    },
    /// A peer answers nobody who asked it.
    Suspect(Member),
    /// A peer was heard, for the first time or after it was suspected.
    Alive(Member),
}

/// The suggestions that were not taken yet.
#[derive(Debug, Default)]
pub(super) struct Events {
    elsewhere: BTreeMap<VBucketId, (Epoch, Member)>,
    newer_map: Option<(MapVersion, Member, SocketAddr)>,
    /// Who was last suspected, or not.
    hints: BTreeMap<NodeId, (Member, bool)>,
}

impl Events {
    pub(super) fn is_empty(&self) -> bool {
        self.elsewhere.is_empty() && self.newer_map.is_none() && self.hints.is_empty()
    }

    pub(super) fn leader_elsewhere(&mut self, vbucket: VBucketId, epoch: Epoch, member: Member) {
        let newest = self.elsewhere.entry(vbucket).or_insert((epoch, member));
        if newest.0 < epoch {
            *newest = (epoch, member);
        }
    }

    pub(super) fn newer_map(&mut self, version: MapVersion, from: Member, address: SocketAddr) {
        if self.newer_map.is_none_or(|(newest, ..)| newest <= version) {
            self.newer_map = Some((version, from, address));
        }
    }

    /// The map has come: what is pending for it or an older one is settled.
    pub(super) fn handle_map_version(&mut self, version: MapVersion) {
        self.newer_map = self.newer_map.filter(|(newer, ..)| *newer > version);
    }

    pub(super) fn hint(&mut self, member: Member, is_suspect: bool) {
        self.hints.insert(member.node, (member, is_suspect));
    }

    /// The most urgent one.
    pub(super) fn pop(&mut self) -> Option<GossipEvent> {
        if let Some((_, (_, member))) = self.elsewhere.first_key_value() {
            let member = *member;
            let (its, others) = mem::take(&mut self.elsewhere).into_iter().partition(|(_, (_, who))| *who == member);
            self.elsewhere = others;
            let its: BTreeMap<VBucketId, (Epoch, Member)> = its;
            let vbuckets = its.into_iter().map(|(vbucket, (epoch, _))| (vbucket, epoch)).collect();
            return Some(GossipEvent::LeaderElsewhere { member, vbuckets });
        }
        if let Some((version, from, address)) = self.newer_map.take() {
            return Some(GossipEvent::NewerMap { from, address, version });
        }
        let (_, (member, is_suspect)) = self.hints.pop_first()?;
        Some(if is_suspect { GossipEvent::Suspect(member) } else { GossipEvent::Alive(member) })
    }
}
