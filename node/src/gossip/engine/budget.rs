//! A bound on answers to strangers: what can be provoked must not add up.

use std::time::{Duration, Instant};

/// So many a second.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: usize,
    left: usize,
    since: Instant,
}

impl Budget {
    pub(super) fn new(per_second: usize, now: Instant) -> Self {
        Self { per_second, left: per_second, since: now }
    }

    /// Whether one more is within bounds; then it is spent.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.left = self.per_second;
        }
        let has_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has_left
    }
}
