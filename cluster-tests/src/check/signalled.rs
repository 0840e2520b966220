//! I6: whatever a reader misses, it is told.
//!
//! [`super::walk`] finds what readers passed over without a word. It is a skip when somebody knows of a message there
//! that the reader wants; when the reader came into another lineage by it; and, for a reader of everything, when there
//! are messages whose place nobody knows, one of which may lie there. (When there are not, the offset is empty, which
//! is a hole, not a skip.) Filtered readers are judged by their patterns and key_partitions.
//!
//! A gap may also say too much: *lost* is false where a session that began later still got something of it. That is a
//! warning, since a gap is a promise of nothing.

use super::compact::Entry;
use super::facts::Facts;
use super::finding::{Finding, Findings};
use super::kind::Kind;
use super::names::ClusterNo;
use super::offsets::offset_of;
use super::told::{Pass, Told, ToldOf};
use super::vbucket::Log;
use crate::history::Nanos;

/// Entries of which the latest session is computed at once: what is told as lost may be a million messages, again and
/// again.
const BLOCK: usize = 256;

pub(super) fn judge_log(log: &Log<'_>, told: &Told, has_holes: bool, facts: &Facts, findings: &mut Findings) {
    for (cluster, told) in &told.by_cluster {
        for pass in &told.passes {
            judge_pass(*cluster, pass, log, facts, findings);
        }
        for pass in told.unknown.iter().filter(|pass| !has_holes && !pass.is_dump) {
            skipped(*cluster, pass, None, facts, findings);
        }
        judge_lost(*cluster, log, told, facts, findings);
    }
}

fn judge_pass(cluster: ClusterNo, pass: &Pass, log: &Log<'_>, facts: &Facts, findings: &mut Findings) {
    let entries = log.of_cluster(cluster);
    let missed = entries.get(entries.partition_point(|entry| offset_of(entry) < Some(pass.from)));
    let missed = missed.filter(|entry| offset_of(entry) < Some(pass.to));
    if !pass.is_dump {
        return skipped(cluster, pass, missed, facts, findings);
    }
    let step = &pass.step;
    findings.add(Kind::Diverged, step.at, || {
        let session = facts.sessions.session(step.reader, step.session);
        let node = session.and_then(|session| session.node.as_deref()).unwrap_or("a node");
        let what = format!("the copy of {node} lacks {} messages {}", pass.wanted, range(pass));
        let origin = missed.map(|entry| entry.origin);
        Finding::new(Kind::Diverged, step.at, what).with("dumped behind", step.origin).maybe_with("first", origin)
    });
}

fn skipped(cluster: ClusterNo, pass: &Pass, missed: Option<&Entry>, facts: &Facts, findings: &mut Findings) {
    let step = &pass.step;
    findings.add(Kind::SilentSkip, step.at, || {
        let name = facts.sessions.name(step.reader, step.session);
        let words = match pass {
            Pass { is_across: true, .. } => format!("came into lineage {} and was not told:", step.lineage),
            Pass { wanted: 0, .. } => "passed over offsets that are nobody's, and was not told:".to_owned(),
            Pass { wanted, .. } => format!("passed over {wanted} messages and was not told:"),
        };
        let near = facts.control.around(cluster, step.vbucket, step.at, &facts.lives);
        Finding::new(Kind::SilentSkip, step.at, format!("{name} {words} {}", range(pass)))
            .with("behind it", step.origin)
            .maybe_with("first", missed.map(|entry| entry.origin))
            .near(near)
    });
}

fn range(pass: &Pass) -> String {
    format!("offsets {} to {} of vbucket {}", pass.from, pass.to, pass.step.vbucket)
}

fn judge_lost(cluster: ClusterNo, log: &Log<'_>, told: &ToldOf, facts: &Facts, findings: &mut Findings) {
    if told.lost().next().is_none() {
        return;
    }
    let entries = log.of_cluster(cluster);
    let latest: Vec<Option<Nanos>> = entries.chunks(BLOCK).map(|block| block.iter().filter_map(since).max()).collect();
    for gap in told.lost() {
        let first = entries.partition_point(|entry| offset_of(entry) < Some(gap.from));
        let end = entries.partition_point(|entry| offset_of(entry) < Some(gap.to));
        let Some(entry) = served_after(entries, &latest, first..end, gap.at) else { continue };
        findings.add(Kind::FalseGap, gap.at, || {
            let what = format!(
                "offsets {} to {} of vbucket {} were told as lost, and a later session still got message {}",
                gap.from, gap.to, log.vbucket, entry.message
            );
            let seen = entry.place.and_then(|place| place.seen).map(|seen| seen.origin);
            let near = facts.control.around(cluster, log.vbucket, gap.at, &facts.lives);
            Finding::new(Kind::FalseGap, gap.at, what).with("gap", gap.origin).maybe_with("first got", seen).near(near)
        });
    }
}

/// The first of these entries that a session got which began after a moment.
fn served_after<'a>(
    entries: &'a [Entry],
    latest: &[Option<Nanos>],
    mut range: std::ops::Range<usize>,
    at: Nanos,
) -> Option<&'a Entry> {
    while range.start < range.end {
        let block = range.start / BLOCK;
        let block_end = ((block + 1) * BLOCK).min(range.end);
        let is_worth = latest.get(block).is_some_and(|latest| *latest > Some(at));
        let found = entries.get(range.start..block_end).unwrap_or_default().iter();
        if let Some(entry) = found.filter(|_| is_worth).find(|entry| since(entry) > Some(at)) {
            return Some(entry);
        }
        range.start = block_end;
    }
    None
}

fn since(entry: &Entry) -> Option<Nanos> {
    entry.place?.seen.map(|seen| seen.since)
}
