//! Serving one connection.

use std::net::TcpStream;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{ConnectionId, StopWatch, Worker};
use crate::grpc::ClientService;
use crate::listener::Admission;
use crate::sniff::{Replayed, Sniffed, sniff};

/// Spawns on the worker's own thread.
#[derive(Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Bytes a client may send on one stream before the node has read them. Many fit the connection's, so that a stream
/// that is not read on leaves room for the others; and so that a stream full of tiny frames is no attack yet: h2 ends a
/// connection when its unread small frames, at 256 bytes each, exceed half of its window.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 24 << 20;
/// Frames of this size are taken in one piece: a batch then needs no putting together.
const FRAME_BYTES_MAX: u32 = 1 << 20;
const STREAMS_MAX: u32 = 1024;
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Bytes of one stream that may wait for the socket before the stream is asked for more.
const SEND_BUFFER_BYTES: usize = 256 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A subscriber that is stopped for a while, by a debugger or a laptop's lid, is not cut off at once.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(40);
const RESETS_PENDING_MAX: usize = 20;
const RESETS_OF_OURS_MAX: usize = 256;

impl Worker {
    /// Serves a connection until it ends.
    pub(super) fn serve(self: &Rc<Self>, stream: TcpStream, admission: Admission) {
        let id = ConnectionId(self.connections.borrow_mut().insert(None));
        let worker = self.clone();
        let task = tokio::task::spawn_local(async move {
            let _guard = ConnectionGuard { worker: worker.clone(), id, _admission: admission };
            let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
            match sniff(stream).await {
                Sniffed::Http2(stream) => worker.serve_http2(stream, id).await,
                Sniffed::Other => tracing::debug!("a connection did not begin as HTTP/2"),
                Sniffed::Silent => tracing::debug!("a connection sent nothing"),
            }
        });
        if let Some(slot) = self.connections.borrow_mut().get_mut(id.0) {
            *slot = Some(task.abort_handle());
        }
    }

    async fn serve_http2(self: Rc<Self>, stream: Replayed, id: ConnectionId) {
        let service = ClientService { worker: self.clone(), connection: id, routes: self.routes.clone() };
        let connection = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_OF_OURS_MAX)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let stop = StopWatch::new(self);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = std::future::poll_fn(|cx| stop.poll(cx)) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }

    /// Drops a connection with all that waits in it.
    pub(super) fn cut(&self, connection: Option<ConnectionId>) {
        let connections = self.connections.borrow();
        if let Some(Some(task)) = connection.and_then(|id| connections.get(id.0)) {
            task.abort();
        }
    }
}

/// Forgets the connection when its task ends, however it ends.
struct ConnectionGuard {
    worker: Rc<Worker>,
    id: ConnectionId,
    _admission: Admission,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().try_remove(self.id.0);
    }
}
