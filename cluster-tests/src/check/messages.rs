//! The second pass, first half: what became of each message.
//!
//! All that was recorded about one message comes together here: its invocations, their outcomes, and every sighting.
//! What the message shows by itself is judged at once (was it pushed, is it as it was pushed, is it in one place only,
//! was it seen although it was refused); the rest goes on to its vbucket as an [`Entry`] per place.

use broky_proto::id::{Epoch, Member};

use super::authentic;
use super::compact::{Entry, Invocation, MessageId, Outcome, Place, Seen, Sighting, Spot, Trace, TraceKind};
use super::error::{CheckError, Fault};
use super::facts::{Facts, Spools};
use super::finding::{Finding, Findings, Origin};
use super::kind::Kind;
use super::{committed, offsets, order};
use crate::history::Nanos;

/// One message, with all that was recorded about it.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) id: MessageId,
    /// The first invocation.
    pub(super) invoked: Option<(Nanos, Origin, Invocation)>,
    /// When its outcome was known.
    pub(super) settled: Option<Nanos>,
    pub(super) outcome: Outcome,
    /// The record of the outcome.
    pub(super) answer: Option<Origin>,
    pub(super) places: Vec<(Spot, Place)>,
    traces: &'a [Trace],
}

impl Message<'_> {
    /// Every time it was seen.
    pub(super) fn sightings(&self) -> impl Iterator<Item = (Nanos, Origin, &Sighting)> {
        self.traces.iter().filter_map(|trace| match &trace.what {
            TraceKind::Seen(sighting) => Some((trace.at, trace.origin, sighting)),
            TraceKind::Invoke(_) | TraceKind::Ok { .. } | TraceKind::Fail | TraceKind::Unknown => None,
        })
    }

    pub(super) fn is_plain(&self) -> bool {
        self.invoked.is_some_and(|(_, _, invocation)| invocation.is_plain)
    }
}

/// Judges the messages of one partition, and hands them on to their vbuckets.
pub(super) fn judge(
    mut traces: Vec<Trace>,
    facts: &Facts,
    spools: &mut Spools,
    findings: &mut Findings,
) -> Result<(), CheckError> {
    traces.sort_unstable_by_key(|trace| (trace.message, trace.at, trace.origin));
    for traces in traces.chunk_by(|one, other| one.message == other.message) {
        let message = gather(traces, facts)?;
        authentic::judge(&message, findings);
        committed::judge_refused(&message, findings);
        offsets::judge_duplicate(&message, findings);
        order::judge_vbucket(&message, facts, findings);
        hand_on(&message, facts, spools)?;
    }
    Ok(())
}

fn gather<'a>(traces: &'a [Trace], facts: &Facts) -> Result<Message<'a>, CheckError> {
    let id = traces.first().map(|trace| trace.message).unwrap_or_default();
    let mut message = Message {
        id,
        invoked: None,
        settled: None,
        outcome: Outcome::Unknown,
        answer: None,
        places: Vec::new(),
        traces,
    };
    let (mut invocations, mut fails, mut answers) = (0_u32, 0_u32, 0_u32);
    for trace in traces {
        match &trace.what {
            TraceKind::Invoke(invocation) => {
                invocations += 1;
                match &message.invoked {
                    Some((_, _, first)) if first != invocation => {
                        let fault = Fault::TwoContents { producer: id.producer.0, sequence: id.sequence.0 };
                        return Err(facts.unusable(trace.origin, fault));
                    }
                    Some(_) => {}
                    None => message.invoked = Some((trace.at, trace.origin, *invocation)),
                }
            }
            TraceKind::Ok { spot, leader } => {
                answers += 1;
                message.acknowledge(trace, *spot, *leader);
            }
            TraceKind::Fail => {
                (answers, fails) = (answers + 1, fails + 1);
                message.refuse(trace);
            }
            TraceKind::Unknown => {
                answers += 1;
                message.refuse(trace);
            }
            TraceKind::Seen(sighting) => message.see(trace, sighting),
        }
        if answers > invocations {
            let fault = Fault::NoInvoke { producer: id.producer.0, sequence: id.sequence.0 };
            return Err(facts.unusable(trace.origin, fault));
        }
    }
    if message.outcome != Outcome::Acked && fails > 0 && fails == invocations {
        message.outcome = Outcome::Failed;
    }
    if message.outcome == Outcome::Unknown && answers < invocations {
        // One of its invocations is still open.
        message.settled = None;
    }
    Ok(message)
}

