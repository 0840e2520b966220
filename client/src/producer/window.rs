//! What a producer has pushed and not settled: which request goes next, and what an answer, a break or the time means.
//!
//! Pure: time comes in as an argument, requests go out as bytes. The idea: a queue of batches in sequence order, a
//! position in it (`next`), and the list of requests sent on the current stream that wait for an answer (`awaiting`;
//! answers come in order). Sending moves `next` forward; a break puts it back to the oldest unsettled batch, so that
//! everything unanswered goes again, in order, under the same sequences, before anything new.
//!
//! A refusal that asks for a retry stops the sending, because what is behind the refused message in its vbucket must not
//! overtake it. The answers still to come are taken in, then, after a wait, the oldest unsettled batch goes alone
//! (`Phase::Probing`); once that is through, the rest follows. A batch is sent again whole: what it has, the broker
//! answers as duplicate, and the outcome that was told stands.
//!
//! **Invariant:** a message has one outcome. "Rejected" is reported only when every attempt was answered, and answered with
//! a refusal, and none will follow; if one attempt went unanswered the outcome is "unknown".
//!
//! The hard case: a message is given up at its deadline after refusals. The broker may refuse everything behind it in
//! its vbucket as out of sequence for as long as it is missing, so batches that were never sent then go under a new
//! producer id, which starts a sequence of its own. Batches that were sent keep the id they went under, and have to be
//! settled first: the broker keeps the order of one id only.
//!
//! Source: Kafka's idempotent producer (KIP-98, and KIP-360 for the change of id).

use std::collections::VecDeque;
use std::sync::Arc;

use broky_proto::id::{ProducerId, Sequence};
use broky_proto::limits::BATCH_MESSAGES_MAX;
use broky_proto::v1::{ErrorCode, OutcomeKind, PushResponse};
use bytes::Bytes;
use tokio::time::Instant;

use super::batch::{Batch, Spare};
use super::error::PushError;
use super::options::ProducerOptions;
use super::ticket::{Outcomes, Settled};
use crate::encode::{Encoder, Options};

/// Counts of settled messages since the producer was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FlushSummary {
    /// Stored as `acks` asks for; includes `duplicates`.
    pub committed: u64,
    /// Provably not stored, and given up.
    pub rejected: u64,
    /// May have been stored.
    pub unknown: u64,
    /// Of the committed: those that an earlier attempt had stored, each once.
    pub duplicates: u64,
}

/// Whether requests may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// There is no stream.
    Disconnected,
    /// As the window allows.
    Sending,
    /// One request at a time, until one is answered without a request to retry.
    Probing,
    /// Not at all: a retry was asked for, and a wait comes before it.
    Holding,
}

/// What the driver has to do after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Nothing.
    Continue,
    /// Wait, then call [`Window::handle_retry`].
    Wait,
    /// Leave this node, wait, and connect to another.
    Leave,
}

