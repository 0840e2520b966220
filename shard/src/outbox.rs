//! What a shard wants done: the effects that its caller carries out after each call.

use std::sync::Arc;

use broky_delivery::{Block, BlockSeq, Entry, SubscriptionId};

use crate::outcome::PartOutcome;

/// Names a request that waits for its outcome. Opaque to the shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket(pub u64);

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
    /// The block; its bytes are shared.
    pub block: Block,
    /// Its messages.
    pub entries: Arc<[Entry]>,
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
    /// Blocks for the other shards; only with several.
    pub mirror: Vec<MirrorBlock>,
    /// How many of the oldest blocks the other shards have to drop.
    pub mirror_evicted: u64,
    /// Blocks up to this one are gone and yet held: the other shards have to cut off their readers that hold them.
    pub mirror_cut: Option<BlockSeq>,
}
