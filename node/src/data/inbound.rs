//! Serving another process' connection.

use std::convert::Infallible;
use std::future::Ready;
use std::rc::Rc;

use broky_proto::forward::FORWARD_BYTES_MAX;
use broky_proto::frame::Deframer;
use broky_proto::id::Member;
use broky_proto::replicate::FRAME_BYTES_MAX as MESSAGE_BYTES_MAX;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::outbound::poll_message;
use super::relay::{HistoryBody, Read, RelayBody};
use super::{
    FRAME_BYTES_MAX, FrameQueue, Frames, Method, SERIAL, SERVED_KEEP_ALIVE, SERVED_KEEP_ALIVE_TIMEOUT,
    STREAM_WINDOW_BYTES,
};
use crate::worker::{ForwardLink, LocalExecutor, Worker};

/// Serves the streams of one connection.
struct DataService {
    worker: Rc<Worker>,
    /// Who has dialled.
    from: Member,
}

impl Service<Request<Incoming>> for DataService {
    type Response = Response<Frames>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Frames>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let queue = FrameQueue::default();
        let mut response = Response::new(queue.frames());
        let method = Method::ALL.into_iter().find(|method| method.path() == request.uri().path());
        let (worker, from) = (self.worker.clone(), self.from);
        let serial = request.headers().get(SERIAL).and_then(|serial| serial.to_str().ok()?.parse().ok());
        match method {
            Some(Method::Replicate) => {
                tokio::task::spawn_local(follow(worker, from, request.into_body(), queue));
            }
            Some(Method::Forward) => {
                let link = ForwardLink { from, serial: serial.unwrap_or_default() };
                tokio::task::spawn_local(take_forwards(worker, link, request.into_body(), queue));
            }
            Some(Method::Relay) => {
                let body = RelayBody::new(worker, request.into_body());
                *response.body_mut() = Frames::Read(Read::Relay(Box::new(body)));
            }
            Some(Method::History) => {
                let body = HistoryBody::new(worker, request.into_body());
                *response.body_mut() = Frames::Read(Read::History(Box::new(body)));
            }
            None => {
                *response.status_mut() = StatusCode::NOT_FOUND;
                queue.close();
                return std::future::ready(Ok(response));
            }
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        std::future::ready(Ok(response))
    }
}

/// Takes what a leader sends, until the stream ends or makes no sense.
async fn follow(worker: Rc<Worker>, leader: Member, mut body: Incoming, queue: FrameQueue) {
    let mut deframer = Deframer::new(MESSAGE_BYTES_MAX);
    let (id, ended) = worker.open_inbound(leader, queue.clone());
    let mut ended = std::pin::pin!(ended);
    loop {
        let message = tokio::select! {
            biased;
            _ = &mut ended => break,
            message = std::future::poll_fn(|cx| poll_message(&mut body, &mut deframer, cx)) => message,
        };
        let Some(message) = message else { break };
        let taken = message.map_err(|error| error.to_string()).and_then(|message| worker.take_from_leader(id, message));
        if let Err(error) = taken {
            tracing::info!(%leader, error, "a replication link begins anew");
            break;
        }
    }
    worker.close_inbound(id);
    queue.close();
}

/// Takes what another node forwards, until the stream ends, makes no sense, or has a successor: that begins with what
/// this one has not answered, and what is left of this one would overtake it.
async fn take_forwards(worker: Rc<Worker>, link: ForwardLink, mut body: Incoming, queue: FrameQueue) {
    let mut deframer = Deframer::new(FORWARD_BYTES_MAX);
    while worker.is_newest(link)
        && let Some(message) = std::future::poll_fn(|cx| poll_message(&mut body, &mut deframer, cx)).await
        && worker.is_newest(link)
    {
        let taken = message.map_err(|error| error.to_string());
        let taken = taken.and_then(|it| worker.take_forwarded(it, &queue).map_err(|error| error.to_string()));
        if let Err(error) = taken {
            tracing::warn!(from = %link.from, error, "a peer forwards what cannot be read");
            break;
        }
    }
    queue.close();
}

/// Serves another process' connection until it ends.
pub(crate) async fn serve(worker: Rc<Worker>, from: Member, stream: tokio::net::TcpStream) {
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .keep_alive_interval(SERVED_KEEP_ALIVE)
        .keep_alive_timeout(SERVED_KEEP_ALIVE_TIMEOUT)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), DataService { worker, from });
    if let Err(error) = connection.await {
        tracing::debug!(%from, %error, "a peer's connection broke");
    }
}
