//! What all threads of one run share, and the two ends the targets talk to: [`Outgoing`] hands out the messages to
//! publish, [`Sink`] takes those that arrived.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use tokio::sync::watch;

use super::check::{Checker, Findings, Numbering, Stamp};
use super::pace::Times;
use super::plan::Plan;
use super::units::nanos;
use super::window::Window;

/// Longest latency told apart: a minute, in nanoseconds.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// Where a run stands. Only ever moves forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    Connecting,
    Running,
    Finished,
}

/// Counters of one worker thread, in their own cache line so that threads do not slow each other down by counting.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    published: AtomicU64,
    delivered: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
    foreign: AtomicU64,
}

impl Counters {
    fn add(&self, findings: Findings) {
        self.delivered.fetch_add(findings.delivered, Ordering::Relaxed);
        // Zero in any sane run: an untouched cache line costs nothing.
        for (counter, found) in [
            (&self.duplicated, findings.duplicated),
            (&self.reordered, findings.reordered),
            (&self.foreign, findings.foreign),
        ] {
            if found > 0 {
                counter.fetch_add(found, Ordering::Relaxed);
            }
        }
    }
}

/// Totals at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    pub(crate) published: u64,
    pub(crate) found: Findings,
}

/// Shared by coordinator and workers.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) origin: Instant,
    pub(crate) window: Window,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) publishing: AtomicUsize,
    /// Messages meant to be sent in `[from, until)` nanoseconds after the origin enter the histogram.
    from_ns: AtomicU64,
    until_ns: AtomicU64,
    counters: Box<[Counters]>,
}

impl Shared {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            plan: plan.clone(),
            origin: Instant::now(),
            window: Window::new(plan.window_messages, plan.subscribers),
            phase: watch::Sender::new(Phase::Connecting),
            publishing: AtomicUsize::new(plan.publishers),
            from_ns: AtomicU64::new(u64::MAX),
            until_ns: AtomicU64::new(u64::MAX),
            counters: (0..plan.threads).map(|_| Counters::default()).collect(),
        }
    }

    /// Nanoseconds since the run's origin.
    pub(crate) fn now_ns(&self) -> u64 {
        nanos(self.origin.elapsed())
    }

    pub(crate) fn begin_recording(&self) {
        self.from_ns.store(self.now_ns(), Ordering::Relaxed);
    }

    pub(crate) fn end_recording(&self) {
        self.until_ns.store(self.now_ns(), Ordering::Relaxed);
    }

    pub(crate) fn count_published(&self, worker: usize, messages: u64) {
        if let Some(counters) = self.counters.get(worker) {
            counters.published.fetch_add(messages, Ordering::Relaxed);
        }
    }

    pub(crate) fn sample(&self) -> Sample {
        let sum = |pick: fn(&Counters) -> &AtomicU64| {
            self.counters.iter().map(|counters| pick(counters).load(Ordering::Relaxed)).sum()
        };
        Sample {
            at: Instant::now(),
            published: sum(|c| &c.published),
            found: Findings {
                delivered: sum(|c| &c.delivered),
                duplicated: sum(|c| &c.duplicated),
                reordered: sum(|c| &c.reordered),
                foreign: sum(|c| &c.foreign),
            },
        }
    }
}

/// A run of messages for one publisher to send now. Numbered and stamped as they are taken.
pub(crate) struct Outgoing<'a> {
    pub(crate) numbering: &'a mut Numbering,
    pub(crate) times: Times<'a>,
    pub(crate) remaining: u64,
}

impl Outgoing<'_> {
    /// The next message's stamp: its first bytes, and its key.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<Stamp> {
        self.remaining = self.remaining.checked_sub(1)?;
        Some(self.numbering.stamp(self.times.next_ns()))
    }
}

/// Latencies of one worker thread, in nanoseconds.
pub(crate) type Latencies = Rc<RefCell<Histogram<u64>>>;

/// # Errors
/// Never in practice: the bounds are constants the histogram accepts.
pub(crate) fn new_latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)?)
}

/// One subscriber of a connection.
struct Reader {
    checker: Checker,
    segments: u64,
    /// Messages passed at which the segment at hand ends. Kept, as a division per message would cost more than the
    /// rest.
    segment_end: u64,
}

/// Where the subscribers of one connection hand over what they received.
pub(crate) struct Sink {
    shared: Arc<Shared>,
    worker: usize,
    latencies: Latencies,
    readers: Vec<Reader>,
    findings: Findings,
    stamped: bool,
    records_latency: bool,
    /// Of the batch at hand.
    arrived_ns: u64,
    from_ns: u64,
    until_ns: u64,
}

impl Sink {
    pub(crate) fn new(shared: Arc<Shared>, worker: usize, latencies: Latencies, subscribers: usize) -> Self {
        let plan = &shared.plan;
        let reader = || Reader {
            checker: Checker::new(plan.publishers, plan.keys),
            segments: 0,
            segment_end: shared.window.segment(),
        };
        Self {
            readers: (0..subscribers).map(|_| reader()).collect(),
            findings: Findings::default(),
            stamped: plan.is_stamped(),
            records_latency: plan.records_latency(),
            arrived_ns: 0,
            from_ns: 0,
            until_ns: 0,
            worker,
            latencies,
            shared,
        }
    }

    /// Messages have arrived: to be called once per read, before the messages are taken apart.
    #[inline]
    pub(crate) fn arrived(&mut self) {
        if self.records_latency {
            self.arrived_ns = self.shared.now_ns();
            self.from_ns = self.shared.from_ns.load(Ordering::Relaxed);
            self.until_ns = self.shared.until_ns.load(Ordering::Relaxed);
        }
    }

    /// One message for one of the connection's subscribers.
    #[inline]
    pub(crate) fn message(&mut self, subscriber: usize, payload: &[u8]) {
        let Some(reader) = self.readers.get_mut(subscriber) else {
            self.findings.foreign += 1;
            return;
        };
        match Stamp::decode(payload) {
            Some(stamp) if self.stamped => {
                reader.checker.check(stamp, &mut self.findings);
                if self.records_latency && (self.from_ns..self.until_ns).contains(&stamp.intended_ns) {
                    let latency_ns = self.arrived_ns.saturating_sub(stamp.intended_ns);
                    self.latencies.borrow_mut().saturating_record(latency_ns);
                }
            }
            _ => reader.checker.count(&mut self.findings),
        }
        while reader.checker.passed() >= reader.segment_end {
            self.shared.window.pass(reader.segments);
            reader.segments += 1;
            reader.segment_end += self.shared.window.segment();
        }
    }

    /// The messages of one read are done: makes them count.
    pub(crate) fn settle(&mut self) {
        if let Some(counters) = self.shared.counters.get(self.worker) {
            counters.add(std::mem::take(&mut self.findings));
        }
    }
}
