//! Who has dialled: the process at the other end of a connection on this machine.
//!
//! All nodes dial from 127.0.0.1, and only the kernel knows whose socket that is: /proc/net/tcp has its inode, and the
//! process that has this inode among its file descriptors is the one. Both tables are read once for all that was
//! accepted meanwhile, so a herd of clients costs one look, and not one each.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use tokio::sync::{mpsc, oneshot};

/// How many may wait to be looked up. Whoever accepts waits, with the next in the kernel's queue.
const ASKS_MAX: usize = 1_024;

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// A process that was asked about.
    Process(u32),
    /// This process.
    Ourselves,
    /// Somebody else, or somebody who was gone already.
    Unknown,
}

/// Both ends of a connection, seen from who dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ends {
    /// Who dialled.
    pub dialler: SocketAddr,
    /// Where.
    pub listener: SocketAddr,
}

/// Looks up who dialled.
#[derive(Debug)]
pub(super) struct Sources {
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug)]
struct Ask {
    ends: Ends,
    answer: oneshot::Sender<Source>,
}

impl Sources {
    /// `pids` are the processes to know. To be run: what comes with it.
    pub(super) fn new(pids: impl Fn() -> Vec<u32> + Send + 'static) -> (Self, impl Future<Output = ()> + Send) {
        let (asks, receiver) = mpsc::channel(ASKS_MAX);
        (Self { asks }, answer(receiver, pids))
    }

    /// Who is at the other end.
    pub(super) async fn find(&self, ends: Ends) -> Source {
        let (answer, found) = oneshot::channel();
        if self.asks.send(Ask { ends, answer }).await.is_err() {
            return Source::Unknown;
        }
        found.await.unwrap_or(Source::Unknown)
    }
}

async fn answer(mut asks: mpsc::Receiver<Ask>, pids: impl Fn() -> Vec<u32>) {
    let mut batch = Vec::new();
    while asks.recv_many(&mut batch, ASKS_MAX).await > 0 {
        let asked = std::mem::take(&mut batch);
        let (ends, pids) = (asked.iter().map(|ask| ask.ends).collect::<Vec<_>>(), pids());
        let found = tokio::task::spawn_blocking(move || look_up(&ends, &pids)).await.unwrap_or_default();
        for (at, ask) in asked.into_iter().enumerate() {
            // Whoever asked may have been told to end.
            let _ = ask.answer.send(found.get(at).copied().unwrap_or(Source::Unknown));
        }
    }
}

fn look_up(ends: &[Ends], pids: &[u32]) -> Vec<Source> {
    let inodes = inodes(&std::fs::read_to_string("/proc/net/tcp").unwrap_or_default());
    let mut owners = HashMap::new();
    for (pid, source) in pids.iter().map(|pid| (*pid, Source::Process(*pid))) {
        owners.extend(sockets_of(pid).map(|inode| (inode, source)));
    }
    let mut found: Vec<_> = ends.iter().map(|ends| owners.get(inodes.get(&key(ends))?).copied()).collect();
    if found.contains(&None) {
        let ours: HashSet<_> = sockets_of(std::process::id()).collect();
        for (ends, found) in ends.iter().zip(&mut found) {
            let is_ours = || inodes.get(&key(ends)).is_some_and(|inode| ours.contains(inode));
            *found = found.or_else(|| is_ours().then_some(Source::Ourselves));
        }
    }
    found.into_iter().map(|found| found.unwrap_or(Source::Unknown)).collect()
}

/// Whether somebody listens there. Looks only, as a connection would be one more for who listens.
pub(super) fn is_listening(address: SocketAddr) -> bool {
    const LISTEN: &str = "0A";
    let local = written(address);
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&local) && fields.nth(1) == Some(LISTEN)
    })
}

/// The inode of each socket, by its local and remote address, as /proc/net/tcp writes them.
fn inodes(table: &str) -> HashMap<(String, String), u64> {
    let row = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, remote) = (fields.next()?, fields.next()?);
        // What nobody holds any more has none.
        let inode = fields.nth(6)?.parse().ok().filter(|inode| *inode != 0)?;
        Some(((local.to_owned(), remote.to_owned()), inode))
    };
    table.lines().skip(1).filter_map(row).collect()
}

fn key(ends: &Ends) -> (String, String) {
    (written(ends.dialler), written(ends.listener))
}

/// An address as /proc/net/tcp writes it.
fn written(address: SocketAddr) -> String {
    let octets = match address {
        SocketAddr::V4(address) => address.ip().octets(),
        // Nothing here listens there.
        SocketAddr::V6(_) => [0; 4],
    };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(octets), address.port())
}

/// The inodes of a process's sockets. None when it is gone.
fn sockets_of(pid: u32) -> impl Iterator<Item = u64> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| {
        let target = std::fs::read_link(file.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn socket_of_a_process_is_found() {
        let listener = TcpListener::bind("127.1.0.9:0").unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ends = Ends { dialler: dialled.local_addr().unwrap(), listener: listener.local_addr().unwrap() };
        let us = std::process::id();
        assert_eq!(look_up(&[ends], &[us]), [Source::Process(us)]);
        assert_eq!(look_up(&[ends], &[]), [Source::Ourselves]);
        let nobody = Ends { dialler: listener.local_addr().unwrap(), ..ends };
        assert_eq!(look_up(&[nobody], &[us]), [Source::Unknown]);
    }

    #[test]
    fn who_listens_is_seen() {
        let listener = TcpListener::bind("127.1.0.9:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(is_listening(address));
        drop(listener);
        assert!(!is_listening(address));
    }
}