/// An answer that breaks the protocol. The stream is of no further use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid push response: {0}")]
pub(crate) struct Violation(&'static str);

/// See the module.
#[derive(Debug)]
pub(crate) struct Window {
    options: ProducerOptions,
    producer: ProducerId,
    /// The sequence of the next batch that is sent for the first time.
    sequence: Sequence,
    /// Whether an earlier message was given up under this id, so that new batches need another.
    needs_new_id: bool,
    phase: Phase,
    /// Takes new messages. Always behind `queue`.
    open: Option<Batch>,
    /// Send the open batch even though requests are unanswered.
    is_urgent: bool,
    /// Closed batches from the oldest unsettled one on.
    queue: VecDeque<Batch>,
    /// Number of the batch at the front of `queue`, counted from the producer's start.
    front: u64,
    /// Number of the batch to send next.
    next: u64,
    /// Numbers of the batches sent on this stream and not answered, in the order they were sent.
    awaiting: VecDeque<u64>,
    /// Whether the answer that stopped the sending asked to go elsewhere.
    is_leave_wanted: bool,
    /// Bytes of unsettled messages.
    charge: usize,
    summary: FlushSummary,
    spare: Spare,
}

impl Window {
    pub(crate) fn new(options: ProducerOptions, producer: ProducerId) -> Self {
        Self {
            options,
            producer,
            sequence: Sequence(1),
            needs_new_id: false,
            phase: Phase::Disconnected,
            open: None,
            is_urgent: false,
            queue: VecDeque::new(),
            front: 0,
            next: 0,
            awaiting: VecDeque::new(),
            is_leave_wanted: false,
            charge: 0,
            summary: FlushSummary::default(),
            spare: Spare::default(),
        }
    }

    /// Whether a message of this many bytes may be appended now. One that exceeds the whole window may when it is alone.
    #[inline]
    pub(crate) fn has_room(&self, field_len: usize) -> bool {
        self.charge == 0 || self.charge + field_len <= self.options.in_flight_bytes_max
    }

    /// Appends a message to the open batch. Returns what `handle` makes of the batch's outcomes and the message's index,
    /// and whether a batch was closed because it is full.
    #[inline]
    pub(crate) fn append<T>(
        &mut self,
        message: &Encoder<'_>,
        now: impl FnOnce() -> Instant,
        handle: impl FnOnce(&Arc<Outcomes>, u32) -> T,
    ) -> (T, bool) {
        let len = message.field_len();
        let mut is_closed = false;
        if self.open.as_ref().is_some_and(|open| open.charge + len > self.options.batch_bytes_max) {
            self.close_open();
            is_closed = true;
        }
        let open = self.open.get_or_insert_with(|| {
            Batch::new(&mut self.spare, self.options.batch_bytes_max, now() + self.options.delivery_timeout)
        });
        let index = open.append(message);
        let handle = handle(&open.outcomes, index);
        self.charge += len;
        if open.charge >= self.options.batch_bytes_max || open.messages as usize >= BATCH_MESSAGES_MAX {
            self.close_open();
            is_closed = true;
        }
        (handle, is_closed)
    }

    /// Lets the open batch go at the next opportunity, whatever is unanswered. Returns the mark at which everything
    /// pushed so far is settled; see [`Window::is_settled`].
    pub(crate) fn hurry(&mut self) -> u64 {
        self.is_urgent = self.open.is_some();
        self.end() + u64::from(self.is_urgent)
    }

    /// Whether everything before a mark has an outcome.
    pub(crate) fn is_settled(&self, mark: u64) -> bool {
        self.front >= mark
    }

    /// Whether nothing is unsettled.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.open.is_none()
    }

    /// Whether requests wait for an answer.
    pub(crate) fn is_awaiting(&self) -> bool {
        !self.awaiting.is_empty()
    }

    pub(crate) fn summary(&self) -> FlushSummary {
        self.summary
    }

    /// Whether [`Window::next_request`] has something to give.
    #[inline]
    pub(crate) fn has_request(&self) -> bool {
        match self.phase {
            Phase::Disconnected | Phase::Holding => false,
            Phase::Probing if !self.awaiting.is_empty() => false,
            Phase::Probing | Phase::Sending => {
                (self.next < self.end() || self.is_open_due()) && !(self.needs_new_id && self.is_behind_old_id())
            }
        }
    }

    /// The next request to send, framed. Requests must be sent in the order they are given. `fresh` makes a producer id,
    /// should another be needed.
    pub(crate) fn next_request(&mut self, fresh: impl FnOnce() -> ProducerId) -> Option<Bytes> {
        if !self.has_request() {
            return None;
        }
        if self.next == self.end() {
            self.close_open();
        }
        let at = self.place(self.next)?;
        let Self { queue, options, producer, sequence, needs_new_id, .. } = self;
        let batch = queue.get_mut(at)?;
        let messages = u64::from(batch.messages);
        let request = batch.request(|| {
            if std::mem::take(needs_new_id) {
                (*producer, *sequence) = (fresh(), Sequence(1));
            }
            let first = std::mem::replace(sequence, sequence.plus(messages));
            Options { acks: options.acks, producer: *producer, sequence: first, want_positions: options.want_positions }
        });
        self.awaiting.push_back(self.next);
        self.next += 1;
        self.skip_settled();
        Some(request)
    }

    /// There is a new stream.
    pub(crate) fn handle_connect(&mut self) {
        self.phase = Phase::Sending;
    }

    /// The stream is gone: what it left unanswered is in doubt, and goes again on the next.
    pub(crate) fn handle_disconnect(&mut self) {
        while let Some(number) = self.awaiting.pop_front() {
            if let Some(batch) = self.place(number).and_then(|at| self.queue.get_mut(at)) {
                batch.is_in_doubt = true;
            }
        }
        self.phase = Phase::Disconnected;
        self.rewind();
    }

    /// The wait before a retry is over.
    pub(crate) fn handle_retry(&mut self) {
        if self.phase == Phase::Holding {
            self.phase = Phase::Probing;
            self.rewind();
        }
    }

    /// Takes in the answer to the oldest unanswered request.
    ///
    /// # Errors
    /// When it does not fit that request. Nothing of it was applied then.
    pub(crate) fn handle_response(&mut self, response: PushResponse) -> Result<Next, Violation> {
        let number = *self.awaiting.front().ok_or(Violation("no request is unanswered"))?;
        let mut wants_retry = false;
        // A batch that was given up in the meantime is gone; its answer changes nothing.
        if let Some(batch) = self.place(number).and_then(|at| self.queue.get_mut(at)) {
            check_coverage(&response, batch.messages)?;
            let answer = apply(batch, response, &mut self.summary);
            wants_retry = answer.wants_retry;
            self.is_leave_wanted |= answer.wants_leave;
            self.charge -= batch.release_if_settled(&mut self.spare, self.options.batch_bytes_max);
        }
        self.awaiting.pop_front();
        self.drop_settled();
        if wants_retry {
            self.phase = Phase::Holding;
        } else if self.phase == Phase::Probing {
            self.phase = Phase::Sending;
        }
        Ok(match self.phase {
            Phase::Holding if self.awaiting.is_empty() && self.is_leave_wanted => Next::Leave,
            Phase::Holding if self.awaiting.is_empty() => Next::Wait,
            Phase::Holding | Phase::Disconnected | Phase::Sending | Phase::Probing => Next::Continue,
        })
    }

    /// Gives up what is older than the delivery timeout; `reason` says what prevented an answer. Returns whether the
    /// stream must be left because it owes an answer to something given up.
    pub(crate) fn handle_timeout(&mut self, now: Instant, reason: &str) -> bool {
        let mut is_owed = false;
        if self.open.as_ref().is_some_and(|open| open.deadline <= now) {
            self.close_open();
        }
        let mut at = 0;
        while let Some(batch) = self.queue.get_mut(at).filter(|batch| batch.deadline <= now) {
            let number = self.front + at as u64;
            at += 1;
            if batch.unsettled == 0 {
                continue;
            }
            let is_unanswered = self.awaiting.contains(&number);
            is_owed |= is_unanswered;
            self.needs_new_id |= batch.was_sent();
            give_up(batch, is_unanswered, reason, &mut self.summary);
            self.charge -= batch.release_if_settled(&mut self.spare, self.options.batch_bytes_max);
        }
        self.drop_settled();
        is_owed
    }

    /// Fails the oldest unanswered request: the node refused the stream, for good, and this is what it looked at.
    pub(crate) fn handle_refusal(&mut self, reason: &str) {
        let Some(at) = self.awaiting.front().and_then(|number| self.place(*number)) else { return };
        if let Some(batch) = self.queue.get_mut(at) {
            self.needs_new_id = true;
            give_up(batch, true, reason, &mut self.summary);
            self.charge -= batch.release_if_settled(&mut self.spare, self.options.batch_bytes_max);
        }
        self.drop_settled();
    }

    /// Number of the batch that is closed next.
    fn end(&self) -> u64 {
        self.front + self.queue.len() as u64
    }

    /// Where in the queue a batch is; `None` when it is not there any more.
    fn place(&self, number: u64) -> Option<usize> {
        number.checked_sub(self.front).and_then(|at| usize::try_from(at).ok())
    }

    /// Whether the batch to send next was never sent while an older one is unsettled. Under another id it could overtake
    /// that one: the broker orders messages of one id only.
    #[cold]
    fn is_behind_old_id(&self) -> bool {
        let next = self.place(self.next).and_then(|at| self.queue.get(at));
        self.next != self.front && next.is_none_or(|batch| !batch.was_sent())
    }

    fn is_open_due(&self) -> bool {
        self.open.is_some() && (self.is_urgent || self.awaiting.len() < self.options.unanswered_requests_max)
    }

    fn close_open(&mut self) {
        self.queue.extend(self.open.take());
        self.is_urgent = false;
    }

    fn rewind(&mut self) {
        self.is_leave_wanted = false;
        self.next = self.front;
        self.skip_settled();
    }

    fn skip_settled(&mut self) {
        while self.place(self.next).and_then(|at| self.queue.get(at)).is_some_and(|batch| batch.unsettled == 0) {
            self.next += 1;
        }
    }

    fn drop_settled(&mut self) {
        while self.queue.front().is_some_and(|batch| batch.unsettled == 0) {
            self.queue.pop_front();
            self.front += 1;
        }
        self.next = self.next.max(self.front);
        self.skip_settled();
    }

    /// Asserts what holds between calls.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let charge: usize = self.queue.iter().chain(&self.open).map(|batch| batch.charge).sum();
        assert_eq!(self.charge, charge, "bytes of unsettled messages");
        assert!(
            self.next >= self.front && self.next <= self.end(),
            "{} <= {} <= {}",
            self.front,
            self.next,
            self.end()
        );
        assert!(self.queue.front().is_none_or(|batch| batch.unsettled > 0), "the front is unsettled");
        assert!(self.awaiting.iter().is_sorted(), "awaiting ascends: {:?}", self.awaiting);
        assert!(self.awaiting.back().is_none_or(|last| *last < self.next), "what awaits an answer was sent");
        assert!(self.phase != Phase::Disconnected || self.awaiting.is_empty(), "answers without a stream");
        assert!(self.open.as_ref().is_none_or(|open| open.messages > 0), "an open batch holds something");
    }
}

