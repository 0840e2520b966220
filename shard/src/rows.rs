//! Whose messages came through here without a gap, and whose did not.
//!
//! A message that was not committed breaks the *row* of its producer's messages in its vbucket ([`Row`]): what comes
//! behind is refused until that message is there again, or a higher epoch of the producer. What had come in between and is
//! still on its way when it is there again is refused by a *fence*. A row that was broken once stays known: what is left of
//! it may come at any time.

use broky_proto::id::{Numbered, ProducerEpoch, ProducerId, Sequence, VBucketId};
use broky_replication::Row;
use rustc_hash::FxHashMap;

/// Rows remembered. Beyond that those are forgotten whose producers have been well for longest.
const ROWS_MAX: usize = 1 << 16;

/// See the module.
#[derive(Default, Debug)]
pub(crate) struct Rows {
    producers: FxHashMap<ProducerId, Producer>,
    /// In all.
    count: usize,
}

/// The rows of one producer that were broken.
#[derive(Default, Debug)]
pub(crate) struct Producer {
    rows: FxHashMap<VBucketId, Held>,
    /// The arrival of which something was refused last.
    broken_at: u64,
}

#[derive(Clone, Default, Debug)]
struct Held {
    row: Row,
    /// It was mended by this arrival, in this epoch: nothing beyond of what came before that.
    fence: Option<(ProducerEpoch, Sequence, u64)>,
}

impl Held {
    /// A message is on its way again, or committed.
    fn pass(&mut self, message: Numbered, arrival: u64) {
        let Numbered { epoch, sequence, .. } = message;
        let before = self.row;
        self.row.pass(epoch, sequence);
        if self.row != before {
            let same = self.fence.filter(|(fenced, ..)| *fenced == epoch);
            let (_, first, until) = same.unwrap_or((epoch, sequence, arrival));
            self.fence = Some((epoch, first.min(sequence), until.max(arrival)));
        }
    }

    /// Whether a message may go on.
    fn admits(&mut self, message: Numbered, arrival: u64) -> bool {
        let Numbered { epoch, sequence, .. } = message;
        if !self.row.admits(epoch, sequence) {
            return false;
        }
        self.pass(message, arrival);
        !self.fence.is_some_and(|(fenced, first, until)| fenced == epoch && arrival < until && first < sequence)
    }
}

impl Producer {
    /// Whether a message may go on; it is on its way with that. Requests are numbered as they come: `arrival`.
    pub(crate) fn admit(&mut self, vbucket: VBucketId, message: Numbered, arrival: u64) -> bool {
        self.rows.get_mut(&vbucket).is_none_or(|held| held.admits(message, arrival))
    }

    /// A message is committed.
    pub(crate) fn pass(&mut self, vbucket: VBucketId, message: Numbered, arrival: u64) {
        if let Some(held) = self.rows.get_mut(&vbucket) {
            held.pass(message, arrival);
        }
    }
}

impl Rows {
    /// What is known of a producer, if any row of it was ever broken.
    #[inline]
    pub(crate) fn of(&mut self, producer: ProducerId) -> Option<&mut Producer> {
        if self.producers.is_empty() { None } else { self.producers.get_mut(&producer) }
    }

    /// Whether any row of a producer was ever broken.
    pub(crate) fn knows(&self, producer: ProducerId) -> bool {
        self.producers.contains_key(&producer)
    }

    /// A message was not committed, and may come again.
    pub(crate) fn break_at(&mut self, vbucket: VBucketId, message: Numbered, arrival: u64) {
        if self.count >= ROWS_MAX {
            self.forget();
        }
        let producer = self.producers.entry(message.producer).or_default();
        producer.broken_at = producer.broken_at.max(arrival);
        let before = producer.rows.len();
        producer.rows.entry(vbucket).or_default().row.refuse(message.epoch, message.sequence);
        self.count += producer.rows.len() - before;
    }

    /// Forgets the producers of which nothing was refused for longest: half of them.
    fn forget(&mut self) {
        let mut arrivals: Vec<u64> = self.producers.values().map(|producer| producer.broken_at).collect();
        let middle = arrivals.len() / 2;
        let (_, middle, _) = arrivals.select_nth_unstable(middle);
        let middle = *middle;
        self.producers.retain(|_, producer| producer.broken_at >= middle);
        self.count = self.producers.values().map(|producer| producer.rows.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VBUCKET: VBucketId = VBucketId(2);

    fn message(sequence: u64) -> Numbered {
        Numbered { producer: ProducerId(1), epoch: ProducerEpoch(5), sequence: Sequence(sequence) }
    }

    fn admits(rows: &mut Rows, message: Numbered, arrival: u64) -> bool {
        rows.of(message.producer).is_none_or(|producer| producer.admit(VBUCKET, message, arrival))
    }

    #[test]
    fn what_had_come_in_between_waits_for_what_was_refused() {
        let mut rows = Rows::default();
        rows.break_at(VBUCKET, message(3), 0);
        assert!(!admits(&mut rows, message(4), 1));
        assert!(admits(&mut rows, message(3), 3));
        assert!(!admits(&mut rows, message(4), 2), "it came before");
        assert!(admits(&mut rows, message(4), 4));
    }

    #[test]
    fn what_is_left_of_a_lower_epoch_is_refused_whenever_it_comes() {
        let mut rows = Rows::default();
        rows.break_at(VBUCKET, message(3), 1);
        let again = |sequence| Numbered { epoch: ProducerEpoch(6), ..message(sequence) };
        assert!(admits(&mut rows, again(3), 3) && admits(&mut rows, again(4), 4));
        assert!(!admits(&mut rows, message(5), 5));
        rows.break_at(VBUCKET, message(5), 5);
        assert!(admits(&mut rows, again(5), 4), "what is refused of a row that is over breaks no other");
    }

    #[test]
    fn what_is_committed_after_all_is_not_waited_for() {
        let mut rows = Rows::default();
        rows.break_at(VBUCKET, message(3), 1);
        rows.of(ProducerId(1)).unwrap().pass(VBUCKET, message(3), 1);
        assert!(admits(&mut rows, message(4), 2));
    }

    #[test]
    fn producers_that_were_well_for_longest_are_forgotten() {
        let mut rows = Rows::default();
        let of = |producer| Numbered { producer: ProducerId(producer), ..message(1) };
        let max = ROWS_MAX as u64;
        (1..=max + 1).for_each(|at| rows.break_at(VBUCKET, of(at), at));
        assert_eq!((rows.count, rows.producers.len()), (ROWS_MAX / 2 + 1, ROWS_MAX / 2 + 1));
        assert!(rows.of(ProducerId(1)).is_none() && rows.of(ProducerId(max + 1)).is_some());
    }
}
