//! The client listener: accepting connections within limits, and handing them to the workers in turn.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::config::StartError;
use crate::process::files_max;
use crate::worker::{Inbox, ToWorker};

/// Descriptors kept back for everything but client connections.
const FILES_RESERVED: usize = 128;
/// Time to wait when the system has no descriptor or memory for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
const BACKLOG: i32 = 4096;

/// How many connections were taken and refused.
#[derive(Debug, Default)]
pub(crate) struct ListenerStats {
    open: AtomicUsize,
    pub(crate) accepted: AtomicUsize,
    pub(crate) refused: AtomicUsize,
}

/// A connection's place among those allowed; given back on drop.
#[derive(Debug)]
pub(crate) struct Admission(Arc<ListenerStats>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Binds a listener.
pub(crate) fn bind(address: SocketAddr, purpose: &'static str) -> Result<std::net::TcpListener, StartError> {
    let bind = || -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Otherwise a node could not be restarted while old connections linger.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|source| StartError::Listen { address, purpose, source })
}

/// Accepts connections for ever.
pub(crate) async fn keep_accepting(listener: TcpListener, inboxes: Vec<Inbox>, stats: Arc<ListenerStats>) {
    let max = files_max().saturating_sub(FILES_RESERVED).max(1);
    for inbox in inboxes.iter().cycle() {
        let stream = loop {
            match accept(&listener).await {
                Ok(stream) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        };
        stats.accepted.fetch_add(1, Ordering::Relaxed);
        if stats.open.fetch_add(1, Ordering::Relaxed) >= max {
            stats.open.fetch_sub(1, Ordering::Relaxed);
            stats.refused.fetch_add(1, Ordering::Relaxed);
            // Closing it is the only answer that costs nothing.
            continue;
        }
        let admission = Admission(stats.clone());
        // A worker that is gone takes the listener with it.
        let _ = inbox.send(ToWorker::Connection { stream, admission });
    }
}

async fn accept(listener: &TcpListener) -> io::Result<std::net::TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    stream.into_std()
}
