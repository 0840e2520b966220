//! Receiving: [`Subscription`], its options, batches and errors.
//!
//! A subscription has no task: the application's own polling reads the stream, checks what arrives ([`intake`]) and,
//! when the stream breaks or goes silent, opens another at the cursors ([`open`]). So nothing is buffered but what
//! HTTP/2's windows hold, and an application that stops reading stops the node.

mod cursors;
mod delivery;
mod error;
mod intake;
mod open;
mod options;
mod upstream;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use broky_proto::id::Token;
use broky_proto::v1::ErrorCode;
use futures_core::Stream;
use tokio::time::{Instant, Sleep};

use self::cursors::Cursors;
pub use self::cursors::Gap;
pub use self::delivery::{Batch, Event, MessageView, Received};
pub use self::error::SubscribeError;
use self::intake::Intake;
use self::open::{Opened, Opening};
pub use self::options::{OnSlow, ResumeToken, Start, SubscribeOptions};
pub(crate) use self::upstream::Upstream;
use crate::backoff::Backoff;
use crate::client::Shared;
use crate::transport::{CallError, Connection, Responses};

/// What matches a set of patterns, from a position on, without a silent loss.
///
/// Read it with [`Subscription::next_batch`], or as a `Stream` of [`Event`]s, which costs a little more per message. It
/// reads only while it is polled: an application that stops reading lets the node hold back and, in the end, drop what
/// its memory cannot keep, which then arrives as a gap. Dropping it ends the subscription.
///
/// When the stream breaks, or is silent for too long, it is opened again at the position reached. An error ends the
/// subscription: see [`SubscribeError`].
pub struct Subscription {
    shared: Arc<Shared>,
    upstream: Arc<Upstream>,
    options: SubscribeOptions,
    intake: Intake,
    state: State,
    /// What is left of the batch that the `Stream` is in.
    left: Option<Left>,
    /// Messages taken since credit was given last.
    taken: u64,
    reconnects: u64,
    messages: u64,
    /// Failures since something was last delivered.
    backoff: Backoff,
}

/// What a subscription did so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SubscriptionStats {
    /// Messages given out.
    pub messages: u64,
    /// Times the stream was opened again.
    pub reconnects: u64,
    /// Messages dropped because they had been given out before: a node may repeat some after a reconnect.
    pub duplicates: u64,
    /// Offsets passed over without a gap. Counted only when every message matches: one `*` among the patterns and no
    /// key_partitions. Messages with keys that begin with `!system` are passed over by right; anything else is a bug.
    pub skipped: u64,
}

enum State {
    Opening(Pin<Box<dyn Future<Output = Result<Opened, SubscribeError>> + Send>>),
    Open(Box<Open>),
    /// Gives this error, then nothing.
    Failed(SubscribeError),
    Ended,
}

struct Open {
    connection: Connection,
    responses: Responses,
    /// Runs while nothing arrives.
    silence: Pin<Box<Sleep>>,
    is_waiting: bool,
}

struct Left {
    batch: Batch,
    gap: usize,
    message: usize,
}

impl Subscription {
    pub(crate) async fn open(shared: Arc<Shared>, options: SubscribeOptions) -> Result<Self, SubscribeError> {
        options.check()?;
        let narrowed = options.key_partitions.iter().map(|name| Token::of(name, b"")).collect();
        let mut cursors = Cursors::new(options.is_complete(), narrowed);
        if let Start::Resume(token) = &options.start {
            cursors.restore(token.resume()).map_err(|error| SubscribeError::Options(error.to_string()))?;
        }
        let upstream = Arc::new(Upstream::default());
        shared.register(&upstream);
        let backoff = shared.backoff();
        let mut subscription = Self {
            shared,
            upstream,
            options,
            intake: Intake::new(cursors),
            state: State::Ended,
            left: None,
            taken: 0,
            reconnects: 0,
            messages: 0,
            backoff,
        };
        subscription.open_first().await?;
        Ok(subscription)
    }

    /// The next delivery that holds a message or a gap; `None` once the subscription has ended. Cancelling it loses
    /// nothing.
    pub async fn next_batch(&mut self) -> Option<Result<Batch, SubscribeError>> {
        poll_fn(|cx| self.poll_batch(cx)).await
    }

