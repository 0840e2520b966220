//! The connections of one client: which to use, and which address to try next.
//!
//! A producer has connections of its own; subscriptions share connections, a bounded number of streams on each. An
//! address that failed is tried last; see [`super::addresses`]. When an address does not answer for a moment the next
//! is tried beside it, so that one that swallows packets costs that moment and not the connect timeout.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::addresses::Addresses;
use super::connection::{Attempt, ConnectError, Connection, Lease, Settings};
use crate::backoff::random;

/// What a connection is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialing {
    /// One stream that carries a lot.
    Dedicated,
    /// One stream of many.
    Shared,
}

/// Addresses and open connections.
pub(crate) struct Pool {
    addresses: Mutex<Addresses>,
    settings: Settings,
    kept: Mutex<Kept>,
    /// Held while a shared connection is made, so that those who come meanwhile use it instead of making their own.
    dialing: tokio::sync::Mutex<()>,
    /// Wakes whoever relies on an address when one failed.
    failed: Notify,
    /// Tells each address that was silent when it should have answered.
    silent: broadcast::Sender<Arc<str>>,
}

/// The connections that may be used again.
#[derive(Default)]
struct Kept {
    connections: Vec<Connection>,
    /// None is kept any more. Whoever was dialing when the client was closed may come with one later.
    is_closed: bool,
}

/// How long to wait for another's dialing before dialing oneself: far longer than a connection takes, far shorter than
/// it takes to give up on an address that swallows packets.
const DIALING_WAIT: Duration = Duration::from_millis(100);
/// How long one address is tried alone.
const STAGGER: Duration = Duration::from_millis(250);
/// Silences that somebody may be behind in hearing of; should it be more, it takes them for the one that it waits for.
const SILENCES_MAX: usize = 64;

/// The silences of one address, from a moment on.
pub(crate) struct Silences {
    address: Arc<str>,
    all: broadcast::Receiver<Arc<str>>,
}

