//! Interruptions: for each vbucket the longest span in which pushes to it were tried and none was acknowledged.
//!
//! A span ends with an acknowledgement. It begins with the one before, or, if nothing was on its way then, with the
//! first push after that: time in which nobody wanted anything is no interruption. Pushes come one after the other, so
//! a span can be shorter than the true interruption by the time between two pushes to a vbucket, at the most.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

pub(crate) use crate::percentile::percentile;
use crate::workload::{Attempt, Fate, Since, Workload};

/// The longest span of every vbucket that was pushed to within the window.
#[must_use]
pub fn longest(workload: &Workload, window: &Range<Since>) -> BTreeMap<u16, Duration> {
    let mut by_vbucket: BTreeMap<u16, Vec<(Since, Since, bool)>> = BTreeMap::new();
    workload.for_each(|_, _, attempt| {
        if attempt.pushed < window.end && attempt.settled >= window.start {
            by_vbucket.entry(attempt.vbucket.0).or_default().push(entry(attempt));
        }
    });
    by_vbucket.into_iter().map(|(vbucket, attempts)| (vbucket, longest_of(attempts, window))).collect()
}

/// By vbucket: the time from `since` to the first acknowledgement of something pushed after it.
#[must_use]
pub fn first_acks(workload: &Workload, since: Since) -> BTreeMap<u16, Duration> {
    let mut first: BTreeMap<u16, Duration> = BTreeMap::new();
    workload.for_each(|_, _, attempt| {
        if attempt.pushed >= since && matches!(attempt.fate, Fate::Committed(_)) {
            let took = attempt.settled - since;
            first.entry(attempt.vbucket.0).and_modify(|known| *known = took.min(*known)).or_insert(took);
        }
    });
    first
}

/// What every push that was settled and acknowledged within the window took.
#[must_use]
pub fn latencies(workload: &Workload, window: &Range<Since>) -> Vec<Duration> {
    let mut all = Vec::new();
    workload.for_each(|_, _, attempt| {
        if window.contains(&attempt.settled) && matches!(attempt.fate, Fate::Committed(_)) {
            all.push(attempt.settled - attempt.pushed);
        }
    });
    all.sort_unstable();
    all
}

/// When it was settled and pushed, and whether it was acknowledged.
fn entry(attempt: &Attempt) -> (Since, Since, bool) {
    (attempt.settled, attempt.pushed, matches!(attempt.fate, Fate::Committed(_)))
}

fn longest_of(mut attempts: Vec<(Since, Since, bool)>, window: &Range<Since>) -> Duration {
    attempts.sort_unstable();
    // For each: the earliest push among those that were settled then or later.
    let mut waiting_since = vec![Since::MAX; attempts.len() + 1];
    for (at, (_, pushed, _)) in attempts.iter().enumerate().rev() {
        let later = waiting_since.get(at + 1).copied().unwrap_or(Since::MAX);
        if let Some(place) = waiting_since.get_mut(at) {
            *place = later.min(*pushed);
        }
    }
    let mut longest = Duration::ZERO;
    let (mut last_ack, mut first_waiting) = (window.start, 0);
    let end = (window.end, window.end, true);
    for (at, (settled, _, is_acked)) in attempts.iter().copied().chain([end]).enumerate() {
        if !is_acked {
            continue;
        }
        let settled = settled.min(window.end);
        let waited = waiting_since.get(first_waiting).copied().unwrap_or(Since::MAX);
        longest = longest.max(settled.saturating_sub(waited.max(last_ack)));
        (last_ack, first_waiting) = (settled, at + 1);
        if settled == window.end {
            break;
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest_ms(attempts: &[(u64, u64, bool)], window: Range<u64>) -> u128 {
        let ms = Duration::from_millis;
        let attempts = attempts.iter().map(|(pushed, settled, is_acked)| (ms(*settled), ms(*pushed), *is_acked));
        longest_of(attempts.collect(), &(ms(window.start)..ms(window.end))).as_millis()
    }

    #[test]
    fn span_begins_with_the_first_push_that_waits() {
        assert_eq!(longest_ms(&[(10, 11, true), (50, 51, true), (80, 200, true), (90, 200, true)], 0..300), 120);
    }

    #[test]
    fn span_begins_with_the_last_ack_when_something_waits_already() {
        assert_eq!(longest_ms(&[(10, 40, true), (20, 200, true)], 0..300), 160);
    }

    #[test]
    fn refused_pushes_are_tries_and_no_acks() {
        assert_eq!(longest_ms(&[(10, 20, false), (100, 110, false), (150, 160, true)], 0..300), 150);
    }

    #[test]
    fn span_ends_with_the_window() {
        assert_eq!(longest_ms(&[(10, 11, true), (50, 900, true)], 0..300), 250);
        assert_eq!(longest_ms(&[(10, 100, true)], 50..300), 50);
        assert_eq!(longest_ms(&[(10, 11, true)], 0..300), 1);
    }
}
