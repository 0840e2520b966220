//! The trace of a run: a hash over every event, and, when asked for, the last ones in words.
//!
//! Words cost more than the run itself. As the same seed gives the same run, they are only put together when a run that
//! has failed is done again.

use std::collections::VecDeque;

use broky_proto::time::Timestamp;

/// See the module.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    events: u64,
    /// The last events, and how many are kept.
    last: VecDeque<String>,
    kept: usize,
}

impl Trace {
    pub(super) fn new(kept: usize) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, last: VecDeque::new(), kept }
    }

    /// Notes an event by what distinguishes it.
    pub(super) fn note(&mut self, now: Timestamp, facts: [u64; 4]) {
        self.events += 1;
        for word in [now.0, facts[0], facts[1], facts[2], facts[3]] {
            self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }

    /// Keeps words about what happens now, if anybody wants them.
    pub(super) fn say(&mut self, now: Timestamp, words: impl FnOnce() -> String) {
        if self.kept == 0 {
            return;
        }
        if self.last.len() == self.kept {
            self.last.pop_front();
        }
        let millis = now.0 / 1_000_000;
        self.last.push_back(format!("{}.{:03} {}", millis / 1000 % 86_400, millis % 1000, words()));
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn take_last(&mut self) -> Vec<String> {
        std::mem::take(&mut self.last).into()
    }
}
