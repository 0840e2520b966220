//! I13: what only grows never goes back.
//!
//! What a session is shown (map version, epochs, high watermarks) is judged where the session is read: when its records
//! are taken in, and in [`super::walk`]. Here is what nodes say of their own replicas: a high watermark that falls, and
//! a log that is cut below it. One that begins another lineage, or another process, begins anew, and so does a copy of
//! which none was left.

use std::collections::BTreeMap;

use super::compact::{Act, ActKind};
use super::finding::{Finding, Findings};
use super::kind::Kind;
use crate::history::Role;

/// `acts` are of one vbucket, by time.
pub(super) fn judge_acts(acts: &[Act], findings: &mut Findings) {
    let mut highest = BTreeMap::new();
    for act in acts {
        let (lineage, offset, words) = match act.what {
            ActKind::Hw { lineage, hw } => (lineage, hw, "has its high watermark at"),
            ActKind::Truncate { lineage, from } => (lineage, from, "cut its log to"),
            ActKind::Role { role: Role::Absent, .. } => {
                highest.retain(|(cluster, member, _), _| (*cluster, *member) != (act.cluster, act.member));
                continue;
            }
            ActKind::Append { .. } | ActKind::Ack { .. } | ActKind::Role { .. } | ActKind::Chain { .. } => continue,
        };
        let known = highest.get(&(act.cluster, act.member, lineage)).copied();
        if let Some((before, origin)) = known.filter(|(before, _)| *before > offset) {
            findings.add(Kind::WentBack, act.at, || {
                let what = format!(
                    "{} {words} {offset} in vbucket {}, after a high watermark of {before}",
                    act.member, act.vbucket
                );
                Finding::new(Kind::WentBack, act.at, what).with("before", origin).with("after", act.origin)
            });
        }
        if let ActKind::Hw { hw, .. } = act.what
            && known.is_none_or(|(before, _)| before < hw)
        {
            highest.insert((act.cluster, act.member, lineage), (hw, act.origin));
        }
    }
}
