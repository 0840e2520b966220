//! The cluster map: what every node and client goes by.
//!
//! One versioned table, changed only by applying control-log entries. A consumer is level-triggered: it compares the
//! newest map with what it does and acts on the difference, so it does not matter how many versions it missed, nor
//! whether they came as entries, as a snapshot or as a [`MapDiff`] from a peer.
//!
//! Versions, epochs and ISR versions are indices of control-log entries. So they rise, are never re-used, and two of
//! them can be compared across vbuckets.

mod diff;

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use broky_proto::id::{
    ClusterId, Epoch, Incarnation, IsrVersion, Lineage, MapVersion, NodeId, VBucketCount, VBucketId,
};
use serde::{Deserialize, Serialize};

use crate::member::{Addresses, Copies, Member, Zone};
use crate::placement::Placement;

pub use diff::{DiffError, MapDiff};

/// Who is in the cluster, and who holds and leads what.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct ClusterMap {
    pub(crate) cluster: ClusterId,
    pub(crate) version: MapVersion,
    pub(crate) copies: Copies,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) shards: Option<NonZeroU16>,
    /// Empty until the cluster is founded.
    pub(crate) vbuckets: Vec<VBucket>,
}

/// One registered node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Version of the map in which this entry last changed.
    pub version: MapVersion,
    /// What its operator calls it.
    pub name: String,
    /// Its current lifetime. Whoever shows an older one is not to be believed.
    pub incarnation: Incarnation,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its failure domain.
    pub zone: Zone,
    /// Whether it takes part.
    pub liveness: Liveness,
    /// Whether it is being emptied: it leads and holds what it must, and gets nothing new.
    pub is_draining: bool,
}

/// Whether a node takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Liveness {
    /// It does.
    Alive,
    /// It was declared dead: no leadership, no ISR. If its process lives after all, what it holds still counts.
    Fenced,
    /// Fenced for so long that its copies are rebuilt elsewhere.
    Evicted,
}

/// Who holds and leads one vbucket.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct VBucket {
    /// Version of the map in which this entry last changed.
    pub version: MapVersion,
    /// Who leads. `None` while nobody who may is alive.
    pub leader: Option<Member>,
    /// Index of the entry that set the leader, or took it away.
    pub epoch: Epoch,
    /// Who should hold a copy now, the preferred leader first. Counted by node: a dead process' place stays.
    pub replicas: Vec<NodeId>,
    /// Who is copying in order to become a replica.
    pub learners: Vec<NodeId>,
    /// Who holds everything committed, by node ascending. A subset of the replicas, all alive.
    pub isr: Vec<Member>,
    /// Index of the entry that last changed the ISR.
    pub isr_version: IsrVersion,
    /// Who left the ISR when it was, or fell, below `min_isr`: the high watermark stood still since, so they too hold
    /// everything committed, while their processes live (KIP-966). By node ascending.
    pub eligible: Vec<Member>,
    /// Copies below which nothing is committed.
    pub min_isr: u8,
    /// Which history this is.
    pub lineage: Lineage,
    /// The first lineage not reserved: offsets of this one stay below its base.
    pub lineage_end: Lineage,
    /// Where the copies should be. `replicas` gets there move by move.
    pub target: Placement,
}

impl ClusterMap {
    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The map's version: index of the last entry that changed anything in it.
    #[must_use]
    pub fn version(&self) -> MapVersion {
        self.version
    }

    /// How many copies are configured, whatever the number of nodes.
    #[must_use]
    pub fn copies(&self) -> Copies {
        self.copies
    }

    /// How many vbuckets there are. `None` before the founding.
    #[must_use]
    pub fn vbucket_count(&self) -> Option<VBucketCount> {
        VBucketCount::new(u32::try_from(self.vbuckets.len()).ok()?)
    }

    /// How many shards every node has; vbucket `v` is at shard `v` modulo this. `None` before the founding.
    #[must_use]
    pub fn shards(&self) -> Option<NonZeroU16> {
        self.shards
    }

    /// The registered nodes, by id ascending.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// One registered node.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The vbuckets, ascending.
    pub fn vbuckets(&self) -> impl Iterator<Item = (VBucketId, &VBucket)> {
        (0..=u16::MAX).map(VBucketId).zip(&self.vbuckets)
    }

    /// One vbucket.
    #[must_use]
    pub fn vbucket(&self, id: VBucketId) -> Option<&VBucket> {
        self.vbuckets.get(usize::from(id.0))
    }

    /// Whether this is the current lifetime of a registered node.
    #[must_use]
    pub fn is_current(&self, member: Member) -> bool {
        self.node(member.node).is_some_and(|node| node.incarnation == member.incarnation)
    }

    /// Whether this is the current lifetime of a node that takes part.
    #[must_use]
    pub fn is_alive(&self, member: Member) -> bool {
        self.is_current(member) && self.alive(member.node) == Some(member)
    }

    /// The current lifetime of a node, when it takes part.
    #[must_use]
    pub fn alive(&self, id: NodeId) -> Option<Member> {
        let node = self.node(id).filter(|node| node.liveness == Liveness::Alive)?;
        Some(Member { node: id, incarnation: node.incarnation })
    }

    /// How many vbuckets' copies the node holds or is to hold, as a replica or learner.
    #[must_use]
    pub fn copies_at(&self, node: NodeId) -> usize {
        self.vbuckets.iter().filter(|vb| vb.replicas.contains(&node) || vb.learners.contains(&node)).count()
    }

    /// Whether nothing is under-replicated because of this process: it is alive, and in sync wherever it is a replica.
    #[must_use]
    pub fn is_caught_up(&self, member: Member) -> bool {
        let lacks = |vb: &VBucket| vb.replicas.contains(&member.node) && !vb.isr.contains(&member);
        self.is_alive(member) && !self.vbuckets.iter().any(lacks)
    }

    /// Vbuckets of which a copy is meant to be at this process and is not in sync there.
    #[must_use]
    pub fn missing_at(&self, member: Member) -> usize {
        self.vbuckets.iter().filter(|vb| vb.target.contains(member.node) && !vb.isr.contains(&member)).count()
    }

    /// Whether this process is alive and holds in sync all that is meant to be there.
    ///
    /// For a node that has just been registered that is nothing, until the next placement. It is not taken for
    /// everything unless there are fewer copies than nodes.
    #[must_use]
    pub fn is_settled(&self, member: Member) -> bool {
        let copies: usize = self.vbuckets.iter().map(|vb| vb.target.0.len()).sum();
        let is_placed = self.vbuckets.iter().any(|vb| vb.target.contains(member.node));
        let is_spare = copies > 0 && copies < self.nodes.len();
        self.is_alive(member) && (is_placed || is_spare) && self.missing_at(member) == 0
    }
}

impl VBucket {
    /// Whether `node` is to hold a copy, now or when it has caught up.
    #[must_use]
    pub fn has_copy_at(&self, node: NodeId) -> bool {
        self.replicas.contains(&node) || self.learners.contains(&node)
    }

    /// Whether the high watermark stands still because too few copies are in sync.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.isr.len() < usize::from(self.min_isr)
    }

    /// Whether any process is known to hold everything committed. If not, there is nothing to hold: this lineage has
    /// never had a leader.
    #[must_use]
    pub fn has_holders(&self) -> bool {
        !self.isr.is_empty() || !self.eligible.is_empty()
    }
}

#[cfg(test)]
mod tests;
