//! Dialling another process' shard.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use broky_proto::frame::Deframer;
use broky_proto::peer::Hello;
use broky_proto::replicate::{FRAME_BYTES_MAX as MESSAGE_BYTES_MAX, PeerError};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{FRAME_BYTES_MAX, FrameQueue, KEEP_ALIVE, Method};
use crate::peer::{DialError, greet};
use crate::worker::LocalExecutor;

/// A stream to another process: what that says.
pub(crate) struct Outbound {
    body: Incoming,
    deframer: Deframer,
    connection: tokio::task::AbortHandle,
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Connects to a process and begins to send it what is put into `queue`.
pub(crate) async fn open(
    address: &str,
    hello: &Hello,
    method: Method,
    queue: &FrameQueue,
    deadline: Duration,
) -> Result<Outbound, DialError> {
    let dialling = async {
        let stream = greet(address, hello).await?;
        let (mut sender, connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(method.window())
            .initial_connection_window_size(method.window())
            .max_frame_size(FRAME_BYTES_MAX)
            .keep_alive_interval(KEEP_ALIVE)
            .handshake(TokioIo::new(stream))
            .await?;
        let connection = tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a data link ended");
            }
        });
        let request = Request::post(format!("http://{address}{}", method.path()))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
            .body(queue.frames())
            .map_err(|error| DialError::Io(std::io::Error::other(error)))?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            let words = format!("a peer answered {}", response.status());
            return Err(DialError::Io(std::io::Error::other(words)));
        }
        let (body, deframer) = (response.into_body(), Deframer::new(MESSAGE_BYTES_MAX));
        Ok(Outbound { body, deframer, connection: connection.abort_handle() })
    };
    tokio::time::timeout(deadline, dialling).await.unwrap_or(Err(DialError::Silent(deadline)))
}

impl Outbound {
    /// The peer's next message; `None` when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, PeerError>> {
        std::future::poll_fn(|cx| poll_message(&mut self.body, &mut self.deframer, cx)).await
    }
}

/// The next message of a stream, without its prefix.
pub(super) fn poll_message(
    body: &mut Incoming,
    deframer: &mut Deframer,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Bytes, PeerError>>> {
    loop {
        match deframer.next_message() {
            Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
            Ok(None) => {}
            Err(error) => return Poll::Ready(Some(Err(PeerError::Malformed(error.to_string())))),
        }
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Ok(chunk) = frame.into_data() {
                    deframer.push(chunk);
                }
            }
            Some(Err(_)) | None => return Poll::Ready(None),
        }
    }
}
