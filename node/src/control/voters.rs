//! Who should be in the raft group, and who of them should vote: a pure function of what is registered.
//!
//! Up to five voters, an odd number of them where there are enough nodes: an even one costs an acknowledgement and
//! bears no more deaths. Two nodes are the exception. With one voter the other's death would cost nothing, but the
//! voter's death would lose what only it had committed; with two, both have it.
//!
//! One change at a time, and asked again after each: so it does not matter which leader began what.

use std::collections::{BTreeMap, BTreeSet};

use broky_proto::id::NodeId;
use broky_ring::map::{ClusterMap, Liveness};

use super::types::{Membership, Peer, RaftId};

/// The most voters.
const VOTERS_MAX: usize = 5;

/// The next change to the raft group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// Registered processes begin to follow.
    Add(BTreeMap<RaftId, Peer>),
    /// Members have moved or are called otherwise.
    Update(BTreeMap<RaftId, Peer>),
    /// These vote from now on, and nobody else.
    Vote(BTreeSet<RaftId>),
    /// These are gone for good.
    Remove(BTreeSet<RaftId>),
}

/// What the next change depends on.
pub(super) struct View<'a> {
    pub(super) me: RaftId,
    pub(super) map: &'a ClusterMap,
    /// The processes that are registered.
    pub(super) wanted: &'a BTreeMap<RaftId, (NodeId, Peer)>,
    pub(super) membership: &'a Membership,
    /// Members that have (nearly) the whole log.
    pub(super) caught_up: &'a BTreeSet<RaftId>,
    /// Members that are not registered, and have had the time to.
    pub(super) overdue: &'a BTreeSet<RaftId>,
}

/// How many of this many nodes vote.
fn voters_of(nodes: usize) -> usize {
    match nodes {
        0..=3 => nodes,
        4 => 3,
        _ => VOTERS_MAX,
    }
}

