//! What a producer has pushed and not settled: which request goes next, and what an answer, a break or the time means.
//!
//! Pure: time comes in as an argument, requests go out as bytes. The idea: a queue of batches in sequence order, a
//! position in it (`next`), and the list of requests sent on the current stream that wait for an answer (`awaiting`;
//! answers come in order). Sending moves `next` forward; a break puts it back to the oldest unsettled batch, so that
//! everything unanswered goes again, in order, under the same sequences, before anything new.
//!
//! A refusal that asks for a retry stops the sending, because what is behind the refused message in its vbucket must
//! not overtake it. The answers still to come are taken in, then, after a wait, the oldest unsettled batch goes alone
//! (`Phase::Probing`); once that is through, the rest follows. A batch is sent again whole: what it has, the broker
//! answers as duplicate, and the outcome that was told stands.
//!
//! **Invariant:** a message has one outcome. "Rejected" is reported only when every attempt was answered, and answered with
//! a refusal, and none will follow; if one attempt went unanswered the outcome is "unknown".
//!
//! A node refuses what comes behind a refused message in its vbucket, and does not know whether that will come again: it
//! may have been given up, or pushed again to another node. So whenever the sending goes back it does so in a higher
//! epoch: of that the nodes have refused nothing, and what is left of the lower ones on other ways is not stored any more
//! once there is anything of it. What an epoch begins with in a vbucket must be the first that is unsettled there: that is
//! so after going back, and when a vbucket comes from another window it is settled there. The epoch must be higher than that
//! window's then, too; it is raised when nothing is unanswered ([`Window::go_on_from`]).
//!
//! Source: Kafka's idempotent producer (KIP-98), and its way to go on after a loss (KIP-360).

use std::collections::VecDeque;
use std::sync::Arc;

use broky_proto::id::{ProducerEpoch, Token};
use broky_proto::limits::BATCH_MESSAGES_MAX;
use broky_proto::v1::PushResponse;
use bytes::Bytes;
use tokio::time::Instant;

use super::answer::{FlushSummary, Violation, apply, check_coverage, give_up};
use super::batch::{Batch, Spare};
use super::numbering::Numbering;
use super::options::ProducerOptions;
use super::ticket::Outcomes;
use crate::encode::Encoder;

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
    /// Not at all: once everything is answered the stream moves to another node.
    Draining,
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
    /// Everything is answered, as [`Window::handle_drain`] asked for.
    Drained,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Window {
    options: ProducerOptions,
    phase: Phase,
    /// Of what is sent. Zero: nothing was.
    epoch: ProducerEpoch,
    /// The next request needs a higher one, and has to wait until nothing is unanswered.
    must_raise_epoch: bool,
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
    /// Batches from this number on wait for what another window has to settle first.
    held_from: Option<u64>,
    /// Numbers of the batches sent on this stream and not answered, in the order they were sent.
    awaiting: VecDeque<u64>,
    /// Whether the answer that stopped the sending asked to go elsewhere.
    is_leave_wanted: bool,
    /// Bytes of messages that were settled since [`Window::take_released`].
    released: usize,
    summary: FlushSummary,
    spare: Spare,
}

impl Window {
    pub(crate) fn new(options: ProducerOptions) -> Self {
        Self {
            options,
            phase: Phase::Disconnected,
            epoch: ProducerEpoch(0),
            must_raise_epoch: true,
            open: None,
            is_urgent: false,
            queue: VecDeque::new(),
            front: 0,
            next: 0,
            held_from: None,
            awaiting: VecDeque::new(),
            is_leave_wanted: false,
            released: 0,
            summary: FlushSummary::default(),
            spare: Spare::default(),
        }
    }

    /// Bytes of messages that were settled since the last call. Whoever appends knows the rest.
    pub(crate) fn take_released(&mut self) -> usize {
        std::mem::take(&mut self.released)
    }

