//! What happens, told line by line on stderr, each with the second it happened in.

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Tells what happens.
#[derive(Clone, Copy)]
pub(super) struct Teller {
    started: Instant,
}

impl Teller {
    pub(super) fn new() -> Self {
        Self { started: Instant::now() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn say(&self, words: impl std::fmt::Display) {
        // Whoever has closed stderr does not want to know.
        let _ = writeln!(std::io::stderr(), "{:5.1} s  {words}", self.elapsed().as_secs_f64());
    }
}

/// `287 ms`, `1.4 s`: a time for a person.
pub(super) fn show_time(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
