//! Which epoch began where: the history by which two diverged logs find their common part.
//!
//! Truncation compares (epoch, end offset) and never a high watermark, because a follower's high watermark may be stale
//! when its leader dies. A leader asked about an epoch answers with the largest epoch it knows that is not above it,
//! and where that one ends; the follower cuts there and asks again until both agree.
//!
//! Sources: KIP-101 and KIP-279 (Kafka).

use broky_proto::id::{Epoch, Offset};

/// Epochs of one log, each with its first offset; both ascending.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct EpochHistory {
    starts: Vec<(Epoch, Offset)>,
}

impl EpochHistory {
    /// The latest epoch, if the log ever had one.
    #[must_use]
    pub fn latest(&self) -> Option<Epoch> {
        self.starts.last().map(|(epoch, _)| *epoch)
    }

    /// Notes that `epoch` begins at `start`. An epoch that wrote nothing gives way to the next one.
    ///
    /// # Panics
    /// When `epoch` is not above the latest or `start` is below the latest's: epochs only go up.
    pub fn begin(&mut self, epoch: Epoch, start: Offset) {
        if let Some((last, at)) = self.starts.last().copied() {
            assert!(epoch > last, "epoch {epoch} does not follow {last}");
            assert!(start >= at, "epoch {epoch} starts at {start}, before {at}");
            if start == at {
                self.starts.pop();
            }
        }
        self.starts.push((epoch, start));
    }

    /// The largest epoch not above `asked`, and the offset behind its last message, in a log that ends at `log_end`.
    #[must_use]
    pub fn end_of(&self, asked: Epoch, log_end: Offset) -> Option<(Epoch, Offset)> {
        let behind = self.starts.partition_point(|(epoch, _)| *epoch <= asked);
        let (epoch, _) = self.starts.get(behind.checked_sub(1)?)?;
        let end = self.starts.get(behind).map_or(log_end, |(_, start)| *start);
        Some((*epoch, end))
    }

