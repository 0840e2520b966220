//! I14: the run did what it was meant to do. If not, it is invalid: neither passed nor failed, since it proves nothing.
//!
//! What was counted on the way to the verdict comes together here: acknowledgements, and how many of them came while
//! there were faults; whether any leader changed; how much of what was acknowledged a final reader got, of what it can
//! have got. So do interruptions, which are told whatever they are.

use std::collections::BTreeMap;
use std::time::Duration;

use broky_proto::id::VBucketId;

use super::available::Span;
use super::facts::Facts;
use super::finding::{Finding, Findings};
use super::kind::Kind;
use super::vbucket::Log;
use crate::history::Nanos;

/// Of what it can have got, a final reader has to have got this share of a hundred.
const READ_PERCENT_MIN: u64 = 99;

/// What was counted.
#[derive(Default, Debug)]
pub(super) struct Coverage {
    acked: u64,
    acked_in_faults: u64,
    /// Acknowledged messages that a final reader can have got, and how many of them one got.
    expected: u64,
    read: u64,
    has_leader_change: bool,
    /// The longest interruption of each vbucket.
    interruptions: Vec<Duration>,
    longest: Option<(Span, VBucketId)>,
    /// The longest by the kind of the fault that came before.
    by_fault: BTreeMap<String, Duration>,
}

impl Coverage {
    pub(super) fn ack(&mut self, at: Nanos, facts: &Facts) {
        self.acked += 1;
        let until = facts.nemesis.healed().unwrap_or(facts.end);
        let is_in_faults = facts.nemesis.first_fault().is_some_and(|first| first <= at && at <= until);
        self.acked_in_faults += u64::from(is_in_faults);
    }

    pub(super) fn expect(&mut self, is_read: bool) {
        self.expected += 1;
        self.read += u64::from(is_read);
    }

    pub(super) fn count_epochs(&mut self, log: &Log<'_>) {
        for (_, entries) in log.clusters() {
            let places = entries.iter().filter_map(|entry| entry.place);
            let mut epochs = places.filter_map(|place| place.acked.or(place.seen.map(|seen| seen.epoch_max)));
            let first = epochs.next();
            self.has_leader_change |= epochs.any(|epoch| Some(epoch) != first);
        }
    }

    pub(super) fn interruption(&mut self, vbucket: VBucketId, span: Span, facts: &Facts) {
        self.interruptions.push(span.length());
        let rank = |(span, vbucket): &(Span, VBucketId)| (span.length(), std::cmp::Reverse((span.from, *vbucket)));
        self.longest = self.longest.into_iter().chain([(span, vbucket)]).max_by_key(rank);
        let kind = facts.nemesis.newest_kind(span.to).unwrap_or("no fault");
        let longest = self.by_fault.entry(kind.to_owned()).or_default();
        *longest = span.length().max(*longest);
    }

    pub(super) fn judge(&self, facts: &Facts, findings: &mut Findings) {
        let mut invalid = |what: String| {
            findings.add(Kind::InvalidRun, facts.end, || Finding::new(Kind::InvalidRun, facts.end, what));
        };
        for kind in facts.run.faults.iter().filter(|kind| !facts.nemesis.has_installed(kind)) {
            invalid(format!("fault {kind:?} was planned and never installed"));
        }
        if self.acked == 0 {
            invalid("nothing was acked".to_owned());
        }
        let min = facts.run.min_acked_during_faults;
        if !facts.run.faults.is_empty() && self.acked_in_faults < min {
            invalid(format!("{} pushes were acked during faults, of at least {min}", self.acked_in_faults));
        }
        if facts.run.expect.leader_change && !self.has_leader_change && !facts.control.has_leader_change() {
            invalid("no vbucket changed its leader".to_owned());
        }
        if self.read * 100 < self.expected * READ_PERCENT_MIN {
            let (read, expected) = (self.read, self.expected);
            invalid(format!(
                "a final reader got {read} of {expected} acked messages, of at least {READ_PERCENT_MIN} %"
            ));
        }
    }

    /// Figures on what the run covered.
    pub(super) fn figures(&self) -> Vec<String> {
        vec![
            format!("{} pushes acked, {} of them during faults", self.acked, self.acked_in_faults),
            format!("a final reader got {} of the {} that it can have got", self.read, self.expected),
        ]
    }

    /// Figures on interruptions.
    pub(super) fn interruptions(&self) -> Vec<String> {
        let mut spans = self.interruptions.clone();
        spans.sort_unstable();
        let Some((longest, vbucket)) = self.longest else { return Vec::new() };
        let [p50, p99] = [50, 99].map(|percent| crate::percentile::percentile(&spans, percent));
        let mut figures = vec![format!(
            "longest {:.0?}: vbucket {vbucket} from {} on; by vbucket p50 {p50:.0?}, p99 {p99:.0?}",
            longest.length(),
            longest.from
        )];
        figures.extend(self.by_fault.iter().map(|(kind, longest)| format!("longest after {kind}: {longest:.0?}")));
        figures
    }
}
