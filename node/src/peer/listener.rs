//! The peer listener.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broky_proto::id::Member;
use broky_proto::peer::{HELLO_BYTES, Hello, Purpose, Reply};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tonic::body::Body;
use tower_service::Service;

use super::carry::{CARRIED_MAX, carry};

/// Time a peer has to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that have not said yet who they are.
const HALF_OPEN_MAX: usize = 64;
/// Time to wait when the system has no descriptor or memory for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
const STREAMS_MAX: u32 = 256;
const WINDOW_BYTES: u32 = 4 << 20;
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// What became of the connections of peers.
#[derive(Debug, Default)]
pub(crate) struct PeerStats {
    /// Connections taken.
    pub(crate) accepted: AtomicU64,
    /// Connections that did not say who they are, in time or at all, or found the listener busy.
    pub(crate) bad: AtomicU64,
    /// Connections of nodes that have no business here: another cluster's, replaced ones, ones that want somebody else.
    pub(crate) refused: AtomicU64,
    /// Connections carried on to processes that whoever dialled does not reach.
    pub(crate) carried: AtomicU64,
}

/// A connection of the data plane: what it said of itself, and its socket, from which nothing more was read.
pub(crate) type DataConnection = (std::net::TcpStream, Hello);

/// Decides who is let in.
pub(crate) trait Gate: Send + Sync + 'static {
    /// The answer to a hello.
    fn admit(&self, hello: &Hello) -> Reply;

    /// Where a process of the cluster listens to its peers.
    fn place_of(&self, member: Member) -> Option<String>;
}

/// Accepts connections of peers for ever. Those of the control plane are served by `service`.
pub(crate) async fn accept_peers<G, S>(
    listener: TcpListener,
    gate: Arc<G>,
    service: S,
    data: mpsc::UnboundedSender<DataConnection>,
    stats: Arc<PeerStats>,
) where
    G: Gate,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let half_open = Arc::new(Semaphore::new(HALF_OPEN_MAX));
    let detours = Arc::new(Semaphore::new(CARRIED_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a peer's connection");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
        };
        stats.accepted.fetch_add(1, Ordering::Relaxed);
        let Ok(place) = half_open.clone().try_acquire_owned() else {
            stats.bad.fetch_add(1, Ordering::Relaxed);
            // As much as the socket takes at once; a stranger who does not read costs nothing.
            let _ = stream.try_write(&Reply::Busy.encode());
            continue;
        };
        let (gate, service, data, stats) = (gate.clone(), service.clone(), data.clone(), stats.clone());
        let detours = detours.clone();
        tokio::spawn(async move {
            let greeted = greet(stream, &*gate, &stats).await;
            drop(place);
            let Some((stream, hello)) = greeted else { return };
            match hello.purpose {
                Purpose::Control => serve(stream, hello, service).await,
                Purpose::Data => hand_on(stream, hello, &data),
                Purpose::Detour => {
                    let place = hello.to.and_then(|to| gate.place_of(to));
                    // Without a way on it is closed: whoever dialled tries another.
                    if let (Some(place), Ok(_turn)) = (place, detours.try_acquire()) {
                        carry(stream, &place, &stats.carried).await;
                    }
                }
            }
        });
    }
}

/// Reads the hello and answers it.
async fn greet(mut stream: TcpStream, gate: &impl Gate, stats: &PeerStats) -> Option<(TcpStream, Hello)> {
    let greeting = async {
        stream.set_nodelay(true)?;
        let mut bytes = [0; HELLO_BYTES];
        stream.read_exact(&mut bytes).await?;
        let hello = Hello::decode(&bytes);
        let reply = hello.map_or_else(Reply::from, |hello| gate.admit(&hello));
        stream.write_all(&reply.encode()).await?;
        io::Result::Ok((hello, reply))
    };
    match tokio::time::timeout(HELLO_TIMEOUT, greeting).await {
        Ok(Ok((Ok(hello), Reply::Ok))) => return Some((stream, hello)),
        Ok(Ok((Ok(hello), reply))) => {
            stats.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(?hello, ?reply, "a peer was refused");
        }
        Ok(Ok((Err(error), _))) => {
            stats.bad.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, "a connection to the peer port is no peer's");
        }
        Ok(Err(_)) | Err(_) => {
            stats.bad.fetch_add(1, Ordering::Relaxed);
        }
    }
    None
}

fn hand_on(stream: TcpStream, hello: Hello, data: &mpsc::UnboundedSender<DataConnection>) {
    match stream.into_std() {
        // A node whose data plane has not started, or has ended, closes it by that.
        Ok(stream) => drop(data.send((stream, hello))),
        Err(error) => tracing::debug!(%error, "a peer's connection cannot be handed on"),
    }
}

async fn serve<S>(stream: TcpStream, hello: Hello, service: S)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(hello);
        service.clone().call(request)
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a peer's connection broke");
    }
}
