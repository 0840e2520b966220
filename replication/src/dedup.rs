//! Which messages of which producers a vbucket already holds.
//!
//! A producer numbers its messages, sends them in ascending order over one stream, and after a break sends everything
//! unanswered again, in order. So a sequence above the last stored one is new, and one at or below it was stored
//! before, unless the vbucket refused it. A refused sequence is a *hole*: until it is offered again, everything above it
//! is refused as well, for otherwise a later message would overtake it and its retry would look like a duplicate.
//!
//! For the latest sequences the exact runs are kept: they tell where a duplicate is stored, and they catch a producer
//! that breaks the rules (two processes under one id) where it would otherwise lose messages in silence. Sequences of
//! one vbucket are not contiguous, because the producer's other messages went elsewhere.
//!
//! Bounds: [`PRODUCERS_MAX`] producers, fewer when the caller has no room for more; the one unused for longest gives way.
//! [`RUNS_MAX`] runs of each.

use std::collections::VecDeque;

use broky_proto::id::{Offset, ProducerId, Sequence};
use rustc_hash::FxHashMap;

/// Producers remembered per vbucket.
pub(crate) const PRODUCERS_MAX: usize = 1024;
/// Runs of sequences remembered per producer.
const RUNS_MAX: usize = 8;

/// What to do with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not stored yet: store it.
    New,
    /// Stored by an earlier attempt; where, if it is recent enough to know.
    Duplicate(Option<Offset>),
    /// Ahead of a refused sequence, or behind the known ones without being one of them.
    OutOfSequence,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    first: Sequence,
    count: u64,
    offset: Offset,
}

impl Run {
    fn end(&self) -> Sequence {
        self.first.plus(self.count)
    }
}

#[derive(Clone, Debug)]
struct Producer {
    last: Sequence,
    hole: Option<Sequence>,
    runs: VecDeque<Run>,
    /// Log end at the latest use: the clock by which the least recently used one is found.
    used: Offset,
}

/// The producers of one vbucket.
#[derive(Clone, Default, Debug)]
pub struct Dedup {
    producers: FxHashMap<ProducerId, Producer>,
}

impl Dedup {
    /// Whether a message is new. For `New`, call [`Dedup::stored`] or [`Dedup::refused`] next.
    #[inline]
    #[must_use]
    pub fn check(&self, producer: ProducerId, sequence: Sequence) -> Verdict {
        let Some(known) = self.producers.get(&producer) else { return Verdict::New };
        if let Some(hole) = known.hole
            && sequence > hole
        {
            return Verdict::OutOfSequence;
        }
        if sequence > known.last || known.hole == Some(sequence) {
            return Verdict::New;
        }
        known.find(sequence)
    }

    /// Notes that a message was stored at `offset`. Without `has_room` a producer not known yet takes another's place.
    #[inline]
    pub fn stored(&mut self, producer: ProducerId, sequence: Sequence, offset: Offset, has_room: bool) {
        let known = self.entry(producer, offset, has_room);
        known.used = offset;
        known.last = known.last.max(sequence);
        known.hole = None;
        match known.runs.back_mut() {
            Some(run) if run.end() == sequence && run.offset.plus(run.count) == offset => run.count += 1,
            _ => {
                if known.runs.len() == RUNS_MAX {
                    known.runs.pop_front();
                }
                known.runs.push_back(Run { first: sequence, count: 1, offset });
            }
        }
    }

    /// Notes that a new message was refused and may be offered again. `has_room` as in [`Dedup::stored`].
    pub fn refused(&mut self, producer: ProducerId, sequence: Sequence, log_end: Offset, has_room: bool) {
        let known = self.entry(producer, log_end, has_room);
        known.hole = Some(known.hole.map_or(sequence, |hole| hole.min(sequence)));
    }

    /// Producers remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    #[inline]
    fn entry(&mut self, producer: ProducerId, now: Offset, has_room: bool) -> &mut Producer {
        // One is always remembered: a lone producer is never without deduplication.
        let max = if has_room { PRODUCERS_MAX } else { 1 };
        if self.producers.len() >= max && !self.producers.contains_key(&producer) {
            self.evict_least_recently_used();
        }
        self.producers.entry(producer).or_insert_with(|| Producer {
            last: Sequence(0),
            hole: None,
            runs: VecDeque::with_capacity(1),
            used: now,
        })
    }

