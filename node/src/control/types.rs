//! The types that raft is run with.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Cursor;

use broky_proto::id::{Incarnation, NodeId};
use broky_ring::command::{Command, Outcome};
use broky_ring::member::LogIndex;
use broky_ring::state::ClusterState;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// What raft replicates here.
    pub(crate) TypeConfig:
        D = Request,
        R = Answer,
        NodeId = RaftId,
        Node = Peer,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type LogId = openraft::LogId<RaftId>;
pub(crate) type Vote = openraft::Vote<RaftId>;
pub(crate) type Membership = openraft::Membership<RaftId, Peer>;
pub(crate) type StoredMembership = openraft::StoredMembership<RaftId, Peer>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<RaftId, Peer>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<RaftId>;
pub(crate) type StorageIoError = openraft::StorageIOError<RaftId>;
pub(crate) type Metrics = openraft::RaftMetrics<RaftId, Peer>;

/// Names one participation of one process in one raft group. Drawn at random for it and never used again: a voter that
/// has forgotten what it voted for must not vote under its old name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub(crate) struct RaftId(pub(crate) u64);

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<u64> for RaftId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

/// Names a raft group: drawn at random by its founder. A group that is re-founded is another group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub(crate) struct GroupId(pub(crate) [u8; 16]);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the raft group knows of a member.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// The node's name.
    pub(crate) name: String,
    /// Where peers reach it.
    pub(crate) address: String,
}

/// An entry of the control log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The state that the group begins with. Only the first counts.
    Seed(Box<Machine>),
    /// A command for the cluster state.
    Command(Command),
    /// A command that registers a process, and the raft id that it goes by.
    Register { command: Command, raft: RaftId },
}

/// What came of an entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Of an entry of raft's own.
    None,
    /// Of a seed.
    Seeded,
    /// Of a command.
    Outcome(Outcome),
}

/// Distance that the log indices of a re-founded group keep from all that the lost one can have used. The lost group
/// may have committed entries that none of the survivors has.
const REFOUNDING_GAP: u64 = 1 << 20;

/// The replicated state: the cluster state, and what is needed to run raft with it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Added to a raft log index it gives the index that the cluster state goes by. Raft's own indices begin again when
    /// the group is re-founded, and epochs and incarnations are indices.
    base: u64,
    state: ClusterState,
    /// By node: under which raft id its registered process takes part.
    raft_ids: BTreeMap<NodeId, (Incarnation, RaftId)>,
}

impl Machine {
    /// What a new cluster begins with. `None` when the command does not found one.
    pub(crate) fn founded(found: Command) -> Option<Self> {
        let mut state = ClusterState::new();
        state.apply(LogIndex(1), found);
        state.is_founded().then(|| Self { base: 1, state, raft_ids: BTreeMap::new() })
    }

    /// What a re-founded group begins with. Nobody is in it yet: whoever takes part registers again, under the raft id
    /// that it has there. `is_in_doubt` when more may have been decided than this state knows of.
    pub(crate) fn refounded(&self, is_in_doubt: bool) -> Self {
        let base = self.state.applied().0 + REFOUNDING_GAP;
        let mut state = self.state.clone();
        if is_in_doubt {
            state.doubt(LogIndex(base));
        }
        Self { base, state, raft_ids: BTreeMap::new() }
    }

    /// The index by which the cluster state goes for a raft log index.
    pub(crate) fn index_of(&self, raft_index: u64) -> LogIndex {
        LogIndex(self.base.saturating_add(raft_index))
    }

