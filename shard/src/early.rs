//! Messages that came before this node knew that it leads their vbucket.
//!
//! A node that knows of a new leader earlier than the leader itself forwards to it what that refuses, and sends it
//! again. On its way behind them there may be later messages of the same producers, for the same epoch. Should the
//! leader hear of its role between the two, it would store the later ones first, and the earlier ones never: so what it
//! refused then is to it, when it begins to lead, what it refuses as a leader.

use std::collections::BTreeMap;

use broky_proto::id::{Epoch, Numbered, ProducerId, VBucketId};

/// Rows remembered: of a producer in a vbucket for an epoch. Of more the rest is told, and what was behind it on its way may
/// be stored first: as when producers are forgotten, of which a shard remembers fewer.
const ROWS_MAX: usize = 1 << 18;

/// What was refused of a producer in its latest epoch: the first and the last. What lies between waits for the first, also if
/// that is found to be stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Refused {
    first: Numbered,
    last: Numbered,
}

/// What was refused for epochs that are still to come, per vbucket and epoch.
#[derive(Debug, Default)]
pub(crate) struct Early {
    refused: BTreeMap<(VBucketId, Epoch), BTreeMap<ProducerId, Refused>>,
    /// In all.
    count: usize,
}

impl Early {
    /// Notes that a message for an epoch that is still to come was refused. Returns whether it will be remembered.
    pub(crate) fn note(&mut self, vbucket: VBucketId, epoch: Epoch, message: Numbered) -> bool {
        let is_full = self.count >= ROWS_MAX;
        let producers = self.refused.entry((vbucket, epoch)).or_default();
        match producers.get_mut(&message.producer) {
            Some(refused) if refused.first.epoch > message.epoch => {}
            Some(refused) if refused.first.epoch < message.epoch => {
                *refused = Refused { first: message, last: message }
            }
            Some(Refused { first, last }) => {
                first.sequence = first.sequence.min(message.sequence);
                last.sequence = last.sequence.max(message.sequence);
            }
            None if is_full => return false,
            None => {
                producers.insert(message.producer, Refused { first: message, last: message });
                self.count += 1;
            }
        }
        true
    }

    /// What was refused for this epoch, which is known by now. What was for earlier ones is forgotten.
    pub(crate) fn take(&mut self, vbucket: VBucketId, epoch: Epoch) -> Vec<Numbered> {
        let mut taken = Vec::new();
        while let Some((&(_, known), _)) = self.refused.range((vbucket, Epoch(0))..=(vbucket, epoch)).next() {
            let producers = self.refused.remove(&(vbucket, known)).unwrap_or_default();
            self.count -= producers.len();
            if known == epoch {
                taken.extend(producers.into_values().flat_map(|Refused { first, last }| [first, last]));
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use broky_proto::id::{ProducerEpoch, Sequence};

    use super::*;

    const VBUCKET: VBucketId = VBucketId(3);

    fn message(producer: u64, epoch: u32, sequence: u64) -> Numbered {
        Numbered { producer: ProducerId(producer), epoch: ProducerEpoch(epoch), sequence: Sequence(sequence) }
    }

    #[test]
    fn refused_messages_are_remembered_until_their_epoch_is_known() {
        let mut early = Early::default();
        for (epoch, sequence) in [(5, 1), (7, 2), (5, 3), (7, 4), (7, 3)] {
            assert!(early.note(VBUCKET, Epoch(epoch), message(1, 1, sequence)));
        }
        assert_eq!(early.take(VBUCKET, Epoch(4)), [], "it is still to come");
        assert_eq!(early.take(VBUCKET, Epoch(5)), [message(1, 1, 1), message(1, 1, 3)]);
        assert_eq!(early.take(VBUCKET, Epoch(7)), [message(1, 1, 2), message(1, 1, 4)]);
        assert_eq!(early.take(VBUCKET, Epoch(7)), []);
        early.note(VBUCKET, Epoch(9), message(1, 1, 5));
        early.note(VBucketId(4), Epoch(9), message(1, 1, 5));
        assert_eq!(early.take(VBUCKET, Epoch(10)), [], "it never led in that epoch");
        assert_eq!((early.refused.len(), early.count), (1, 1));
    }

    #[test]
    fn only_the_latest_epoch_of_a_producer_counts() {
        let mut early = Early::default();
        [message(1, 2, 8), message(1, 1, 3), message(1, 3, 6), message(1, 2, 9)].into_iter().for_each(|message| {
            early.note(VBUCKET, Epoch(5), message);
        });
        assert_eq!(early.take(VBUCKET, Epoch(5)), [message(1, 3, 6), message(1, 3, 6)]);
    }

    #[test]
    fn what_is_not_remembered_is_told_and_what_comes_again_takes_no_place() {
        let mut early = Early::default();
        let max = ROWS_MAX as u64;
        (1..=max).for_each(|producer| assert!(early.note(VBUCKET, Epoch(5), message(producer, 1, 1))));
        assert!(early.note(VBUCKET, Epoch(5), message(7, 1, 2)));
        assert!(!early.note(VBUCKET, Epoch(5), message(max + 1, 1, 1)));
        assert_eq!(early.take(VBUCKET, Epoch(5)).len(), 2 * ROWS_MAX);
        assert!(early.note(VBUCKET, Epoch(6), message(max + 1, 1, 1)));
    }
}
