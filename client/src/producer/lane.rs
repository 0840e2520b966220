//! The one place where pushers, the request body and the driver meet: a lock around the window, and who is to be woken.
//!
//! A push takes the lock once, uncontended unless the transport takes a batch in the same moment. The transport is woken
//! only when it is parked and there is something it may send, which is at most once per batch.
//!
//! A producer has one lane, since any node takes any message. Routing by vbucket to its owner would give a producer one
//! lane per node, each with a producer id of its own, and pick the lane in `Producer::append`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use broky_proto::id::ProducerId;
use broky_proto::v1::PushResponse;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::PushError;
use super::options::ProducerOptions;
use super::ticket::Outcomes;
use super::window::{FlushSummary, Next, Violation, Window};
use crate::backoff::random;
use crate::encode::Encoder;
use crate::transport::Outgoing;

/// See the module.
pub(crate) struct Lane {
    state: Mutex<State>,
    silence_timeout: Duration,
    /// Pushers that wait for room in the window.
    room: Notify,
    /// Whoever waits for messages to be settled or for the lane to finish.
    progress: Notify,
    /// The driver, when something other than an answer concerns it.
    driver: Notify,
}

struct State {
    window: Window,
    /// The request body that waits for a request.
    parked: Option<Waker>,
    /// Counts streams, so that the body of a stream that was given up gets no more requests.
    stream: u64,
    /// When the stream last answered, or, later, began to owe an answer.
    heard: Instant,
    /// What went wrong last, for the messages that are given up.
    last_error: String,
    /// Whether the driver looks at the time. It does not while there is nothing unsettled.
    is_ticking: bool,
    is_closing: bool,
    is_finished: bool,
}

/// What the driver learns from a look at the time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Tick {
    /// Nothing is unsettled: no need to look again.
    Idle,
    /// Look again later.
    Busy,
    /// Give the stream up, for this reason.
    Leave(String),
    /// Closed, and nothing is unsettled.
    Done,
}

/// A new producer id: random, not zero.
pub(super) fn fresh_id() -> ProducerId {
    ProducerId(random().max(1))
}

impl Lane {
    pub(super) fn new(options: ProducerOptions) -> Self {
        Self {
            silence_timeout: options.silence_timeout,
            state: Mutex::new(State {
                window: Window::new(options, fresh_id()),
                parked: None,
                stream: 0,
                heard: Instant::now(),
                last_error: "no node was reached yet".to_owned(),
                is_ticking: false,
                is_closing: false,
                is_finished: false,
            }),
            room: Notify::new(),
            progress: Notify::new(),
            driver: Notify::new(),
        }
    }

    /// Appends a message to the open batch, or says that there is no room. Returns what `handle` makes of the batch's
    /// outcomes and the message's index; the flag says whether that filled a batch.
    #[inline]
    pub(super) fn append<T>(
        &self,
        message: &Encoder<'_>,
        handle: impl FnOnce(&Arc<Outcomes>, u32) -> T,
    ) -> Result<(T, bool), PushError> {
        let mut state = self.lock();
        if state.is_closing {
            return Err(PushError::Closed);
        }
        if !state.window.has_room(message.field_len()) {
            return Err(PushError::WouldBlock);
        }
        let appended = state.window.append(message, Instant::now, handle);
        let is_driver_asleep = !std::mem::replace(&mut state.is_ticking, true);
        let waker = state.unpark();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if is_driver_asleep {
            self.driver.notify_one();
        }
        Ok(appended)
    }

