//! Streams that another node reads here: deliveries that it relays, and history for one of its subscriptions.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use broky_delivery::{self as delivery, RelayId, SubscriptionId};
use broky_proto::frame::{Deframer, PREFIX_LEN};
use broky_proto::relay::TO_OWNER_BYTES_MAX;
use broky_shard::Frame;
use bytes::Bytes;
use hyper::body::Incoming;

use super::outbound::poll_message;
use crate::worker::Worker;

/// The body of a response that a node relays.
pub(crate) struct RelayBody {
    worker: Rc<Worker>,
    id: RelayId,
    request: Incoming,
    deframer: Deframer,
}

impl RelayBody {
    pub(super) fn new(worker: Rc<Worker>, request: Incoming) -> Self {
        let id = worker.open_relay();
        Self { worker, id, request, deframer: Deframer::new(TO_OWNER_BYTES_MAX) }
    }

    /// The next frame; `None` when the other node has gone, or says what makes no sense.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        while let Poll::Ready(message) = poll_message(&mut self.request, &mut self.deframer, cx) {
            let Some(message) = message else { return Poll::Ready(None) };
            let taken = message.map_err(|error| error.to_string());
            if let Err(error) = taken.and_then(|message| self.worker.take_from_relay(self.id, message)) {
                tracing::warn!(error, "a peer asks for what cannot be read");
                return Poll::Ready(None);
            }
        }
        self.worker.poll_relay(self.id, cx).map(Some)
    }
}

impl Drop for RelayBody {
    fn drop(&mut self) {
        self.worker.close_relay(self.id);
    }
}

enum State {
    Opening,
    Open(SubscriptionId),
    Over,
}

/// The body of a response that holds history.
pub(crate) struct HistoryBody {
    worker: Rc<Worker>,
    request: Incoming,
    deframer: Deframer,
    state: State,
}

/// Behind the last delivery: one that holds nothing.
const END: [u8; PREFIX_LEN] = [0; PREFIX_LEN];

impl HistoryBody {
    pub(super) fn new(worker: Rc<Worker>, request: Incoming) -> Self {
        Self { worker, request, deframer: Deframer::new(TO_OWNER_BYTES_MAX), state: State::Opening }
    }

    /// The next frame; `None` at the end, which the mark precedes when all was sent.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        loop {
            match self.state {
                State::Over => return Poll::Ready(None),
                State::Opening => {
                    let message = ready!(poll_message(&mut self.request, &mut self.deframer, cx));
                    let Some(Ok(message)) = message else { return Poll::Ready(None) };
                    match self.worker.open_history(message) {
                        Ok(id) => self.state = State::Open(id),
                        Err(refusal) => {
                            tracing::debug!(%refusal, "history cannot be given");
                            return Poll::Ready(None);
                        }
                    }
                }
                State::Open(id) => match self.worker.poll_subscription(id, cx) {
                    delivery::Poll::Frame(frame) => return Poll::Ready(Some(frame.into())),
                    delivery::Poll::Pending => return Poll::Pending,
                    delivery::Poll::Yield => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    delivery::Poll::Done => {
                        self.close();
                        return Poll::Ready(Some(Bytes::from_static(&END).into()));
                    }
                    delivery::Poll::Ended(refusal) => {
                        tracing::debug!(%refusal, "history ends early");
                        self.close();
                        return Poll::Ready(None);
                    }
                },
            }
        }
    }

    fn close(&mut self) {
        if let State::Open(id) = std::mem::replace(&mut self.state, State::Over) {
            self.worker.close_subscription(id);
        }
    }
}

impl Drop for HistoryBody {
    fn drop(&mut self) {
        self.close();
    }
}

/// Either body, polled as one.
pub(crate) enum Read {
    Relay(Box<RelayBody>),
    History(Box<HistoryBody>),
}

impl Read {
    pub(super) fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        match self.get_mut() {
            Self::Relay(body) => body.poll_next(cx),
            Self::History(body) => body.poll_next(cx),
        }
    }
}
