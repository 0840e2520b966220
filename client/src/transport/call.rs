//! One gRPC call: its request, and the messages of its response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use broky_proto::frame::Deframer;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::RequestBody;
use super::connection::Lease;
use super::status::{self, CallError};

/// The methods of `broky.v1.Broker`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    Push,
    PushStream,
    Subscribe,
    Topology,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Push => "Push",
            Self::PushStream => "PushStream",
            Self::Subscribe => "Subscribe",
            Self::Topology => "Topology",
        }
    }

    pub(super) fn request(self, authority: &str, body: RequestBody) -> Result<Request<RequestBody>, CallError> {
        Request::post(format!("http://{authority}/broky.v1.Broker/{}", self.name()))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
            .header(TE, HeaderValue::from_static("trailers"))
            .body(body)
            .map_err(|error| CallError::Invalid(format!("address {authority}: {error}")))
    }
}

/// The messages of a response. Dropping it resets the stream.
pub(crate) struct Responses {
    body: Incoming,
    deframer: Deframer,
    is_ended: bool,
    _lease: Lease,
}

impl Responses {
    /// Takes a response whose headers say that it is gRPC and has not failed already.
    pub(super) fn new(response: Response<Incoming>, message_bytes_max: usize, lease: Lease) -> Result<Self, CallError> {
        if response.status() != StatusCode::OK {
            return Err(CallError::Invalid(format!("HTTP status {}", response.status())));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("application/grpc") {
            return Err(CallError::Invalid(format!("content-type {kind:?}")));
        }
        let is_ended = match status::from_headers(response.headers()) {
            Some(outcome) => outcome.map(|()| true)?,
            None => false,
        };
        Ok(Self { body: response.into_body(), deframer: Deframer::new(message_bytes_max), is_ended, _lease: lease })
    }

    /// The next message, without its prefix; `None` after the call ended with success.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CallError>>> {
        loop {
            match self.deframer.next_message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            if self.is_ended {
                return Poll::Ready(None);
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => self.deframer.push(chunk),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        self.end(status::from_headers(&trailers))?;
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.end(None)?,
            }
        }
    }

    /// As [`Responses::poll_next`], to be awaited.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, CallError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn end(&mut self, status: Option<Result<(), CallError>>) -> Result<(), CallError> {
        self.is_ended = true;
        status.unwrap_or_else(|| Err(CallError::Connection("the stream ended without a status".to_owned())))?;
        Ok(self.deframer.finish()?)
    }
}
