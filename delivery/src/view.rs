//! What this node's readers can see of each vbucket: where it starts and ends, and in which block each offset stands.

use broky_proto::id::{Epoch, Lineage, Offset, VBucketId};

use crate::chunked::Chunked;
use crate::feed::{BlockSeq, Run};

/// The readable part of one vbucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) lineage: Lineage,
    pub(crate) epoch: Epoch,
    /// The oldest readable offset.
    pub(crate) start: Offset,
    /// The offset behind the last readable one.
    pub(crate) end: Offset,
    /// Per block that holds messages of the vbucket: its first offset. Ascending in both.
    index: Chunked<(Offset, BlockSeq)>,
}

impl View {
    pub(crate) fn new(lineage: Lineage, epoch: Epoch, base: Offset) -> Self {
        Self { lineage, epoch, start: base, end: base, index: Chunked::default() }
    }

    pub(crate) fn append(&mut self, run: &Run, seq: BlockSeq) {
        debug_assert!(run.first == self.end || self.index.is_empty(), "offsets are dense");
        self.index.push_back((run.first, seq));
        self.end = run.end();
    }

    /// Drops the oldest block's run.
    pub(crate) fn evict(&mut self, run: &Run) {
        self.index.pop_front();
        self.start = run.end();
    }

    /// The block in which `offset` stands, or the first one behind it.
    pub(crate) fn block_of(&self, offset: Offset) -> Option<BlockSeq> {
        if offset >= self.end {
            return None;
        }
        let behind = self.index.partition_point(|(first, _)| *first <= offset);
        self.index.get(behind.saturating_sub(1)).map(|(_, seq)| *seq)
    }
}

/// The vbuckets that a feed carries: those whose number modulo the number of feeds is the feed's.
pub(crate) fn is_fed_by(vbucket: VBucketId, feed: u16, feeds: u16) -> bool {
    vbucket.0 % feeds == feed
}
