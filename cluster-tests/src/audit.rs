//! Whether what was acknowledged is what readers got, and whether acknowledgements contradict one another.
//!
//! Lost: acknowledged, and a reader that ought to have it does not. Phantom: got, although refused as never stored.
//! Misplaced: got somewhere else than the acknowledgement said. Fenced: acknowledged under an epoch at an offset that a
//! later epoch had begun already. Re-used: one offset acknowledged for two messages.

use std::collections::BTreeMap;

use broky_client::{Epoch, Lineage, Offset, Position, VBucketId};

use crate::reader::{Faults, Sight};
use crate::workload::{Attempt, Fate, Since, Workload};

/// What was found wrong.
#[derive(Clone, Default, Debug)]
pub struct Audit {
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages refused.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Messages of which nobody knows.
    pub unknown: u64,
    /// Acknowledged messages that a reader lacks.
    pub lost: Faults,
    /// Nodes that could not be read.
    pub unread: Faults,
    /// Messages that came twice.
    pub duplicates: Faults,
    /// Messages that came behind a later one.
    pub disorder: Faults,
    /// Messages of unknown outcome that came behind a later one of their producer.
    pub late: Faults,
    /// Messages that were refused or never pushed, and came.
    pub phantoms: Faults,
    /// Messages that came from elsewhere than was said.
    pub misplaced: Faults,
    /// Offsets passed over without a gap.
    pub skipped: Faults,
    /// Gaps, in words.
    pub gaps: Faults,
    /// Acknowledgements of an epoch that was over.
    pub fenced: Faults,
    /// Offsets acknowledged for two messages.
    pub reused: Faults,
}

/// Where a message was acknowledged to be. In the order of a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Acked {
    lineage: Lineage,
    offset: Offset,
    epoch: Epoch,
    producer: u32,
    sequence: u64,
}

impl Audit {
    /// Counts outcomes, and looks for acknowledgements that contradict one another. `lives` says when another cluster
    /// took the place of the one before.
    #[must_use]
    pub fn of(workload: &Workload, lives: &[Since]) -> Self {
        let mut audit = Self::default();
        let mut places: BTreeMap<(usize, VBucketId), Vec<Acked>> = BTreeMap::new();
        let life = |attempt: &Attempt| lives.partition_point(|since| *since <= attempt.settled);
        workload.for_each(|producer, sequence, attempt| match &attempt.fate {
            Fate::Committed(position) => {
                audit.acked += 1;
                if let Some(at) = position {
                    let Position { vbucket, lineage, epoch, offset } = *at;
                    let acked = Acked { lineage, offset, epoch, producer, sequence };
                    places.entry((life(attempt), vbucket)).or_default().push(acked);
                }
            }
            Fate::Rejected(code) => *audit.rejected.entry(code).or_default() += 1,
            Fate::Unknown => audit.unknown += 1,
            Fate::Pending => {}
        });
        for ((_, vbucket), mut places) in places {
            places.sort_unstable();
            for (earlier, later) in places.iter().zip(places.iter().skip(1)) {
                if (earlier.lineage, earlier.offset) == (later.lineage, later.offset) {
                    audit.reused.add(|| format!("vbucket {vbucket}: {earlier:?} and {later:?}"));
                }
                if earlier.epoch > later.epoch {
                    audit.fenced.add(|| format!("vbucket {vbucket}: {later:?} behind {earlier:?}"));
                }
            }
        }
        audit
    }

    /// What is wrong with what a reader got, apart from what it lacks.
    pub fn add_reader(&mut self, name: &str, workload: &Workload, sight: &Sight) {
        let pairs = [
            (&mut self.duplicates, &sight.duplicates),
            (&mut self.disorder, &sight.disorder),
            (&mut self.phantoms, &sight.phantoms),
            (&mut self.skipped, &sight.skipped),
        ];
        for (all, of_reader) in pairs {
            let words = of_reader.examples.iter().map(|words| format!("{name}: {words}"));
            all.merge(&Faults { count: of_reader.count, examples: words.collect() });
        }
        for overtaken in &sight.overtaken {
            let [one, by] = [overtaken.sequence, overtaken.by].map(|it| workload.attempt(overtaken.producer, it));
            let is_unknown = |it: &Option<Attempt>| it.as_ref().is_some_and(|it| it.fate == Fate::Unknown);
            let faults = if is_unknown(&one) || is_unknown(&by) { &mut self.late } else { &mut self.disorder };
            faults.add(|| format!("{name}: {overtaken:?}: {one:?} behind {by:?}"));
        }
        for gap in &sight.gaps {
            self.gaps.add(|| format!("{name}: {gap:?}"));
        }
    }

    /// Looks for messages that a reader lacks or should not have, among those that concern it.
    pub fn add_missing(&mut self, name: &str, workload: &Workload, sight: &Sight, concerns: impl Fn(&Attempt) -> bool) {
        workload.for_each(|producer, sequence, attempt| {
            if !concerns(attempt) {
                return;
            }
            let place = sight.place(producer, sequence);
            let words = || format!("{name}: {sequence} of producer {producer}, {attempt:?}, {place:?}");
            match (&attempt.fate, place) {
                (Fate::Committed(_), None) => self.lost.add(words),
                (Fate::Committed(Some(at)), Some(found)) => {
                    if (at.vbucket.0, at.offset.0) != (found.vbucket, found.offset) {
                        self.misplaced.add(words);
                    }
                }
                (Fate::Rejected(_), Some(_)) => self.phantoms.add(words),
                (Fate::Committed(None) | Fate::Unknown | Fate::Pending, _) | (Fate::Rejected(_), None) => {}
            }
        });
    }

    /// How many acknowledged messages that concern a reader it lacks.
    #[must_use]
    pub fn missing(workload: &Workload, sight: &Sight, concerns: impl Fn(&Attempt) -> bool) -> u64 {
        let mut missing = 0;
        workload.for_each(|producer, sequence, attempt| {
            let is_acked = matches!(attempt.fate, Fate::Committed(_));
            if is_acked && concerns(attempt) && sight.place(producer, sequence).is_none() {
                missing += 1;
            }
        });
        missing
    }

    /// Adds what another part of the measurement found; acknowledgements and outcomes are taken from there.
    pub fn merge(&mut self, other: &Self) {
        let pairs = [
            (&mut self.lost, &other.lost),
            (&mut self.unread, &other.unread),
            (&mut self.duplicates, &other.duplicates),
            (&mut self.disorder, &other.disorder),
            (&mut self.late, &other.late),
            (&mut self.phantoms, &other.phantoms),
            (&mut self.misplaced, &other.misplaced),
            (&mut self.skipped, &other.skipped),
            (&mut self.gaps, &other.gaps),
            (&mut self.fenced, &other.fenced),
            (&mut self.reused, &other.reused),
        ];
        for (all, more) in pairs {
            all.merge(more);
        }
    }
}