    /// As [`Subscription::next_batch`], to be polled.
    pub fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Batch, SubscribeError>>> {
        if let Some(left) = self.left.take() {
            let mut batch = left.batch;
            batch.gaps.drain(..left.gap);
            batch.entries.drain(..left.message);
            if !batch.gaps.is_empty() || !batch.entries.is_empty() {
                self.take(batch.entries.len() as u64);
                return Poll::Ready(Some(Ok(batch)));
            }
        }
        let next = ready!(self.poll_received(cx));
        if let Some(Ok(batch)) = &next {
            self.take(batch.entries.len() as u64);
        }
        Poll::Ready(next)
    }

    /// The position behind everything given out so far, to be kept: [`Start::Resume`] continues there. `None` before
    /// any position is known.
    #[must_use]
    pub fn resume_token(&self) -> Option<ResumeToken> {
        let left = self.left.as_ref().map(|left| (&left.batch, left.gap, left.message));
        self.intake.positions(left).map(ResumeToken::new)
    }

    /// Begins anew, from `start`, and forgets the position. This is how to go on after
    /// [`SubscribeError::ForeignCluster`], once it is decided what to do about what is gone.
    ///
    /// # Errors
    /// As `Client::subscribe`. The subscription has ended then.
    pub async fn restart(&mut self, start: Start) -> Result<(), SubscribeError> {
        self.state = State::Ended;
        self.left = None;
        self.taken = 0;
        self.intake.cursors.clear();
        if let Start::Resume(token) = &start {
            let restored = self.intake.cursors.restore(token.resume());
            restored.map_err(|error| SubscribeError::Options(error.to_string()))?;
        }
        self.options.start = start;
        self.open_first().await
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> SubscriptionStats {
        let cursors = &self.intake.cursors;
        SubscriptionStats {
            messages: self.messages,
            reconnects: self.reconnects,
            duplicates: cursors.duplicates,
            skipped: cursors.skipped,
        }
    }

    async fn open_first(&mut self) -> Result<(), SubscribeError> {
        let deadline = Instant::now() + self.shared.connect_timeout;
        let opened = self.opening(None, Some(deadline), false).run().await?;
        self.handle_opened(opened)
    }

    fn opening(&self, avoid: Option<Arc<str>>, deadline: Option<Instant>, is_retry: bool) -> Opening {
        Opening {
            shared: Arc::clone(&self.shared),
            upstream: Arc::clone(&self.upstream),
            open: self.options.to_open(self.intake.cursors.start(self.options.start.to_proto())),
            silence_timeout: self.options.silence_timeout,
            avoid,
            deadline,
            is_retry,
            backoff: self.backoff,
        }
    }

    /// Takes in the first delivery of a new stream.
    fn handle_opened(&mut self, opened: Opened) -> Result<(), SubscribeError> {
        self.intake.handle_open();
        self.taken = 0;
        self.backoff = opened.backoff;
        let taken = self.intake.handle_delivery(opened.first)?;
        self.left = taken.batch.map(|batch| Left { batch, gap: 0, message: 0 });
        self.state = match taken.error {
            Some(error) => State::Failed(error),
            None => State::Open(Box::new(Open::new(opened.connection, opened.responses))),
        };
        Ok(())
    }

    /// The next delivery that holds something, as it arrives.
    fn poll_received(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Batch, SubscribeError>>> {
        loop {
            match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Failed(_) => {
                    let State::Failed(error) = std::mem::replace(&mut self.state, State::Ended) else { continue };
                    return Poll::Ready(Some(Err(error)));
                }
                State::Opening(opening) => {
                    let Poll::Ready(opened) = opening.as_mut().poll(cx) else { return self.pending_unless_closed(cx) };
                    if let Err(error) = opened.and_then(|opened| self.handle_opened(opened)) {
                        self.state = if self.shared.is_closed() { State::Ended } else { State::Failed(error) };
                    } else if let Some(left) = self.left.take() {
                        return Poll::Ready(Some(Ok(left.batch)));
                    }
                }
                State::Open(open) => {
                    let Poll::Ready(delivery) = open.poll_delivery(cx, self.options.silence_timeout) else {
                        return self.pending_unless_closed(cx);
                    };
                    match delivery {
                        Ok(delivery) => {
                            self.backoff.reset();
                            if let Some(batch) = self.handle_delivery(delivery) {
                                return Poll::Ready(Some(Ok(batch)));
                            }
                        }
                        Err(error) => self.handle_break(error),
                    }
                }
            }
        }
    }

    fn handle_delivery(&mut self, delivery: bytes::Bytes) -> Option<Batch> {
        match self.intake.handle_delivery(delivery) {
            Ok(taken) => {
                if let Some(error) = taken.error {
                    self.fail(error);
                }
                // What is dropped here was counted by the node all the same.
                let dropped = taken.messages - taken.batch.as_ref().map_or(0, |batch| batch.entries.len() as u64);
                self.give_credit(dropped);
                taken.batch
            }
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// The stream is gone: opens another, unless the reason forbids it.
    fn handle_break(&mut self, error: CallError) {
        if self.shared.is_closed() {
            self.state = State::Ended;
            return;
        }
        let wants_end = self.options.on_slow == OnSlow::Disconnect && error.code() == ErrorCode::SlowSubscriber;
        if wants_end || !error.is_retryable() {
            self.fail(SubscribeError::refused(error));
            return;
        }
        tracing::debug!(%error, "subscription lost, opening it again");
        let mut avoid = None;
        if let State::Open(open) = &self.state {
            let address = open.connection.address();
            let is_leaving = matches!(error.code(), ErrorCode::ShuttingDown | ErrorCode::MemoryPressure);
            let is_refused = matches!(error, CallError::Refused { .. });
            if is_leaving || !is_refused {
                open.connection.suspect();
            }
            if !is_refused || error.code() == ErrorCode::ShuttingDown {
                self.shared.pool.handle_failure(address);
            }
            avoid = Some(Arc::clone(address));
        }
        self.reconnects += 1;
        self.state = State::Opening(Box::pin(self.opening(avoid, None, true).run()));
    }

    fn fail(&mut self, error: SubscribeError) {
        self.state = State::Failed(error);
    }

    fn pending_unless_closed<T>(&mut self, cx: &Context<'_>) -> Poll<Option<T>> {
        if self.upstream.poll_closed(cx) {
            self.state = State::Ended;
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// The application takes messages.
    fn take(&mut self, messages: u64) {
        self.messages += messages;
        self.give_credit(messages);
    }

    /// Gives credit for messages once half of it is used.
    fn give_credit(&mut self, messages: u64) {
        if self.options.credit == 0 {
            return;
        }
        self.taken += messages;
        if self.taken >= self.options.credit.div_ceil(2) {
            self.upstream.add_credit(std::mem::take(&mut self.taken));
        }
    }
}

impl Stream for Subscription {
    type Item = Result<Event, SubscribeError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(left) = &mut this.left {
                if let Some(event) = left.next() {
                    if let Event::Message(_) = event {
                        this.take(1);
                    }
                    return Poll::Ready(Some(Ok(event)));
                }
                this.left = None;
            }
            match ready!(this.poll_received(cx)) {
                Some(Ok(batch)) => this.left = Some(Left { batch, gap: 0, message: 0 }),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Left {
    fn next(&mut self) -> Option<Event> {
        if let Some((gap, _)) = self.batch.gaps.get(self.gap) {
            self.gap += 1;
            return Some(Event::Gap(*gap));
        }
        let message = self.batch.received(self.message)?;
        self.message += 1;
        Some(Event::Message(message))
    }
}

impl Open {
    fn new(connection: Connection, responses: Responses) -> Self {
        Self { connection, responses, silence: Box::pin(tokio::time::sleep(Duration::ZERO)), is_waiting: false }
    }

    /// The next delivery. An error means that the stream is gone.
    fn poll_delivery(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<Result<bytes::Bytes, CallError>> {
        if let Poll::Ready(delivery) = self.responses.poll_next(cx) {
            self.is_waiting = false;
            let ended = || Err(CallError::Connection("the node ended the stream".to_owned()));
            return Poll::Ready(delivery.unwrap_or_else(ended));
        }
        // Silence counts from when we began to wait, not from the last delivery: the application may have been away.
        if !self.is_waiting {
            self.is_waiting = true;
            self.silence.as_mut().reset(Instant::now() + limit);
        }
        self.silence.as_mut().poll(cx).map(|()| Err(CallError::TimedOut(limit)))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.upstream.close();
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