    /// Appends a message to the open batch. Returns what `handle` makes of the batch's outcomes and the message's
    /// index, and whether a batch was closed because it is full.
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
        self.mark()
    }

    /// Closes the open batch, so that what is pushed from now on goes into later ones. Returns the mark before those.
    pub(crate) fn divide(&mut self) -> u64 {
        self.close_open();
        self.end()
    }

    /// Lets what is pushed from now on, and the rest of its batch, wait for [`Window::release`].
    pub(crate) fn hold_open(&mut self) {
        self.held_from.get_or_insert(self.end());
    }

    /// Ends [`Window::hold_open`].
    pub(crate) fn release(&mut self) {
        self.held_from = None;
    }

    /// Messages of a vbucket that went under `epoch` elsewhere come here from now on; all of them are settled.
    pub(crate) fn go_on_from(&mut self, epoch: ProducerEpoch) {
        self.must_raise_epoch |= self.epoch < epoch;
    }

    /// The epoch of what was sent last.
    pub(crate) fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    /// Whether messages are being sent as they come: there is a stream, and nothing was refused.
    pub(crate) fn is_flowing(&self) -> bool {
        self.phase == Phase::Sending
    }

    /// The mark at which everything pushed so far is settled.
    #[inline]
    pub(crate) fn mark(&self) -> u64 {
        self.end() + u64::from(self.open.is_some())
    }

    /// Whether everything before a mark has an outcome.
    #[inline]
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
            Phase::Disconnected | Phase::Holding | Phase::Draining => false,
            Phase::Probing | Phase::Sending if self.held_from.is_some_and(|held| self.next >= held) => false,
            Phase::Probing if !self.awaiting.is_empty() => false,
            Phase::Probing | Phase::Sending if self.must_raise_epoch && !self.awaiting.is_empty() => false,
            Phase::Probing | Phase::Sending => self.next < self.end() || self.is_open_due(),
        }
    }

    /// The next request to send, framed. Requests must be sent in the order they are given.
    pub(crate) fn next_request(&mut self, numbering: &mut Numbering) -> Option<Bytes> {
        if !self.has_request() {
            return None;
        }
        if self.next == self.end() {
            self.close_open();
        }
        let at = self.place(self.next)?;
        if std::mem::take(&mut self.must_raise_epoch) {
            self.epoch = numbering.raise_epoch();
        }
        let request = self.queue.get_mut(at)?.request(self.epoch, numbering, &self.options);
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
            // What was refused may have been settled by an earlier answer.
            self.phase = if self.is_empty() { Phase::Sending } else { Phase::Probing };
            self.rewind();
        }
    }

    /// Sends nothing more on this stream. Returns whether nothing is unanswered; otherwise [`Next::Drained`] comes once
    /// that is so, or another [`Next`] that lets the sending go on.
    pub(crate) fn handle_drain(&mut self) -> bool {
        if self.phase == Phase::Sending {
            self.phase = Phase::Draining;
        }
        self.phase == Phase::Draining && self.awaiting.is_empty()
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
            self.released += batch.release_if_done(&mut self.spare, self.options.batch_bytes_max);
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
            Phase::Draining if self.awaiting.is_empty() => Next::Drained,
            Phase::Holding | Phase::Draining | Phase::Disconnected | Phase::Sending | Phase::Probing => Next::Continue,
        })
    }

    /// Gives up what is older than the delivery timeout; `reason` says what prevented an answer. Returns whether the
    /// stream must be left because it owes an answer to something given up.
    pub(crate) fn handle_timeout(&mut self, now: Instant, reason: &str) -> bool {
        if self.open.as_ref().is_some_and(|open| open.deadline <= now) {
            self.close_open();
        }
        self.give_up_while(|batch| batch.deadline <= now, reason)
    }

    /// Gives up everything. What is unanswered may still be stored.
    pub(crate) fn give_up_all(&mut self, reason: &str) {
        self.close_open();
        self.give_up_while(|_| true, reason);
    }

    /// Gives up the oldest batches. Returns whether one of them is owed an answer.
    fn give_up_while(&mut self, is_due: impl Fn(&Batch) -> bool, reason: &str) -> bool {
        let mut is_owed = false;
        let mut at = 0;
        while let Some(batch) = self.queue.get_mut(at).filter(|batch| is_due(batch)) {
            let number = self.front + at as u64;
            at += 1;
            if batch.is_done() {
                continue;
            }
            let is_unanswered = self.awaiting.contains(&number);
            is_owed |= is_unanswered;
            give_up(batch, is_unanswered, reason, &mut self.summary);
            self.released += batch.release_if_done(&mut self.spare, self.options.batch_bytes_max);
        }
        self.drop_settled();
        is_owed
    }

    /// Fails the oldest unanswered request: the node refused the stream, for good, and this is what it looked at.
    pub(crate) fn handle_refusal(&mut self, reason: &str) {
        let Some(at) = self.awaiting.front().and_then(|number| self.place(*number)) else { return };
        if let Some(batch) = self.queue.get_mut(at) {
            give_up(batch, true, reason, &mut self.summary);
            self.released += batch.release_if_done(&mut self.spare, self.options.batch_bytes_max);
        }
        self.drop_settled();
    }

    /// The tokens of what the oldest batch still waits for.
    pub(crate) fn oldest_tokens(&self) -> Vec<Token> {
        self.queue.front().map(Batch::unsettled_tokens).unwrap_or_default()
    }

    /// Number of the batch that is closed next.
    #[inline]
    fn end(&self) -> u64 {
        self.front + self.queue.len() as u64
    }

    /// Where in the queue a batch is; `None` when it is not there any more.
    fn place(&self, number: u64) -> Option<usize> {
        number.checked_sub(self.front).and_then(|at| usize::try_from(at).ok())
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
        self.must_raise_epoch = true;
        self.next = self.front;
        self.skip_settled();
    }

    fn skip_settled(&mut self) {
        while self.place(self.next).and_then(|at| self.queue.get(at)).is_some_and(Batch::is_done) {
            self.next += 1;
        }
    }

    fn drop_settled(&mut self) {
        while self.queue.front().is_some_and(Batch::is_done) {
            self.queue.pop_front();
            self.front += 1;
        }
        self.next = self.next.max(self.front);
        self.skip_settled();
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "window_model_tests.rs"]
mod model_tests;
