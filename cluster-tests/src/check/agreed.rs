//! I10: replicas agree, message by message, below the high watermark.
//!
//! Two ways to see it. Nodes record a hash over their log at checkpoints: two that differ at one offset differ
//! somewhere up to it. And nodes' copies can be dumped: a dump shows another message at an offset than clients know, or
//! than another dump does, or lacks one ([`super::signalled`] finds that).

use std::collections::BTreeMap;

use super::compact::{Act, ActKind, Entry};
use super::finding::{Finding, Findings};
use super::kind::Kind;
use super::offsets::offset_of;
use super::vbucket::Log;

/// Hashes of logs at the same offset are the same. `acts` are of one vbucket, by time.
pub(super) fn judge_chains(acts: &[Act], findings: &mut Findings) {
    let mut known = BTreeMap::new();
    for act in acts {
        let ActKind::Chain { lineage, offset, hash } = act.what else { continue };
        let (first, first_hash) = *known.entry((act.cluster, lineage, offset)).or_insert((act, hash));
        if first_hash == hash {
            continue;
        }
        findings.add(Kind::Diverged, act.at, || {
            let (vbucket, one, other) = (act.vbucket, first.member, act.member);
            let what = format!(
                "{one} and {other} differ at or before offset {offset} of lineage {lineage} of vbucket {vbucket}"
            );
            Finding::new(Kind::Diverged, act.at, what).with("one", first.origin).with("other", act.origin)
        });
    }
}

/// What a dump shows at an offset is what everybody else has there.
pub(super) fn judge_dumps(log: &Log<'_>, findings: &mut Findings) {
    for (_, entries) in log.clusters() {
        let by_offset = entries.chunk_by(|one, other| offset_of(one) == offset_of(other));
        for entries in by_offset.filter(|entries| entries.len() > 1) {
            judge_offset(entries, findings);
        }
    }
}

fn judge_offset(entries: &[Entry], findings: &mut Findings) {
    let dumped = |entry: &Entry| entry.place.and_then(|place| place.dumped);
    let Some((dump, seen)) = entries.iter().find_map(|entry| Some((entry, dumped(entry)?))) else { return };
    let is_known = |entry: &Entry| entry.place.is_some_and(|place| place.acked.is_some() || place.seen.is_some());
    let others = entries.iter().filter(|entry| entry.message != dump.message);
    // Two messages that clients know of are their contradiction, and found as such.
    let Some(other) = others
        .filter(|other| dumped(other).is_some() || is_known(other) && !is_known(dump))
        .min_by_key(|it| it.message)
    else {
        return;
    };
    findings.add(Kind::Diverged, seen.last, || {
        let spot = dump.spot().map(|spot| spot.to_string()).unwrap_or_default();
        let what =
            format!("a copy holds message {} at {spot}, and message {} belongs there", dump.message, other.message);
        Finding::new(Kind::Diverged, seen.last, what)
            .with("dumped", seen.origin)
            .with("other", other.origin)
            .maybe_with("other dumped", dumped(other).map(|seen| seen.origin))
    });
}
