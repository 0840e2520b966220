//! What became of the messages pushed: failures are told as they become known, and a cluster that is gone is noticed.
//!
//! The idea of the latter: the client tries a message until its delivery timeout. One that fails then says little by
//! itself, as others may fare better. When none got an answer for as long, no node can be reached, and pushing more
//! would only drop a window of messages after the other. A refusal for good is an answer: it says that a node is there.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use broky_client::{FlushSummary, Producer, PushError, Ticket};
use tokio::time::Instant;

/// Failures shown in full.
const SHOWN_MAX: u64 = 10;
/// How often outcomes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The outcomes of one push. Shared by who pushes and who watches, on one thread.
pub(super) struct Outcomes<'a> {
    producer: &'a Producer,
    /// How long a message is tried.
    timeout: Duration,
    inner: RefCell<Inner>,
}

struct Inner {
    /// Tickets without an outcome, oldest first: as many as the in-flight window holds.
    waiting: VecDeque<(u64, Ticket)>,
    /// Failures, including `refused`.
    failed: u64,
    /// Messages that are too large for any node: the producer did not take them.
    refused: u64,
    /// Whether what a message may be was explained.
    is_limit_told: bool,
    committed: u64,
    /// When outcomes were last looked at.
    looked: Instant,
    /// No later than the last answer of a node, or when we began.
    answered: Instant,
    /// How the last message failed that no node answered for.
    unanswered: Option<PushError>,
}

/// How many messages fared how.
pub(super) struct Counts {
    pub(super) committed: u64,
    pub(super) rejected: u64,
    pub(super) unknown: u64,
}

impl<'a> Outcomes<'a> {
    pub(super) fn new(producer: &'a Producer, timeout: Duration) -> Self {
        let now = Instant::now();
        let inner = Inner {
            waiting: VecDeque::new(),
            failed: 0,
            refused: 0,
            is_limit_told: false,
            committed: 0,
            looked: now,
            answered: now,
            unanswered: None,
        };
        Self { producer, timeout, inner: RefCell::new(inner) }
    }

    /// A message was taken by the producer.
    pub(super) fn add(&self, number: u64, ticket: Ticket) {
        self.inner.borrow_mut().waiting.push_back((number, ticket));
    }

    /// A message was not taken by the producer.
    pub(super) fn refuse(&self, number: u64, error: &PushError) {
        let mut inner = self.inner.borrow_mut();
        inner.refused += 1;
        inner.fail(number, error);
    }

    /// Takes the outcomes that are known, and tells the failures.
    pub(super) fn settle(&self) {
        self.inner.borrow_mut().settle(self.producer.summary().committed);
    }

    /// Settles, again and again.
    pub(super) async fn keep_settling(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.settle();
        }
    }

    /// Settles until no node can be reached; returns how that shows.
    pub(super) async fn until_unreachable(&self) -> PushError {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.settle();
            if let Some(error) = self.unreachable() {
                return error;
            }
        }
    }

    /// How it shows that no node can be reached, if that is so.
    pub(super) fn unreachable(&self) -> Option<PushError> {
        let inner = self.inner.borrow();
        let is_silent = inner.answered.elapsed() >= self.timeout;
        inner.unanswered.clone().filter(|_| is_silent)
    }

    /// The counts at the end; says so when not all failures were shown. `pushed` is how many messages were offered to
    /// the producer: what it has not settled is unknown.
    pub(super) fn report(&self, settled: &FlushSummary, pushed: Option<u64>) -> Counts {
        let inner = self.inner.borrow();
        if inner.failed > SHOWN_MAX {
            eprintln!("broky: ... and {} more", inner.failed - SHOWN_MAX);
        }
        let rejected = settled.rejected + inner.refused;
        let known = settled.committed + rejected;
        let unknown = pushed.map_or(settled.unknown, |pushed| pushed.saturating_sub(known));
        Counts { committed: settled.committed, rejected, unknown }
    }
}

impl Inner {
    fn settle(&mut self, committed: u64) {
        while let Some(outcome) = self.waiting.front().and_then(|(_, ticket)| ticket.outcome()) {
            let Some((number, _)) = self.waiting.pop_front() else { return };
            if let Err(error) = outcome {
                self.fail(number, &error);
            }
        }
        if committed > self.committed {
            self.committed = committed;
            self.handle_answer();
        }
        self.looked = Instant::now();
    }

    /// A node answered since the last look. When exactly is not known; were it taken for later than it was, a message
    /// pushed right after it would seem to have been tried for less than the timeout.
    fn handle_answer(&mut self) {
        self.answered = self.looked;
        self.unanswered = None;
    }

    fn fail(&mut self, number: u64, error: &PushError) {
        match error {
            // With a retry asked for, it was refused until the timeout, by nodes that shut down perhaps.
            PushError::Rejected { retry: true, .. } | PushError::NotSent { .. } | PushError::Unknown { .. } => {
                self.unanswered = Some(error.clone());
            }
            PushError::Rejected { retry: false, .. } => self.handle_answer(),
            PushError::MessageTooLarge { .. } | PushError::WouldBlock | PushError::Closed => {}
        }
        self.failed += 1;
        if self.failed <= SHOWN_MAX {
            eprintln!("broky: message {number}: {error}");
        }
        if is_too_large(error) && !std::mem::replace(&mut self.is_limit_told, true) {
            eprintln!(
                "broky: the limit is of a message as it is encoded: payload, key, key_partition and a few bytes for \
                 each; with --chunk raw a smaller --block-size leaves room for them"
            );
        }
    }
}

fn is_too_large(error: &PushError) -> bool {
    match error {
        PushError::MessageTooLarge { .. } => true,
        PushError::Rejected { code, .. } => *code == broky_client::ErrorCode::MessageTooLarge,
        PushError::WouldBlock | PushError::Closed | PushError::NotSent { .. } | PushError::Unknown { .. } => false,
    }
}
