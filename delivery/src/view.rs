//! What this node's readers can see of each vbucket: where it starts and ends, and in which block each offset stands.
//!
//! A node that holds a copy in sync lets its readers see the log. Otherwise they see what another node relays, and a
//! copy that is not in sync yet grows beside it, hidden. Both stand in the same feed, so a reader that reads on there
//! keeps the order of each vbucket when what it sees changes from one to the other.

use broky_proto::id::{Epoch, Lineage, Offset, VBucketId};

use crate::chunked::Chunked;
use crate::feed::{BlockSeq, Run};

/// Part of one history of a vbucket, and the blocks it stands in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    pub(crate) lineage: Lineage,
    /// The first offset of the lineage, or of what is known of it.
    pub(crate) base: Offset,
    /// The oldest readable offset.
    pub(crate) start: Offset,
    /// The offset behind the last readable one.
    pub(crate) end: Offset,
    /// Per block that holds messages of the vbucket: its first offset. Ascending in both.
    index: Chunked<(Offset, BlockSeq)>,
}

impl Line {
    pub(crate) fn new(lineage: Lineage, base: Offset) -> Self {
        Self { lineage, base, start: base, end: base, index: Chunked::default() }
    }

    /// The same history, of which nothing below `next` is held.
    pub(crate) fn anew_at(&self, next: Offset) -> Self {
        Self { start: next, end: next, ..Self::new(self.lineage, self.base) }
    }

    fn append(&mut self, run: &Run, seq: BlockSeq) {
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

    /// Goes on in another lineage, whose offsets are above all of this one's. What was readable stays so.
    fn continue_in(&mut self, lineage: Lineage, base: Offset, next: Offset) {
        self.lineage = lineage;
        self.base = base;
        self.skip_to(next.max(self.end));
    }

    /// Drops the run of the oldest block, `seq`. Does nothing for a run of a history that this line no longer shows.
    fn evict(&mut self, run: &Run, seq: BlockSeq) {
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

/// Which history of a vbucket is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History {
    /// Its lineage.
    pub lineage: Lineage,
    /// Its present epoch.
    pub epoch: Epoch,
    /// The first offset of the lineage.
    pub base: Offset,
}

/// What a block is to those who read the feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Part of the logs held here, which readers see.
    Log,
    /// Part of the logs held here, of vbuckets that readers see from elsewhere.
    Hidden,
    /// Relayed by another node: what readers here ask for, and nothing else. Runs say which offsets it stands for.
    Relayed,
}

/// The readable part of one vbucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) epoch: Epoch,
    /// Whether what is read here is all there is: this node leads the vbucket or is in sync, or another node relays it.
    pub(crate) is_ready: bool,
    /// The log held here.
    pub(crate) log: Line,
    /// The first block of the feed that can be of this log.
    pub(crate) since: BlockSeq,
    /// What readers see, where that is not the log. Kept until what was relayed has left the memory.
    relayed: Option<Box<Line>>,
    is_relayed: bool,
    /// Behind the last block that stands in the log only, or in what is relayed only. From there on both have the same.
    differs_until: BlockSeq,
}

impl View {
    pub(crate) fn new(lineage: Lineage, epoch: Epoch, base: Offset, since: BlockSeq) -> Self {
        Self { epoch, log: Line::new(lineage, base), since, ..Self::default() }
    }

    /// What readers see.
    pub(crate) fn seen(&self) -> &Line {
        self.relayed.as_deref().unwrap_or(&self.log)
    }

    fn seen_mut(&mut self) -> &mut Line {
        self.relayed.as_deref_mut().unwrap_or(&mut self.log)
    }

    /// Whether readers see what another node relays.
    pub(crate) fn is_relayed(&self) -> bool {
        self.is_relayed
    }

