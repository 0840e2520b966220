//! I8: one leader acknowledges per epoch, and none once the next epoch has begun.
//!
//! An acknowledgement names the epoch in which its message was stored. A message that lies at or behind one of a later
//! epoch was stored by a leader who had been replaced. That needs clients only; where nodes recorded roles,
//! acknowledgements and appends, these say who led, and where epochs began.
//!
//! The control log gives each epoch once, to one leader, and higher ones later.

use std::collections::BTreeMap;

use broky_proto::id::{Epoch, Member, Offset};

use super::compact::{Act, ActKind, Entry};
use super::facts::Facts;
use super::finding::{Finding, Findings, Origin};
use super::kind::Kind;
use super::names::ClusterNo;
use super::vbucket::Log;
use crate::history::{Nanos, Role};

/// Acknowledgements by what clients know: `log` is one vbucket.
pub(super) fn judge_log(log: &Log<'_>, facts: &Facts, findings: &mut Findings) {
    for (cluster, entries) in log.clusters() {
        let mut newest: Option<(Epoch, &Entry)> = None;
        for entry in entries {
            let Some(place) = entry.place else { continue };
            // A message that was delivered with a later epoch than it was acknowledged in tells of that epoch's begin
            // too.
            let here = place.acked.into_iter().chain(place.seen.map(|seen| seen.epoch_max)).max();
            if here > newest.map(|(epoch, _)| epoch) {
                newest = here.map(|epoch| (epoch, entry));
            }
            let (Some(acked), Some((epoch, begun))) = (place.acked, newest) else { continue };
            if acked >= epoch {
                continue;
            }
            let at = entry.settled.unwrap_or_default();
            findings.add(Kind::AckAfterFence, at, || {
                let begun_at = begun.spot().map(|spot| spot.to_string()).unwrap_or_default();
                let what = format!(
                    "message {} was acked in epoch {acked} at offset {} of vbucket {}; epoch {epoch} had begun by \
                     {begun_at}",
                    entry.message, place.offset, log.vbucket
                );
                let seen = begun.place.and_then(|place| place.seen).map(|seen| seen.origin);
                Finding::new(Kind::AckAfterFence, at, what)
                    .with("acked", entry.origin)
                    .with("begun by", begun.origin)
                    .maybe_with("delivered", seen)
                    .near(facts.control.around(cluster, log.vbucket, at, &facts.lives))
            });
        }
        judge_told_leaders(cluster, entries, facts, findings);
    }
}

/// Who led in an epoch, by whose word.
type Leaders = BTreeMap<(ClusterNo, Epoch), (Member, Origin)>;

fn judge_told_leaders(cluster: ClusterNo, entries: &[Entry], facts: &Facts, findings: &mut Findings) {
    let mut leaders = Leaders::new();
    for entry in entries {
        let Some((epoch, member)) = entry.place.and_then(|place| Some((place.acked?, place.leader?))) else { continue };
        let at = entry.settled.unwrap_or_default();
        lead(&mut leaders, (cluster, epoch), member, (at, entry.origin), (entry.vbucket, facts), findings);
    }
}

fn lead(
    leaders: &mut Leaders,
    (cluster, epoch): (ClusterNo, Epoch),
    member: Member,
    (at, origin): (Nanos, Origin),
    (vbucket, facts): (broky_proto::id::VBucketId, &Facts),
    findings: &mut Findings,
) {
    let (known, first) = *leaders.entry((cluster, epoch)).or_insert((member, origin));
    if known == member {
        return;
    }
    findings.add(Kind::TwoLeaders, at, || {
        let what = format!("{known} and {member} both led vbucket {vbucket} in epoch {epoch}");
        Finding::new(Kind::TwoLeaders, at, what).with("one", first).with("other", origin).near(facts.control.around(
            cluster,
            vbucket,
            at,
            &facts.lives,
        ))
    });
}

/// What nodes say: who led, and where epochs began. `acts` are of one vbucket, by time.
pub(super) fn judge_acts(acts: &[Act], facts: &Facts, findings: &mut Findings) {
    let mut leaders = Leaders::new();
    let mut begins: BTreeMap<ClusterNo, BTreeMap<Epoch, (Offset, Origin)>> = BTreeMap::new();
    for act in acts {
        match act.what {
            ActKind::Role { epoch, role: Role::Leader } | ActKind::Ack { epoch, .. } => {
                let (of, when) = ((act.cluster, epoch), (act.at, act.origin));
                lead(&mut leaders, of, act.member, when, (act.vbucket, facts), findings);
            }
            ActKind::Append { epoch, from, .. } => {
                let begin = begins.entry(act.cluster).or_default().entry(epoch).or_insert((from, act.origin));
                *begin = (*begin).min((from, act.origin));
            }
            ActKind::Role { role: Role::Follower | Role::Learner | Role::Idle | Role::Absent, .. }
            | ActKind::Hw { .. }
            | ActKind::Truncate { .. }
            | ActKind::Chain { .. } => {}
        }
    }
    judge_begins(acts, &begins, facts, findings);
}

/// A leader that acknowledges holds what it acknowledges in its own epoch or an earlier one, so that no later epoch
/// begins there or before.
fn judge_begins(
    acts: &[Act],
    begins: &BTreeMap<ClusterNo, BTreeMap<Epoch, (Offset, Origin)>>,
    facts: &Facts,
    findings: &mut Findings,
) {
    for act in acts {
        let ActKind::Ack { epoch, offset } = act.what else { continue };
        let Some(of_cluster) = begins.get(&act.cluster) else { continue };
        let later = of_cluster.range((std::ops::Bound::Excluded(epoch), std::ops::Bound::Unbounded));
        let begun = later.filter(|(_, (begin, _))| *begin <= offset).min_by_key(|(_, begin)| **begin);
        let Some((later, (begin, origin))) = begun else { continue };
        findings.add(Kind::AckAfterFence, act.at, || {
            let what = format!(
                "{} acked offset {offset} of vbucket {} in epoch {epoch}; epoch {later} begins at offset {begin}",
                act.member, act.vbucket
            );
            Finding::new(Kind::AckAfterFence, act.at, what)
                .with("acked", act.origin)
                .with("begins", *origin)
                .near(facts.control.around(act.cluster, act.vbucket, act.at, &facts.lives))
        });
    }
}

/// The control log: epochs rise, and each has one leader.
pub(super) fn judge_control(facts: &Facts, findings: &mut Findings) {
    for (cluster, vbucket, versions) in facts.control.vbuckets() {
        for (before, after) in versions.iter().zip(versions.iter().skip(1)) {
            let (one, other) = (&before.meta, &after.meta);
            let is_back = other.epoch < one.epoch;
            if !is_back && (other.epoch > one.epoch || other.leader == one.leader) {
                continue;
            }
            findings.add(Kind::EpochReused, after.at, || {
                let words = if is_back { "went back to" } else { "gave another leader" };
                let what = format!("entry {} {words} epoch {} of vbucket {vbucket}", other.index, other.epoch);
                Finding::new(Kind::EpochReused, after.at, what)
                    .with("before", before.origin)
                    .with("after", after.origin)
                    .near(facts.control.around(cluster, vbucket, after.at, &facts.lives))
            });
        }
    }
}
