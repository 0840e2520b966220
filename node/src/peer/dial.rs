//! Dialling a peer: TCP, the hello, HTTP/2.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use broky_proto::peer::{Hello, PeerError, REPLY_BYTES, Reply};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::body::Body;

const KEEP_ALIVE: Duration = Duration::from_secs(5);
const WINDOW_BYTES: u32 = 4 << 20;

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    /// Nobody listens there: the process is gone.
    #[error("connection refused")]
    Refused,
    /// It does not answer: dead, paused or cut off. Nobody can tell.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// A node answers, and does not want this connection.
    #[error("refused: {0:?}")]
    Reply(Reply),
    /// What answers is no node of this version.
    #[error("no peer answers there: {0}")]
    Stranger(#[from] PeerError),
    /// The connection broke, or the address cannot be resolved.
    #[error(transparent)]
    Io(io::Error),
    /// HTTP/2 did not begin.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

impl DialError {
    /// Whether this shows that the process that was wanted is gone.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Refused | Self::Reply(Reply::NotMe))
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // A listener that goes away while a connection waits in its queue resets it.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            _ => Self::Io(error),
        }
    }
}

/// An HTTP/2 connection to a peer. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    sender: SendRequest<Body>,
    closed: watch::Receiver<bool>,
}

impl Link {
    /// The end of the connection, which this does not keep.
    pub(crate) fn ending(&self) -> Ending {
        Ending(self.closed.clone())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed() || *self.closed.borrow()
    }
}

/// See [`Link::ending`].
#[derive(Clone, Debug)]
pub(crate) struct Ending(watch::Receiver<bool>);

impl Ending {
    /// Waits until the connection has ended.
    pub(crate) async fn reached(&mut self) {
        let _ = self.0.wait_for(|closed| *closed).await;
    }

    pub(crate) fn is_of(&self, link: &Link) -> bool {
        self.0.same_channel(&link.closed)
    }
}

impl tower_service::Service<Request<Body>> for Link {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

/// Connects to a peer and settles who is who, within the deadline.
pub(crate) async fn dial(address: &str, hello: &Hello, deadline: Duration) -> Result<Link, DialError> {
    let dialling = async { begin(greet(address, hello).await?).await };
    tokio::time::timeout(deadline, dialling).await.unwrap_or(Err(DialError::Silent(deadline)))
}

/// Connects to a peer by way of the process at `via`, which `detour` asks to carry what follows. `None` when nothing
/// comes of it: that says nothing of whom it was to lead to.
pub(crate) async fn dial_through(via: &str, detour: &Hello, hello: &Hello, deadline: Duration) -> Option<Link> {
    let dialling = async {
        let mut stream = greet(via, detour).await?;
        greet_over(&mut stream, hello).await?;
        begin(stream).await
    };
    match tokio::time::timeout(deadline, dialling).await {
        Ok(Ok(link)) => Some(link),
        Ok(Err(error)) => {
            tracing::debug!(%error, via, "no detour");
            None
        }
        Err(_) => None,
    }
}

/// Begins HTTP/2 behind the hello.
async fn begin(stream: TcpStream) -> Result<Link, DialError> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .handshake(TokioIo::new(stream))
        .await?;
    let (closing, closed) = watch::channel(false);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a peer connection ended");
        }
        closing.send_replace(true);
    });
    Ok(Link { sender, closed })
}

/// Connects, says hello, and reads the answer.
pub(crate) async fn greet(address: &str, hello: &Hello) -> Result<TcpStream, DialError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    greet_over(&mut stream, hello).await?;
    Ok(stream)
}

async fn greet_over(stream: &mut TcpStream, hello: &Hello) -> Result<(), DialError> {
    stream.write_all(&hello.encode()).await?;
    let mut reply = [0; REPLY_BYTES];
    match stream.read_exact(&mut reply).await {
        Ok(_) => {}
        // It closed without a word: it is going away.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(DialError::Refused),
        Err(error) => return Err(error.into()),
    }
    match Reply::decode(&reply)? {
        Reply::Ok => Ok(()),
        reply => Err(DialError::Reply(reply)),
    }
}