/// What an answer asks for.
struct Answer {
    wants_retry: bool,
    wants_leave: bool,
}

pub(super) fn check_coverage(response: &PushResponse, messages: u32) -> Result<(), Violation> {
    let mut covered = 0_u32;
    for outcome in &response.outcomes {
        if outcome.first != covered || outcome.count == 0 {
            return Err(Violation("outcomes do not cover each message once, in order"));
        }
        if outcome.kind() == OutcomeKind::Unspecified {
            return Err(Violation("an outcome is neither committed nor rejected nor unknown"));
        }
        covered = covered.checked_add(outcome.count).ok_or(Violation("outcomes cover more than the request"))?;
    }
    if covered == messages { Ok(()) } else { Err(Violation("outcomes do not cover the request")) }
}

/// Settles what the answer settles: what is committed, and, unless the batch has to go again, what is refused for good.
/// If it has to, another node may take what this one refused, so that only the last answer can be told.
fn apply(batch: &mut Batch, response: PushResponse, summary: &mut FlushSummary) -> Answer {
    let mut answer = Answer { wants_retry: false, wants_leave: false };
    let was_in_doubt = batch.is_in_doubt;
    for outcome in &response.outcomes {
        let is_unknown = outcome.kind() == OutcomeKind::Unknown;
        let is_refused = outcome.kind() == OutcomeKind::Rejected;
        if (is_unknown || is_refused) && outcome.retry && batch.has_unsettled(outcome.first, outcome.count) {
            answer.wants_retry = true;
        }
        batch.is_in_doubt |= is_unknown;
        if is_refused {
            batch.refusal = Some(rejected(outcome.code(), &outcome.reason, outcome.retry));
            answer.wants_leave |= outcome.code() == ErrorCode::ShuttingDown;
        }
    }
    batch.outcomes.add_positions(response.positions);
    for outcome in response.outcomes {
        let settled = match outcome.kind() {
            OutcomeKind::Committed => Settled::Committed { duplicate: outcome.duplicate },
            OutcomeKind::Rejected if answer.wants_retry || outcome.retry => continue,
            OutcomeKind::Rejected if was_in_doubt => {
                let code = outcome.code().name();
                let words = format!("{code}: {}, after an attempt without an answer", outcome.reason);
                Settled::Failed(PushError::Unknown { reason: words.into() })
            }
            OutcomeKind::Rejected => Settled::Failed(rejected(outcome.code(), &outcome.reason, false)),
            OutcomeKind::Unknown if !answer.wants_retry => {
                let words = format!("{}: {}", outcome.code().name(), outcome.reason);
                Settled::Failed(PushError::Unknown { reason: words.into() })
            }
            OutcomeKind::Unknown | OutcomeKind::Unspecified => continue,
        };
        let count = batch.settle_run(outcome.first, outcome.count, &settled);
        summary.add(&settled, count);
    }
    batch.outcomes.wake();
    answer
}

