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

use super::{FRAME_BYTES_MAX, FrameQueue, KEEP_ALIVE, KEEP_ALIVE_TIMEOUT, Method, SERIAL};
use crate::peer::{DialError, greet};
use crate::worker::LocalExecutor;

/// A stream to another process: what that says.
pub(crate) struct Outbound {
    body: Incoming,
    deframer: Deframer,
    _connection: Connection,
}

/// Ends the attempt to open a stream with whoever makes it. A stream that is open ends with its queue.
struct Connection(tokio::task::AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects to a process and begins to send it what is put into `queue`: some of it may have arrived even if that fails
/// ([`FrameQueue::has_given`]). `serial` is higher than that of the streams before.
pub(crate) async fn open(
    address: &str,
    hello: &Hello,
    (method, serial): (Method, u64),
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
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await?;
        let connection = tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a data link ended");
            }
        });
        let connection = Connection(connection.abort_handle());
        let request = Request::post(format!("http://{address}{}", method.path()))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
            .header(SERIAL, HeaderValue::from(serial))
            .body(queue.frames())
            .map_err(|error| DialError::Io(std::io::Error::other(error)))?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            let words = format!("a peer answered {}", response.status());
            return Err(DialError::Io(std::io::Error::other(words)));
        }
        let (body, deframer) = (response.into_body(), Deframer::new(MESSAGE_BYTES_MAX));
        Ok(Outbound { body, deframer, _connection: connection })
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use broky_proto::id::{ClusterId, Incarnation, Member, NodeId};
    use broky_proto::peer::{HELLO_BYTES, Purpose, Reply};
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::*;
    use crate::data::frames::Frames;

    /// Serves one connection until `fallen_silent` says otherwise, and keeps it open then.
    async fn serve_for_a_while(listener: TcpListener, fallen_silent: oneshot::Receiver<()>) {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; HELLO_BYTES]).await.unwrap();
        stream.write_all(&Reply::Ok.encode()).await.unwrap();
        let answer =
            |_: Request<Incoming>| async { Ok::<_, Infallible>(http::Response::new(FrameQueue::default().frames())) };
        let serving = hyper::server::conn::http2::Builder::new(LocalExecutor)
            .serve_connection(TokioIo::new(stream), service_fn(answer));
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            ended = &mut serving => ended.unwrap(),
            _ = fallen_silent => {}
        }
        std::future::pending().await
    }

    #[tokio::test]
    async fn link_to_a_peer_that_falls_silent_ends() {
        let member = Member { node: NodeId(1), incarnation: Incarnation(1) };
        let cluster = Some(ClusterId([1; 16]));
        let hello = Hello { purpose: Purpose::Data, shard: 0, cluster, from: Some(member), to: Some(member) };
        let scene = async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (fall_silent, fallen_silent) = oneshot::channel();
            let peer = tokio::task::spawn_local(serve_for_a_while(listener, fallen_silent));
            let queue = FrameQueue::default();
            let limit = Duration::from_secs(60);
            let mut link = open(&address, &hello, (Method::Relay, 1), &queue, limit).await.unwrap();
            fall_silent.send(()).unwrap();
            // Well above what is promised, and below what hyper does by itself.
            let ended = tokio::time::timeout(Duration::from_secs(15), link.next()).await;
            assert!(matches!(ended, Ok(None)), "{ended:?}");
            assert!(!peer.is_finished(), "the peer has closed nothing");
        };
        tokio::task::LocalSet::new().run_until(scene).await;
    }

    #[tokio::test]
    async fn peer_that_takes_a_request_and_does_not_answer_may_have_taken_what_came_with_it() {
        let member = Member { node: NodeId(1), incarnation: Incarnation(1) };
        let hello = Hello { purpose: Purpose::Data, shard: 0, cluster: None, from: Some(member), to: Some(member) };
        let scene = async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let peer = tokio::task::spawn_local(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0; HELLO_BYTES]).await.unwrap();
                stream.write_all(&Reply::Ok.encode()).await.unwrap();
                let no_answer = |_: Request<Incoming>| async {
                    std::future::pending::<Result<http::Response<Frames>, Infallible>>().await
                };
                let serving = hyper::server::conn::http2::Builder::new(LocalExecutor);
                serving.serve_connection(TokioIo::new(stream), service_fn(no_answer)).await
            });
            let queue = FrameQueue::default();
            queue.push(Bytes::from_static(b"a part").into());
            let given = async {
                while !queue.has_given() {
                    tokio::task::yield_now().await
                }
            };
            let opened = open(&address, &hello, (Method::Forward, 1), &queue, Duration::from_secs(60));
            tokio::select! {
                _ = opened => panic!("nobody has answered"),
                () = given => {}
            }
            peer.abort();
        };
        tokio::task::LocalSet::new().run_until(scene).await;
    }
}
