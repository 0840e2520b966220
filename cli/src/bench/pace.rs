//! When a publisher sends: at once, or by a schedule that does not care how the broker is doing.
//!
//! In the open loop message `n` is *meant* to be sent `n / rate` seconds after the start, and that moment is what its
//! latency is measured from. A generator that is late, or a broker that makes it wait, delays every message behind,
//! and each of them shows it. (Measuring from the actual send time hides exactly the stalls one looks for: coordinated
//! omission.)

use std::time::Duration;

use super::args::{Mode, Pacing};
use super::plan::Plan;
use super::run::Shared;
use super::units::wide;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Send times of one publisher's messages: evenly spread, shifted so that publishers do not send in step.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start_ns: u64,
    /// Of all publishers together; this one takes every `publishers`-th message.
    rate: u128,
    publishers: u128,
    publisher: u128,
}

impl Schedule {
    fn intended_ns(&self, index: u64) -> u64 {
        let position = u128::from(index) * self.publishers + self.publisher;
        self.start_ns + u64::try_from(position * NANOS_PER_SECOND / self.rate).unwrap_or(u64::MAX / 2)
    }

    /// Messages meant to be sent up to `now_ns`.
    fn due(&self, now_ns: u64) -> u64 {
        let elapsed_ns = u128::from(now_ns.saturating_sub(self.start_ns));
        let positions = elapsed_ns * self.rate / NANOS_PER_SECOND + 1;
        u64::try_from(positions.saturating_sub(self.publisher).div_ceil(self.publishers)).unwrap_or(u64::MAX)
    }
}

/// Intended times of the messages of one run.
pub(crate) enum Times<'a> {
    /// All are meant to be sent now.
    Now(u64),
    Schedule {
        schedule: &'a Schedule,
        index: u64,
    },
}

impl Times<'_> {
    #[inline]
    pub(crate) fn next_ns(&mut self) -> u64 {
        match self {
            Self::Now(now_ns) => *now_ns,
            Self::Schedule { schedule, index } => {
                let intended_ns = schedule.intended_ns(*index);
                *index += 1;
                intended_ns
            }
        }
    }
}

/// Decides how many messages one publisher sends next.
pub(crate) struct Pace {
    run_messages: u64,
    sent: u64,
    pacing: Pacing,
    schedule: Option<Schedule>,
}

impl Pace {
    /// Starts now.
    pub(crate) fn new(plan: &Plan, publisher: u16, now_ns: u64) -> Self {
        let schedule = (plan.mode == Mode::OpenLoop).then(|| Schedule {
            start_ns: now_ns,
            rate: plan.rate.into(),
            publishers: wide(plan.publishers).into(),
            publisher: publisher.into(),
        });
        Self { run_messages: plan.run_messages, sent: 0, pacing: plan.pacing, schedule }
    }

    /// Waits until at least one message is to be sent. The answer is zero when the run has ended in the meantime.
    pub(crate) async fn due(&self, shared: &Shared) -> u64 {
        let Some(schedule) = &self.schedule else { return self.run_messages };
        while !shared.window.is_closed() {
            let due = schedule.due(shared.now_ns()).saturating_sub(self.sent);
            if due > 0 {
                return due.min(self.run_messages);
            }
            match self.pacing {
                // Lets the runtime look after its sockets once, then asks again.
                Pacing::Spin => tokio::task::yield_now().await,
                Pacing::Sleep => tokio::time::sleep(Duration::from_micros(1)).await,
            }
        }
        0
    }

    /// Takes note that so many messages are sent now; gives their intended times.
    pub(crate) fn take(&mut self, messages: u64, shared: &Shared) -> Times<'_> {
        let index = self.sent;
        self.sent += messages;
        match &self.schedule {
            None => Times::Now(shared.now_ns()),
            Some(schedule) => Times::Schedule { schedule, index },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(publisher: u128) -> Schedule {
        Schedule { start_ns: 1_000, rate: 1_000_000, publishers: 2, publisher }
    }

    #[test]
    fn publishers_share_the_rate_in_turn() {
        let times = |publisher| (0..3).map(move |index| schedule(publisher).intended_ns(index)).collect::<Vec<_>>();
        assert_eq!(times(0), [1_000, 3_000, 5_000]);
        assert_eq!(times(1), [2_000, 4_000, 6_000]);
    }

    #[test]
    fn a_message_is_due_at_its_intended_time_and_not_before() {
        for publisher in 0..2 {
            let schedule = schedule(publisher);
            for index in 0..100 {
                let intended_ns = schedule.intended_ns(index);
                assert_eq!(schedule.due(intended_ns), index + 1);
                assert!(intended_ns == 1_000 || schedule.due(intended_ns - 1) == index);
            }
        }
    }
}
