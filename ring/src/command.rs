//! What can be asked of the cluster state, and what comes of it.
//!
//! A command is one entry of the control log. Any command is legal in any state: what does not fit, because it is
//! stale, malformed or repeated, is refused with a reason and changes nothing. So proposers need no lock and no fresh
//! view; the order of the log decides.

use std::num::NonZeroU16;

use broky_proto::id::{ClusterId, Epoch, IsrVersion, Lineage, NodeId, VBucketCount, VBucketId};
use serde::{Deserialize, Serialize};

use crate::member::{Addresses, BootId, Copies, LogIndex, Member, Zone};
use crate::placement::Placement;
use crate::state::{
    BatchRefusal, ConfigureRefusal, ExtendRefusal, FoundRefusal, IsrRefusal, MoveRefusal, NodeRefusal, ReassignRefusal,
    RegisterRefusal, Registration, ResignRefusal,
};

/// The most vbuckets one entry may name. Longer lists are refused whole; split them.
pub const BATCH_MAX: usize = 4096;

/// One entry of the control log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Founds the cluster. The first entry; all else is refused before it.
    Found {
        /// The cluster's name.
        cluster: ClusterId,
        /// How many vbuckets, for ever.
        #[serde(with = "vbucket_count")]
        vbuckets: VBucketCount,
        /// How many shards every node has, for ever: a leader's shard replicates to the shard of the same number.
        shards: NonZeroU16,
        /// How many copies.
        copies: Copies,
        /// How many nodes must have registered before vbuckets are placed, so that they are placed once.
        expect: u16,
    },
    /// A process presents itself. Its node's older lifetimes lose everything in the same entry.
    Register {
        /// The node's name. A new name gets a new node id.
        name: String,
        /// What the process drew at its start.
        boot: BootId,
        /// Where it is reached.
        addresses: Addresses,
        /// Its failure domain.
        zone: Zone,
    },
    /// Declares a process dead: it loses leadership and ISR everywhere at once. What it holds counts while it may live.
    Fence {
        /// The process.
        member: Member,
    },
    /// A fenced process was heard again: it takes part again, as a follower that must catch up.
    Unfence {
        /// The process.
        member: Member,
    },
    /// A fenced process stayed away: its copies may be rebuilt elsewhere. It stays registered and keeps counting.
    Evict {
        /// The process.
        member: Member,
    },
    /// Begins to empty a node.
    Drain {
        /// The node.
        node: NodeId,
        /// Also when fewer nodes than `min_isr` remain.
        force: bool,
    },
    /// Ends that: the node takes part as before.
    Undrain {
        /// The node.
        node: NodeId,
    },
    /// Removes a node that is empty, or dead. What a dead one held is lost.
    Forget {
        /// The node.
        node: NodeId,
    },
    /// A leader changes ISRs. Learners that enter an ISR become replicas by that.
    AlterIsr {
        /// Who proposes.
        leader: Member,
        /// One change per vbucket.
        changes: Vec<IsrChange>,
    },
    /// A leader asks for others to lead in its place, because it cannot reach its followers.
    Resign {
        /// Who proposes.
        leader: Member,
        /// What it leads, and in which epochs.
        vbuckets: Vec<(VBucketId, Epoch)>,
    },
    /// A leader reserves more offsets for its lineage.
    ExtendLineage {
        /// Who proposes.
        leader: Member,
        /// What it leads.
        vbucket: VBucketId,
        /// In which epoch.
        epoch: Epoch,
        /// The first lineage that is not to be reserved.
        end: Lineage,
    },
    /// Sets where copies should be. Nothing moves by that, except where there is nothing yet.
    Reassign {
        /// The vbuckets' new targets.
        targets: Vec<(VBucketId, Placement)>,
    },
    /// Takes one step of one move in each of some vbuckets.
    Move {
        /// The steps. No vbucket may take two in one entry.
        steps: Vec<Step>,
    },
    /// Changes how many copies there are.
    Configure {
        /// How many.
        copies: Copies,
    },
}

/// A leader's proposal for one ISR.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IsrChange {
    /// The vbucket.
    pub vbucket: VBucketId,
    /// The epoch in which the proposer leads it.
    pub epoch: Epoch,
    /// The ISR version that it goes by.
    pub expected: IsrVersion,
    /// The new ISR, in any order.
    pub isr: Vec<Member>,
}

/// One step of a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Step {
    /// `node`, a target, begins to copy.
    AddLearner {
        /// What it copies.
        vbucket: VBucketId,
        /// Who copies.
        node: NodeId,
    },
    /// `to`, in sync, leads from here on.
    TransferLeadership {
        /// What it leads.
        vbucket: VBucketId,
        /// Who leads.
        to: NodeId,
    },
    /// `node`, not a target, lets go of its copy.
    Drop {
        /// What it lets go of.
        vbucket: VBucketId,
        /// Who lets go.
        node: NodeId,
    },
}

impl Step {
    /// The vbucket that takes the step.
    #[must_use]
    pub fn vbucket(&self) -> VBucketId {
        match self {
            Self::AddLearner { vbucket, .. }
            | Self::TransferLeadership { vbucket, .. }
            | Self::Drop { vbucket, .. } => *vbucket,
        }
    }
}

/// Whether an accepted command had anything left to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Effect {
    /// The state is another one.
    Changed,
    /// It was so already.
    Unchanged,
}

/// What came of a command: the answer to its proposer. One variant per kind of command, and two for all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// The entry is not newer than one already applied: a bug of the caller. Nothing changed.
    StaleIndex {
        /// The newest applied.
        applied: LogIndex,
    },
    /// There is no cluster yet. Nothing changed; retry after the founding.
    NotFounded,
    /// Of [`Command::Found`].
    Found(Result<(), FoundRefusal>),
    /// Of [`Command::Register`].
    Register(Result<Registration, RegisterRefusal>),
    /// Of [`Command::Fence`], `Unfence`, `Evict`, `Drain`, `Undrain` and `Forget`.
    Node(Result<Effect, NodeRefusal>),
    /// Of [`Command::AlterIsr`]: per change, the ISR's new version.
    AlterIsr(Result<Vec<Result<IsrVersion, IsrRefusal>>, BatchRefusal>),
    /// Of [`Command::Resign`]: per vbucket, who leads now.
    Resign(Result<Vec<Result<Member, ResignRefusal>>, BatchRefusal>),
    /// Of [`Command::ExtendLineage`].
    ExtendLineage(Result<Effect, ExtendRefusal>),
    /// Of [`Command::Reassign`], per target.
    Reassign(Result<Vec<Result<Effect, ReassignRefusal>>, BatchRefusal>),
    /// Of [`Command::Move`], per step.
    Move(Result<Vec<Result<Effect, MoveRefusal>>, BatchRefusal>),
    /// Of [`Command::Configure`].
    Configure(Result<Effect, ConfigureRefusal>),
}

/// A vbucket count as a checked number.
mod vbucket_count {
    use broky_proto::id::VBucketCount;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(count: &VBucketCount, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(count.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VBucketCount, D::Error> {
        let count = u16::deserialize(deserializer)?;
        VBucketCount::new(u32::from(count)).ok_or_else(|| D::Error::custom("vbucket count is not a power of two"))
    }
}