    /// Whether what readers see is all in the log, unless it is relayed. A log that has just come in sync may have been
    /// told less of what is committed than was relayed.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_relayed || self.log.end >= self.seen().end
    }

    /// Below this offset, readers do not see the log.
    pub(crate) fn hidden_below(&self) -> Offset {
        match &self.relayed {
            Some(_) if self.is_relayed => Offset(u64::MAX),
            Some(relayed) => relayed.end,
            None => Offset::ZERO,
        }
    }

    pub(crate) fn append(&mut self, kind: Kind, run: &Run, seq: BlockSeq) {
        if kind != Kind::Log {
            self.differs_until = seq.next();
        }
        if kind != Kind::Relayed {
            self.log.append(run, seq);
        }
        if kind != Kind::Hidden
            && let Some(relayed) = &mut self.relayed
        {
            relayed.append(run, seq);
        }
    }

    pub(crate) fn evict(&mut self, run: &Run, seq: BlockSeq) {
        self.log.evict(run, seq);
        let Some(relayed) = &mut self.relayed else { return };
        relayed.evict(run, seq);
        let is_log = relayed.lineage == self.log.lineage && relayed.end == self.log.end;
        let first = relayed.index.get(0);
        let is_same = first.is_none_or(|(_, seq)| *seq >= self.differs_until) && first == self.log.index.get(0);
        if !self.is_relayed && is_log && is_same {
            self.relayed = None;
        }
    }

    /// Begins another log, which readers see unless another node relays the vbucket.
    pub(crate) fn replace_log(&mut self, log: Line, since: BlockSeq) {
        if !self.is_relayed {
            if self.seen().index.is_empty() {
                self.relayed = None;
            } else {
                // Readers may still be where the one before stands.
                let seen = self.relayed.get_or_insert_with(|| Box::new(self.log.clone()));
                seen.continue_in(log.lineage, log.base, log.start);
            }
        }
        self.log = log;
        self.since = since;
    }

    /// What readers see will come from another node, behind what they see of the log.
    pub(crate) fn leave_log(&mut self) {
        if !self.is_relayed {
            self.relayed.get_or_insert_with(|| Box::new(self.log.clone()));
            self.is_relayed = true;
        }
        self.is_ready = false;
    }

    /// Readers see what another node relays, from `next` on.
    pub(crate) fn begin_relayed(&mut self, history: History, next: Offset) {
        let History { lineage, epoch, base } = history;
        match &mut self.relayed {
            Some(line) if self.is_relayed && line.lineage == lineage && line.end <= next => line.skip_to(next),
            Some(line) if self.is_relayed && line.lineage < lineage => line.continue_in(lineage, base, next),
            _ => self.relayed = Some(Box::new(Line { start: next, end: next, ..Line::new(lineage, base) })),
        }
        self.is_relayed = true;
        self.is_ready = true;
        self.epoch = epoch;
    }

    /// Nothing of interest is relayed up to `next`.
    pub(crate) fn pass_to(&mut self, next: Offset) {
        if self.is_relayed && next > self.seen().end {
            self.seen_mut().skip_to(next);
        }
    }

    /// Whoever reads on goes on at `next`, in what they see of the log.
    pub(crate) fn skip_seen_to(&mut self, next: Offset) {
        if next > self.seen().end {
            self.seen_mut().skip_to(next);
        }
    }

    /// Readers see the log, behind what was relayed.
    pub(crate) fn return_to_log(&mut self) {
        self.is_relayed = false;
        if let Some(relayed) = &mut self.relayed
            && relayed.lineage != self.log.lineage
        {
            relayed.continue_in(self.log.lineage, self.log.base, self.log.base);
        }
    }

    /// Nobody reads what another node relays any more.
    pub(crate) fn end_relayed(&mut self) {
        self.relayed = None;
        self.is_relayed = false;
        self.is_ready = false;
    }
}

/// The vbuckets that a feed carries: those whose number modulo the number of feeds is the feed's.
pub(crate) fn is_fed_by(vbucket: VBucketId, feed: u16, feeds: u16) -> bool {
    vbucket.0 % feeds == feed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64) -> Run {
        Run { vbucket: VBucketId(0), first: Offset(first), count: 1 }
    }

    #[test]
    fn what_was_relayed_between_is_seen_until_it_has_left_the_memory() {
        let mut view = View { is_ready: true, ..View::default() };
        view.append(Kind::Log, &run(0), BlockSeq(0));
        view.append(Kind::Log, &run(1), BlockSeq(1));
        view.leave_log();
        view.append(Kind::Hidden, &run(2), BlockSeq(2));
        view.append(Kind::Relayed, &run(2), BlockSeq(3));
        view.return_to_log();
        view.append(Kind::Log, &run(3), BlockSeq(4));
        // Where readers stand at the third block, they see the offset 2 when they come to the fourth.
        for (block, offset, first) in [(0, 0, (1, 1)), (1, 1, (2, 3)), (2, 2, (2, 3)), (3, 2, (3, 4))] {
            view.evict(&run(offset), BlockSeq(block));
            assert_eq!(view.seen().index.get(0), Some(&(Offset(first.0), BlockSeq(first.1))), "without block {block}");
        }
        assert!(view.relayed.is_none());
    }
}
