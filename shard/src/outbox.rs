//! What a shard wants done: the effects that its caller carries out after each call.

use std::sync::Arc;

use broky_delivery::{Block, BlockSeq, Entry, History, Kind, RelayId, SubscriptionId, Want, WantId};
use broky_proto::id::{Epoch, Lineage, Member, Offset, VBucketId};
use broky_proto::v1::{Gap, GapReason};
use broky_ring::command::IsrChange;
use bytes::Bytes;

use crate::config::ShardId;
use crate::outcome::PartOutcome;

/// Names a request that waits for its outcome. Opaque to the shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(pub u64);

/// Names a link on which this shard sends blocks to a follower. Given by the caller, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

/// Names a link on which a leader sends blocks to this shard. Given by the caller, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InboundId(pub u64);

/// Names a link on which an owner relays to this shard. Given by the caller, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UpstreamId(pub u64);

/// Names history that is asked of another node for a subscription. Given by the shard, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HistoryId(pub u64);

/// The outcome of a shard's part of a request.
#[derive(Clone, PartialEq, Debug)]
pub struct Reply {
    /// Which request.
    pub ticket: Ticket,
    /// What became of the messages that this shard owns.
    pub outcome: PartOutcome,
}

/// A committed block for the readers of the node's other shards.
#[derive(Clone, Debug)]
pub struct MirrorBlock {
    /// What it is to readers.
    pub kind: Kind,
    /// The block; its bytes are shared.
    pub block: Block,
    /// Its messages; none for blocks that came from another node.
    pub entries: Arc<[Entry]>,
}

/// What the node's other shards have to do so that their readers see what this one's see, in this order.
#[derive(Clone, Debug)]
pub enum Mirror {
    /// A block was committed.
    Block(MirrorBlock),
    /// The oldest block, or note of a gap, has left the memory.
    Evicted,
    /// A vbucket is held from here on; nobody is told.
    View {
        /// The vbucket.
        vbucket: VBucketId,
        /// Its history.
        lineage: Lineage,
        /// Its epoch.
        epoch: Epoch,
        /// Its first offset.
        base: Offset,
    },
    /// A vbucket's new history begins; readers are told what is lost.
    Lineage {
        /// The vbucket.
        vbucket: VBucketId,
        /// Its history.
        lineage: Lineage,
        /// Its epoch.
        epoch: Epoch,
        /// Its first offset.
        base: Offset,
    },
    /// A vbucket goes on further up; readers are told what will not come.
    Skip {
        /// The vbucket.
        vbucket: VBucketId,
        /// The next offset.
        next: Offset,
    },
    /// A vbucket's epoch is another one.
    Epoch {
        /// The vbucket.
        vbucket: VBucketId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Readers see the log of a vbucket, or do not see it any more.
    InSync {
        /// The vbucket.
        vbucket: VBucketId,
        /// Whether they do.
        is_in_sync: bool,
    },
    /// What readers see of a vbucket goes on further up; they are told what will not come.
    LoseUntil {
        /// The vbucket.
        vbucket: VBucketId,
        /// The next offset.
        next: Offset,
        /// Why.
        reason: GapReason,
    },
    /// Another node relays a vbucket from here on; readers are told what it cannot give them.
    BeginRelayed {
        /// The vbucket.
        vbucket: VBucketId,
        /// Its history.
        history: History,
        /// The first offset.
        next: Offset,
        /// What is missing before that.
        gaps: Vec<Gap>,
    },
    /// Nothing that is asked for was relayed of a vbucket up to an offset.
    PassRelayed {
        /// The vbucket.
        vbucket: VBucketId,
        /// The next offset.
        next: Offset,
    },
    /// Nobody relays a vbucket for the moment.
    PauseRelayed {
        /// The vbucket.
        vbucket: VBucketId,
    },
    /// Nobody here wants a vbucket relayed any more.
    EndRelayed {
        /// The vbucket.
        vbucket: VBucketId,
    },
    /// A vbucket cannot be had here: its readers go elsewhere.
    EndReaders {
        /// The vbucket.
        vbucket: VBucketId,
    },
    /// What readers of the sending shard have come to ask for, or ask for no more.
    Wants {
        /// The sending shard.
        shard: ShardId,
        /// What.
        wants: Vec<Want>,
    },
    /// What a shard's readers ask for is relayed from here on.
    Covered {
        /// Whose readers.
        shard: ShardId,
        /// What they ask for.
        want: WantId,
    },
}

/// Bytes to send on a link: a gRPC message, in two pieces where the second is a block's own.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What goes first, with the gRPC prefix.
    pub head: Bytes,
    /// What goes behind; may be empty.
    pub body: Bytes,
}

impl From<Bytes> for Frame {
    fn from(head: Bytes) -> Self {
        Self { head, body: Bytes::new() }
    }
}

/// Effects, in the order in which they came about.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Outcomes to hand to the requests that wait for them.
    pub replies: Vec<Reply>,
    /// Readers that have something to read.
    pub wake: Vec<SubscriptionId>,
    /// Readers whose connection has to be cut, because their transport holds memory and does not move.
    pub cut: Vec<SubscriptionId>,
    /// For the other shards; only with several.
    pub mirror: Vec<Mirror>,
    /// Blocks up to this one are gone and yet held: the other shards have to cut off their readers that hold them.
    pub mirror_cut: Option<BlockSeq>,
    /// Frames for followers.
    pub to_followers: Vec<(SessionId, Frame)>,
    /// There is something to tell followers by [`Shard::send_late_notices`](crate::Shard::send_late_notices).
    pub has_late_notices: bool,
    /// Frames for leaders.
    pub to_leaders: Vec<(InboundId, Frame)>,
    /// Links to followers that have to be closed: they lag, or their peer breaks the protocol.
    pub close_sessions: Vec<SessionId>,
    /// Links from leaders that have to be closed, with the reason.
    pub close_inbound: Vec<(InboundId, String)>,
    /// ISR changes to propose in this process's name.
    pub isr_changes: Vec<IsrChange>,
    /// Vbuckets that somebody else should lead.
    pub resign: Vec<(VBucketId, Epoch)>,
    /// Lineages to reserve: the vbucket, the epoch, the end asked for.
    pub extend: Vec<(VBucketId, Epoch, Lineage)>,
    /// Frames for owners of what is relayed here.
    pub to_owners: Vec<(UpstreamId, Frame)>,
    /// Other nodes that have something to read here.
    pub wake_relays: Vec<RelayId>,
    /// History to ask of other nodes, with the framed request.
    pub histories: Vec<(HistoryId, Member, Bytes)>,
}

impl Outbox {
    /// Whether there is nothing to carry out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { replies, wake, cut, mirror, mirror_cut, to_followers, to_leaders, close_sessions, .. } = self;
        let Self { close_inbound, isr_changes, resign, extend, to_owners, wake_relays, histories, .. } = self;
        let is_node_quiet = replies.is_empty() && wake.is_empty() && cut.is_empty() && mirror.is_empty();
        let are_links_quiet = to_followers.is_empty() && to_leaders.is_empty() && close_sessions.is_empty();
        let is_control_quiet =
            close_inbound.is_empty() && isr_changes.is_empty() && resign.is_empty() && extend.is_empty();
        let are_relays_quiet = to_owners.is_empty() && wake_relays.is_empty() && histories.is_empty();
        is_node_quiet && are_links_quiet && is_control_quiet && are_relays_quiet && mirror_cut.is_none()
    }
}
