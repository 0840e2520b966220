//! One lane, as its driver and its request body see it.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use broky_proto::v1::PushResponse;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::answer::Violation;
use super::lanes::{Lanes, wake};
use super::router::Slot;
use super::window::Next;
use crate::transport::Outgoing;

/// How long a lane that is one of several is kept without a message.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a node that leads nothing any more may owe an answer: it is dead as a rule, or cut off from the others, and
/// has nothing to wait for if it is not.
const DESERTED_TIMEOUT: Duration = Duration::from_millis(250);

/// How long a node may owe an answer before the cluster map is asked for elsewhere.
const SILENCE_NOTED: Duration = Duration::from_millis(250);

/// A lane, in the hands of its driver.
pub(super) struct Lane {
    pub(super) lanes: Arc<Lanes>,
    slot: Slot,
    driver: Arc<Notify>,
}

/// What the driver learns from a look at the time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Tick {
    /// Nothing is unsettled. Look again at this time, if there is one.
    Idle(Option<Instant>),
    /// Look again later.
    Busy,
    /// Look again later; the node owes an answer for a while now.
    Silent,
    /// Give the stream up, for this reason.
    Leave(String),
    /// The lane is gone.
    Done,
}

impl Lane {
    pub(super) fn new(lanes: &Arc<Lanes>, slot: Slot, driver: Arc<Notify>) -> Self {
        Self { lanes: Arc::clone(lanes), slot, driver }
    }

    /// Something concerns the driver.
    pub(super) async fn woken(&self) {
        self.driver.notified().await;
    }

    /// The address to be connected to, if it matters.
    pub(super) fn target(&self) -> Option<Arc<str>> {
        self.lanes.lock().router.target(self.slot)
    }

    /// Another address that may be of use, after a stream to `avoid` was lost.
    pub(super) fn way_out(&self, avoid: &str, turn: usize) -> Option<Arc<str>> {
        self.lanes.lock().router.way_out(self.slot, avoid, turn)
    }

    /// Begins a stream to this address and gives its request body.
    pub(super) fn handle_connect(&self, address: &Arc<str>) -> LaneBody {
        let mut state = self.lanes.lock();
        state.streams += 1;
        let stream = state.streams;
        state.router.handle_connect(self.slot, address);
        let port = state.port(self.slot);
        port.stream = stream;
        port.parked = None;
        port.heard = Instant::now();
        LaneBody { lanes: Arc::clone(&self.lanes), slot: self.slot, stream }
    }

    /// Ends the stream: what is unanswered goes again on the next.
    pub(super) fn handle_disconnect(&self, reason: String) {
        let waker = {
            let mut state = self.lanes.lock();
            state.router.act(self.slot, |window| window.handle_disconnect());
            let port = state.port(self.slot);
            port.stream = 0;
            port.last_error = reason;
            port.parked.take()
        };
        // It finds that its stream is over, and ends.
        wake(waker);
        self.lanes.notify_progress();
    }

    /// Notes why there is no stream.
    pub(super) fn handle_error(&self, reason: String) {
        self.lanes.lock().port(self.slot).last_error = reason;
    }

    pub(super) fn handle_refusal(&self, reason: &str) {
        self.lanes.lock().router.act(self.slot, |window| window.handle_refusal(reason));
    }

    /// Sends nothing more on this stream. Returns whether nothing is unanswered.
    pub(super) fn handle_drain(&self) -> bool {
        self.lanes.lock().router.act(self.slot, |window| window.handle_drain())
    }