impl Silences {
    /// Waits for the next. Cancelling it loses none that was not returned.
    pub(crate) async fn next(&mut self) {
        loop {
            match self.all.recv().await {
                Ok(address) if address == self.address => return,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return,
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

impl Pool {
    pub(crate) fn new(addresses: Vec<Arc<str>>, settings: Settings) -> Self {
        Self {
            addresses: Mutex::new(Addresses::new(addresses)),
            settings,
            kept: Mutex::default(),
            dialing: tokio::sync::Mutex::new(()),
            failed: Notify::new(),
            silent: broadcast::Sender::new(SILENCES_MAX),
        }
    }

    /// A connection, and a place on it for one stream: to `wanted` if that may be reachable, otherwise to any node,
    /// `avoid` last.
    pub(crate) async fn connection(
        &self,
        dialing: Dialing,
        wanted: Option<&str>,
        avoid: Option<&str>,
    ) -> Result<(Connection, Lease), ConnectError> {
        let fits = |address: &str| {
            avoid != Some(address) && wanted.is_none_or(|wanted| wanted == address) && self.is_trusted(address)
        };
        if self.kept().is_closed {
            return Err(ConnectError::Closed);
        }
        if let Some(found) = self.find(dialing, fits) {
            return Ok(found);
        }
        let _turn = match dialing {
            Dialing::Dedicated => None,
            Dialing::Shared => tokio::time::timeout(DIALING_WAIT, self.dialing.lock()).await.ok(),
        };
        if let Some(found) = self.find(dialing, fits) {
            return Ok(found);
        }
        let (last, others): (Vec<_>, Vec<_>) =
            self.order(wanted, avoid).into_iter().partition(|address| avoid == Some(&**address));
        let mut attempts = Vec::new();
        for addresses in [others, last] {
            // Of what is avoided a connection that is there will do.
            if addresses.iter().any(|address| avoid == Some(&**address))
                && let Some(found) = self.find(dialing, |address| avoid == Some(address))
            {
                return Ok(found);
            }
            if let Some(connection) = self.dial_first(addresses, &mut attempts).await {
                let lease = connection.lease();
                if dialing == Dialing::Shared {
                    self.keep(&connection);
                }
                return Ok((connection, lease));
            }
        }
        Err(ConnectError::Unreachable { attempts })
    }

    /// Connects to the first of these that answers.
    async fn dial_first(&self, addresses: Vec<Arc<str>>, attempts: &mut Vec<Attempt>) -> Option<Connection> {
        let mut waiting = addresses.into_iter();
        let mut dials = JoinSet::new();
        loop {
            if let Some(address) = waiting.next() {
                let settings = self.settings;
                dials.spawn(async move {
                    let dialed = Connection::dial(&address, &settings).await;
                    (address, dialed)
                });
            }
            let has_more = waiting.len() > 0;
            tokio::select! {
                biased;
                dialed = dials.join_next() => match dialed {
                    Some(Ok((_, Ok(connection)))) => return Some(connection),
                    Some(Ok((address, Err(error)))) => {
                        self.handle_failure(&address);
                        attempts.push(Attempt { address: address.to_string(), error });
                    }
                    // A task that was dropped with its runtime.
                    Some(Err(_)) => {}
                    None => return None,
                },
                () = tokio::time::sleep(STAGGER), if has_more => {}
            }
        }
    }

    /// How long one address may take to answer.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.settings.connect_timeout
    }

    /// Forgets every connection, for good; those without streams close.
    pub(crate) fn close(&self) {
        let mut kept = self.kept();
        kept.is_closed = true;
        kept.connections.clear();
    }

    /// Puts a connection at the disposal of whoever comes next.
    pub(crate) fn keep(&self, connection: &Connection) {
        let mut kept = self.kept();
        if !kept.is_closed {
            kept.connections.push(connection.clone());
        }
    }

    fn find(&self, dialing: Dialing, fits: impl Fn(&str) -> bool) -> Option<(Connection, Lease)> {
        let connections = &mut self.kept().connections;
        connections.retain(Connection::is_usable);
        let has_room = |connection: &Connection| match dialing {
            Dialing::Dedicated => connection.is_free(),
            Dialing::Shared => connection.leases() < self.settings.streams_per_connection,
        };
        let at = connections.iter().position(|connection| has_room(connection) && fits(connection.address()))?;
        match dialing {
            Dialing::Dedicated => {
                let connection = connections.swap_remove(at);
                let lease = connection.lease();
                Some((connection, lease))
            }
            Dialing::Shared => connections.get(at).map(|connection| (connection.clone(), connection.lease())),
        }
    }

    /// A new connection to this address.
    pub(crate) async fn dial(&self, address: &Arc<str>) -> Result<Connection, String> {
        let dialed = Connection::dial(address, &self.settings).await;
        if dialed.is_err() {
            self.handle_failure(address);
        }
        dialed
    }

    /// Every address in the order to try them.
    pub(crate) fn order(&self, wanted: Option<&str>, avoid: Option<&str>) -> Vec<Arc<str>> {
        self.addresses().order(wanted, avoid, Instant::now(), random)
    }

    /// As [`order`](Self::order), with those first that a shared connection leads to.
    pub(crate) fn order_shared(&self, avoid: Option<&str>) -> Vec<Arc<str>> {
        let mut addresses = self.order(None, avoid);
        let is_connected = |address: &str| {
            let leads_there = |connection: &Connection| connection.is_usable() && **connection.address() == *address;
            self.kept().connections.iter().any(leads_there)
        };
        addresses.sort_by_cached_key(|address| {
            let is_fit = avoid != Some(&**address) && self.is_trusted(address);
            !(is_fit && is_connected(address))
        });
        addresses
    }

    /// A shared connection to this address, if there is one, and a place on it for a stream of the cluster map.
    pub(crate) fn shared_at(&self, address: &str) -> Option<(Connection, Lease)> {
        let kept = self.kept();
        let mut usable = kept.connections.iter().filter(|connection| connection.is_usable());
        usable.find(|connection| **connection.address() == *address).map(|found| (found.clone(), found.map_lease()))
    }

    /// Takes the addresses that the cluster map lists.
    pub(crate) fn learn(&self, addresses: &[Arc<str>]) {
        self.addresses().learn(addresses);
    }

    /// Whether an address is known and did not fail lately.
    pub(crate) fn is_trusted(&self, address: &str) -> bool {
        self.addresses().is_trusted(address, Instant::now())
    }

    /// A node answered a call at this address.
    pub(crate) fn handle_answer(&self, address: &str) {
        self.addresses().handle_answer(address);
    }

    /// Nothing could be had from this address: it is tried last for a while.
    pub(crate) fn handle_failure(&self, address: &str) {
        self.addresses().handle_failure(address, Instant::now());
        self.failed.notify_waiters();
    }

    /// An address owes an answer for a moment: it may be slow, or dead.
    pub(crate) fn handle_silence(&self, address: &Arc<str>) {
        // Nobody listens while the map is not followed.
        let _ = self.silent.send(Arc::clone(address));
    }

    /// Whenever an address owes an answer, from now on.
    pub(crate) fn silences(&self, address: &Arc<str>) -> Silences {
        Silences { address: Arc::clone(address), all: self.silent.subscribe() }
    }

    /// Waits until an address is not to be relied on.
    pub(crate) async fn distrusted(&self, address: &str) {
        loop {
            let failed = self.failed.notified();
            if !self.is_trusted(address) {
                return;
            }
            failed.await;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    fn empty_pool() -> Pool {
        let settings = Settings {
            connect_timeout: Duration::from_secs(1),
            stream_window_bytes: 1 << 16,
            streams_per_connection: 1,
            keep_alive_interval: Duration::from_secs(1),
            keep_alive_timeout: Duration::from_secs(1),
        };
        Pool::new(Vec::new(), settings)
    }

    #[tokio::test]
    async fn connection_made_while_the_client_closes_is_not_kept() {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Arc<str> = node.local_addr().unwrap().to_string().into();
        let pool = empty_pool();
        let connection = pool.dial(&address).await.unwrap();
        let (mut socket, _) = node.accept().await.unwrap();
        pool.close();
        pool.keep(&connection);
        drop(connection);
        let ended = async { while socket.read(&mut [0; 1024]).await.is_ok_and(|bytes| bytes > 0) {} };
        tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
        let refused = pool.connection(Dialing::Shared, None, None).await.err().unwrap();
        assert_eq!(refused, ConnectError::Closed);
    }

    #[tokio::test]
    async fn silence_is_heard_of_when_others_are_noted_before_and_behind_it() {
        let pool = empty_pool();
        let addresses = ["a:1", "b:1", "c:1"].map(Arc::from);
        let mut silences = addresses.each_ref().map(|address| pool.silences(address));
        addresses.iter().for_each(|address| pool.handle_silence(address));
        for of_one in &mut silences {
            tokio::time::timeout(Duration::from_secs(20), of_one.next()).await.unwrap();
        }
    }
}
