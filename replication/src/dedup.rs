//! Which messages of which producers a vbucket already holds.
//!
//! A producer numbers its messages, sends those of a vbucket in ascending order over one stream at a time, and after a
//! break sends everything unanswered again, in order, in a higher epoch. So a sequence above the last stored one is new,
//! and one at or below it was stored before, or was given up and comes too late. Behind a refused message everything of
//! its epoch is refused as well ([`Row`]), for otherwise a later message would overtake it and its retry would look like a
//! duplicate. What was refused is told to no other replica: whoever hands messages on to a new leader has heard of it
//! before.
//!
//! For the latest sequences the exact runs are kept: they tell where a duplicate is stored, and they catch a producer
//! that breaks the rules (two processes under one id) where it would otherwise lose messages in silence. Sequences of
//! one vbucket are not contiguous, because the producer's other messages went elsewhere.
//!
//! Bounds: [`PRODUCERS_MAX`] producers; the one unused for longest gives way, and so it does when the caller needs the
//! memory ([`Dedup::forget_oldest`]). [`RUNS_MAX`] runs of each, and those that are not committed, which are as many as
//! the blocks in flight hold. Of what was forgotten nothing is claimed: a sequence
//! below everything that is known of a producer is a duplicate only if its run was dropped, and neither a duplicate nor
//! certainly new if a producer was forgotten whole.

use std::collections::VecDeque;

use broky_proto::id::{Numbered, Offset, ProducerId, Sequence};
use rustc_hash::FxHashMap;

use crate::row::Row;

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
    /// Behind a refused message, of an epoch that is over, or below what is stored without being part of it: certainly not
    /// stored.
    OutOfSequence,
    /// Behind all that is known of this producer, some of which may have been forgotten: stored or not, nobody can
    /// tell.
    Forgotten,
}

/// Messages of one producer with sequences and offsets that follow one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SequenceRun {
    /// Sequence of the first.
    pub first: Sequence,
    /// How many; at least one.
    pub count: u64,
    /// Offset of the first.
    pub offset: Offset,
}

impl SequenceRun {
    fn end(&self) -> Sequence {
        self.first.plus(self.count)
    }

    fn offset_end(&self) -> Offset {
        self.offset.plus(self.count)
    }
}

/// What is known of one producer: what a follower needs in order to recognise its retries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProducerState {
    /// Who.
    pub id: ProducerId,
    /// The highest sequence stored; zero for none.
    pub last: Sequence,
    /// Latest runs, oldest first.
    pub runs: Vec<SequenceRun>,
    /// Whether older runs were dropped.
    pub has_dropped: bool,
    /// Log end at the latest use.
    pub used: Offset,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Producer {
    last: Sequence,
    row: Row,
    runs: VecDeque<SequenceRun>,
    /// Whether older runs were dropped.
    has_dropped: bool,
    /// Log end at the latest use: the clock by which the least recently used one is found.
    used: Offset,
}

/// The producers of one vbucket.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Dedup {
    producers: FxHashMap<ProducerId, Producer>,
    /// Whether a producer was ever forgotten.
    has_forgotten: bool,
}

impl Dedup {
    /// Whether a message is new. For `New`, call [`Dedup::stored`] or [`Dedup::refused`] next.
    #[inline]
    #[must_use]
    pub fn check(&self, message: Numbered) -> Verdict {
        let Some(known) = self.producers.get(&message.producer) else { return Verdict::New };
        if message.sequence <= known.last {
            return known.find(message.sequence, self.has_forgotten);
        }
        if known.row.admits(message.epoch, message.sequence) { Verdict::New } else { Verdict::OutOfSequence }
    }

    /// Whether a message and everything behind it is certainly new: nothing of this producer was stored beyond, and
    /// nothing is held up.
    #[inline]
    #[must_use]
    pub fn is_frontier(&self, message: Numbered) -> bool {
        let goes_on = |known: &Producer| known.row.is_whole(message.epoch) && message.sequence > known.last;
        self.producers.get(&message.producer).is_none_or(goes_on)
    }

    /// Notes that so many messages from this one on were stored from `offset` on, while everything below `committed` is
    /// committed.
    #[inline]
    pub fn stored(&mut self, message: Numbered, count: u64, offset: Offset, committed: Offset) {
        let run = SequenceRun { first: message.sequence, count, offset };
        let known = self.note_run(message.producer, run, committed);
        known.row.pass(message.epoch, known.last);
    }

    /// As [`Dedup::stored`], of what another replica has let through.
    pub fn replicated(&mut self, producer: ProducerId, run: SequenceRun, committed: Offset) {
        if run.count > 0 {
            let known = self.note_run(producer, run, committed);
            known.row.pass_unseen(known.last);
        }
    }

