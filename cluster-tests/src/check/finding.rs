//! What was found, with the records that show it.
//!
//! A broken broker can break a promise a million times, so of each kind a bounded number is kept: the earliest, which
//! is where to begin to look. Which those are does not depend on the order in which they were found, hence neither on
//! the order of files nor on how records were partitioned.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kind::Kind;
use crate::history::Nanos;

/// Where a record is: which source, and which line of it, from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Origin {
    /// Index of the file, or of whatever else records come from.
    pub source: u16,
    /// The line.
    pub line: u64,
}

/// A record that shows something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// What it is in this.
    pub role: &'static str,
    /// Where it is.
    pub origin: Origin,
    /// The source's name; empty until the report is complete.
    pub source: String,
    /// The record as it was written; empty where it is not at hand.
    pub record: String,
}

/// Something that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// When it showed.
    pub at: Nanos,
    /// What exactly.
    pub what: String,
    /// The records that show it.
    pub evidence: Vec<Evidence>,
    /// What the control log said of the vbucket around it, where that is known.
    pub isr_history: Vec<String>,
}

impl Finding {
    pub(crate) fn new(kind: Kind, at: Nanos, what: impl Into<String>) -> Self {
        Self { kind, at, what: what.into(), evidence: Vec::new(), isr_history: Vec::new() }
    }

    pub(crate) fn with(mut self, role: &'static str, origin: Origin) -> Self {
        self.evidence.push(Evidence { role, origin, source: String::new(), record: String::new() });
        self
    }

    pub(crate) fn maybe_with(self, role: &'static str, origin: Option<Origin>) -> Self {
        match origin {
            Some(origin) => self.with(role, origin),
            None => self,
        }
    }

    pub(crate) fn near(mut self, isr_history: Vec<String>) -> Self {
        self.isr_history = isr_history;
        self
    }
}

/// Everything found of one kind.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Found {
    /// How often.
    pub count: u64,
    /// The earliest ones, by time.
    pub kept: Vec<Finding>,
}

/// Everything found.
#[derive(Debug)]
pub(crate) struct Findings {
    kept_max: usize,
    by_kind: BTreeMap<Kind, Found>,
}

impl Findings {
    pub(crate) fn new(kept_max: usize) -> Self {
        Self { kept_max, by_kind: BTreeMap::new() }
    }

    /// Adds a finding. It is put into words only if it is one of the earliest so far.
    pub(crate) fn add(&mut self, kind: Kind, at: Nanos, words: impl FnOnce() -> Finding) {
        let found = self.by_kind.entry(kind).or_default();
        found.count += 1;
        let is_full = found.kept.len() >= self.kept_max;
        if is_full && found.kept.last().is_none_or(|last| last.at < at) {
            return;
        }
        let finding = words();
        let place = found.kept.partition_point(|kept| (kept.at, &kept.what) <= (finding.at, &finding.what));
        found.kept.insert(place, finding);
        found.kept.truncate(self.kept_max);
    }

    #[cfg(test)]
    pub(crate) fn count(&self, kind: Kind) -> u64 {
        self.by_kind.get(&kind).map_or(0, |found| found.count)
    }

    pub(crate) fn into_kinds(self) -> BTreeMap<Kind, Found> {
        self.by_kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_are_kept_in_whatever_order_they_come() {
        let orders = [[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [3, 1, 5, 2, 4]];
        let kept = orders.map(|order| {
            let mut findings = Findings::new(3);
            for at in order {
                findings.add(Kind::Lost, Nanos(at), || Finding::new(Kind::Lost, Nanos(at), format!("{at}")));
            }
            findings.into_kinds().remove(&Kind::Lost).unwrap()
        });
        for found in &kept {
            assert_eq!(found.count, 5);
            assert_eq!(found.kept.iter().map(|finding| finding.at.0).collect::<Vec<_>>(), [1, 2, 3]);
        }
    }
}
