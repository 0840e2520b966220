//! Request bodies: gRPC messages that already carry their prefix.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

/// A stream of requests. Polled by hyper when the stream can take another chunk.
pub(crate) trait Outgoing: Send + 'static {
    /// The next framed request; `None` ends the request stream.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

/// The body of a call.
pub(crate) enum RequestBody {
    /// One framed request, or, once it was taken, none.
    Once(Option<Bytes>),
    /// Many.
    Stream(Box<dyn Outgoing>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Once(request) => Poll::Ready(request.take()),
            Self::Stream(outgoing) => outgoing.poll_next(cx),
        };
        next.map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Once(None))
    }
}
