//! `Push` and `PushStream`.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use broky_proto::error::Refusal;
use broky_proto::frame;
use broky_proto::limits::BATCH_BYTES_MAX;
use broky_proto::v1::ErrorCode;
use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::Frame;
use hyper::body::Incoming;

use super::body::ServerBody;
use super::read::Messages;
use super::status::{ok_trailers, refusal_trailers, refuse, respond};
use crate::worker::{PushTicket, StopWatch, Worker};

/// Requests of one stream that may wait for their outcome before the stream is read on.
const IN_FLIGHT_MAX: usize = 1024;
/// Bytes of one stream that may wait for their outcome before the stream is read on: 16 MiB.
const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;
/// Bytes taken from one stream before others get their turn: 1 MiB.
const TURN_BYTES_MAX: usize = 1 << 20;

fn messages(worker: &Rc<Worker>, body: Incoming) -> Messages {
    Messages::new(worker.clone(), body, BATCH_BYTES_MAX, ErrorCode::BatchTooLarge)
}

/// Serves `Push`.
pub(crate) async fn push(worker: Rc<Worker>, body: Incoming) -> Response<ServerBody> {
    let mut messages = messages(&worker, body);
    let request = match std::future::poll_fn(|cx| messages.poll_message(cx)).await {
        Some(Ok(request)) => request,
        Some(Err(refusal)) => return refuse(&refusal),
        None => return refuse(&Refusal::new(ErrorCode::ProtocolViolation, "the call holds no request")),
    };
    let mut ticket = match Worker::push(&worker, request) {
        Ok(ticket) => ticket,
        Err(refusal) => return refuse(&refusal),
    };
    let response = std::future::poll_fn(|cx| ticket.poll(cx)).await;
    respond(ServerBody::Unary(Some(frame::encode(&response)), Some(ok_trailers())))
}

/// The response body of a `PushStream`: reading it drives the stream.
pub(crate) struct PushStream {
    worker: Rc<Worker>,
    stop: StopWatch,
    messages: Messages,
    in_flight: VecDeque<(PushTicket, usize)>,
    in_flight_bytes: usize,
    /// How the stream ends once everything in flight is answered.
    end: Option<Result<(), Refusal>>,
    is_over: bool,
}

impl PushStream {
    pub(crate) fn response(worker: Rc<Worker>, body: Incoming) -> Response<ServerBody> {
        let messages = messages(&worker, body);
        let (in_flight, in_flight_bytes) = (VecDeque::new(), 0);
        let stop = StopWatch::new(worker.clone());
        let stream = Self { worker, stop, messages, in_flight, in_flight_bytes, end: None, is_over: false };
        respond(ServerBody::PushStream(Box::new(stream)))
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        self.read(cx);
        if let Some(responses) = self.answered(cx) {
            return Poll::Ready(Some(Frame::data(responses)));
        }
        if !self.in_flight.is_empty() {
            return Poll::Pending;
        }
        match &self.end {
            None => Poll::Pending,
            Some(end) => {
                self.is_over = true;
                let trailers = end.as_ref().err().map_or_else(ok_trailers, refusal_trailers);
                Poll::Ready(Some(Frame::trailers(trailers)))
            }
        }
    }

    /// Takes requests as long as there are any and their outcomes are not too far behind.
    fn read(&mut self, cx: &mut Context<'_>) {
        let mut taken = 0;
        while self.end.is_none() && self.has_room() {
            if taken >= TURN_BYTES_MAX {
                cx.waker().wake_by_ref();
                return;
            }
            if self.stop.poll(cx).is_ready() {
                self.end = Some(Err(Refusal::new(ErrorCode::ShuttingDown, "the node is shutting down")));
                return;
            }
            let Poll::Ready(message) = self.messages.poll_message(cx) else { return };
            let request = match message {
                Some(Ok(request)) => request,
                Some(Err(refusal)) => return self.end = Some(Err(refusal)),
                None => return self.end = Some(Ok(())),
            };
            let bytes = request.len();
            match Worker::push(&self.worker, request) {
                Ok(ticket) => self.in_flight.push_back((ticket, bytes)),
                Err(refusal) => return self.end = Some(Err(refusal)),
            }
            taken += bytes;
            self.in_flight_bytes += bytes;
        }
    }

    /// Whether to read on. When this very stream waits for nothing it may, for else nothing would wake it.
    fn has_room(&self) -> bool {
        let is_short = self.in_flight.len() < IN_FLIGHT_MAX && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX;
        is_short && (self.in_flight.is_empty() || self.worker.has_room_for_requests())
    }

    /// The responses to the oldest requests, as far as they are known.
    fn answered(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        let mut first: Option<Bytes> = None;
        let mut joined: Option<BytesMut> = None;
        while let Some((ticket, bytes)) = self.in_flight.front_mut() {
            let Poll::Ready(response) = ticket.poll(cx) else { break };
            self.in_flight_bytes -= *bytes;
            self.in_flight.pop_front();
            let response = frame::encode(&response);
            match (&first, &mut joined) {
                (None, _) => first = Some(response),
                (Some(one), None) => joined = Some([one.as_ref(), response.as_ref()].concat().as_slice().into()),
                (Some(_), Some(joined)) => joined.extend_from_slice(&response),
            }
        }
        joined.map(BytesMut::freeze).or(first)
    }
}
