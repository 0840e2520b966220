//! When pushes were acked, and how long those to some key_partitions were not.
//!
//! A span begins with the last ack before something happens, here the death of a node, and ends with the next one. Two
//! are kept: over all the key_partitions concerned, in which none of them was acked, and for the one that waited
//! longest.

use std::time::{Duration, Instant};

/// The longest spans without an ack.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Interruption {
    /// In which no push to any of the key_partitions was acked.
    pub(super) all: Duration,
    /// In which no push to one of them was acked.
    pub(super) slowest: Duration,
}

/// Notes acks by key_partition, and measures the spans between them for those that are watched.
pub(super) struct AckClock {
    last: Vec<Instant>,
    is_watched: Vec<bool>,
    /// The last ack to anything watched.
    last_watched: Instant,
    longest: Interruption,
}

impl AckClock {
    pub(super) fn new(partitions: usize, now: Instant) -> Self {
        Self {
            last: vec![now; partitions],
            is_watched: vec![false; partitions],
            last_watched: now,
            longest: Interruption::default(),
        }
    }

    /// Measures from here on, and gives what was measured so far. A span that is under way counts as a whole.
    pub(super) fn watch(&mut self, is_watched: Vec<bool>) -> Interruption {
        let watched = self.last.iter().zip(&is_watched).filter(|(_, is_watched)| **is_watched);
        if let Some(last) = watched.map(|(last, _)| *last).max() {
            self.last_watched = last;
        }
        self.is_watched = is_watched;
        std::mem::take(&mut self.longest)
    }

    pub(super) fn handle_ack(&mut self, partition: usize, now: Instant) {
        let Some(last) = self.last.get_mut(partition) else { return };
        let waited = now.duration_since(*last);
        *last = now;
        if self.is_watched.get(partition) == Some(&true) {
            self.longest.slowest = self.longest.slowest.max(waited);
            self.longest.all = self.longest.all.max(now.duration_since(self.last_watched));
            self.last_watched = now;
        }
    }

    pub(super) fn longest(&self) -> Interruption {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn interruption_lasts_from_the_last_ack_before_it_to_the_first_one_after() {
        let start = Instant::now();
        let mut clock = AckClock::new(3, start);
        clock.handle_ack(0, start + 10 * MS);
        clock.handle_ack(1, start + 15 * MS);
        clock.watch(vec![true, true, false]);
        // What is not watched does not end it.
        clock.handle_ack(2, start + 50 * MS);
        clock.handle_ack(1, start + 315 * MS);
        clock.handle_ack(0, start + 330 * MS);
        assert_eq!(clock.longest(), Interruption { all: 300 * MS, slowest: 320 * MS });
    }

    #[test]
    fn span_under_way_when_watching_begins_anew_counts_as_a_whole() {
        let start = Instant::now();
        let mut clock = AckClock::new(1, start);
        clock.watch(vec![true]);
        assert_eq!(clock.watch(vec![true]), Interruption::default());
        clock.handle_ack(0, start + 70 * MS);
        assert_eq!(clock.longest(), Interruption { all: 70 * MS, slowest: 70 * MS });
    }

    #[test]
    fn acks_before_watching_are_not_measured() {
        let start = Instant::now();
        let mut clock = AckClock::new(1, start);
        clock.handle_ack(0, start + 70 * MS);
        assert_eq!(clock.longest(), Interruption::default());
    }
}
