//! Gaps, as a person reads them: a total loss tells of every vbucket at once, and nobody reads a thousand lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use broky_client::Gap;

/// Gaps for one reason that are told one by one.
const SINGLE_MAX: usize = 4;
/// No vbucket has held so many messages: where a history was given up, the offsets kept free for it count as well.
const UNKNOWN: u64 = 1 << 39;

/// Gaps that came together.
#[derive(Debug, Default)]
pub(super) struct Gaps(BTreeMap<String, Vec<Gap>>);

impl Gaps {
    pub(super) fn add(&mut self, gap: Gap) {
        let reason = gap.reason.as_str_name().trim_start_matches("GAP_REASON_").to_ascii_lowercase();
        self.0.entry(reason).or_default().push(gap);
    }

    /// What is to be said of them, and forgets them.
    pub(super) fn tell(&mut self) -> String {
        let mut text = String::new();
        for (reason, gaps) in std::mem::take(&mut self.0) {
            // Writing to a string cannot fail.
            if gaps.len() <= SINGLE_MAX {
                for Gap { vbucket, from, to, .. } in &gaps {
                    let (count, last) = (show(to.since(*from)), to.0.saturating_sub(1));
                    let _ = writeln!(
                        text,
                        "broky: gap: {count} messages of vbucket {vbucket} missed (offsets {from} to {last}, {reason})"
                    );
                }
            } else {
                let count = show(gaps.iter().map(|gap| gap.to.since(gap.from)).fold(0, u64::saturating_add));
                let _ = writeln!(text, "broky: gap: {count} messages of {} vbuckets missed ({reason})", gaps.len());
            }
        }
        text
    }
}

fn show(count: u64) -> String {
    if count < UNKNOWN { format!("up to {count}") } else { "an unknown number of".to_owned() }
}

#[cfg(test)]
mod tests {
    use broky_client::{GapReason, Lineage, Offset, VBucketId};

    use super::*;

    fn gap(vbucket: u16, from: u64, to: u64, reason: GapReason) -> Gap {
        Gap { vbucket: VBucketId(vbucket), lineage: Lineage(0), from: Offset(from), to: Offset(to), reason }
    }

    #[test]
    fn few_gaps_are_told_one_by_one_and_many_as_one() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.tell(), "");
        gaps.add(gap(3, 5, 7, GapReason::Slow));
        gaps.add(gap(4, 5, 1 << 40, GapReason::Lost));
        let told = "broky: gap: an unknown number of messages of vbucket 4 missed (offsets 5 to 1099511627775, lost)\n\
                    broky: gap: up to 2 messages of vbucket 3 missed (offsets 5 to 6, slow)\n";
        assert_eq!(gaps.tell(), told);
        assert_eq!(gaps.tell(), "", "told once");
        (0..5).for_each(|vbucket| gaps.add(gap(vbucket, 5, 7, GapReason::Slow)));
        (0..9).for_each(|vbucket| gaps.add(gap(vbucket, 0, u64::MAX, GapReason::Lost)));
        let told = "broky: gap: an unknown number of messages of 9 vbuckets missed (lost)\n\
                    broky: gap: up to 10 messages of 5 vbuckets missed (slow)\n";
        assert_eq!(gaps.tell(), told);
    }
}
