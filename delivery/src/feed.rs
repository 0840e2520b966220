//! A feed: the committed blocks of one source, in commit order, oldest evicted first.
//!
//! Every reader of a source follows the same feed at its own position, so a slow reader costs no memory: what it has
//! not read simply leaves at the old end, and the reader is told. Blocks are shared, never copied per reader.

use std::collections::VecDeque;
use std::sync::Arc;

use broky_proto::frame::PREFIX_LEN;
use broky_proto::id::{Offset, Token, VBucketId};
use broky_proto::v1;
use bytes::Bytes;

use crate::chunked::Chunked;
use crate::matching::Matches;
use crate::view::Kind;

/// Which source of blocks: one per shard of this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FeedId(pub u16);

/// A block's place in its feed; dense, ascending.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct BlockSeq(pub u64);

impl BlockSeq {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A block's messages of one vbucket: dense offsets from `first`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The vbucket.
    pub vbucket: VBucketId,
    /// How many messages.
    pub count: u32,
    /// Offset of the first.
    pub first: Offset,
}

impl Run {
    /// The offset behind the last message.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.first.plus(u64::from(self.count))
    }
}

/// Where one message stands in its block. Positions are distances from the block's first byte, gRPC prefix included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where the message's tag and length begin.
    pub start: u32,
    /// Length, tag and length included.
    pub len: u32,
    /// Where the key begins.
    pub key_start: u32,
    /// Length of the key.
    pub key_len: u32,
    /// The message's position on the token ring.
    pub token: Token,
}

/// A committed run of encoded messages, ready to be sent as it is.
#[derive(Clone, Debug)]
pub struct Block {
    /// A gRPC prefix and an encoded `Delivery` of messages only.
    pub framed: Bytes,
    /// What it holds of each vbucket: each vbucket once.
    pub runs: Arc<[Run]>,
    /// How many messages it holds.
    pub messages: u32,
    /// Whether a key among them begins with `!system`.
    pub has_system: bool,
    /// Which buffer of its owner's it is cut from. Opaque here.
    pub arena: ArenaId,
}

/// A buffer that blocks are cut from, as the owner of the blocks counts them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct ArenaId(pub u64);

impl Block {
    /// A place in the feed that holds no message.
    pub(crate) fn empty() -> Self {
        Self { framed: Bytes::new(), runs: Arc::default(), messages: 0, has_system: false, arena: ArenaId::default() }
    }

    /// The encoded messages.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        self.framed.get(PREFIX_LEN..).unwrap_or_default()
    }

    /// Bytes of memory that this block costs beside its message bytes, roughly.
    #[must_use]
    pub fn overhead_bytes(&self) -> usize {
        const PER_BLOCK: usize = std::mem::size_of::<Slot>() + 64;
        // The run itself, and its entry in the vbucket's index.
        const PER_RUN: usize = std::mem::size_of::<Run>() + 24;
        PER_BLOCK + self.runs.len() * PER_RUN
    }
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) kind: Kind,
    pub(crate) block: Block,
    /// What matched at the time the block came; `None` once forgotten.
    pub(crate) matches: Option<Matches>,
    /// Offsets that nobody gets who reads past this place.
    pub(crate) gaps: Option<Box<[v1::Gap]>>,
}

/// The blocks of one source.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    oldest: BlockSeq,
    slots: Chunked<Slot>,
    /// Where notes of gaps stand, ascending.
    notes: VecDeque<BlockSeq>,
    /// Blocks below have forgotten what matched.
    matches_floor: BlockSeq,
    /// Bytes that the remembered matches have copied together.
    gathered_bytes: usize,
    /// Blocks below may hold messages of histories that are over, or that readers of the log do not see, or see twice.
    /// Notes of gaps stand below.
    pub(crate) stale_until: BlockSeq,
    /// No reader that is behind stands below. May be lower than the truth, never higher.
    pub(crate) behind_floor: BlockSeq,
    /// Bytes of all blocks that ever came.
    pub(crate) bytes_total: u64,
}

/// Copies that remembered matches may hold per feed: 4 MiB. Readers further behind match for themselves.
const GATHERED_BYTES_MAX: usize = 4 << 20;
/// Blocks whose matches are remembered.
const MATCHED_BLOCKS_MAX: u64 = 256;

impl Feed {
    pub(crate) fn oldest(&self) -> BlockSeq {
        self.oldest
    }

    /// The sequence that the next block will get.
    pub(crate) fn tail(&self) -> BlockSeq {
        BlockSeq(self.oldest.0 + self.slots.len() as u64)
    }

    pub(crate) fn slot(&self, seq: BlockSeq) -> Option<&Slot> {
        self.slots.get(usize::try_from(seq.0.checked_sub(self.oldest.0)?).ok()?)
    }

    pub(crate) fn slot_mut(&mut self, seq: BlockSeq) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(seq.0.checked_sub(self.oldest.0)?).ok()?)
    }

    pub(crate) fn push(&mut self, kind: Kind, block: Block, matches: Matches) -> BlockSeq {
        let seq = self.tail();
        self.bytes_total += block.framed.len() as u64;
        self.slots.push_back(Slot { kind, block, matches: Some(matches), gaps: None });
        if kind != Kind::Log {
            self.stale_until = self.tail();
        }
        self.forget_matches(seq);
        seq
    }

    /// Notes offsets that nobody gets who reads past here.
    pub(crate) fn push_gaps(&mut self, gaps: Box<[v1::Gap]>) {
        let seq = self.tail();
        self.notes.push_back(seq);
        self.slots.push_back(Slot { kind: Kind::Relayed, block: Block::empty(), matches: None, gaps: Some(gaps) });
        self.stale_until = self.tail();
        self.forget_matches(seq);
    }

    /// Gaps noted in this feed that somebody may still read past.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = &v1::Gap> {
        self.notes.iter().filter_map(|seq| self.slot(*seq)?.gaps.as_deref()).flatten()
    }

    /// Notes that `bytes` were copied together for a reader of some block.
    pub(crate) fn note_gathered(&mut self, bytes: usize) {
        self.gathered_bytes += bytes;
    }

    pub(crate) fn remembers_matches(&self, seq: BlockSeq) -> bool {
        seq >= self.matches_floor
    }

    /// Forgets the oldest matches while they are too many or hold too much.
    fn forget_matches(&mut self, newest: BlockSeq) {
        self.matches_floor = self.matches_floor.max(self.oldest);
        while self.matches_floor < newest
            && (self.gathered_bytes > GATHERED_BYTES_MAX || newest.0 - self.matches_floor.0 >= MATCHED_BLOCKS_MAX)
        {
            let floor = self.matches_floor;
            let forgotten = self.slot_mut(floor).and_then(|slot| slot.matches.take());
            self.gathered_bytes -= forgotten.map_or(0, |matches| matches.gathered_bytes());
            self.matches_floor = floor.next();
        }
    }

    pub(crate) fn pop(&mut self) -> Option<(Kind, Block)> {
        let slot = self.slots.pop_front()?;
        self.gathered_bytes -= slot.matches.map_or(0, |matches| matches.gathered_bytes());
        if self.notes.front() == Some(&self.oldest) {
            self.notes.pop_front();
        }
        self.oldest = self.oldest.next();
        Some((slot.kind, slot.block))
    }

    pub(crate) fn blocks(&self) -> usize {
        self.slots.len()
    }
}
