//! What this node's readers can see of each vbucket: where it starts and ends, and in which block each offset stands.

use broky_proto::id::{Epoch, Lineage, Offset, VBucketId};

use crate::chunked::Chunked;
use crate::feed::{BlockSeq, Run};

/// The readable part of one vbucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) lineage: Lineage,
    pub(crate) epoch: Epoch,
    /// The first offset of the lineage.
    pub(crate) base: Offset,
    /// Whether what is read here is all there is: this node leads the vbucket or is in sync.
    pub(crate) is_ready: bool,
    /// The oldest readable offset.
    pub(crate) start: Offset,
    /// The offset behind the last readable one.
    pub(crate) end: Offset,
    /// Per block that holds messages of the vbucket: its first offset. Ascending in both.
    index: Chunked<(Offset, BlockSeq)>,
}

impl View {
    pub(crate) fn new(lineage: Lineage, epoch: Epoch, base: Offset) -> Self {
        Self { lineage, epoch, base, is_ready: false, start: base, end: base, index: Chunked::default() }
    }

    pub(crate) fn append(&mut self, run: &Run, seq: BlockSeq) {
        debug_assert!(run.first >= self.end, "offsets ascend");
        if self.index.is_empty() {
            self.start = run.first;
        }
        self.index.push_back((run.first, seq));
        self.end = run.end();
    }

    /// Goes on at `next`. What lies between the end and there will not come; whoever reads on is told by the feed.
    pub(crate) fn skip_to(&mut self, next: Offset) {
        debug_assert!(next >= self.end, "offsets ascend");
        self.end = next;
        if self.index.is_empty() {
            self.start = next;
        }
    }

    /// Drops the run of the oldest block, `seq`. Does nothing for a run of a history that this view no longer shows.
    pub(crate) fn evict(&mut self, run: &Run, seq: BlockSeq) {
        if self.index.get(0) == Some(&(run.first, seq)) {
            self.index.pop_front();
            self.start = self.index.get(0).map_or(self.end, |(first, _)| *first);
        }
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
