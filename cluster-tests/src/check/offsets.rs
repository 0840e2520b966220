//! I4: offsets are dense, and none is used twice.
//!
//! Whoever acknowledged or delivered a message says where it is. Two messages at one offset contradict one another, and
//! so do one message at two offsets, a message outside its lineage's stretch of offsets (see `broky_ring::lineage`),
//! and a later lineage below an earlier one.
//!
//! The hard case is a hole. That nobody knows what is at an offset proves nothing: it may be a message of unknown
//! outcome which nobody read. But every message has to be somebody's push, so unknown offsets between known ones that
//! outnumber the messages whose place is not known are holes. A message that was retried after a lineage was lost may
//! lie in that one too.

use std::collections::BTreeMap;

use broky_proto::id::Offset;
use broky_ring::lineage::lineage_base;

use super::compact::{Entry, Outcome, Place, Seen};
use super::finding::{Finding, Findings};
use super::kind::Kind;
use super::messages::{Message, about};
use super::told::{Ranges, Told};
use super::vbucket::Log;
use crate::history::Nanos;

/// A message is at one offset of one lineage.
///
/// A new lineage has lost what it knew of producers with everything else, so that it may store a retry again.
pub(super) fn judge_duplicate(message: &Message<'_>, findings: &mut Findings) {
    if message.is_plain() {
        return;
    }
    for ((one, first), (other, second)) in message.places.iter().zip(message.places.iter().skip(1)) {
        let is_next_lineage = one.vbucket == other.vbucket && one.lineage != other.lineage;
        if one.cluster != other.cluster || is_next_lineage {
            continue;
        }
        let at = first_known(first, message.settled).max(first_known(second, message.settled));
        findings.add(Kind::Duplicate, at, || {
            let what = format!("message {} at {one} and at {other}", message.id);
            let seen = |place: &Place| place.seen.or(place.dumped).map(|seen| seen.origin);
            about(Kind::Duplicate, at, what, message)
                .maybe_with("delivered", seen(first))
                .maybe_with("delivered", seen(second))
        });
    }
}

/// An offset holds one message, in one epoch, within its lineage.
pub(super) fn judge_log(log: &Log<'_>, findings: &mut Findings) {
    for (_, entries) in log.clusters() {
        for at_offset in entries.chunk_by(|one, other| offset_of(one) == offset_of(other)) {
            judge_offset(at_offset, findings);
        }
        judge_lineages(entries, findings);
    }
}

fn judge_offset(entries: &[Entry], findings: &mut Findings) {
    for entry in entries {
        let Some(seen) = entry.place.and_then(|place| place.seen) else { continue };
        if seen.epoch_min != seen.epoch_max {
            findings.add(Kind::InconsistentOffset, seen.last, || {
                let (one, other) = (seen.epoch_min, seen.epoch_max);
                let what = format!("message {} at {} in epochs {one} and {other}", entry.message, spot(entry));
                Finding::new(Kind::InconsistentOffset, seen.last, what).with("delivered", seen.origin)
            });
        }
    }
    if entries.len() < 2 {
        return;
    }
    // What only a dump shows is a matter between copies.
    let mut claims: Vec<(Nanos, &Entry)> = entries.iter().filter_map(|entry| Some((claimed(entry)?, entry))).collect();
    claims.sort_by_key(|(at, entry)| (*at, entry.message));
    let [(_, one), rest @ ..] = claims.as_slice() else { return };
    let Some((at, other)) = rest.iter().find(|(_, other)| other.message != one.message) else { return };
    let is_replaced = was_replaced(one, *at);
    let kind = if is_replaced { Kind::UncommittedSeen } else { Kind::InconsistentOffset };
    findings.add(kind, *at, || {
        let (spot, one_message, other_message) = (spot(one), one.message, other.message);
        let what = if is_replaced {
            format!("message {one_message} was seen at {spot} and never acked; message {other_message} took its place")
        } else {
            format!("messages {one_message} and {other_message} at {spot}")
        };
        let origin = |entry: &Entry| entry.place.and_then(|place| place.seen).map(|seen| seen.origin);
        Finding::new(kind, *at, what)
            .with("one", one.origin)
            .maybe_with("one delivered", origin(one))
            .with("other", other.origin)
            .maybe_with("other delivered", origin(other))
    });
}

/// Whether a message was seen, never acknowledged, and not seen again once another was in its place.
fn was_replaced(entry: &Entry, by: Nanos) -> bool {
    entry.outcome != Outcome::Acked && entry.place.and_then(|place| place.seen).is_some_and(|seen| seen.last < by)
}

