//! How the cluster is doing, as operators are told.

use std::collections::BTreeMap;

use broky_proto::id::NodeId;
use broky_ring::map::{ClusterMap, Liveness, Node, VBucket};
use serde::Serialize;

use super::shared::Shared;
use super::types::{Membership, RaftId};

/// The cluster as this node sees it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClusterStatus {
    pub(crate) cluster_id: String,
    pub(crate) map_version: u64,
    pub(crate) vbuckets: usize,
    /// Vbuckets that nobody leads.
    pub(crate) leaderless: usize,
    /// Vbuckets with fewer copies in sync than there should be.
    pub(crate) under_replicated: usize,
    /// Vbuckets that commit nothing, because too few copies are in sync.
    pub(crate) frozen: usize,
    /// Vbuckets of which a copy is being made.
    pub(crate) moving: usize,
    /// Vbuckets whose copies are not, or not only, where they should be. Those being copied are among them.
    pub(crate) misplaced: usize,
    pub(crate) replicas: u8,
    pub(crate) min_isr: u8,
    pub(crate) nodes: Vec<NodeStatus>,
    pub(crate) raft: RaftStatus,
    /// What stands in the way of this node's being ready, if anything does.
    pub(crate) waiting_for: Option<String>,
}

/// One node.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeStatus {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) incarnation: u64,
    pub(crate) zone: String,
    pub(crate) liveness: &'static str,
    pub(crate) is_draining: bool,
    pub(crate) client: String,
    pub(crate) peer: String,
    pub(crate) admin: String,
    /// Vbuckets it leads.
    pub(crate) leads: usize,
    /// Vbuckets it holds, or is to hold.
    pub(crate) copies: usize,
    /// Vbuckets it holds in sync.
    pub(crate) in_sync: usize,
    /// Vbuckets that it copies in order to hold them.
    pub(crate) learning: usize,
    pub(crate) is_me: bool,
}

/// The raft group.
#[derive(Clone, Default, Debug, Serialize)]
pub(crate) struct RaftStatus {
    /// The leader's name, when one lives.
    pub(crate) leader: Option<String>,
    pub(crate) term: u64,
    pub(crate) voters: Vec<String>,
    pub(crate) learners: Vec<String>,
    pub(crate) last_log: u64,
    pub(crate) last_applied: u64,
}

impl Shared {
    pub(super) fn status(&self) -> ClusterStatus {
        let map = self.map();
        let count = |is: &dyn Fn(&VBucket) -> bool| map.vbuckets().filter(|(_, vb)| is(vb)).count();
        ClusterStatus {
            cluster_id: map.cluster().to_string(),
            map_version: map.version().0,
            vbuckets: map.vbuckets().count(),
            leaderless: count(&|vb| vb.leader.is_none()),
            under_replicated: count(&|vb| vb.isr.len() < vb.replicas.len().max(1)),
            frozen: count(&|vb| vb.is_frozen()),
            moving: count(&|vb| !vb.learners.is_empty()),
            misplaced: count(&is_misplaced),
            replicas: map.copies().replicas,
            min_isr: map.copies().min_isr,
            nodes: self.nodes(&map),
            raft: self.raft_status(),
            waiting_for: self.not_ready(),
        }
    }

    /// Why this node is not ready; `None` when it is.
    pub(super) fn not_ready(&self) -> Option<String> {
        let Some(me) = self.me() else { return Some(self.waiting_for.borrow().clone()) };
        if self.group().is_some_and(|group| group.living_leader().is_none()) {
            return Some("no raft leader is heard: what this node knows may be out of date".to_owned());
        }
        let map = self.map();
        if !map.is_alive(me) {
            return Some("this node counts as dead in the cluster".to_owned());
        }
        if !map.is_caught_up(me) {
            let lacks = |vb: &VBucket| vb.replicas.contains(&me.node) && !vb.isr.contains(&me);
            let behind = map.vbuckets().filter(|(_, vb)| lacks(vb)).count();
            return Some(format!("{behind} vbuckets are under-replicated because of this node"));
        }
        // Whoever restarts one node after the other must not stop the next while this one, empty, counts for nothing.
        match (self.has_settled(), map.missing_at(me)) {
            (true, _) => None,
            (false, 0) => Some("this node has been given no copies yet".to_owned()),
            (false, missing) => Some(format!("{missing} vbuckets are yet to be copied to this node")),
        }
    }

    fn nodes(&self, map: &ClusterMap) -> Vec<NodeStatus> {
        let me = self.me().map(|me| me.node);
        let mut counts: BTreeMap<NodeId, Counts> = BTreeMap::new();
        for (_, vb) in map.vbuckets() {
            if let Some(leader) = vb.leader {
                counts.entry(leader.node).or_default().leads += 1;
            }
            for member in &vb.isr {
                counts.entry(member.node).or_default().in_sync += 1;
            }
            for node in &vb.learners {
                counts.entry(*node).or_default().learning += 1;
            }
        }
        let status = |id: NodeId, node: &Node| {
            let Counts { leads, in_sync, learning } = counts.get(&id).copied().unwrap_or_default();
            NodeStatus {
                id: id.0,
                name: node.name.clone(),
                incarnation: node.incarnation.0,
                zone: node.zone.0.clone(),
                liveness: match node.liveness {
                    Liveness::Alive => "alive",
                    Liveness::Fenced => "fenced",
                    Liveness::Evicted => "evicted",
                },
                is_draining: node.is_draining,
                client: node.addresses.client.clone(),
                peer: node.addresses.peer.clone(),
                admin: node.addresses.admin.clone(),
                leads,
                copies: map.copies_at(id),
                in_sync,
                learning,
                is_me: me == Some(id),
            }
        };
        map.nodes().map(|(id, node)| status(id, node)).collect()
    }

