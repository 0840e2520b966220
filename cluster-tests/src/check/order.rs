//! I2: messages of one key_partition keep their order.
//!
//! In the log: of two messages of a producer and key_partition the one with the lower sequence has the lower offset,
//! and both are in the vbucket that the key_partition's token says. To a reader: offsets of a vbucket only rise within
//! a session ([`super::walk`] finds when they do not).
//!
//! Lineages are compared each by itself: what was acknowledged in one that is lost may be tried again in the next,
//! behind what came later. Messages pushed without deduplication are not compared, since a retry may come late.

use super::compact::{Entry, Spot};
use super::facts::Facts;
use super::finding::{Finding, Findings};
use super::kind::Kind;
use super::messages::{Message, about};
use super::vbucket::Log;

/// A message is where its key_partition belongs.
pub(super) fn judge_vbucket(message: &Message<'_>, facts: &Facts, findings: &mut Findings) {
    let Some((_, _, invocation)) = message.invoked else { return };
    let belongs = facts.vbuckets.vbucket_of(invocation.partition.token);
    let Some((spot, place)) = message.places.iter().find(|(spot, _)| spot.vbucket != belongs) else { return };
    let seen = place.seen.or(place.dumped);
    let at = seen.map(|seen| seen.first).or(message.settled).unwrap_or_default();
    findings.add(Kind::Reorder, at, || {
        let what = format!("message {} at {spot}, and its key_partition belongs to vbucket {belongs}", message.id);
        about(Kind::Reorder, at, what, message).maybe_with("delivered", seen.map(|seen| seen.origin))
    });
}

/// Sequences and offsets of one producer and key_partition rise together.
pub(super) fn judge_log(log: &Log<'_>, findings: &mut Findings) {
    let placed = log.entries.iter().filter(|entry| entry.invoked.is_some() && !entry.is_plain);
    let mut placed: Vec<(Spot, &Entry)> = placed.filter_map(|entry| Some((entry.spot()?, entry))).collect();
    let stream = |(spot, entry): &(Spot, &Entry)| (entry.message.producer, entry.partition, spot.cluster, spot.lineage);
    placed.sort_unstable_by_key(|it| (stream(it), it.1.message.sequence, it.0.offset));
    for of_stream in placed.chunk_by(|one, other| stream(one) == stream(other)) {
        let mut highest: Option<&(Spot, &Entry)> = None;
        for it in of_stream {
            match highest {
                // At a second offset: a duplicate, which is found as such.
                Some((_, entry)) if entry.message == it.1.message => continue,
                Some((spot, _)) if spot.offset > it.0.offset => {}
                Some(_) | None => {
                    highest = Some(it);
                    continue;
                }
            }
            let (Some((before, earlier)), (spot, entry)) = (highest, it) else { continue };
            let at = entry.settled.max(entry.invoked).unwrap_or_default();
            findings.add(Kind::Reorder, at, || {
                let what = format!("message {} at {spot}, and message {} at {before}", entry.message, earlier.message);
                Finding::new(Kind::Reorder, at, what).with("later", entry.origin).with("earlier", earlier.origin)
            });
        }
    }
}
