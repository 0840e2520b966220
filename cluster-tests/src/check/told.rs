//! What the readers of one vbucket show together.

use std::collections::BTreeMap;

use broky_proto::id::{Lineage, Offset};

use super::compact::Step;
use super::finding::Origin;
use super::names::ClusterNo;
use crate::history::{GapReason, Nanos};

/// Passes that are kept of one vbucket; beyond that they are counted, since the verdict is clear.
const PASSES_MAX: usize = 1 << 16;

/// What the readers of one vbucket show together, by cluster.
#[derive(Default, Debug)]
pub(super) struct Told {
    pub(super) by_cluster: BTreeMap<ClusterNo, ToldOf>,
}

/// What they show in one cluster.
#[derive(Default, Debug)]
pub(super) struct ToldOf {
    /// Ranges that were passed over without a word, and in which there was something to get.
    pub(super) passes: Vec<Pass>,
    /// Ranges that readers of everything passed over without a word, and of whose messages nobody knows.
    pub(super) unknown: Vec<Pass>,
    /// All that was passed over so by others than dumps.
    pub(super) passed: Ranges,
    /// Ranges told as lost, and by whom first.
    lost: BTreeMap<(Offset, Offset), (Nanos, Origin)>,
    lost_ranges: Ranges,
    /// Ranges told as evicted, or as missed by who was too slow.
    pub(super) trimmed: Ranges,
    /// How far the final readers came.
    pub(super) finals: Vec<FinalSpan>,
    /// A reader came into a later lineage without being told that the one before was lost.
    pub(super) is_change_untold: bool,
    /// The oldest and the newest lineage that anybody was in.
    pub(super) lineages: Option<(Lineage, Lineage)>,
}

/// A range of offsets that a session passed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    pub(super) from: Offset,
    pub(super) to: Offset,
    /// Messages in it that the session wanted and of which somebody knows.
    pub(super) wanted: u64,
    /// It begins in one lineage and ends in another.
    pub(super) is_across: bool,
    pub(super) is_dump: bool,
    pub(super) step: Step,
}

/// A range of offsets that was told as lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct LostRange {
    pub(super) from: Offset,
    pub(super) to: Offset,
    pub(super) at: Nanos,
    pub(super) origin: Origin,
}

/// What a final reader covered, in one cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct FinalSpan {
    /// The first offset that it can have got.
    pub(super) start: Offset,
    pub(super) start_lineage: Lineage,
    /// The offset behind the last.
    pub(super) end: Offset,
    /// It waited at the end until nothing more came.
    pub(super) is_done: bool,
    pub(super) subscribed: Nanos,
    /// The last record of it.
    pub(super) origin: Origin,
}

impl ToldOf {
    pub(super) fn see(&mut self, lineage: Lineage) {
        let (oldest, newest) = self.lineages.unwrap_or((lineage, lineage));
        self.lineages = Some((oldest.min(lineage), newest.max(lineage)));
    }

    pub(super) fn pass(&mut self, pass: Pass) {
        if !pass.is_dump {
            self.passed.add(pass.from, pass.to);
        }
        if self.passes.len() < PASSES_MAX {
            self.passes.push(pass);
        }
    }

    pub(super) fn pass_unknown(&mut self, pass: Pass) {
        if self.unknown.len() < PASSES_MAX {
            self.unknown.push(pass);
        }
    }

    pub(super) fn gap(&mut self, step: &Step, (from, to): (Offset, Offset), reason: GapReason) {
        match reason {
            GapReason::Lost => {
                let first = self.lost.entry((from, to)).or_insert((step.at, step.origin));
                *first = (*first).min((step.at, step.origin));
                self.lost_ranges.add(from, to);
            }
            GapReason::Evicted | GapReason::Slow => self.trimmed.add(from, to),
        }
    }

    /// The ranges that were told as lost.
    pub(super) fn lost(&self) -> impl Iterator<Item = LostRange> {
        self.lost.iter().map(|((from, to), (at, origin))| LostRange { from: *from, to: *to, at: *at, origin: *origin })
    }

    pub(super) fn is_told_lost(&self, offset: Offset) -> bool {
        self.lost_ranges.contains(offset)
    }
}

/// A set of offsets, as ranges.
#[derive(Default, Debug)]
pub(super) struct Ranges {
    ranges: BTreeMap<Offset, Offset>,
}

impl Ranges {
    /// Adds `[from, to)`.
    pub(super) fn add(&mut self, mut from: Offset, mut to: Offset) {
        if from >= to {
            return;
        }
        // Those that overlap or touch: at most the one before, and those that begin within.
        if let Some((start, end)) = self.ranges.range(..from).next_back().map(|(start, end)| (*start, *end))
            && end >= from
        {
            (from, to) = (start, to.max(end));
        }
        while let Some((start, end)) = self.ranges.range(from..=to).next().map(|(start, end)| (*start, *end)) {
            to = to.max(end);
            self.ranges.remove(&start);
        }
        self.ranges.insert(from, to);
    }

    pub(super) fn contains(&self, offset: Offset) -> bool {
        self.ranges.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Offset, Offset)> {
        self.ranges.iter().map(|(from, to)| (*from, *to))
    }

    /// How many offsets are in it.
    pub(super) fn len(&self) -> u64 {
        self.iter().map(|(from, to)| to.since(from)).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_the_set_of_their_offsets(added in prop::collection::vec((0..40_u64, 0..8_u64), 0..20)) {
            let mut ranges = Ranges::default();
            let mut set = std::collections::BTreeSet::new();
            for (from, len) in added {
                ranges.add(Offset(from), Offset(from + len));
                set.extend(from..from + len);
            }
            prop_assert_eq!(ranges.len(), set.len() as u64);
            for offset in 0..50 {
                prop_assert_eq!(ranges.contains(Offset(offset)), set.contains(&offset));
            }
            let spans: Vec<_> = ranges.iter().collect();
            prop_assert!(spans.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
