//! `Subscribe`.

use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use broky_delivery::{self as delivery, SubscriptionId};
use broky_proto::error::Refusal;
use broky_proto::limits::SUBSCRIBE_REQUEST_BYTES_MAX;
use broky_proto::v1::{ErrorCode, SubscribeRequest, subscribe_request::Request};
use bytes::Bytes;
use http::Response;
use http_body::Frame;
use hyper::body::Incoming;
use prost::Message as _;
use tokio::time::Sleep;

use super::body::ServerBody;
use super::read::Messages;
use super::status::{refusal_trailers, respond};
use crate::worker::{ConnectionId, Worker};

/// Time a client has to send its first request.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Time a subscription waits until this node can serve it.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests taken in one turn.
const TURN_REQUESTS_MAX: usize = 64;

enum State {
    /// Waits for the first request.
    Opening(Pin<Box<Sleep>>),
    /// Waits until the node can serve it.
    Beginning(Pin<Box<Sleep>>, SubscriptionId),
    Open(SubscriptionId),
    /// Said its last.
    Over,
}

/// The response body of a `Subscribe`: the transport reads it whenever it has room.
pub(crate) struct Subscribe {
    worker: Rc<Worker>,
    connection: ConnectionId,
    messages: Messages,
    /// The client has said all it had to say; the deliveries go on.
    is_half_closed: bool,
    state: State,
}

impl Subscribe {
    pub(crate) fn response(worker: Rc<Worker>, connection: ConnectionId, body: Incoming) -> Response<ServerBody> {
        let messages = Messages::new(worker.clone(), body, SUBSCRIBE_REQUEST_BYTES_MAX, ErrorCode::LimitExceeded);
        let state = State::Opening(Box::pin(tokio::time::sleep(OPEN_TIMEOUT)));
        let stream = Self { worker, connection, messages, is_half_closed: false, state };
        respond(ServerBody::Subscribe(Box::new(stream)))
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if matches!(self.state, State::Over) {
            return Poll::Ready(None);
        }
        if let Err(refusal) = self.read(cx) {
            return self.finish(&refusal);
        }
        let id = match &mut self.state {
            State::Open(id) => *id,
            State::Beginning(deadline, id) => {
                let id = *id;
                if self.worker.has_begun(id) {
                    self.state = State::Open(id);
                } else if deadline.as_mut().poll(cx).is_ready() {
                    let reason = "not everything that is asked for can be had at this node at present";
                    return self.finish(&Refusal::new(ErrorCode::NotReady, reason));
                }
                id
            }
            State::Over => return Poll::Ready(None),
            State::Opening(deadline) => {
                if deadline.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let reason = format!("no subscription was opened within {} s", OPEN_TIMEOUT.as_secs());
                return self.finish(&Refusal::new(ErrorCode::TimedOut, reason));
            }
        };
        match self.worker.poll_subscription(id, cx) {
            delivery::Poll::Frame(frame) => Poll::Ready(Some(Frame::data(frame))),
            delivery::Poll::Pending => Poll::Pending,
            delivery::Poll::Yield => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            delivery::Poll::Done => self.finish(&Refusal::new(ErrorCode::Unspecified, "the subscription is over")),
            delivery::Poll::Ended(refusal) => self.finish(&refusal),
        }
    }

    /// Takes what the client has sent.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Refusal> {
        for _ in 0..TURN_REQUESTS_MAX {
            if self.is_half_closed {
                return Ok(());
            }
            let Poll::Ready(message) = self.messages.poll_message(cx) else { return Ok(()) };
            let Some(message) = message.transpose()? else {
                self.is_half_closed = true;
                return match self.state {
                    State::Opening(_) => Err(violation("the stream ended without opening a subscription")),
                    State::Beginning(..) | State::Open(_) | State::Over => Ok(()),
                };
            };
            let request = SubscribeRequest::decode(message)
                .map_err(|error| Refusal::new(ErrorCode::Malformed, error.to_string()))?;
            self.handle(request)?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn handle(&mut self, request: SubscribeRequest) -> Result<(), Refusal> {
        match (&mut self.state, request.request) {
            (State::Opening(_), Some(Request::Open(open))) => {
                let id = self.worker.open_subscription(self.connection, &open)?;
                self.state = State::Beginning(Box::pin(tokio::time::sleep(READY_TIMEOUT)), id);
                Ok(())
            }
            (State::Beginning(_, id) | State::Open(id), Some(Request::Credit(credit))) => {
                self.worker.add_credit(*id, credit);
                Ok(())
            }
            (State::Opening(_), Some(Request::Credit(_)) | None) => Err(violation("the first request must be `open`")),
            (State::Open(_) | State::Beginning(..), Some(Request::Open(_))) => {
                Err(violation("the subscription is open already"))
            }
            (State::Open(_) | State::Beginning(..), None) => Err(violation("a request holds nothing")),
            (State::Over, _) => Ok(()),
        }
    }

    fn finish(&mut self, refusal: &Refusal) -> Poll<Option<Frame<Bytes>>> {
        self.close();
        Poll::Ready(Some(Frame::trailers(refusal_trailers(refusal))))
    }

    fn close(&mut self) {
        if let State::Beginning(_, id) | State::Open(id) = std::mem::replace(&mut self.state, State::Over) {
            self.worker.close_subscription(id);
        }
    }
}

impl Drop for Subscribe {
    fn drop(&mut self) {
        self.close();
    }
}

fn violation(reason: &str) -> Refusal {
    Refusal::new(ErrorCode::ProtocolViolation, reason)
}
