//! I5: nothing uncommitted is seen.
//!
//! From what clients recorded: a message whose push was refused as never stored and that is delivered all the same; a
//! message that was delivered, never acknowledged, and whose offset later held another ([`super::offsets`] finds that
//! one); a delivery at or above the high watermark that came with it ([`super::walk`] finds that one).
//!
//! Where nodes recorded what they appended, more: at the moment of its first delivery a message has to be in the log of
//! every member of the ISR of then. A member of which nothing was recorded proves nothing.

use std::collections::BTreeMap;

use broky_proto::id::{Member, Offset};

use super::compact::{Act, ActKind, Entry, Outcome};
use super::facts::Facts;
use super::finding::{Finding, Findings};
use super::kind::Kind;
use super::messages::{Message, about};
use super::names::ClusterNo;
use crate::history::{Nanos, Role};

/// A message that was refused is not seen.
pub(super) fn judge_refused(message: &Message<'_>, findings: &mut Findings) {
    if message.outcome != Outcome::Failed {
        return;
    }
    let Some((at, origin, sighting)) = message.sightings().next() else { return };
    findings.add(Kind::UncommittedSeen, at, || {
        let what = format!("message {}, refused as never stored, at {}", message.id, sighting.spot);
        about(Kind::UncommittedSeen, at, what, message).with("delivered", origin)
    });
}

/// A message that is seen is in the log of the whole ISR. `entries` and `acts` are of one vbucket, acts by time.
pub(super) fn judge_isr(entries: &[Entry], acts: &[Act], facts: &Facts, findings: &mut Findings) {
    let ends = log_ends(acts);
    if ends.is_empty() {
        return;
    }
    for entry in entries {
        let Some((place, seen)) = entry.place.and_then(|place| Some((place, place.seen?))) else { continue };
        let Some(version) = facts.control.version_at(place.cluster, entry.vbucket, seen.first) else { continue };
        if version.meta.lineage != place.lineage {
            continue;
        }
        let lacks = |member: &&Member| {
            let ends = ends.get(&(place.cluster, **member));
            ends.is_some_and(|ends| end_at(ends, seen.first) <= place.offset)
        };
        let Some(member) = version.meta.isr.iter().find(lacks) else { continue };
        findings.add(Kind::UncommittedSeen, seen.first, || {
            let what = format!(
                "message {} at offset {} of vbucket {} was delivered before {member} of the ISR had it",
                entry.message, place.offset, entry.vbucket
            );
            let near = facts.control.around(place.cluster, entry.vbucket, seen.first, &facts.lives);
            Finding::new(Kind::UncommittedSeen, seen.first, what)
                .with("delivered", seen.origin)
                .with("isr", version.origin)
                .near(near)
        });
    }
}

/// Where each member's log ended from which moment on. What it held before its first record is not known, but that it
/// took a message shows that it had not had it.
type Ends = BTreeMap<(ClusterNo, Member), Vec<(Nanos, Offset)>>;

fn log_ends(acts: &[Act]) -> Ends {
    let mut ends = Ends::new();
    for act in acts {
        let (before, end) = match act.what {
            ActKind::Append { from, to, .. } => (from, to),
            ActKind::Truncate { from, .. } => (Offset(u64::MAX), from),
            // Nothing is known of a copy that begins anew until it has taken something.
            ActKind::Role { role: Role::Absent, .. } => (Offset(u64::MAX), Offset(u64::MAX)),
            // A log that begins anew above a hole is known by what is committed there.
            ActKind::Hw { hw, .. } => {
                let known = ends.get(&(act.cluster, act.member)).and_then(|ends: &Vec<_>| ends.last().copied());
                match known {
                    Some((_, end)) if hw > end => (end, hw),
                    Some(_) | None => continue,
                }
            }
            ActKind::Ack { .. } | ActKind::Role { .. } | ActKind::Chain { .. } => continue,
        };
        let ends = ends.entry((act.cluster, act.member)).or_insert_with(|| vec![(Nanos(0), before)]);
        ends.push((act.at, end));
    }
    ends
}

fn end_at(ends: &[(Nanos, Offset)], at: Nanos) -> Offset {
    let now = ends.partition_point(|(since, _)| *since <= at);
    now.checked_sub(1).and_then(|now| ends.get(now)).map_or(Offset(u64::MAX), |(_, end)| *end)
}
