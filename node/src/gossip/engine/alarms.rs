//! The engine's own timers.

use std::collections::BTreeMap;
use std::time::Instant;

/// What is to be done at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Alarm {
    /// Gossip with a few peers.
    Round,
    /// Renew the own head.
    Refresh,
    /// Ask for what is missing.
    Ask,
    /// Greet the seeds and those who are not heard.
    Hello,
}

/// When each is due, if it is set.
#[derive(Debug, Default)]
pub(super) struct Alarms(BTreeMap<Alarm, Instant>);

impl Alarms {
    pub(super) fn set(&mut self, alarm: Alarm, at: Instant) {
        self.0.insert(alarm, at);
    }

    /// Sets it unless it goes off sooner anyway.
    pub(super) fn set_earlier(&mut self, alarm: Alarm, at: Instant) {
        let due = self.0.entry(alarm).or_insert(at);
        *due = at.min(*due);
    }

    pub(super) fn is_set(&self, alarm: Alarm) -> bool {
        self.0.contains_key(&alarm)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// One that is due, which is unset by that.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Alarm> {
        let alarm = self.0.iter().find(|(_, at)| **at <= now).map(|(alarm, _)| *alarm)?;
        self.0.remove(&alarm);
        Some(alarm)
    }
}
