//! Waiting for conditions, with a deadline.

use std::fmt::Debug;
use std::time::Duration;

/// How long anything in these tests may take at the most.
pub const DEADLINE: Duration = Duration::from_secs(40);
/// How often a condition that nobody tells of is looked at.
const PERIOD: Duration = Duration::from_millis(5);

/// What `future` gives.
///
/// # Panics
/// When it takes too long; `what` says for what was waited.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

/// Looks again and again until `look` gives something that satisfies `is_met`, and gives that.
///
/// # Panics
/// When it takes too long, with what it saw last.
pub async fn until<T: Debug>(what: &str, mut look: impl AsyncFnMut() -> T, is_met: impl Fn(&T) -> bool) -> T {
    let mut seen = look().await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !is_met(&seen) {
        assert!(tokio::time::Instant::now() < deadline, "not within {DEADLINE:?}: {what}; last seen: {seen:?}");
        tokio::time::sleep(PERIOD).await;
        seen = look().await;
    }
    seen
}
