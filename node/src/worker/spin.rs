//! Staying awake for a moment when more work is likely to come at once.
//!
//! Putting a thread to sleep and waking it costs more than a whole push, on virtual machines several times more, and
//! the sender pays for the waking too. So a worker whose recent pauses were shorter than [`PAUSE_MAX`] goes on looking
//! for input for that long before it sleeps. One whose pauses are longer does not: an idle node, or one with a few
//! hundred messages a second, sleeps. Go's scheduler does the same, by other rules.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Worker;

/// Pauses up to this long are spent awake, if pauses have been that short lately: longer than a follower waits between
/// two messages that are replicated one after the other.
const PAUSE_MAX: Duration = Duration::from_micros(100);
/// What a short pause earns and a pause spent awake in vain costs: at most one in five is in vain for long.
const EARNED: u32 = 1;
const LOST: u32 = 4;
const CONFIDENCE_MAX: u32 = 16;

/// What a worker knows of its recent pauses.
#[derive(Default)]
pub(super) struct Spin {
    confidence: Cell<u32>,
    /// Work done since the last look.
    has_worked: Cell<bool>,
    last_work: Cell<Option<Instant>>,
    worked: Notify,
}

impl Spin {
    /// Notes that there was work.
    pub(super) fn note_work(&self) {
        if self.has_worked.replace(true) {
            return;
        }
        let now = Instant::now();
        if self.last_work.replace(Some(now)).is_some_and(|last| now - last < PAUSE_MAX) {
            self.confidence.set((self.confidence.get() + EARNED).min(CONFIDENCE_MAX));
        }
        self.worked.notify_one();
    }
}

impl Worker {
    /// Keeps the thread awake after work.
    pub(super) async fn keep_awake(self: Rc<Self>) {
        let spin = &self.spin;
        loop {
            spin.worked.notified().await;
            spin.has_worked.set(false);
            let mut since = Instant::now();
            while spin.confidence.get() > 0 {
                // Others may want this core more.
                std::thread::yield_now();
                // Lets the runtime look for input without waiting for it.
                tokio::task::yield_now().await;
                if spin.has_worked.replace(false) {
                    since = Instant::now();
                } else if since.elapsed() >= PAUSE_MAX {
                    spin.confidence.set(spin.confidence.get().saturating_sub(LOST));
                    break;
                }
            }
        }
    }
}