    /// Applies the entry at a raft log index. Total.
    pub(crate) fn apply(&mut self, index: u64, request: Request) -> Answer {
        let (command, raft) = match request {
            Request::Seed(seed) => {
                if !self.is_seeded() {
                    *self = *seed;
                }
                return Answer::Seeded;
            }
            Request::Command(command) => (command, None),
            Request::Register { command, raft } => (command, Some(raft)),
        };
        let outcome = self.state.apply(self.index_of(index), command);
        if let (Outcome::Register(Ok(registration)), Some(raft)) = (&outcome, raft) {
            let member = registration.member;
            self.raft_ids.insert(member.node, (member.incarnation, raft));
        }
        let map = self.state.map();
        self.raft_ids.retain(|id, (incarnation, _)| map.node(*id).is_some_and(|node| node.incarnation == *incarnation));
        Answer::Outcome(outcome)
    }

    pub(crate) fn is_seeded(&self) -> bool {
        self.state.is_founded()
    }

    pub(crate) fn state(&self) -> &ClusterState {
        &self.state
    }

    /// The raft id that a node's registered process takes part under.
    pub(crate) fn raft_id(&self, node: NodeId) -> Option<RaftId> {
        self.raft_ids.get(&node).map(|(_, raft)| *raft)
    }

    /// Everybody who should be in the raft group.
    pub(crate) fn peers(&self) -> BTreeMap<RaftId, (NodeId, Peer)> {
        let peer = |node: &NodeId| {
            let entry = self.state.map().node(*node)?;
            Some(Peer { name: entry.name.clone(), address: entry.addresses.peer.clone() })
        };
        self.raft_ids.iter().filter_map(|(node, (_, raft))| Some((*raft, (*node, peer(node)?)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use broky_proto::id::{ClusterId, VBucketCount};
    use broky_ring::member::{Addresses, BootId, Copies, Zone};

    use super::*;

    fn founded() -> Machine {
        let cluster = ClusterId([1; 16]);
        let vbuckets = VBucketCount::new(4).unwrap();
        Machine::founded(Command::Found {
            cluster,
            vbuckets,
            shards: std::num::NonZeroU16::MIN,
            copies: Copies::DEFAULT,
            expect: 1,
        })
        .unwrap()
    }

    fn register(name: &str, boot: u8, raft: u64) -> Request {
        let command = Command::Register {
            name: name.to_owned(),
            boot: BootId([boot; 16]),
            addresses: Addresses::default(),
            zone: Zone::default(),
        };
        Request::Register { command, raft: RaftId(raft) }
    }

    #[test]
    fn only_the_first_seed_counts() {
        let mut machine = Machine::default();
        machine.apply(1, Request::Seed(Box::new(founded())));
        machine.apply(2, register("a", 1, 10));
        let before = machine.clone();
        machine.apply(3, Request::Seed(Box::new(founded())));
        assert_eq!(machine, before);
    }

    #[test]
    fn the_same_process_may_take_another_raft_id() {
        let mut machine = founded();
        machine.apply(1, register("a", 1, 10));
        machine.apply(2, register("a", 1, 11));
        assert_eq!(machine.raft_id(NodeId(1)), Some(RaftId(11)));
        assert_eq!(machine.peers().len(), 1);
    }

    #[test]
    fn refounded_state_goes_on_above_every_index_used() {
        let mut machine = founded();
        machine.apply(900, register("a", 1, 10));
        let incarnation = machine.state().map().node(NodeId(1)).unwrap().incarnation;
        let mut again = machine.refounded(false);
        again.apply(1, register("a", 2, 11));
        let newer = again.state().map().node(NodeId(1)).unwrap().incarnation;
        assert!(newer.0 > incarnation.0 + REFOUNDING_GAP, "{newer} after {incarnation}");
    }

    #[test]
    fn forgotten_node_leaves_no_raft_id() {
        let mut machine = founded();
        machine.apply(1, register("a", 1, 10));
        machine.apply(2, register("b", 2, 20));
        let member = machine.state().map().alive(NodeId(2)).unwrap();
        machine.apply(3, Request::Command(Command::Fence { member }));
        machine.apply(4, Request::Command(Command::Forget { node: NodeId(2) }));
        assert_eq!(machine.peers().keys().copied().collect::<Vec<_>>(), [RaftId(10)]);
    }
}
