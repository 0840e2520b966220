//! The coordinator: starts the workers, takes the samples that make the figures, and ends the run.
//!
//! A run connects, warms up, is measured between two samples of the counters while nothing stops or starts, and then
//! drains: publishers stop, everything sent must arrive. Only then are losses counted, over the whole run.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use hdrhistogram::Histogram;

use super::check::Losses;
use super::plan::{Length, Plan};
use super::run::{Phase, Sample, Shared, new_latencies};
use super::target::Target;
use super::units::{narrow, wide};
use super::worker::{Report, work};

/// How often the counters are looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Time to connect everything: 10,000 connections take seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(180);

/// What a run brought to light.
pub(crate) struct Outcome {
    pub(crate) description: String,
    pub(crate) connecting: Duration,
    /// Length of the measured part.
    pub(crate) measured: Duration,
    /// Messages handed to the broker in the measured part.
    pub(crate) published: u64,
    /// Messages that reached a subscriber in the measured part, over all subscribers.
    pub(crate) delivered: u64,
    /// Messages sent in the whole run, warm-up included.
    pub(crate) sent_total: u64,
    pub(crate) losses: Losses,
    /// In nanoseconds, of messages meant to be sent in the measured part.
    pub(crate) latencies: Histogram<u64>,
    /// Why the run ended before its time.
    pub(crate) failure: Option<String>,
}

/// Does what the plan says with targets that `build` makes, one per worker thread.
///
/// # Errors
/// Connecting failed. Later failures are part of the outcome.
pub(crate) fn drive<T, F>(plan: &Plan, build: F) -> Result<Outcome>
where
    T: Target,
    F: Fn() -> T + Clone + Send + 'static,
{
    let shared = Arc::new(Shared::new(plan));
    let (sender, reports) = channel();
    let threads = spawn(&shared, &build, &sender)?;
    let coordinator = Coordinator { shared: &shared, reports: &reports };
    let measured = coordinator.conduct();
    shared.window.close();
    shared.phase.send_replace(Phase::Finished);
    let mut latencies = new_latencies()?;
    for thread in threads {
        let seen = thread.join().map_err(|_| anyhow!("a worker thread panicked"))??;
        latencies.add(&seen)?;
    }
    Ok(Outcome { latencies, ..measured? })
}

fn spawn<T, F>(
    shared: &Arc<Shared>,
    build: &F,
    reports: &Sender<Report>,
) -> Result<Vec<JoinHandle<Result<Histogram<u64>>>>>
where
    T: Target,
    F: Fn() -> T + Clone + Send + 'static,
{
    let start = |worker: usize| {
        let (shared, build, reports) = (shared.clone(), build.clone(), reports.clone());
        std::thread::Builder::new()
            .name(format!("bench-{worker}"))
            .spawn(move || work(worker, &shared, build(), reports))
            .context("starting a thread")
    };
    (0..shared.plan.threads).map(start).collect()
}

struct Coordinator<'a> {
    shared: &'a Shared,
    reports: &'a Receiver<Report>,
}

impl Coordinator<'_> {
    fn conduct(&self) -> Result<Outcome> {
        let begun = Instant::now();
        let description = self.connect()?;
        let connecting = begun.elapsed();
        self.shared.phase.send_replace(Phase::Running);

        let mut failure = self.warm_up().err();
        let first = self.shared.sample();
        self.shared.begin_recording();
        if failure.is_none() {
            failure = self.measure(first).err();
        }
        let last = self.shared.sample();
        self.shared.end_recording();
        self.shared.window.close();
        if failure.is_none() {
            failure = self.drain().err();
        }
        let end = self.shared.sample();
        Ok(Outcome {
            description,
            connecting,
            measured: last.at - first.at,
            published: last.published - first.published,
            delivered: last.found.delivered - first.found.delivered,
            sent_total: end.published,
            losses: Losses::judge(end.published, self.shared.plan.subscribers, end.found),
            latencies: new_latencies()?,
            failure: failure.map(|error| format!("{error:#}")),
        })
    }

    /// Waits until every worker is ready.
    fn connect(&self) -> Result<String> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let mut described = String::new();
        for _ in 0..self.shared.plan.threads {
            match self.reports.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Report::Ready { description }) => described.extend(description),
                Ok(Report::Failed(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) => bail!("not connected after {} s", CONNECT_TIMEOUT.as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("a worker thread ended early"),
            }
        }
        Ok(described)
    }

    /// Runs for the warm-up time, and until every subscriber has had part of the stream.
    fn warm_up(&self) -> Result<()> {
        let end = Instant::now() + self.shared.plan.warmup;
        self.watch(|_| Instant::now() >= end && self.shared.window.settled() > 0)
    }

    fn measure(&self, first: Sample) -> Result<()> {
        match self.shared.plan.length {
            Length::Time(time) => self.watch(|now| now.at >= first.at + time),
            Length::Messages(messages) => {
                let due = narrow(messages).saturating_mul(self.shared.plan.subscribers);
                self.watch(|now| now.found.delivered >= first.found.delivered + wide(due))
            }
        }
    }

    /// Waits until all that was sent has arrived. What does not arrive is a loss, not a failure.
    fn drain(&self) -> Result<()> {
        let subscribers = wide(self.shared.plan.subscribers);
        let drained = |now: Sample| {
            self.shared.publishing.load(Ordering::Acquire) == 0 && now.found.delivered >= now.published * subscribers
        };
        let result = self.watch(drained);
        if self.shared.publishing.load(Ordering::Acquire) == 0 { self.pending_failure() } else { result }
    }

    /// Looks at the counters until `done`, and fails when a worker does or nothing is delivered for too long.
    fn watch(&self, mut done: impl FnMut(Sample) -> bool) -> Result<()> {
        let subscribers = wide(self.shared.plan.subscribers);
        let mut progress = self.shared.sample();
        loop {
            let now = self.shared.sample();
            if done(now) {
                return Ok(());
            }
            let idle = now.found.delivered >= self.shared.window.reserved() * subscribers;
            if now.found.delivered > progress.found.delivered || idle {
                progress = now;
            } else if now.at - progress.at > self.shared.plan.stall {
                bail!("nothing was delivered for {} s", self.shared.plan.stall.as_secs_f64());
            }
            self.pending_failure()?;
            std::thread::sleep(LOOK);
        }
    }

    fn pending_failure(&self) -> Result<()> {
        match self.reports.try_recv() {
            Ok(Report::Failed(error)) => Err(error),
            Ok(Report::Ready { .. }) | Err(_) => Ok(()),
        }
    }
}