    fn evict_least_recently_used(&mut self) {
        // Ties are broken by id, so that the choice does not depend on the map's order.
        let oldest = self.producers.iter().min_by_key(|(id, known)| (known.used, **id)).map(|(id, _)| *id);
        if let Some(oldest) = oldest {
            self.producers.remove(&oldest);
        }
    }
}

impl Producer {
    fn find(&self, sequence: Sequence) -> Verdict {
        for run in self.runs.iter().rev() {
            if sequence >= run.first && sequence < run.end() {
                return Verdict::Duplicate(Some(run.offset.plus(sequence.0 - run.first.0)));
            }
        }
        match self.runs.front() {
            // Within what is known exactly, and not there: it was never stored.
            Some(oldest) if sequence > oldest.first => Verdict::OutOfSequence,
            _ => Verdict::Duplicate(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: ProducerId = ProducerId(1);

    fn with(sequences: &[u64]) -> Dedup {
        let mut dedup = Dedup::default();
        for (offset, sequence) in sequences.iter().enumerate() {
            assert_eq!(dedup.check(P, Sequence(*sequence)), Verdict::New);
            dedup.stored(P, Sequence(*sequence), Offset(offset as u64), true);
        }
        dedup
    }

    #[test]
    fn retry_is_a_duplicate_at_its_offset() {
        let dedup = with(&[1, 2, 3, 7, 8]);
        assert_eq!(dedup.check(P, Sequence(2)), Verdict::Duplicate(Some(Offset(1))));
        assert_eq!(dedup.check(P, Sequence(8)), Verdict::Duplicate(Some(Offset(4))));
        assert_eq!(dedup.check(P, Sequence(9)), Verdict::New);
    }

    #[test]
    fn sequence_between_known_runs_was_never_stored() {
        assert_eq!(with(&[1, 2, 7]).check(P, Sequence(5)), Verdict::OutOfSequence);
    }

    #[test]
    fn sequence_older_than_the_known_runs_is_a_duplicate_of_unknown_place() {
        let sequences: Vec<u64> = (1..=20).map(|n| n * 2).collect();
        assert_eq!(with(&sequences).check(P, Sequence(2)), Verdict::Duplicate(None));
    }

    #[test]
    fn nothing_overtakes_a_refused_message() {
        let mut dedup = with(&[1, 2]);
        dedup.refused(P, Sequence(4), Offset(2), true);
        assert_eq!(dedup.check(P, Sequence(5)), Verdict::OutOfSequence);
        assert_eq!(dedup.check(P, Sequence(4)), Verdict::New);
        dedup.stored(P, Sequence(4), Offset(2), true);
        assert_eq!(dedup.check(P, Sequence(5)), Verdict::New);
    }

    #[test]
    fn first_refusal_of_an_unknown_producer_is_remembered() {
        let mut dedup = Dedup::default();
        dedup.refused(P, Sequence(1), Offset(0), true);
        assert_eq!(dedup.check(P, Sequence(2)), Verdict::OutOfSequence);
    }

    #[test]
    fn least_recently_used_producer_gives_way() {
        let mut dedup = Dedup::default();
        let max = PRODUCERS_MAX as u64;
        for n in 0..=max {
            dedup.stored(ProducerId(n + 1), Sequence(1), Offset(n), true);
        }
        assert_eq!(dedup.len(), PRODUCERS_MAX);
        assert_eq!(dedup.check(ProducerId(1), Sequence(1)), Verdict::New);
        assert_eq!(dedup.check(ProducerId(2), Sequence(1)), Verdict::Duplicate(Some(Offset(1))));
    }

    #[test]
    fn without_room_a_new_producer_takes_the_place_of_another() {
        let mut dedup = Dedup::default();
        dedup.stored(ProducerId(1), Sequence(1), Offset(0), false);
        dedup.stored(ProducerId(2), Sequence(1), Offset(1), false);
        assert_eq!(dedup.len(), 1);
        assert_eq!(dedup.check(ProducerId(2), Sequence(1)), Verdict::Duplicate(Some(Offset(1))));
    }
}