impl View<'_> {
    /// What to change next, if anything.
    pub(super) fn next_change(&self) -> Option<Change> {
        let present: BTreeMap<RaftId, &Peer> = self.membership.nodes().map(|(id, peer)| (*id, peer)).collect();
        let peer = |(id, (_, peer)): (&RaftId, &(NodeId, Peer))| (*id, peer.clone());
        let missing: BTreeMap<_, _> =
            self.wanted.iter().filter(|(id, _)| !present.contains_key(id)).map(peer).collect();
        if !missing.is_empty() {
            return Some(Change::Add(missing));
        }
        let differs = |id: &RaftId, peer: &Peer| present.get(id).is_some_and(|present| *present != peer);
        let moved: BTreeMap<_, _> = self.wanted.iter().filter(|(id, (_, peer))| differs(id, peer)).map(peer).collect();
        if !moved.is_empty() {
            return Some(Change::Update(moved));
        }
        let voters = self.voters();
        let is_settled = self.membership.get_joint_config().len() == 1;
        if !(is_settled && voters == self.membership.voter_ids().collect()) {
            return Some(Change::Vote(voters));
        }
        let gone: BTreeSet<_> =
            present.keys().copied().filter(|id| self.is_gone(*id) && !voters.contains(id)).collect();
        (!gone.is_empty()).then_some(Change::Remove(gone))
    }

    /// Who should vote. Never nobody: the leader stays while it is registered.
    fn voters(&self) -> BTreeSet<RaftId> {
        let current: BTreeSet<RaftId> = self.membership.voter_ids().filter(|id| !self.is_gone(*id)).collect();
        let is_staying = |(node, _): &&(NodeId, Peer)| self.map.node(*node).is_some_and(|node| !node.is_draining);
        // Founders that have not registered yet are about to.
        let pending = current.iter().filter(|id| !self.wanted.contains_key(id)).count();
        let goal = voters_of((self.wanted.values().filter(is_staying).count() + pending).max(1));
        // The leader first, then the fit, then those of which it is not known yet; of each kind whoever votes already.
        let rank = |id: &RaftId| {
            let kind = match (*id == self.me, self.is_fit(*id), self.wanted.contains_key(id)) {
                (true, _, _) => 0,
                (false, true, _) => 1,
                (false, false, false) => 2,
                (false, false, true) => 3,
            };
            (kind, !current.contains(id), self.node(*id))
        };
        let ready = |id: &RaftId| self.is_fit(*id) && self.caught_up.contains(id);
        let mut candidates: Vec<RaftId> = current.iter().copied().collect();
        candidates.extend(self.wanted.keys().copied().filter(|id| !current.contains(id) && ready(id)));
        candidates.sort_by_key(rank);
        // A dead voter makes way for a living one; while there is none it keeps its place, for it may come back.
        let voters: BTreeSet<RaftId> = candidates.into_iter().take(goal).collect();
        if voters.is_empty() { self.membership.voter_ids().collect() } else { voters }
    }

    fn node(&self, id: RaftId) -> NodeId {
        self.wanted.get(&id).map_or(NodeId(u32::MAX), |(node, _)| *node)
    }

    /// Whether it is alive and to stay.
    fn is_fit(&self, id: RaftId) -> bool {
        let node = self.wanted.get(&id).and_then(|(node, _)| self.map.node(*node));
        node.is_some_and(|node| node.liveness == Liveness::Alive && !node.is_draining)
    }

    /// Whether its process never comes back under this id: replaced, forgotten, or never seen.
    fn is_gone(&self, id: RaftId) -> bool {
        if self.wanted.contains_key(&id) {
            return false;
        }
        let name = self.membership.get_node(&id).map(|peer| peer.name.as_str());
        let is_replaced = self.wanted.values().any(|(_, peer)| Some(peer.name.as_str()) == name);
        is_replaced || self.overdue.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use broky_proto::id::{ClusterId, VBucketCount};
    use broky_ring::command::Command;
    use broky_ring::member::{Addresses, BootId, Copies, Zone};

    use super::*;
    use crate::control::types::{Machine, Request};

    struct World {
        machine: Machine,
        index: u64,
        membership: Membership,
    }

    impl World {
        /// Nodes named by numbers, registered under the raft ids of the same numbers, in a group of these voters.
        fn new(nodes: &[u64], voters: &[u64], learners: &[u64]) -> Self {
            let vbuckets = VBucketCount::new(4).unwrap();
            let found = Command::Found {
                cluster: ClusterId([1; 16]),
                vbuckets,
                shards: std::num::NonZeroU16::MIN,
                copies: Copies::DEFAULT,
                expect: 1,
            };
            let membership = Membership::new(
                vec![voters.iter().copied().map(RaftId).collect()],
                voters.iter().chain(learners).map(|id| (RaftId(*id), peer(*id))).collect::<BTreeMap<_, _>>(),
            );
            let mut world = Self { machine: Machine::founded(found).unwrap(), index: 0, membership };
            for id in nodes {
                world.register(*id, *id);
            }
            world
        }

        fn register(&mut self, name: u64, raft: u64) {
            let addresses = Addresses { peer: name.to_string(), ..Addresses::default() };
            let boot = BootId(u128::from(raft).to_be_bytes());
            let command = Command::Register { name: name.to_string(), boot, addresses, zone: Zone::default() };
            self.apply(Request::Register { command, raft: RaftId(raft) });
        }

        fn apply(&mut self, request: Request) {
            self.index += 1;
            self.machine.apply(self.index, request);
        }

        fn fence(&mut self, node: u32) {
            let member = self.machine.state().map().alive(NodeId(node)).unwrap();
            self.apply(Request::Command(Command::Fence { member }));
        }

        fn next(&self, caught_up: &[u64], overdue: &[u64]) -> Option<Change> {
            let view = View {
                me: RaftId(1),
                map: self.machine.state().map(),
                wanted: &self.machine.peers(),
                membership: &self.membership,
                caught_up: &ids(caught_up),
                overdue: &ids(overdue),
            };
            view.next_change()
        }
    }

    fn peer(name: u64) -> Peer {
        Peer { name: name.to_string(), address: name.to_string() }
    }

    fn ids(ids: &[u64]) -> BTreeSet<RaftId> {
        ids.iter().copied().map(RaftId).collect()
    }

    #[test]
    fn registered_process_becomes_learner_then_voter() {
        let world = World::new(&[1, 2, 3], &[1], &[]);
        assert_eq!(world.next(&[1], &[]), Some(Change::Add([2, 3].map(|id| (RaftId(id), peer(id))).into())));
        let world = World::new(&[1, 2, 3], &[1], &[2, 3]);
        assert_eq!(world.next(&[1], &[]), None);
        assert_eq!(world.next(&[1, 2], &[]), Some(Change::Vote(ids(&[1, 2]))));
        assert_eq!(world.next(&[1, 2, 3], &[]), Some(Change::Vote(ids(&[1, 2, 3]))));
    }

    #[test]
    fn at_most_five_vote_and_an_odd_number_of_four() {
        let all: Vec<u64> = (1..=9).collect();
        assert_eq!(World::new(&all, &[1], &all[1..]).next(&all, &[]), Some(Change::Vote(ids(&[1, 2, 3, 4, 5]))));
        assert_eq!(World::new(&all[..4], &[1, 2, 3], &[4]).next(&all, &[]), None);
    }

    #[test]
    fn replaced_process_is_removed_and_its_successor_votes() {
        let mut world = World::new(&[1, 2, 3], &[1, 2, 3], &[33]);
        world.register(3, 33);
        world.membership = Membership::new(
            vec![ids(&[1, 2, 3])],
            [(1, 1), (2, 2), (3, 3), (33, 3)]
                .map(|(id, name)| (RaftId(id), peer(name)))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
        );
        assert_eq!(world.next(&[1, 2, 33], &[]), Some(Change::Vote(ids(&[1, 2, 33]))));
        world.membership = Membership::new(
            vec![ids(&[1, 2, 33])],
            [(1, 1), (2, 2), (3, 3), (33, 3)]
                .map(|(id, name)| (RaftId(id), peer(name)))
                .into_iter()
                .collect::<BTreeMap<_, _>>(),
        );
        assert_eq!(world.next(&[1, 2, 33], &[]), Some(Change::Remove(ids(&[3]))));
    }

    #[test]
    fn dead_voter_keeps_its_place_until_a_living_node_can_take_it() {
        let mut world = World::new(&[1, 2, 3], &[1, 2, 3], &[]);
        world.fence(3);
        assert_eq!(world.next(&[1, 2], &[]), None);
        let mut world = World::new(&[1, 2, 3, 4], &[1, 2, 3], &[4]);
        world.fence(3);
        assert_eq!(world.next(&[1, 2, 4], &[]), Some(Change::Vote(ids(&[1, 2, 4]))));
    }

    #[test]
    fn member_that_never_registers_is_dropped_when_it_had_the_time() {
        let world = World::new(&[1, 2], &[1, 2, 9], &[]);
        assert_eq!(world.next(&[1, 2, 9], &[]), None);
        assert_eq!(world.next(&[1, 2, 9], &[9]), Some(Change::Vote(ids(&[1, 2]))));
    }

    #[test]
    fn moved_node_is_updated() {
        let mut world = World::new(&[1, 2], &[1, 2], &[]);
        let nodes = [(RaftId(1), peer(1)), (RaftId(2), Peer { address: "old".to_owned(), ..peer(2) })];
        world.membership = Membership::new(vec![ids(&[1, 2])], nodes.into_iter().collect::<BTreeMap<_, _>>());
        assert_eq!(world.next(&[1, 2], &[]), Some(Change::Update([(RaftId(2), peer(2))].into())));
    }
}