    pub(super) fn handle_response(&self, response: PushResponse) -> Result<Next, Violation> {
        let (next, waker, others, is_over) = {
            let mut state = self.lanes.lock();
            let port = state.port(self.slot);
            port.heard = Instant::now();
            if let Some(refused) = response.outcomes.iter().find(|outcome| outcome.retry) {
                port.last_error = format!("{}: {}", refused.code().name(), refused.reason);
            }
            let next = state.router.act(self.slot, |window| window.handle_response(response))?;
            let others = if state.router.settle_changeover() { state.unpark_all() } else { Vec::new() };
            (next, state.unpark(self.slot), others, state.router.is_over(self.slot))
        };
        wake(waker);
        others.into_iter().for_each(|waker| waker.wake());
        if is_over {
            self.driver.notify_one();
        }
        self.lanes.notify_progress();
        Ok(next)
    }

    /// The wait before a retry is over. Returns whether there is anything to push again.
    pub(super) fn handle_retry(&self) -> bool {
        let (waker, is_empty) = {
            let mut state = self.lanes.lock();
            state.router.act(self.slot, |window| window.handle_retry());
            (state.unpark(self.slot), state.router.window(self.slot).is_empty())
        };
        wake(waker);
        !is_empty
    }

    /// Looks at the time. After [`Tick::Done`] the lane is another's.
    pub(super) fn handle_tick(&self, now: Instant) -> Tick {
        let (tick, wakers) = {
            let mut state = self.lanes.lock();
            let state = &mut *state;
            let reason = std::mem::take(&mut state.port(self.slot).last_error);
            let is_owed = state.router.act(self.slot, |window| window.handle_timeout(now, &reason));
            state.router.handle_timeout(now);
            state.router.settle_changeover();
            let patience = match state.router.is_deserted(self.slot) {
                true => DESERTED_TIMEOUT.min(self.lanes.silence_timeout),
                false => self.lanes.silence_timeout,
            };
            let is_over = state.router.is_over(self.slot);
            let is_spare = state.router.is_spare(self.slot);
            let window = state.router.window(self.slot);
            let (is_awaiting, is_empty) = (window.is_awaiting(), window.is_empty());
            let port = state.port(self.slot);
            port.last_error = reason;
            let tick = if is_owed {
                Tick::Leave("no answer within the delivery timeout".to_owned())
            } else if is_awaiting && now.duration_since(port.heard) > patience {
                Tick::Leave(format!("no answer within {patience:?}"))
            } else if is_awaiting && now.duration_since(port.heard) > SILENCE_NOTED {
                Tick::Silent
            } else if !is_empty {
                Tick::Busy
            } else {
                let until = port.handle_idle(now);
                if is_over || is_spare && until <= now { Tick::Done } else { Tick::Idle(is_spare.then_some(until)) }
            };
            let mut wakers = state.unpark_all();
            if tick == Tick::Done {
                wakers.extend(state.remove(self.slot));
            }
            (tick, wakers)
        };
        wakers.into_iter().for_each(|waker| waker.wake());
        self.lanes.notify_progress();
        tick
    }
}

impl super::lanes::Port {
    /// Nothing is unsettled: the driver need not look at the time. Returns when the lane may end, counted from the
    /// first look after something was pushed that finds all of it settled.
    fn handle_idle(&mut self, now: Instant) -> Instant {
        if std::mem::take(&mut self.is_ticking) || self.idle_since.is_none() {
            self.idle_since = Some(now);
        }
        self.idle_since.unwrap_or(now) + IDLE_TIMEOUT
    }
}

/// The requests of one stream.
pub(super) struct LaneBody {
    lanes: Arc<Lanes>,
    slot: Slot,
    stream: u64,
}

impl Outgoing for LaneBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut state = self.lanes.lock();
        if state.port(self.slot).stream != self.stream {
            return Poll::Ready(None);
        }
        let was_awaiting = state.router.window(self.slot).is_awaiting();
        let request = state.router.next_request(self.slot);
        if let Some(request) = request {
            if !was_awaiting {
                state.port(self.slot).heard = Instant::now();
            }
            return Poll::Ready(Some(request));
        }
        if state.router.is_over(self.slot) {
            return Poll::Ready(None);
        }
        let parked = &mut state.port(self.slot).parked;
        match parked {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *parked = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}
