//! How long to wait before the next attempt: exponential with full jitter.
//!
//! Each failure doubles a ceiling, and the wait is drawn evenly from zero to that ceiling, so that clients which lost
//! the same node do not come back in step.
//!
//! Source: <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.

use std::time::Duration;

/// Attempts and the bounds of the wait between them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// The wait after one more failure. `random` is the jitter: evenly distributed over all of `u64`.
    pub(crate) fn next_wait(&mut self, random: u64) -> Duration {
        // 2^20 times any sensible first wait is above any sensible maximum.
        let factor = 1_u32 << self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        let ceiling = self.first.saturating_mul(factor).min(self.max);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX);
        let scaled = (u128::from(nanos) * u128::from(random)) >> 64;
        Duration::from_nanos(u64::try_from(scaled).unwrap_or(nanos))
    }

    /// Starts over: something worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Random bits from the system, or, should it have none, from the clock: enough for jitter and for a name.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        since.as_secs().rotate_left(32) ^ u64::from(since.subsec_nanos()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceiling_doubles_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(100));
        let waits: Vec<u128> = (0..5).map(|_| backoff.next_wait(u64::MAX).as_millis()).collect();
        assert_eq!(waits, [19, 39, 79, 99, 99]);
        backoff.reset();
        assert!(backoff.next_wait(u64::MAX) < Duration::from_millis(20));
    }

    #[test]
    fn wait_is_drawn_from_zero() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        assert_eq!(backoff.next_wait(0), Duration::ZERO);
        assert_eq!(backoff.next_wait(u64::MAX / 2).as_millis(), 19);
    }
}