    fn raft_status(&self) -> RaftStatus {
        let Some(group) = self.group() else { return RaftStatus::default() };
        let metrics = group.metrics();
        let membership = metrics.membership_config.membership();
        let name_of = |id| name_of(membership, id);
        let name = |id: RaftId| name_of(id).unwrap_or_else(|| id.to_string());
        RaftStatus {
            leader: group.living_leader().and_then(name_of),
            term: metrics.current_term,
            voters: membership.voter_ids().map(name).collect(),
            learners: membership.learner_ids().map(name).collect(),
            last_log: metrics.last_log_index.unwrap_or_default(),
            last_applied: metrics.last_applied.map(|id| id.index).unwrap_or_default(),
        }
    }
}

/// The name of a member of the raft group. A leader that was forgotten is none any more, and leads until it has heard
/// so.
fn name_of(membership: &Membership, id: RaftId) -> Option<String> {
    membership.get_node(&id).map(|peer| peer.name.clone())
}

/// What one node has of the vbuckets.
#[derive(Clone, Copy, Default)]
struct Counts {
    leads: usize,
    in_sync: usize,
    learning: usize,
}

/// Whether the copies are elsewhere than they should be. Where they should be nothing is said before the first
/// placement.
fn is_misplaced(vbucket: &VBucket) -> bool {
    let VBucket { target, replicas, .. } = vbucket;
    !target.0.is_empty()
        && (target.0.len() != replicas.len() || replicas.iter().any(|replica| !target.contains(*replica)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use broky_proto::id::{ClusterId, Member, VBucketCount};
    use broky_ring::command::Command;
    use broky_ring::member::{Addresses, BootId, Copies, LogIndex, Zone};
    use broky_ring::state::{ClusterState, MoveLimits};
    use tokio::sync::mpsc;

    use super::*;

    /// The control log, and a node that follows it.
    struct World {
        state: ClusterState,
        shared: Shared,
    }

    impl World {
        /// Nodes `a` and `b` share eight vbuckets, with one copy of each.
        fn new() -> Self {
            let config = super::super::tests::lone_config("a");
            let shared = Shared::new(config, BootId([1; 16]), mpsc::unbounded_channel().0);
            let mut world = Self { state: ClusterState::new(), shared };
            let copies = Copies { replicas: 1, min_isr: 1 };
            let vbuckets = VBucketCount::new(8).unwrap();
            world.apply(Command::Found {
                cluster: ClusterId([1; 16]),
                vbuckets,
                shards: std::num::NonZeroU16::MIN,
                copies,
                expect: 2,
            });
            world.register("a");
            world.register("b");
            world.shared.registered(world.member("a"));
            world
        }

        fn apply(&mut self, command: Command) {
            self.state.apply(LogIndex(self.state.applied().0 + 1), command);
            self.shared.publish(&Arc::new(self.state.map().clone()));
        }

        fn register(&mut self, name: &str) {
            let boot = BootId(u128::from(self.state.applied().0).to_le_bytes());
            let (addresses, zone) = (Addresses::default(), Zone::default());
            self.apply(Command::Register { name: name.to_owned(), boot, addresses, zone });
        }

        fn member(&self, name: &str) -> Member {
            let map = self.state.map();
            map.alive(map.nodes().find(|(_, node)| node.name == name).unwrap().0).unwrap()
        }

        fn propose_moves(&mut self) {
            self.state.next_moves(MoveLimits::default()).into_iter().for_each(|command| self.apply(command));
        }
    }

    #[tokio::test]
    async fn node_without_its_copies_is_not_ready() {
        let mut world = World::new();
        assert_eq!(world.shared.not_ready().as_deref(), Some("this node has been given no copies yet"));
        world.propose_moves();
        assert_eq!(world.shared.not_ready(), None);
    }

    #[tokio::test]
    async fn node_that_had_its_copies_is_ready_while_it_is_given_more() {
        let mut world = World::new();
        world.propose_moves();
        let Member { node, .. } = world.member("b");
        world.apply(Command::Drain { node, force: true });
        world.propose_moves();
        assert_eq!(world.shared.map().missing_at(world.member("a")), 4);
        assert_eq!(world.shared.not_ready(), None);
    }

    #[tokio::test]
    async fn node_that_begins_empty_is_not_ready_before_it_has_its_copies() {
        let mut world = World::new();
        world.propose_moves();
        // As a node does that starts again after it was drained.
        world.register("c");
        let config = super::super::tests::lone_config("c");
        world.shared = Shared::new(config, BootId([3; 16]), mpsc::unbounded_channel().0);
        world.shared.registered(world.member("c"));
        world.shared.publish(&Arc::new(world.state.map().clone()));
        assert_eq!(world.shared.not_ready().as_deref(), Some("this node has been given no copies yet"));
        world.propose_moves();
        let reason = world.shared.not_ready().unwrap();
        assert!(reason.ends_with("vbuckets are yet to be copied to this node"), "{reason}");
    }

    #[test]
    fn leader_that_is_no_member_any_more_has_no_name() {
        let peer = super::super::types::Peer { name: "a".to_owned(), address: "a:7401".to_owned() };
        let voters = std::collections::BTreeSet::from([RaftId(1)]);
        let membership = Membership::new(vec![voters], BTreeMap::from([(RaftId(1), peer)]));
        let names = [RaftId(1), RaftId(2)].map(|id| name_of(&membership, id));
        assert_eq!(names, [Some("a".to_owned()), None]);
    }
}
