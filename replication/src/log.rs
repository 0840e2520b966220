//! The bounds of one vbucket's log.
//!
//! `start <= high_watermark <= end`. Offsets below `start` were evicted, those below `high_watermark` are committed,
//! those from there to `end` are held but not yet by every in-sync replica.

use broky_proto::id::{Lineage, Offset};

/// Where a log starts, ends, and how far it is committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    lineage: Lineage,
    start: Offset,
    high_watermark: Offset,
    end: Offset,
}

impl Log {
    /// An empty log of `lineage` whose first message will be at `base`.
    #[must_use]
    pub fn new(lineage: Lineage, base: Offset) -> Self {
        Self { lineage, start: base, high_watermark: base, end: base }
    }

    /// The history this log belongs to.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// The oldest offset still held.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The next offset to be written.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The first offset not yet committed.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Whether everything held is committed.
    #[must_use]
    pub fn is_committed(&self) -> bool {
        self.high_watermark == self.end
    }

    /// Takes `count` more messages; returns the offset of the first.
    #[inline]
    pub(crate) fn extend(&mut self, count: u64) -> Offset {
        let first = self.end;
        self.end = first.plus(count);
        first
    }

    /// Moves the high watermark up to `to`, never back and never beyond the end.
    ///
    /// Returns whether it moved.
    pub(crate) fn commit(&mut self, to: Offset) -> bool {
        let to = to.min(self.end);
        let moved = to > self.high_watermark;
        if moved {
            self.high_watermark = to;
        }
        moved
    }

    /// Forgets everything below `to`.
    ///
    /// # Panics
    /// When `to` lies above the high watermark: only committed messages are evicted.
    pub(crate) fn evict(&mut self, to: Offset) {
        assert!(to <= self.high_watermark, "evicting to {to} above the high watermark {}", self.high_watermark);
        self.start = self.start.max(to);
    }

    /// Forgets what is held from `to` on.
    ///
    /// # Panics
    /// When `to` lies below the high watermark: what is committed is never taken back.
    pub(crate) fn truncate(&mut self, to: Offset) {
        assert!(to >= self.high_watermark, "truncating to {to} below the high watermark {}", self.high_watermark);
        self.end = self.end.min(to);
    }

    /// Begins anew, empty, at `start`.
    ///
    /// # Panics
    /// When `start` lies below the end: offsets would be given twice.
    pub(crate) fn skip_to(&mut self, start: Offset) {
        assert!(start >= self.end, "skipping to {start}, before the log's end {}", self.end);
        (self.start, self.high_watermark, self.end) = (start, start, start);
    }

    /// Fails when the bounds are out of order.
    pub fn check_invariants(&self) {
        assert!(
            self.start <= self.high_watermark,
            "log start {} above high watermark {}",
            self.start,
            self.high_watermark
        );
        assert!(self.high_watermark <= self.end, "high watermark {} above log end {}", self.high_watermark, self.end);
    }
}