fn judge_lineages(entries: &[Entry], findings: &mut Findings) {
    let mut before: Option<&Entry> = None;
    for entry in entries {
        let Some(place) = entry.place else { continue };
        let is_below = place.offset < lineage_base(place.lineage);
        let earlier = before.filter(|other| other.place.is_some_and(|other| other.lineage > place.lineage));
        if is_below || earlier.is_some() {
            let at = first_known(&place, entry.settled);
            findings.add(Kind::InconsistentOffset, at, || {
                let words = match earlier {
                    Some(other) => format!("behind {}", spot(other)),
                    None => format!("which begins at {}", lineage_base(place.lineage)),
                };
                let what = format!("message {} at {}, {words}", entry.message, spot(entry));
                Finding::new(Kind::InconsistentOffset, at, what).with("message", entry.origin)
            });
        }
        before = Some(entry);
    }
}

/// Looks for holes: offsets of which nobody knows, between known ones and where readers of everything found nothing.
/// Gives whether there are any: then what readers passed over there is no skip.
pub(super) fn judge_holes(log: &Log<'_>, told: &Told, findings: &mut Findings) -> bool {
    let mut unknown: BTreeMap<_, _> = log.clusters().map(|(cluster, entries)| (cluster, between(entries))).collect();
    for (cluster, told) in &told.by_cluster {
        let ranges = unknown.entry(*cluster).or_default();
        told.unknown.iter().for_each(|pass| ranges.add(pass.from, pass.to));
    }
    // A retry of a message that is pushed without deduplication may lie anywhere.
    let is_plain = log.entries.iter().any(|entry| entry.is_plain);
    let count: u64 = unknown.values().map(Ranges::len).sum();
    let unplaced = log.unplaced() + retried(log);
    if is_plain || count <= unplaced {
        return false;
    }
    for (cluster, ranges) in &unknown {
        for (from, to) in ranges.iter() {
            let entries = log.of_cluster(*cluster);
            let next = entries.get(entries.partition_point(|entry| offset_of(entry) < Some(from)));
            let at = next.and_then(|entry| Some(first_known(&entry.place?, entry.settled))).unwrap_or_default();
            findings.add(Kind::Hole, at, || {
                let what = format!(
                    "nothing at offsets {from} to {to} of vbucket {}; {count} such offsets, and {unplaced} messages \
                     whose place is not known",
                    log.vbucket
                );
                let passes = told.by_cluster.get(cluster).map_or(&[][..], |told| &told.unknown);
                let pass = passes.iter().find(|pass| pass.from < to && from < pass.to);
                Finding::new(Kind::Hole, at, what)
                    .maybe_with("behind it", next.map(|entry| entry.origin))
                    .maybe_with("passed over", pass.map(|pass| pass.step.origin))
            });
        }
    }
    true
}

/// How many more places messages may have that were pushed before anything was known of their lineage: one in each
/// lineage that came before.
fn retried(log: &Log<'_>) -> u64 {
    let lineage = |entry: &Entry| entry.place.map(|place| (place.cluster, place.lineage));
    let lineages = log.entries.chunk_by(|one, other| lineage(one) == lineage(other));
    let known = |entry: &Entry| Some(first_known(&entry.place?, entry.settled));
    let begun = lineages.filter_map(|entries| Some((entries.iter().filter_map(known).min()?, entries)));
    let mut begun: Vec<(Nanos, &[Entry])> = begun.collect();
    begun.sort_by_key(|(at, _)| *at);
    let later = (0..).zip(&begun).map(|(earlier, (at, entries))| {
        let is_older = |entry: &&Entry| entry.is_first && entry.invoked.is_some_and(|invoked| invoked <= *at);
        earlier * entries.iter().filter(is_older).count() as u64
    });
    later.sum()
}

/// The offsets between known ones of one lineage.
fn between(entries: &[Entry]) -> Ranges {
    let mut ranges = Ranges::default();
    let places = || entries.iter().filter_map(|entry| entry.place);
    for (one, other) in places().zip(places().skip(1)) {
        if one.lineage == other.lineage && one.offset < other.offset {
            ranges.add(one.offset.plus(1), other.offset);
        }
    }
    ranges
}

pub(super) fn offset_of(entry: &Entry) -> Option<Offset> {
    entry.place.map(|place| place.offset)
}

/// When it was first known that a message is there, by anything but a dump.
fn claimed(entry: &Entry) -> Option<Nanos> {
    let place = entry.place?;
    (place.acked.is_some() || place.seen.is_some()).then(|| first_known(&place, entry.settled))
}

fn first_known(place: &Place, settled: Option<Nanos>) -> Nanos {
    let seen = [place.seen, place.dumped].into_iter().flatten().map(|Seen { first, .. }| first);
    seen.chain(settled.filter(|_| place.acked.is_some())).min().unwrap_or_default()
}

fn spot(entry: &Entry) -> String {
    entry.spot().map(|spot| spot.to_string()).unwrap_or_default()
}