    /// The epoch in which the message at `offset` was stored, if that is still known.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> Option<Epoch> {
        let behind = self.starts.partition_point(|(_, start)| *start <= offset);
        self.starts.get(behind.checked_sub(1)?).map(|(epoch, _)| *epoch)
    }

    /// Epochs with their first offsets, ascending.
    #[must_use]
    pub fn starts(&self) -> &[(Epoch, Offset)] {
        &self.starts
    }

    /// Up to where this log, which ends at `log_end`, and another one agree: behind the last message of the latest
    /// epoch that both know, as far as both have it. `None` when they have no epoch in common.
    ///
    /// One epoch has one leader and one order, so two logs that both hold a part of it agree on that part, and on all
    /// that lies before it.
    #[must_use]
    pub fn common_end(&self, log_end: Offset, other: &Self, other_end: Offset) -> Option<Offset> {
        let common = other.starts.iter().rev().find_map(|(epoch, _)| {
            let (ours, end) = self.end_of(*epoch, log_end)?;
            (ours == *epoch).then_some((*epoch, end))
        });
        let (epoch, end) = common?;
        let (_, their_end) = other.end_of(epoch, other_end)?;
        Some(end.min(their_end))
    }

    /// Forgets the epochs that begin at or beyond `log_end`.
    pub fn truncate(&mut self, log_end: Offset) {
        let keep = self.starts.partition_point(|(_, start)| *start < log_end);
        self.starts.truncate(keep);
    }

    /// Forgets every epoch.
    pub fn clear(&mut self) {
        self.starts.clear();
    }

    /// A history of these epochs and first offsets, both ascending; `None` when they are not.
    #[must_use]
    pub fn from_starts(starts: Vec<(Epoch, Offset)>) -> Option<Self> {
        let is_sound = starts.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1);
        is_sound.then_some(Self { starts })
    }

    /// Forgets epochs that lie wholly below `log_start`.
    pub fn evict(&mut self, log_start: Offset) {
        let keep = self.starts.partition_point(|(_, start)| *start <= log_start).saturating_sub(1);
        self.starts.drain(..keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(starts: &[(u64, u64)]) -> EpochHistory {
        let mut history = EpochHistory::default();
        for (epoch, start) in starts {
            history.begin(Epoch(*epoch), Offset(*start));
        }
        history
    }

    #[test]
    fn end_of_an_epoch_is_the_start_of_the_next() {
        let history = history(&[(1, 0), (4, 10), (6, 30)]);
        assert_eq!(history.end_of(Epoch(1), Offset(40)), Some((Epoch(1), Offset(10))));
        assert_eq!(history.end_of(Epoch(6), Offset(40)), Some((Epoch(6), Offset(40))));
    }

    #[test]
    fn unknown_epoch_is_answered_with_the_largest_below() {
        let history = history(&[(1, 0), (4, 10)]);
        assert_eq!(history.end_of(Epoch(3), Offset(40)), Some((Epoch(1), Offset(10))));
        assert_eq!(history.end_of(Epoch(0), Offset(40)), None);
    }

    #[test]
    fn epoch_of_an_offset_is_the_one_it_lies_in() {
        let history = history(&[(1, 0), (4, 10)]);
        assert_eq!(history.epoch_at(Offset(9)), Some(Epoch(1)));
        assert_eq!(history.epoch_at(Offset(10)), Some(Epoch(4)));
        assert_eq!(EpochHistory::default().epoch_at(Offset(0)), None);
    }

    #[test]
    fn epoch_without_messages_gives_way() {
        assert_eq!(history(&[(1, 0), (2, 5), (3, 5)]), history(&[(1, 0), (3, 5)]));
    }

    #[test]
    fn logs_agree_up_to_the_end_of_the_latest_epoch_both_know() {
        let leader = history(&[(1, 0), (4, 10), (6, 30)]);
        let agree = |starts: &[(u64, u64)], end| leader.common_end(Offset(40), &history(starts), Offset(end));
        assert_eq!(agree(&[(1, 0), (4, 10), (6, 30)], 35), Some(Offset(35)), "a follower that lags");
        assert_eq!(agree(&[(1, 0), (4, 10)], 33), Some(Offset(30)), "it holds what epoch 4 never committed");
        assert_eq!(agree(&[(1, 0), (5, 8)], 20), Some(Offset(8)), "epoch 5 was never the leader's");
        assert_eq!(agree(&[(1, 0), (4, 10), (7, 12)], 50), Some(Offset(12)), "nor was 7");
        assert_eq!(agree(&[(3, 0)], 9), None);
        assert_eq!(agree(&[], 0), None);
    }

    #[test]
    fn truncation_forgets_epochs_that_begin_beyond() {
        let mut history = history(&[(1, 0), (4, 10), (6, 30)]);
        history.truncate(Offset(30));
        assert_eq!(history.latest(), Some(Epoch(4)));
        history.truncate(Offset(11));
        assert_eq!(history.latest(), Some(Epoch(4)));
        history.truncate(Offset(0));
        assert_eq!(history.latest(), None);
    }

    #[test]
    fn history_from_the_wire_ascends() {
        let starts = |starts: &[(u64, u64)]| starts.iter().map(|(e, o)| (Epoch(*e), Offset(*o))).collect::<Vec<_>>();
        assert!(EpochHistory::from_starts(starts(&[(1, 0), (4, 10)])).is_some());
        assert!(EpochHistory::from_starts(starts(&[(4, 0), (4, 10)])).is_none());
        assert!(EpochHistory::from_starts(starts(&[(1, 10), (4, 10)])).is_none());
    }

    #[test]
    fn eviction_keeps_the_epoch_the_log_starts_in() {
        let mut history = history(&[(1, 0), (4, 10), (6, 30)]);
        history.evict(Offset(15));
        assert_eq!(history.end_of(Epoch(4), Offset(40)), Some((Epoch(4), Offset(30))));
        assert_eq!(history.end_of(Epoch(3), Offset(40)), None);
    }
}