    #[inline]
    fn note_run(&mut self, producer: ProducerId, run: SequenceRun, committed: Offset) -> &mut Producer {
        let known = self.entry(producer, run.offset);
        known.used = Offset(run.offset_end().0.saturating_sub(1));
        known.last = known.last.max(Sequence(run.end().0.saturating_sub(1)));
        match known.runs.back_mut() {
            Some(newest) if newest.end() == run.first && newest.offset_end() == run.offset => newest.count += run.count,
            _ => {
                known.drop_oldest(committed);
                known.runs.push_back(run);
            }
        }
        known
    }

    /// Notes that a message was offered again of which it is known already what became of it: what follows it may be next.
    pub fn came_again(&mut self, message: Numbered) {
        if let Some(known) = self.producers.get_mut(&message.producer) {
            known.row.pass(message.epoch, message.sequence);
        }
    }

    /// Notes that a message was refused before this replica led, and is offered again: whether it is stored or not, nothing
    /// is behind it before that.
    pub fn refused_before(&mut self, message: Numbered, log_end: Offset) {
        self.entry(message.producer, log_end).row.refuse(message.epoch, message.sequence);
    }

    /// Notes that a message that is not stored was refused, and may be offered again.
    pub fn refused(&mut self, message: Numbered, log_end: Offset) {
        let known = self.entry(message.producer, log_end);
        if message.sequence > known.last {
            known.row.refuse(message.epoch, message.sequence);
        }
    }

    /// Forgets what was stored from `log_end` on.
    pub fn truncate(&mut self, log_end: Offset) {
        let before = self.producers.len();
        self.producers.retain(|_, known| known.truncate(log_end));
        self.has_forgotten |= self.producers.len() < before;
    }

    /// Everything known, by producer ascending.
    #[must_use]
    pub fn snapshot(&self) -> Vec<ProducerState> {
        let state = |(id, known): (&ProducerId, &Producer)| ProducerState {
            id: *id,
            last: known.last,
            runs: known.runs.iter().copied().collect(),
            has_dropped: known.has_dropped,
            used: known.used,
        };
        let mut all: Vec<ProducerState> = self.producers.iter().map(state).collect();
        all.sort_unstable_by_key(|known| known.id);
        all
    }

    /// Whether a producer was ever forgotten.
    #[must_use]
    pub fn has_forgotten(&self) -> bool {
        self.has_forgotten
    }

    /// Takes over what another replica knows, in place of what is known here. More than [`PRODUCERS_MAX`] producers are
    /// cut to the latest.
    pub fn restore(&mut self, mut states: Vec<ProducerState>, has_forgotten: bool) {
        self.has_forgotten = has_forgotten || states.len() > PRODUCERS_MAX;
        states.sort_unstable_by_key(|known| std::cmp::Reverse((known.used, known.id)));
        states.truncate(PRODUCERS_MAX);
        let producer = |known: ProducerState| {
            let ProducerState { id, last, runs, has_dropped, used } = known;
            (id, Producer { last, row: Row::default(), runs: runs.into(), has_dropped, used })
        };
        self.producers = states.into_iter().map(producer).collect();
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

    /// Forgets the producer unused for longest. Returns whether there was one.
    pub fn forget_oldest(&mut self) -> bool {
        // Ties are broken by id, so that the choice does not depend on the map's order.
        let oldest = self.producers.iter().min_by_key(|(id, known)| (known.used, **id)).map(|(id, _)| *id);
        let is_known = oldest.is_some_and(|oldest| self.producers.remove(&oldest).is_some());
        self.has_forgotten |= is_known;
        is_known
    }

    #[inline]
    fn entry(&mut self, producer: ProducerId, now: Offset) -> &mut Producer {
        if self.producers.len() >= PRODUCERS_MAX && !self.producers.contains_key(&producer) {
            self.forget_oldest();
        }
        self.producers.entry(producer).or_insert_with(|| Producer {
            last: Sequence(0),
            row: Row::default(),
            runs: VecDeque::with_capacity(1),
            has_dropped: false,
            used: now,
        })
    }
}

impl Producer {
    /// Makes room for a run. Those that are not committed stay, and one that is: a truncation takes back the others,
    /// and then this one tells a retry of what is committed from a new message.
    fn drop_oldest(&mut self, committed: Offset) {
        let is_committed = |run: &SequenceRun| run.offset_end() <= committed;
        while self.runs.len() >= RUNS_MAX && self.runs.get(1).is_some_and(is_committed) {
            self.runs.pop_front();
            self.has_dropped = true;
        }
    }

