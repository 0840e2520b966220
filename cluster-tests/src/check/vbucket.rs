//! The second pass, second half: one vbucket after the other, with all that is known of it.
//!
//! What readers went through is loaded by a part of the readers at a time, and leaves what all of them together show
//! ([`Told`]): who passed over what, what was told as a gap, how far the final readers came. Then the vbucket is judged
//! as a whole.

use std::collections::BTreeMap;

use broky_proto::id::VBucketId;

use super::compact::{Act, Entry, Outcome, Step};
use super::coverage::Coverage;
use super::error::CheckError;
use super::facts::{Facts, READER_PARTITIONS, Spools, VBUCKET_PARTITIONS};
use super::filter::Matches;
use super::finding::Findings;
use super::names::ClusterNo;
use super::told::Told;
use super::{agreed, available, committed, kept, leaders, monotonic, offsets, order, signalled, walk};

/// The messages of one vbucket: those with a place first, by cluster and offset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log<'a> {
    pub(super) vbucket: VBucketId,
    pub(super) entries: &'a [Entry],
}

impl<'a> Log<'a> {
    /// Those with a place in a cluster, by offset.
    pub(super) fn of_cluster(&self, cluster: ClusterNo) -> &'a [Entry] {
        let first = self.entries.partition_point(|entry| entry.place.is_some_and(|place| place.cluster < cluster));
        let end = self.entries.partition_point(|entry| entry.place.is_some_and(|place| place.cluster <= cluster));
        self.entries.get(first..end).unwrap_or_default()
    }

    /// Cluster by cluster, those with a place, by offset.
    pub(super) fn clusters(&self) -> impl Iterator<Item = (ClusterNo, &'a [Entry])> {
        let of = |entry: &Entry| entry.place.map(|place| place.cluster);
        self.entries.chunk_by(move |one, other| of(one) == of(other)).filter_map(move |entries| {
            let cluster = of(entries.first()?)?;
            Some((cluster, entries))
        })
    }

    /// How many messages may lie somewhere in this vbucket without anybody knowing where.
    pub(super) fn unplaced(&self) -> u64 {
        let is_elsewhere = |entry: &&Entry| {
            let is_known = entry.place.is_some_and(|place| place.acked.is_some());
            entry.is_first && entry.outcome != Outcome::Failed && !is_known
        };
        self.entries.iter().filter(is_elsewhere).count() as u64
    }

    fn sort_key(entry: &Entry) -> impl Ord + use<> {
        let place = entry.place.map(|place| (place.cluster, place.offset, place.lineage));
        (entry.vbucket, place.is_none(), place, entry.message)
    }
}

/// Judges every vbucket.
pub(super) fn judge(facts: &Facts, spools: &mut Spools, findings: &mut Findings) -> Result<Coverage, CheckError> {
    let mut coverage = Coverage::default();
    let mut matches = Matches::default();
    for partition in 0..VBUCKET_PARTITIONS {
        let mut entries = spools.entries.take(partition)?;
        entries.sort_unstable_by_key(Log::sort_key);
        let logs = by_vbucket(&entries);
        let mut told = BTreeMap::new();
        for readers in 0..READER_PARTITIONS {
            let steps = spools.steps.take(partition * READER_PARTITIONS + readers)?;
            walk_all(steps, &logs, facts, &mut matches, &mut told, findings);
        }
        let mut acts = spools.acts.take(partition)?;
        acts.sort_unstable_by_key(|act| (act.vbucket, act.at, act.origin));
        for acts in acts.chunk_by(|one, other| one.vbucket == other.vbucket) {
            judge_acts(acts, &logs, facts, findings);
        }
        for (vbucket, log) in &logs {
            let told = told.remove(vbucket).unwrap_or_default();
            judge_log(log, &told, facts, &mut coverage, findings);
        }
        // Vbuckets whose messages nobody knows of: readers may have passed over something there nevertheless.
        for (vbucket, told) in &told {
            judge_log(&Log { vbucket: *vbucket, entries: &[] }, told, facts, &mut coverage, findings);
        }
    }
    Ok(coverage)
}

fn by_vbucket(entries: &[Entry]) -> BTreeMap<VBucketId, Log<'_>> {
    let vbuckets = entries.chunk_by(|one, other| one.vbucket == other.vbucket);
    let log = |entries: &'_ [Entry]| entries.first().map(|entry| entry.vbucket);
    vbuckets.filter_map(|entries| log(entries).map(|vbucket| (vbucket, Log { vbucket, entries }))).collect()
}

fn walk_all(
    mut steps: Vec<Step>,
    logs: &BTreeMap<VBucketId, Log<'_>>,
    facts: &Facts,
    matches: &mut Matches,
    told: &mut BTreeMap<VBucketId, Told>,
    findings: &mut Findings,
) {
    steps.sort_unstable_by_key(|step| (step.vbucket, step.reader, step.session, step.origin.line));
    for steps in steps.chunk_by(|one, other| (one.vbucket, one.reader) == (other.vbucket, other.reader)) {
        let Some(vbucket) = steps.first().map(|step| step.vbucket) else { continue };
        let log = logs.get(&vbucket).copied().unwrap_or(Log { vbucket, entries: &[] });
        walk::walk(steps, log, facts, matches, told.entry(vbucket).or_default(), findings);
    }
}

fn judge_acts(acts: &[Act], logs: &BTreeMap<VBucketId, Log<'_>>, facts: &Facts, findings: &mut Findings) {
    let Some(vbucket) = acts.first().map(|act| act.vbucket) else { return };
    let entries = logs.get(&vbucket).map_or(&[][..], |log| log.entries);
    committed::judge_isr(entries, acts, facts, findings);
    leaders::judge_acts(acts, facts, findings);
    agreed::judge_chains(acts, findings);
    monotonic::judge_acts(acts, findings);
}

fn judge_log(log: &Log<'_>, told: &Told, facts: &Facts, coverage: &mut Coverage, findings: &mut Findings) {
    order::judge_log(log, findings);
    offsets::judge_log(log, findings);
    let holes = offsets::judge_holes(log, told, findings);
    signalled::judge_log(log, told, holes, facts, findings);
    leaders::judge_log(log, facts, findings);
    agreed::judge_dumps(log, findings);
    available::judge_log(log, facts, coverage, findings);
    kept::judge_log(log, told, facts, coverage, findings);
    coverage.count_epochs(log);
}
