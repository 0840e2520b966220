//! Following the cluster map, and finding where its members are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use broky_proto::id::{MapVersion, Member};
use broky_ring::map::{ClusterMap, Node};

use super::book::Source;
use super::{Engine, MAP_ROUNDS, Outbox, SUGGEST_AGAIN};
use crate::gossip::swim::Identity;

/// What the map says of a sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It is a member.
    Current,
    /// A newer process of its node is.
    Stale,
    /// Its node is none.
    Unknown,
    /// The sender's map is newer, and only that can tell.
    Early,
}

impl Engine {
    /// Takes a newer map; an older one, or another cluster's, is ignored.
    pub(in crate::gossip) fn handle_map(&mut self, now: Instant, map: Arc<ClusterMap>, out: &mut Outbox) {
        if map.version() > self.map.version() && map.cluster() == self.cluster {
            self.take_map(now, map);
        }
        self.settle(now, out);
    }

    pub(super) fn take_map(&mut self, now: Instant, map: Arc<ClusterMap>) {
        self.map = map;
        self.map_rounds = MAP_ROUNDS;
        self.suggested = self.suggested.filter(|(version, _)| *version > self.map.version());
        self.events.handle_map_version(self.map.version());
        let gone: Vec<Member> =
            self.swim.peers().map(|(member, _)| member).filter(|member| !self.map.is_current(*member)).collect();
        for member in gone {
            self.swim.remove(now, member, &mut self.packets);
        }
        let map = self.map.clone();
        self.book.retain(|member| map.is_current(member));
        self.board.handle_map(now, &map, self.me.member);
        let me = self.me.member.node;
        let member = |(id, node): (_, &Node)| Member { node: id, incarnation: node.incarnation };
        self.peers.handle_members(map.nodes().map(member).filter(|member| member.node != me));
        self.swim.handle_size(map.nodes().count());
        self.heads_changed = true;
        for (id, node) in map.nodes() {
            if let Ok(address) = node.addresses.peer.parse() {
                self.learn(now, Member { node: id, incarnation: node.incarnation }, address, Source::Map);
            }
        }
    }

    /// The names in the map and among the seeds that have to be resolved.
    pub(in crate::gossip) fn names(&self) -> Vec<String> {
        let peers = self.map.nodes().filter(|(id, _)| *id != self.me.member.node);
        let mut names: Vec<String> =
            peers.map(|(_, node)| &node.addresses.peer).chain(self.seeds.keys()).cloned().collect();
        names.retain(|name| !name.is_empty() && name.parse::<SocketAddr>().is_err());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Takes what a name was resolved to.
    pub(in crate::gossip) fn handle_resolved(
        &mut self,
        now: Instant,
        name: &str,
        address: SocketAddr,
        out: &mut Outbox,
    ) {
        if let Some(seed) = self.seeds.get_mut(name) {
            *seed = Some(address);
        }
        let map = self.map.clone();
        for (id, node) in map.nodes().filter(|(_, node)| node.addresses.peer == name) {
            self.learn(now, Member { node: id, incarnation: node.incarnation }, address, Source::Map);
        }
        self.settle(now, out);
    }

    /// Notes where a member is; from then on it is probed.
    pub(super) fn learn(&mut self, now: Instant, member: Member, address: SocketAddr, source: Source) {
        if member.node == self.me.member.node || !self.map.is_current(member) {
            return;
        }
        self.book.learn(member, address, source);
        if let Some(address) = self.book.address(member) {
            self.swim.add(now, Identity { member, address }, &mut self.packets);
        }
    }

    /// What the map says of a sender whose map has this version.
    pub(super) fn standing(&self, sender: Member, version: MapVersion) -> Standing {
        match self.map.node(sender.node) {
            Some(node) if node.incarnation == sender.incarnation => Standing::Current,
            Some(node) if node.incarnation > sender.incarnation => Standing::Stale,
            Some(_) | None if version > self.map.version() => Standing::Early,
            Some(_) | None => Standing::Unknown,
        }
    }

    /// Suggests to fetch the map from a peer that shows a newer one.
    pub(super) fn suggest_map(&mut self, now: Instant, version: MapVersion, from: Member, address: SocketAddr) {
        let is_old = |(newest, at): (MapVersion, Instant)| {
            version <= newest && now.saturating_duration_since(at) < SUGGEST_AGAIN
        };
        if version <= self.map.version() || self.suggested.is_some_and(is_old) {
            return;
        }
        self.suggested = Some((version, now));
        self.stats.newer_maps.add(1);
        self.events.newer_map(version, from, address);
    }
}
