//! One HTTP/2 connection to one node.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::TcpStream;

use super::body::RequestBody;
use super::call::{Method, Responses};
use super::status::{CallError, with_causes};

/// Largest DATA frame we take: a whole block in one contiguous piece.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// Largest message we take from a node: a delivery or a topology is far below it.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// HTTP/2's limit of a flow-control window.
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
/// The windows of the streams bound what a connection holds unread. Its own one is larger, because h2 derives from it
/// how many tiny frames may wait before it takes the sender for an attacker: 64 MiB allow for a stream full of them.
const CONNECTION_WINDOW_BYTES_MIN: u32 = 64 << 20;

/// Why no connection could be made. Nothing was sent. Retry once the addresses are right and a node is up.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ConnectError {
    /// No address was given.
    #[error("no address given")]
    NoAddress,
    /// An address is not `host:port`. Nothing was tried.
    #[error("address {0:?} is not host:port")]
    BadAddress(String),
    /// None of the addresses answered.
    #[error("no node answered: {}", Attempt::list(attempts))]
    Unreachable {
        /// Each address that was tried, in order, with what went wrong.
        attempts: Vec<Attempt>,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

/// One address that was tried in vain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// `host:port`, as given.
    pub address: String,
    /// What went wrong.
    pub error: String,
}

impl Attempt {
    fn list(attempts: &[Self]) -> String {
        attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.error)
    }
}

/// How connections are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) connect_timeout: Duration,
    pub(crate) stream_window_bytes: u32,
    pub(crate) streams_per_connection: usize,
    pub(crate) keep_alive_interval: Duration,
    pub(crate) keep_alive_timeout: Duration,
}

/// A connection. Clones are handles to the same one; it closes when the last handle and the last stream are gone.
#[derive(Clone)]
pub(crate) struct Connection {
    address: Arc<str>,
    sender: SendRequest<RequestBody>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Streams and reservations, but for those of the cluster map.
    leases: AtomicUsize,
    /// Streams of the cluster map. They carry next to nothing, so they leave room for as many others as ever.
    map_leases: AtomicUsize,
    is_suspect: AtomicBool,
}

/// A place among a connection's streams, given back when dropped.
pub(crate) struct Lease {
    state: Arc<State>,
    is_for_map: bool,
}

impl Lease {
    fn new(state: &Arc<State>, is_for_map: bool) -> Self {
        let lease = Self { state: Arc::clone(state), is_for_map };
        lease.count().fetch_add(1, Ordering::Relaxed);
        lease
    }

    fn count(&self) -> &AtomicUsize {
        if self.is_for_map { &self.state.map_leases } else { &self.state.leases }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// Connects to `address`, `host:port`, within the timeout.
    pub(crate) async fn dial(address: &Arc<str>, settings: &Settings) -> Result<Self, String> {
        let limit = settings.connect_timeout;
        match tokio::time::timeout(limit, Self::dial_unbounded(address, settings)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no connection within {limit:?}")),
        }
    }

    async fn dial_unbounded(address: &Arc<str>, settings: &Settings) -> Result<Self, String> {
        let socket = TcpStream::connect(&**address).await.map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        let streams = u32::try_from(settings.streams_per_connection).unwrap_or(u32::MAX);
        let window = settings.stream_window_bytes.saturating_mul(streams);
        let window = window.clamp(CONNECTION_WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(settings.stream_window_bytes)
            .initial_connection_window_size(window)
            .max_frame_size(FRAME_BYTES_MAX)
            .keep_alive_interval(settings.keep_alive_interval)
            .keep_alive_timeout(settings.keep_alive_timeout)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|error| with_causes(&error))?;
        let address = Arc::clone(address);
        let peer = Arc::clone(&address);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(peer = &*peer, error = %with_causes(&error), "connection ended");
            }
        });
        Ok(Self { address, sender, state: Arc::default() })
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Whether new streams may go onto it.
    pub(crate) fn is_usable(&self) -> bool {
        !self.sender.is_closed() && !self.state.is_suspect.load(Ordering::Relaxed)
    }

    /// Keeps new streams off it: a stream on it broke or went silent.
    pub(crate) fn suspect(&self) {
        self.state.is_suspect.store(true, Ordering::Relaxed);
    }

    pub(super) fn leases(&self) -> usize {
        self.state.leases.load(Ordering::Relaxed)
    }

    /// Whether nobody uses it.
    pub(super) fn is_free(&self) -> bool {
        self.leases() == 0 && self.state.map_leases.load(Ordering::Relaxed) == 0
    }

    /// A place for one stream.
    pub(crate) fn lease(&self) -> Lease {
        Lease::new(&self.state, false)
    }

    /// A place for a stream of the cluster map.
    pub(crate) fn map_lease(&self) -> Lease {
        Lease::new(&self.state, true)
    }

    /// Starts a call. The body is sent from now on, whether or not the returned future is polled; dropping that resets
    /// the stream.
    pub(crate) fn call(
        &self,
        method: Method,
        body: RequestBody,
        lease: Lease,
    ) -> impl Future<Output = Result<Responses, CallError>> + Send + use<> {
        let mut sender = self.sender.clone();
        let response = method.request(&self.address, body).map(|request| sender.send_request(request));
        async move { Responses::new(response?.await?, MESSAGE_BYTES_MAX, lease) }
    }
}
