//! The one response body type of the client listener.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

use super::push::PushStream;
use super::subscribe::Subscribe;
use super::topology::Topology;

/// A response body.
pub(crate) enum ServerBody {
    /// Headers said it all.
    Empty,
    /// One message and trailers.
    Unary(Option<Bytes>, Option<HeaderMap>),
    PushStream(Box<PushStream>),
    Subscribe(Box<Subscribe>),
    Topology(Box<Topology>),
    /// A tonic service.
    Tonic(tonic::body::Body),
}

impl Body for ServerBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Unary(message, trailers) => {
                let next = message.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(next.map(Ok))
            }
            Self::PushStream(stream) => stream.poll_frame(cx).map(|frame| frame.map(Ok)),
            Self::Subscribe(stream) => stream.poll_frame(cx).map(|frame| frame.map(Ok)),
            Self::Topology(stream) => stream.poll_frame(cx).map(|frame| frame.map(Ok)),
            Self::Tonic(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Unary(message, trailers) => message.is_none() && trailers.is_none(),
            Self::PushStream(_) | Self::Subscribe(_) | Self::Topology(_) => false,
            Self::Tonic(body) => body.is_end_stream(),
        }
    }
}
