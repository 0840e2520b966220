//! The connections of one client: which to use, and which address to try next.
//!
//! A producer has a connection of its own; subscriptions share connections, a bounded number of streams on each. An
//! address under suspicion (its stream broke or went silent) is tried last: a node that is paused still completes TCP
//! handshakes, so merely connecting would not lead away from it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    addresses: Vec<Arc<str>>,
    settings: Settings,
    connections: Mutex<Vec<Connection>>,
    /// Held while a shared connection is made, so that those who come meanwhile use it instead of making their own.
    dialing: tokio::sync::Mutex<()>,
}

/// How long to wait for another's dialing before dialing oneself: far longer than a connection takes, far shorter than
/// it takes to give up on an address that swallows packets.
const DIALING_WAIT: Duration = Duration::from_millis(100);

impl Pool {
    pub(crate) fn new(addresses: Vec<Arc<str>>, settings: Settings) -> Self {
        Self { addresses, settings, connections: Mutex::default(), dialing: tokio::sync::Mutex::new(()) }
    }

    /// A connection to any node, `avoid` last, and a place on it for one stream.
    pub(crate) async fn connection(
        &self,
        dialing: Dialing,
        avoid: Option<&str>,
    ) -> Result<(Connection, Lease), ConnectError> {
        if let Some(found) = self.find(dialing, avoid) {
            return Ok(found);
        }
        let _turn = match dialing {
            Dialing::Dedicated => None,
            Dialing::Shared => tokio::time::timeout(DIALING_WAIT, self.dialing.lock()).await.ok(),
        };
        if let Some(found) = self.find(dialing, avoid) {
            return Ok(found);
        }
        let mut attempts = Vec::new();
        for address in self.shuffled(avoid) {
            match self.dial(&address).await {
                Ok(connection) => {
                    let lease = connection.lease();
                    self.keep(dialing, &connection);
                    return Ok((connection, lease));
                }
                Err(error) => attempts.push(Attempt { address: address.to_string(), error }),
            }
        }
        Err(ConnectError::Unreachable { attempts })
    }

    /// Forgets every connection; those without streams close.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Puts a connection that nobody uses at the disposal of whoever comes next.
    pub(crate) fn keep_idle(&self, connection: &Connection) {
        self.lock().push(connection.clone());
    }

    fn keep(&self, dialing: Dialing, connection: &Connection) {
        match dialing {
            Dialing::Dedicated => {}
            Dialing::Shared => self.lock().push(connection.clone()),
        }
    }

    fn find(&self, dialing: Dialing, avoid: Option<&str>) -> Option<(Connection, Lease)> {
        let mut connections = self.lock();
        connections.retain(Connection::is_usable);
        let fits = |connection: &Connection| {
            let room = match dialing {
                Dialing::Dedicated => connection.leases() == 0,
                Dialing::Shared => connection.leases() < self.settings.streams_per_connection,
            };
            room && avoid != Some(&**connection.address())
        };
        let at = connections.iter().position(fits)?;
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
        Connection::dial(address, &self.settings).await
    }

    /// Every address in random order, `avoid` last.
    pub(crate) fn shuffled(&self, avoid: Option<&str>) -> Vec<Arc<str>> {
        let mut keyed: Vec<(bool, u64, &Arc<str>)> =
            self.addresses.iter().map(|address| (avoid == Some(&**address), random(), address)).collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(.., address)| Arc::clone(address)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspect_address_comes_last() {
        let settings = Settings {
            connect_timeout: Duration::from_secs(1),
            stream_window_bytes: 1 << 20,
            streams_per_connection: 8,
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
        };
        let pool = Pool::new(["a:1", "b:1", "c:1"].map(Arc::from).to_vec(), settings);
        for _ in 0..20 {
            let order = pool.shuffled(Some("b:1"));
            assert_eq!((order.len(), &*order[2]), (3, "b:1"));
        }
    }
}
