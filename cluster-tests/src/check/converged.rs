//! I9: once the faults are over, the cluster becomes whole again, and stays so.
//!
//! Whole is, for each vbucket: a leader who lives, soon; and all its copies in sync, each of a process that lives, a
//! while later. All its copies are as many as were asked for, if there are as many nodes. The moment counts from which
//! on that held to the end. And every node that told of the control log, and lives, knows the newest entry.

use std::time::Duration;

use broky_proto::id::VBucketId;

use super::control::Version;
use super::facts::Facts;
use super::finding::{Finding, Findings};
use super::kind::Kind;
use super::names::ClusterNo;
use crate::history::Nanos;

/// Judges, or says why not.
pub(super) fn judge(facts: &Facts, findings: &mut Findings) -> Result<(), &'static str> {
    if facts.control.is_empty() {
        return Err("no record of the control log");
    }
    let Some(healed) = facts.nemesis.healed() else { return Err("nobody said when the faults were over") };
    for (cluster, vbucket, versions) in facts.control.vbuckets() {
        if facts.is_replaced(cluster) {
            continue;
        }
        let judge = Judge { facts, cluster, vbucket, versions, healed };
        judge.judge("a living leader", facts.options.leaders_within, |it| judge.has_leader(it), findings);
        judge.judge("all its copies in sync", facts.options.copies_within, |it| judge.has_copies(it), findings);
        judge.judge_nodes(findings);
    }
    Ok(())
}

struct Judge<'a> {
    facts: &'a Facts,
    cluster: ClusterNo,
    vbucket: VBucketId,
    versions: &'a [Version],
    healed: Nanos,
}

impl Judge<'_> {
    fn judge(&self, what: &str, within: Duration, is_whole: impl Fn(&Version) -> bool, findings: &mut Findings) {
        let Some(last) = self.versions.last() else { return };
        let due = self.healed.plus(within);
        let whole = self.versions.iter().rev().take_while(|version| is_whole(version)).last();
        let late = match whole {
            Some(version) if version.at <= due => return,
            Some(version) => version,
            // The run may have ended before it was due.
            None if self.facts.end <= due => return,
            None => last,
        };
        let at = if whole.is_some() { late.at } else { self.facts.end };
        findings.add(Kind::NotConverged, at, || {
            let when = match whole {
                Some(version) => format!("only {:.1?} after the faults were over", version.at.since(self.healed)),
                None => format!("not {:.1?} after the faults were over", self.facts.end.since(self.healed)),
            };
            let near = self.facts.control.around(self.cluster, self.vbucket, late.at, &self.facts.lives);
            Finding::new(Kind::NotConverged, at, format!("vbucket {} has {what} {when}", self.vbucket))
                .with("entry", late.origin)
                .near(near)
        });
    }

    fn lives(&self, member: broky_proto::id::Member) -> bool {
        !self.facts.lives.is_supervised() || self.facts.lives.lives_at(self.cluster, member, self.facts.end)
    }

    fn has_leader(&self, version: &Version) -> bool {
        version.meta.leader.is_some_and(|leader| self.lives(leader))
    }

    fn has_copies(&self, version: &Version) -> bool {
        let wanted = usize::from(self.facts.run.replicas.unwrap_or(version.meta.min_isr));
        let is_supervised = self.facts.lives.is_supervised();
        let nodes = if is_supervised { self.facts.lives.nodes_at(self.facts.end) } else { usize::MAX };
        let isr = &version.meta.isr;
        isr.len() >= wanted.min(nodes) && isr.iter().all(|member| self.lives(*member))
    }

    fn judge_nodes(&self, findings: &mut Findings) {
        let Some(last) = self.versions.last() else { return };
        if last.at.max(self.healed).plus(self.facts.options.leaders_within) >= self.facts.end {
            return;
        }
        for (node, index) in self.facts.control.newest_by_node(self.cluster, self.vbucket) {
            let is_there = !self.facts.lives.is_supervised() || self.facts.lives.has_process(node, self.facts.end);
            if index == last.meta.index || !is_there {
                continue;
            }
            findings.add(Kind::NotConverged, self.facts.end, || {
                let what = format!(
                    "node {node} still goes by entry {index} for vbucket {}; the newest is {}",
                    self.vbucket, last.meta.index
                );
                Finding::new(Kind::NotConverged, self.facts.end, what).with("newest", last.origin)
            });
        }
    }
}
