//! What is to happen when. Of what happens at the same moment, chance decides which comes first.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use broky_proto::time::Timestamp;

use super::rng::Rng;

struct Entry<E> {
    at: Timestamp,
    tie: u64,
    /// Two entries are never equal, whatever chance says.
    serial: u64,
    event: E,
}

impl<E> Entry<E> {
    fn key(&self) -> (Timestamp, u64, u64) {
        (self.at, self.tie, self.serial)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// The earliest is the greatest, as the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

/// The future.
pub(super) struct Schedule<E> {
    heap: BinaryHeap<Entry<E>>,
    ties: Rng,
    serial: u64,
    now: Timestamp,
}

impl<E> Schedule<E> {
    pub(super) fn new(seed: u64, start: Timestamp) -> Self {
        Self { heap: BinaryHeap::new(), ties: Rng::stream(seed, "ties"), serial: 0, now: start }
    }

    /// The moment of the latest event.
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    pub(super) fn at(&mut self, at: Timestamp, event: E) {
        self.serial += 1;
        let (tie, serial) = (self.ties.next(), self.serial);
        self.heap.push(Entry { at: at.max(self.now), tie, serial, event });
    }

    pub(super) fn after(&mut self, wait: Duration, event: E) {
        self.at(self.now.plus(wait), event);
    }

    /// The next event; time goes on to it.
    pub(super) fn next(&mut self) -> Option<E> {
        let entry = self.heap.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}
