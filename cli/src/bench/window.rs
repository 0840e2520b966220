//! Flow control of the generator: publishers may be ahead of the slowest subscriber by so many messages, no more.
//!
//! Every subscriber gets every message, so one number per subscriber tells how far it is, and the slowest one decides.
//! Looking at 10,000 numbers per write would cost more than the write. Instead the stream is cut into segments, and
//! each subscriber that passes the end of a segment counts itself there; whoever makes the count full moves the limit
//! and wakes the publishers. One atomic increment per subscriber and segment.
//!
//! Segments fill in order: a subscriber passes them in order, so segment `n + 1` cannot be full before all have
//! passed `n`. At most `capacity / segment + 1` are open at once, so a small ring of counters is enough.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use super::units::{narrow, wide};

/// Segments per window: the limit moves in steps of an eighth.
const SEGMENTS: u64 = 8;

/// Shared by all publishers and subscribers of a run.
pub(crate) struct Window {
    capacity: u64,
    segment: u64,
    readers: u64,
    /// Messages the publishers were allowed to send so far.
    reserved: AtomicU64,
    /// Every reader has passed this many. A multiple of `segment`.
    settled: AtomicU64,
    /// Readers that passed the end of each open segment.
    passed: Box<[AtomicU64]>,
    room: Notify,
    closed: AtomicBool,
}

impl Window {
    /// A window of at most `capacity` messages for this many subscribers. Both at least 1.
    pub(crate) fn new(capacity: u64, readers: usize) -> Self {
        assert!(capacity > 0 && readers > 0, "a window needs room ({capacity}) and readers ({readers})");
        let segment = (capacity / SEGMENTS).max(1);
        let open = narrow(capacity / segment) + 2;
        Self {
            capacity,
            segment,
            readers: wide(readers),
            reserved: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            passed: (0..open).map(|_| AtomicU64::new(0)).collect(),
            room: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// Waits for room and takes up to `wanted` messages of it. Zero: the window was closed.
    pub(crate) async fn reserve(&self, wanted: u64) -> u64 {
        loop {
            if self.is_closed() {
                return 0;
            }
            if let Some(granted) = self.try_reserve(wanted) {
                return granted;
            }
            let room = self.room.notified();
            let mut room = std::pin::pin!(room);
            // Registered before the second look: a wake-up between look and wait is not lost.
            room.as_mut().enable();
            if self.is_closed() || self.has_room() {
                continue;
            }
            room.await;
        }
    }

    /// Stops the publishers: `reserve` grants nothing any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.room.notify_waiters();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Messages granted to publishers so far.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    /// Messages that every reader has passed, rounded down to a segment.
    pub(crate) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// Messages per segment: a reader calls [`Self::pass`] each time it completes as many.
    pub(crate) fn segment(&self) -> u64 {
        self.segment
    }

    /// One reader has passed the end of this segment. To be called once per reader and segment, in order.
    pub(crate) fn pass(&self, segment: u64) {
        let slot = narrow(segment % wide(self.passed.len()));
        let Some(passed) = self.passed.get(slot) else { return };
        if passed.fetch_add(1, Ordering::AcqRel) + 1 < self.readers {
            return;
        }
        // Emptied before the limit moves: nobody can reach the segment that uses this slot next until it has.
        passed.store(0, Ordering::Relaxed);
        self.settled.store((segment + 1) * self.segment, Ordering::Release);
        self.room.notify_waiters();
    }

    fn limit(&self) -> u64 {
        self.settled() + self.capacity
    }

    fn has_room(&self) -> bool {
        self.reserved() < self.limit()
    }

    fn try_reserve(&self, wanted: u64) -> Option<u64> {
        let limit = self.limit();
        let mut reserved = self.reserved();
        loop {
            let granted = limit.saturating_sub(reserved).min(wanted);
            if granted == 0 {
                return None;
            }
            let next = reserved + granted;
            match self.reserved.compare_exchange_weak(reserved, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(granted),
                Err(actual) => reserved = actual,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_granted_beyond_the_slowest_reader() {
        let window = Window::new(16, 2);
        assert_eq!(window.segment(), 2);
        assert_eq!(window.try_reserve(100), Some(16));
        assert_eq!(window.try_reserve(1), None);
        window.pass(0);
        assert_eq!(window.try_reserve(1), None, "the second reader has not passed yet");
        window.pass(0);
        assert_eq!(window.settled(), 2);
        assert_eq!(window.try_reserve(100), Some(2));
    }

    #[test]
    fn one_in_flight_is_a_window_of_one() {
        let window = Window::new(1, 3);
        for round in 0..10 {
            assert_eq!(window.try_reserve(1), Some(1));
            assert_eq!(window.try_reserve(1), None);
            for _ in 0..3 {
                window.pass(round);
            }
        }
        assert_eq!(window.settled(), 10);
    }

    #[test]
    fn a_reader_ahead_of_another_by_a_whole_window_does_not_disturb_its_counts() {
        let window = Window::new(8, 2);
        assert_eq!(window.try_reserve(8), Some(8));
        (0..8).for_each(|segment| window.pass(segment));
        assert_eq!(window.settled(), 0);
        (0..8).for_each(|segment| window.pass(segment));
        assert_eq!(window.settled(), 8);
        assert_eq!(window.try_reserve(100), Some(8));
    }

    #[tokio::test]
    async fn a_closed_window_grants_nothing() {
        let window = Window::new(1, 1);
        assert_eq!(window.reserve(5).await, 1);
        window.close();
        assert_eq!(window.reserve(5).await, 0);
    }
}