/// Settles what is left of a batch that is tried no longer.
fn give_up(batch: &mut Batch, is_unanswered: bool, reason: &str, summary: &mut FlushSummary) {
    let error = match batch.refusal.take() {
        _ if !batch.was_sent() => PushError::NotSent { reason: reason.into() },
        Some(refusal) if !batch.is_in_doubt && !is_unanswered => refusal,
        Some(_) | None => PushError::Unknown { reason: reason.into() },
    };
    let settled = Settled::Failed(error);
    let count = batch.settle_rest(settled.clone());
    summary.add(&settled, count);
    batch.outcomes.wake();
}

fn rejected(code: ErrorCode, reason: &str, retry: bool) -> PushError {
    PushError::Rejected { code, reason: reason.into(), retry }
}

impl FlushSummary {
    fn add(&mut self, settled: &Settled, count: u32) {
        let count = u64::from(count);
        match settled {
            Settled::Committed { duplicate } => {
                self.committed += count;
                self.duplicates += if *duplicate { count } else { 0 };
            }
            Settled::Failed(PushError::Unknown { .. }) => self.unknown += count,
            Settled::Failed(
                PushError::MessageTooLarge { .. }
                | PushError::WouldBlock
                | PushError::Closed
                | PushError::Rejected { .. }
                | PushError::NotSent { .. },
            ) => self.rejected += count,
        }
    }

    /// Counts of what was settled since an earlier summary of the same producer.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            committed: self.committed.saturating_sub(earlier.committed),
            rejected: self.rejected.saturating_sub(earlier.rejected),
            unknown: self.unknown.saturating_sub(earlier.unknown),
            duplicates: self.duplicates.saturating_sub(earlier.duplicates),
        }
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "window_model_tests.rs"]
mod model_tests;
