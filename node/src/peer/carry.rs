//! Carrying bytes between two processes that do not reach one another.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Detours that a node is part of at a time: each takes two descriptors and a little memory.
pub(super) const CARRIED_MAX: usize = 64;
/// A detour on which nothing goes one of the ways for so long is over. Raft's heartbeats are far more frequent.
const IDLE: Duration = Duration::from_secs(30);
/// Of connecting to whom it leads to. Whoever asked waits no longer.
const CONNECT: Duration = Duration::from_secs(1);
const BUFFER_BYTES: usize = 16 << 10;

/// Carries until one side ends, cannot be reached, or takes or gives nothing for long. Counts those that come about.
pub(super) async fn carry(mut near: TcpStream, address: &str, count: &AtomicU64) {
    let carried = async {
        let mut far = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await??;
        far.set_nodelay(true)?;
        count.fetch_add(1, Ordering::Relaxed);
        let (near_reads, near_writes) = near.split();
        let (far_reads, far_writes) = far.split();
        tokio::select! {
            carried = pump(near_reads, far_writes) => carried,
            carried = pump(far_reads, near_writes) => carried,
        }
    };
    if let Err(error) = carried.await {
        tracing::debug!(%error, address, "a detour ended");
    }
}

async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let len = tokio::time::timeout(IDLE, from.read(&mut buffer)).await??;
        if len == 0 {
            return Ok(());
        }
        tokio::time::timeout(IDLE, to.write_all(buffer.get(..len).unwrap_or_default())).await??;
    }
}
