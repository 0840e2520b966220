//! What is under way on one connection in one direction: bytes that keep their order, each with the time at which it is
//! due.
//!
//! A line like this one has a rate, at which chunks leave it one after another, and a length, which each then takes. No
//! chunk is due before the one ahead of it. How it ends stands in the queue as well, behind the last byte.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::time::Instant;

use super::dice::ChunkFate;
use super::faults::TcpFaults;

/// How much is under way at the most. What is more waits with the sender, who is slowed down by that.
pub(super) const HELD_BYTES_MAX: usize = 1 << 20;

/// How a direction of a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// There is nothing more to come.
    Eof,
    /// The sender is gone, or wants to have nothing to do with it any more.
    Reset,
}

/// What waits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Item {
    /// Bytes.
    Bytes(Bytes),
    /// The end.
    End(End),
}

#[derive(Debug)]
struct Waiting {
    item: Item,
    due: Instant,
    /// Whether it was counted among those that a cut held.
    is_counted: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Held {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    is_ended: bool,
    /// When the last chunk has left the sender, at the rate there is.
    line_free: Instant,
    /// When the last one is due.
    last_due: Instant,
}

impl Held {
    pub(super) fn new(now: Instant) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, is_ended: false, line_free: now, last_due: now }
    }

    /// How many bytes more it takes.
    pub(super) fn room(&self) -> usize {
        if self.is_ended { 0 } else { HELD_BYTES_MAX.saturating_sub(self.bytes) }
    }

    /// Takes a chunk. Gives whether it has to wait for the rate.
    pub(super) fn push(&mut self, now: Instant, bytes: Bytes, fate: &ChunkFate, faults: &TcpFaults) -> bool {
        let is_paced = faults.bytes_per_second.is_some() && self.line_free > now;
        self.line_free = self.line_free.max(now) + transmission(bytes.len(), faults);
        self.last_due = self.last_due.max(self.line_free + fate.delay + fate.stall.unwrap_or_default());
        self.bytes += bytes.len();
        self.waiting.push_back(Waiting { item: Item::Bytes(bytes), due: self.last_due, is_counted: false });
        is_paced
    }

    /// Takes the end. A second one can only be worse.
    pub(super) fn end(&mut self, now: Instant, end: End, faults: &TcpFaults) {
        if self.is_ended {
            self.waiting.retain(|waiting| matches!(waiting.item, Item::Bytes(_)));
        }
        self.is_ended = true;
        self.last_due = self.last_due.max(now + faults.delay);
        self.waiting.push_back(Waiting { item: Item::End(end), due: self.last_due, is_counted: false });
    }

    /// Goes by other faults from now on: what was to wait longer than it would have to by these does not.
    pub(super) fn retime(&mut self, now: Instant, faults: &TcpFaults) {
        self.line_free = now;
        for waiting in &mut self.waiting {
            if let Item::Bytes(bytes) = &waiting.item {
                self.line_free += transmission(bytes.len(), faults);
            }
            let latest = self.line_free + faults.delay + faults.jitter;
            waiting.due = waiting.due.min(latest).max(self.line_free);
            self.last_due = waiting.due;
        }
        if self.waiting.is_empty() {
            self.last_due = now;
        }
    }

    /// What is next, and when it is due.
    pub(super) fn next(&self) -> Option<(Instant, &Item)> {
        self.waiting.front().map(|waiting| (waiting.due, &waiting.item))
    }

    /// So many bytes of what is next have gone.
    pub(super) fn advance(&mut self, len: usize) {
        let Some(Waiting { item: Item::Bytes(bytes), .. }) = self.waiting.front_mut() else { return };
        bytes.advance(len);
        self.bytes -= len;
        if bytes.is_empty() {
            self.waiting.pop_front();
        }
    }

    /// How many bytes wait that were not yet counted among those that a cut held: they are from now on.
    pub(super) fn count_held(&mut self) -> u64 {
        let mut held = 0;
        for waiting in self.waiting.iter_mut().rev().take_while(|waiting| !waiting.is_counted) {
            waiting.is_counted = true;
            if let Item::Bytes(bytes) = &waiting.item {
                held += bytes.len() as u64;
            }
        }
        held
    }
}

/// How long so many bytes keep the line.
fn transmission(len: usize, faults: &TcpFaults) -> Duration {
    faults.bytes_per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(len as f64 / rate.get() as f64))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn chunk(held: &mut Held, now: Instant, len: usize, delay: Duration, faults: &TcpFaults) -> Instant {
        let fate = ChunkFate { delay, ..ChunkFate::default() };
        held.push(now, Bytes::from(vec![0; len]), &fate, faults);
        held.last_due
    }

    #[test]
    fn chunk_is_not_due_before_the_one_ahead_of_it() {
        let (now, faults) = (Instant::now(), TcpFaults::default());
        let mut held = Held::new(now);
        assert_eq!(chunk(&mut held, now, 1, MS * 50, &faults), now + MS * 50);
        assert_eq!(chunk(&mut held, now + MS, 1, MS * 10, &faults), now + MS * 50);
    }

    #[test]
    fn chunks_leave_at_the_rate() {
        let faults = TcpFaults { bytes_per_second: NonZeroU64::new(1_000), ..TcpFaults::default() };
        let now = Instant::now();
        let mut held = Held::new(now);
        assert_eq!(chunk(&mut held, now, 100, MS * 5, &faults), now + MS * 105);
        assert_eq!(chunk(&mut held, now, 100, MS * 5, &faults), now + MS * 205);
    }

    #[test]
    fn what_is_held_flows_at_once_when_nothing_is_wrong_any_more() {
        let faults = TcpFaults { bytes_per_second: NonZeroU64::new(10), ..TcpFaults::default() };
        let now = Instant::now();
        let mut held = Held::new(now);
        chunk(&mut held, now, 100, MS * 5, &faults);
        held.retime(now + MS, &TcpFaults::default());
        assert_eq!(held.next().map(|(due, _)| due), Some(now + MS));
    }

    #[test]
    fn full_queue_has_no_room() {
        let (now, faults) = (Instant::now(), TcpFaults::default());
        let mut held = Held::new(now);
        chunk(&mut held, now, HELD_BYTES_MAX, MS, &faults);
        assert_eq!(held.room(), 0);
        held.advance(10);
        assert_eq!(held.room(), 10);
        held.end(now, End::Eof, &faults);
        assert_eq!(held.room(), 0);
    }

    #[test]
    fn held_bytes_are_counted_once() {
        let (now, faults) = (Instant::now(), TcpFaults::default());
        let mut held = Held::new(now);
        chunk(&mut held, now, 3, MS, &faults);
        assert_eq!(held.count_held(), 3);
        chunk(&mut held, now, 4, MS, &faults);
        assert_eq!((held.count_held(), held.count_held()), (4, 0));
    }
}
