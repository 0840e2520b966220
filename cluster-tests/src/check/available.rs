//! I11: interruptions are short.
//!
//! An interruption of a vbucket is a span in which pushes to it were tried and none was acknowledged. It ends with an
//! acknowledgement, or with the last thing known. It begins with the acknowledgement before; or, if nothing was on its
//! way then, with the first push after that, since time in which nobody wanted anything is no interruption.
//!
//! Time in which no majority of the nodes ran does not count: nothing can be decided then, and nothing was promised.
//! Where the supervisor recorded nothing, all of it counts.

use std::time::Duration;

use super::compact::Entry;
use super::coverage::Coverage;
use super::facts::Facts;
use super::finding::{Finding, Findings};
use super::kind::Kind;
use super::vbucket::Log;
use crate::history::Nanos;

/// The longest interruption of one vbucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    pub(super) from: Nanos,
    pub(super) to: Nanos,
}

impl Span {
    pub(super) fn length(&self) -> Duration {
        self.to.since(self.from)
    }
}

pub(super) fn judge_log(log: &Log<'_>, facts: &Facts, coverage: &mut Coverage, findings: &mut Findings) {
    let first = log.entries.iter().filter(|entry| entry.is_first);
    let pushed = first.filter_map(|entry| Some((entry.settled.unwrap_or(facts.end), entry.invoked?, entry)));
    let mut pushed: Vec<(Nanos, Nanos, &Entry)> = pushed.collect();
    pushed.sort_unstable_by_key(|(settled, invoked, entry)| (*settled, *invoked, entry.message));
    for (settled, _, _) in pushed.iter().filter(|(_, _, entry)| entry.is_acked()) {
        coverage.ack(*settled, facts);
    }
    let dark = facts.lives.without_majority();
    let spans = spans(&pushed).into_iter().filter_map(|span| longest_lit(span, &dark));
    let Some(longest) = spans.max_by_key(|span| (span.length(), std::cmp::Reverse(span.from))) else { return };
    coverage.interruption(log.vbucket, longest, facts);
    let Some(bound) = facts.options.unavailable_max.filter(|bound| longest.length() > *bound) else { return };
    findings.add(Kind::Unavailable, longest.to, || {
        let what = format!(
            "pushes to vbucket {} were tried and none acked for {:.0?} from {}; the bound is {bound:?}",
            log.vbucket,
            longest.length(),
            longest.from
        );
        let end = pushed.iter().find(|(settled, _, _)| *settled >= longest.to).map(|(_, _, entry)| entry.origin);
        let cluster = log.clusters().next().map(|(cluster, _)| cluster);
        let near = cluster.map(|cluster| facts.control.around(cluster, log.vbucket, longest.from, &facts.lives));
        Finding::new(Kind::Unavailable, longest.to, what).maybe_with("ended by", end).near(near.unwrap_or_default())
    });
}

/// Every span without an acknowledgement while something was wanted. `pushed` are by when they were settled.
fn spans(pushed: &[(Nanos, Nanos, &Entry)]) -> Vec<Span> {
    // For each: the earliest push among those that were settled then or later.
    let mut waiting_since = vec![Nanos(u64::MAX); pushed.len() + 1];
    let mut earliest = Nanos(u64::MAX);
    for ((_, invoked, _), since) in pushed.iter().zip(&mut waiting_since).rev() {
        earliest = earliest.min(*invoked);
        *since = earliest;
    }
    let mut spans = Vec::new();
    let (mut last_ack, mut first_waiting) = (Nanos(0), 0);
    for (at, (settled, _, entry)) in pushed.iter().enumerate() {
        let is_last = at + 1 == pushed.len();
        if !entry.is_acked() && !is_last {
            continue;
        }
        let waited = waiting_since.get(first_waiting).copied().unwrap_or(Nanos(u64::MAX));
        let from = waited.max(last_ack);
        if from < *settled {
            spans.push(Span { from, to: *settled });
        }
        (last_ack, first_waiting) = (*settled, at + 1);
    }
    spans
}

/// The longest part of a span outside the dark ones, which ascend.
fn longest_lit(span: Span, dark: &[(Nanos, Nanos)]) -> Option<Span> {
    let mut longest: Option<Span> = None;
    let mut from = span.from;
    let end = (span.to, span.to);
    for (dark_from, dark_to) in dark.iter().chain([&end]) {
        let to = (*dark_from).min(span.to);
        let lit = Span { from, to };
        if from < to && longest.is_none_or(|longest| longest.length() < lit.length()) {
            longest = Some(lit);
        }
        from = from.max(*dark_to);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lit(span: (u64, u64), dark: &[(u64, u64)]) -> Option<(u64, u64)> {
        let dark: Vec<_> = dark.iter().map(|(from, to)| (Nanos(*from), Nanos(*to))).collect();
        longest_lit(Span { from: Nanos(span.0), to: Nanos(span.1) }, &dark).map(|span| (span.from.0, span.to.0))
    }

    #[test]
    fn time_without_a_majority_does_not_count() {
        assert_eq!(lit((10, 50), &[]), Some((10, 50)));
        assert_eq!(lit((10, 50), &[(0, 20)]), Some((20, 50)));
        assert_eq!(lit((10, 50), &[(40, 90)]), Some((10, 40)));
        assert_eq!(lit((10, 50), &[(15, 20), (45, 60)]), Some((20, 45)));
        assert_eq!(lit((10, 50), &[(0, 5), (60, 70)]), Some((10, 50)));
        assert_eq!(lit((10, 50), &[(0, 90)]), None);
    }
}