    /// Waits until `attempt` gives something else than [`PushError::WouldBlock`].
    pub(super) async fn when_room<T>(&self, mut attempt: impl FnMut() -> Result<T, PushError>) -> Result<T, PushError> {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // Registered before the attempt, so that room made right after it is not missed.
            room.as_mut().enable();
            match attempt() {
                Err(PushError::WouldBlock) => room.await,
                outcome => return outcome,
            }
        }
    }

    /// Waits until everything pushed before the call is settled.
    pub(super) async fn flush(&self) -> FlushSummary {
        let mark = {
            let mut state = self.lock();
            let mark = state.window.hurry();
            let waker = state.unpark();
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
            mark
        };
        self.wait_for(|state| state.window.is_settled(mark)).await;
        self.lock().window.summary()
    }

    /// Takes no more messages; what was pushed is still sent.
    pub(crate) fn close(&self) {
        let waker = {
            let mut state = self.lock();
            state.is_closing = true;
            state.window.hurry();
            // Parked or not: an empty window ends the body now.
            state.parked.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        self.room.notify_waiters();
        self.driver.notify_one();
    }

    /// Waits for the end of a lane that was closed.
    pub(crate) async fn finished(&self) -> FlushSummary {
        self.wait_for(|state| state.is_finished).await;
        self.lock().window.summary()
    }

    pub(super) fn summary(&self) -> FlushSummary {
        self.lock().window.summary()
    }

    async fn wait_for(&self, is_met: impl Fn(&State) -> bool) {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            if is_met(&self.lock()) {
                return;
            }
            progress.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The driver's side.
impl Lane {
    /// Something concerns the driver.
    pub(super) async fn woken(&self) {
        self.driver.notified().await;
    }

    /// Begins a stream and gives its request body.
    pub(super) fn handle_connect(self: &Arc<Self>) -> LaneBody {
        let mut state = self.lock();
        state.stream += 1;
        state.parked = None;
        state.heard = Instant::now();
        state.window.handle_connect();
        LaneBody { lane: Arc::clone(self), stream: state.stream }
    }

    /// Ends the stream: what is unanswered goes again on the next.
    pub(super) fn handle_disconnect(&self, reason: String) {
        let waker = {
            let mut state = self.lock();
            state.stream += 1;
            state.last_error = reason;
            state.window.handle_disconnect();
            state.parked.take()
        };
        // It finds that its stream is over, and ends.
        if let Some(waker) = waker {
            waker.wake();
        }
        self.notify_progress();
    }

    /// Notes why there is no stream.
    pub(super) fn handle_error(&self, reason: String) {
        self.lock().last_error = reason;
    }

    pub(super) fn handle_refusal(&self, reason: &str) {
        self.lock().window.handle_refusal(reason);
    }

    pub(super) fn handle_response(&self, response: PushResponse) -> Result<Next, Violation> {
        let (next, waker, is_over) = {
            let mut state = self.lock();
            state.heard = Instant::now();
            if let Some(refused) = response.outcomes.iter().find(|outcome| outcome.retry) {
                state.last_error = format!("{}: {}", refused.code().name(), refused.reason);
            }
            let next = state.window.handle_response(response)?;
            (next, state.unpark(), state.is_over())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        if is_over {
            self.driver.notify_one();
        }
        self.notify_progress();
        Ok(next)
    }

    /// The wait before a retry is over.
    pub(super) fn handle_retry(&self) {
        let waker = {
            let mut state = self.lock();
            state.window.handle_retry();
            state.unpark()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Looks at the time.
    pub(super) fn handle_tick(&self, now: Instant) -> Tick {
        let tick = {
            let mut state = self.lock();
            let state = &mut *state;
            let is_owed = state.window.handle_timeout(now, &state.last_error);
            if is_owed {
                Tick::Leave("no answer within the delivery timeout".to_owned())
            } else if state.window.is_awaiting() && now.duration_since(state.heard) > self.silence_timeout {
                Tick::Leave(format!("no answer within {:?}", self.silence_timeout))
            } else if !state.window.is_empty() {
                Tick::Busy
            } else if state.is_closing {
                Tick::Done
            } else {
                state.is_ticking = false;
                Tick::Idle
            }
        };
        self.notify_progress();
        tick
    }

    /// The driver ends.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.is_finished = true;
        state.is_closing = true;
        drop(state);
        self.notify_progress();
    }

    fn notify_progress(&self) {
        self.room.notify_waiters();
        self.progress.notify_waiters();
    }
}

impl State {
    /// The parked body's waker, if there is something for it to send, or to end.
    #[inline]
    fn unpark(&mut self) -> Option<Waker> {
        let is_wanted = self.window.has_request() || self.is_over();
        if is_wanted { self.parked.take() } else { None }
    }

    /// Whether nothing is to be sent any more.
    fn is_over(&self) -> bool {
        self.is_closing && self.window.is_empty()
    }
}

/// The requests of one stream.
pub(super) struct LaneBody {
    lane: Arc<Lane>,
    stream: u64,
}

impl Outgoing for LaneBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.lane.lock();
        if state.stream != self.stream {
            return Poll::Ready(None);
        }
        let was_awaiting = state.window.is_awaiting();
        if let Some(request) = state.window.next_request(fresh_id) {
            if !was_awaiting {
                state.heard = Instant::now();
            }
            return Poll::Ready(Some(request));
        }
        if state.is_over() {
            return Poll::Ready(None);
        }
        match &mut state.parked {
            Some(waker) => waker.clone_from(cx.waker()),
            None => state.parked = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