impl Message<'_> {
    fn acknowledge(&mut self, trace: &Trace, spot: Option<(Spot, Epoch)>, leader: Option<Member>) {
        if self.outcome != Outcome::Acked {
            (self.outcome, self.settled, self.answer) = (Outcome::Acked, Some(trace.at), Some(trace.origin));
        }
        if let Some((spot, epoch)) = spot {
            let place = self.place(spot);
            place.acked = place.acked.max(Some(epoch));
            place.leader = place.leader.or(leader);
        }
    }

    fn refuse(&mut self, trace: &Trace) {
        if self.outcome != Outcome::Acked {
            (self.settled, self.answer) = (Some(trace.at), Some(trace.origin));
        }
    }

    fn see(&mut self, trace: &Trace, sighting: &Sighting) {
        let once = Seen::once(trace.at, trace.origin, sighting);
        let place = self.place(sighting.spot);
        let seen = if sighting.is_dump { &mut place.dumped } else { &mut place.seen };
        match seen {
            Some(seen) => seen.merge(&once),
            None => *seen = Some(once),
        }
    }

    fn place(&mut self, spot: Spot) -> &mut Place {
        let at = self.places.partition_point(|(other, _)| *other < spot);
        if self.places.get(at).is_none_or(|(other, _)| *other != spot) {
            let Spot { cluster, lineage, offset, .. } = spot;
            let (acked, leader, seen, dumped) = (None, None, None, None);
            self.places.insert(at, (spot, Place { cluster, lineage, offset, acked, leader, seen, dumped }));
        }
        #[expect(clippy::indexing_slicing, reason = "it was there, or was put there just now")]
        &mut self.places[at].1
    }
}

/// Sends a message to the vbuckets where it is, or else to the one where it belongs.
fn hand_on(message: &Message<'_>, facts: &Facts, spools: &mut Spools) -> Result<(), CheckError> {
    let invocation = message.invoked.map(|(_, _, invocation)| invocation);
    let partition = invocation.map(|invocation| invocation.partition).unwrap_or_default();
    let origin = message.answer.filter(|_| message.outcome == Outcome::Acked);
    let origin = origin.or(message.invoked.map(|(_, origin, _)| origin));
    let sighting = message.sightings().next().map(|(_, origin, _)| origin);
    let mut entry = Entry {
        message: message.id,
        vbucket: facts.vbuckets.vbucket_of(partition.token),
        invoked: message.invoked.map(|(at, _, _)| at),
        settled: message.settled,
        outcome: message.outcome,
        key: invocation.and_then(|invocation| invocation.key),
        partition,
        is_plain: message.is_plain(),
        is_first: true,
        is_present: message.sightings().any(|(_, _, sighting)| !sighting.is_dump),
        is_final: message.sightings().any(|(_, _, sighting)| sighting.is_final),
        place: None,
        origin: origin.or(sighting).unwrap_or(Origin { source: 0, line: 0 }),
    };
    if message.places.is_empty() {
        return spools.push_entry(&entry);
    }
    // The place that was acknowledged comes first: by it the message is counted.
    let mut places: Vec<&(Spot, Place)> = message.places.iter().collect();
    places.sort_by_key(|(_, place)| place.acked.is_none());
    for (spot, place) in places {
        (entry.vbucket, entry.place) = (spot.vbucket, Some(*place));
        spools.push_entry(&entry)?;
        entry.is_first = false;
    }
    Ok(())
}

/// How a finding about a message shows its push.
pub(super) fn about(kind: Kind, at: Nanos, what: String, message: &Message<'_>) -> Finding {
    let pushed = message.invoked.map(|(_, origin, _)| origin);
    Finding::new(kind, at, what).maybe_with("pushed", pushed).maybe_with("answered", message.answer)
}