    /// Forgets what was stored from `log_end` on. Returns whether anything is known still.
    fn truncate(&mut self, log_end: Offset) -> bool {
        let is_cut = self.runs.back().is_some_and(|run| run.offset_end() > log_end);
        while let Some(run) = self.runs.back_mut() {
            if run.offset_end() <= log_end {
                break;
            }
            run.count = log_end.since(run.offset);
            if run.count > 0 {
                break;
            }
            self.runs.pop_back();
        }
        if is_cut {
            let newest = self.runs.back();
            self.last = newest.map_or(Sequence(0), |run| Sequence(run.end().0.saturating_sub(1)));
            self.used = self.used.min(log_end);
        }
        !self.runs.is_empty() || !is_cut
    }

    fn find(&self, sequence: Sequence, has_forgotten: bool) -> Verdict {
        for run in self.runs.iter().rev() {
            if sequence >= run.first && sequence < run.end() {
                return Verdict::Duplicate(Some(run.offset.plus(sequence.0 - run.first.0)));
            }
        }
        match self.runs.front() {
            // Within what is known exactly, and not there: it was never stored.
            Some(oldest) if sequence > oldest.first => Verdict::OutOfSequence,
            _ if self.has_dropped => Verdict::Duplicate(None),
            _ if has_forgotten => Verdict::Forgotten,
            _ => Verdict::OutOfSequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use broky_proto::id::ProducerEpoch;

    use super::*;

    const P: ProducerId = ProducerId(1);
    /// Everything is committed.
    const ALL: Offset = Offset(u64::MAX);

    fn message(sequence: u64) -> Numbered {
        Numbered { producer: P, epoch: ProducerEpoch(1), sequence: Sequence(sequence) }
    }

    /// The same in the epoch that follows.
    fn again(sequence: u64) -> Numbered {
        Numbered { epoch: ProducerEpoch(2), ..message(sequence) }
    }

    fn of(producer: u64, sequence: u64) -> Numbered {
        Numbered { producer: ProducerId(producer), ..message(sequence) }
    }

    fn with(sequences: &[u64]) -> Dedup {
        let mut dedup = Dedup::default();
        for (offset, sequence) in sequences.iter().enumerate() {
            assert_eq!(dedup.check(message(*sequence)), Verdict::New);
            dedup.stored(message(*sequence), 1, Offset(offset as u64), ALL);
        }
        dedup
    }

    #[test]
    fn retry_is_a_duplicate_at_its_offset() {
        let dedup = with(&[1, 2, 3, 7, 8]);
        assert_eq!(dedup.check(message(2)), Verdict::Duplicate(Some(Offset(1))));
        assert_eq!(dedup.check(message(8)), Verdict::Duplicate(Some(Offset(4))));
        assert_eq!(dedup.check(message(9)), Verdict::New);
    }

    #[test]
    fn sequence_between_known_runs_was_never_stored() {
        assert_eq!(with(&[1, 2, 7]).check(message(5)), Verdict::OutOfSequence);
    }

    #[test]
    fn sequence_older_than_the_known_runs_is_a_duplicate_of_unknown_place() {
        let sequences: Vec<u64> = (1..=20).map(|n| n * 2).collect();
        assert_eq!(with(&sequences).check(message(2)), Verdict::Duplicate(None));
    }

    #[test]
    fn nothing_overtakes_a_refused_message() {
        let mut dedup = with(&[1, 2]);
        dedup.refused(message(4), Offset(2));
        assert_eq!(dedup.check(message(5)), Verdict::OutOfSequence);
        assert_eq!(dedup.check(message(4)), Verdict::New);
        dedup.stored(message(4), 1, Offset(2), ALL);
        assert_eq!(dedup.check(message(5)), Verdict::New);
    }

    #[test]
    fn nobody_waits_for_what_was_given_up_and_it_comes_too_late() {
        let mut dedup = with(&[1, 2]);
        dedup.refused(message(4), Offset(2));
        assert_eq!(dedup.check(message(6)), Verdict::OutOfSequence);
        assert_eq!(dedup.check(again(6)), Verdict::New);
        dedup.stored(again(6), 1, Offset(2), ALL);
        assert_eq!(dedup.check(message(4)), Verdict::OutOfSequence);
        assert_eq!(dedup.check(message(7)), Verdict::OutOfSequence, "of an epoch that is over");
        assert_eq!(dedup.check(again(7)), Verdict::New);
    }

    #[test]
    fn what_is_stored_is_a_duplicate_in_whatever_epoch_it_comes() {
        let mut dedup = with(&[1, 2]);
        dedup.stored(again(3), 1, Offset(2), ALL);
        assert_eq!(dedup.check(message(3)), Verdict::Duplicate(Some(Offset(2))));
        assert_eq!(dedup.check(again(1)), Verdict::Duplicate(Some(Offset(0))));
    }

    #[test]
    fn first_refusal_of_an_unknown_producer_is_remembered() {
        let mut dedup = Dedup::default();
        dedup.refused(message(1), Offset(0));
        assert_eq!(dedup.check(message(2)), Verdict::OutOfSequence);
    }

    #[test]
    fn least_recently_used_producer_gives_way() {
        let mut dedup = Dedup::default();
        let max = PRODUCERS_MAX as u64;
        for n in 0..=max {
            dedup.stored(of(n + 1, 1), 1, Offset(n), ALL);
        }
        assert_eq!(dedup.len(), PRODUCERS_MAX);
        assert_eq!(dedup.check(of(1, 1)), Verdict::New);
        assert_eq!(dedup.check(of(2, 1)), Verdict::Duplicate(Some(Offset(1))));
    }

    #[test]
    fn truncated_messages_are_new_again() {
        let mut dedup = with(&[1, 2, 3, 7, 8]);
        dedup.truncate(Offset(4));
        assert_eq!(dedup.check(message(7)), Verdict::Duplicate(Some(Offset(3))));
        assert_eq!(dedup.check(message(8)), Verdict::New);
        dedup.truncate(Offset(2));
        assert_eq!(dedup.check(message(3)), Verdict::New);
        assert_eq!(dedup.check(message(2)), Verdict::Duplicate(Some(Offset(1))));
        dedup.truncate(Offset(0));
        assert!(dedup.is_empty());
    }

    #[test]
    fn committed_messages_outlive_a_truncation_of_many_runs() {
        let mut dedup = Dedup::default();
        for n in 0..40 {
            dedup.stored(message(2 + 2 * n), 1, Offset(n), Offset(10));
        }
        dedup.truncate(Offset(10));
        assert_eq!(dedup.check(message(20)), Verdict::Duplicate(Some(Offset(9))));
        assert_eq!(dedup.check(message(2)), Verdict::Duplicate(None));
        assert_eq!(dedup.check(message(22)), Verdict::New);
    }

    #[test]
    fn run_is_as_good_as_its_messages() {
        let mut dedup = with(&[1, 2]);
        dedup.stored(message(3), 3, Offset(2), ALL);
        dedup.replicated(P, SequenceRun { first: Sequence(9), count: 1, offset: Offset(5) }, ALL);
        assert_eq!(dedup.snapshot(), with(&[1, 2, 3, 4, 5, 9]).snapshot());
    }

    #[test]
    fn frontier_is_where_nothing_was_stored_beyond_and_nothing_is_held_up() {
        let mut dedup = with(&[1, 2, 7]);
        assert!(dedup.is_frontier(of(2, 1)), "an unknown producer");
        assert!(!dedup.is_frontier(message(7)));
        assert!(dedup.is_frontier(message(8)));
        dedup.refused(message(9), Offset(3));
        assert!(!dedup.is_frontier(message(9)), "what was refused waits");
    }

    #[test]
    fn snapshot_restores_everything_but_what_was_refused() {
        let mut dedup = with(&[1, 2, 3, 7, 8]);
        dedup.refused(message(9), Offset(5));
        dedup.stored(of(2, 4), 1, Offset(5), ALL);
        let mut other = with(&[1]);
        other.restore(dedup.snapshot(), dedup.has_forgotten());
        assert_eq!(other.snapshot(), dedup.snapshot());
        assert_eq!(other.check(message(10)), Verdict::New);
    }

    #[test]
    fn what_was_refused_here_and_stored_by_another_is_not_waited_for() {
        let mut dedup = with(&[1, 2]);
        dedup.refused(message(3), Offset(2));
        assert_eq!(dedup.check(message(4)), Verdict::OutOfSequence);
        dedup.replicated(P, SequenceRun { first: Sequence(3), count: 1, offset: Offset(2) }, ALL);
        assert_eq!(dedup.check(message(4)), Verdict::New);
    }

    #[test]
    fn sequence_below_all_that_were_ever_seen_was_never_stored() {
        let dedup = with(&[7]);
        assert_eq!(dedup.check(message(3)), Verdict::OutOfSequence);
    }

    #[test]
    fn nothing_is_claimed_of_what_was_forgotten() {
        let mut dedup = with(&[4]);
        dedup.refused(message(5), Offset(1));
        assert!(dedup.forget_oldest());
        assert_eq!(dedup.check(message(6)), Verdict::New);
        dedup.stored(message(6), 1, Offset(1), ALL);
        assert_eq!(dedup.check(message(5)), Verdict::Forgotten, "it was refused");
        assert_eq!(dedup.check(message(4)), Verdict::Forgotten, "it was stored");
        assert!(dedup.forget_oldest());
        assert!(!dedup.forget_oldest());
    }
}
