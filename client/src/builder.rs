//! How a [`Client`] is built.

use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::transport::{ConnectError, Pool, Settings};

/// Builds a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    addresses: Vec<String>,
    connect_timeout: Duration,
    backoff_first: Duration,
    backoff_max: Duration,
    stream_window_bytes: u32,
    streams_per_connection: usize,
    keep_alive_interval: Duration,
    keep_alive_timeout: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            backoff_first: Duration::from_millis(20),
            backoff_max: Duration::from_secs(2),
            stream_window_bytes: 2 << 20,
            streams_per_connection: 8,
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
        }
    }
}

/// HTTP/2's smallest sensible window: its default.
const STREAM_WINDOW_BYTES_MIN: u32 = 65_535;
/// What servers allow at least before they announce anything else.
const STREAMS_PER_CONNECTION_MAX: usize = 100;

impl ClientBuilder {
    /// Adds a node's client address, `host:port`.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Adds client addresses, `host:port` each.
    #[must_use]
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.addresses.extend(addresses.into_iter().map(Into::into));
        self
    }

    /// How long one address may take to answer. Default 5 s. Raised, it takes longer to go on to the next address.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The wait between attempts is drawn from zero to a ceiling, which doubles with each failure from `first` up to
    /// `max`. Default 20 ms and 2 s. Raised, reconnecting takes longer and a struggling cluster gets more rest.
    #[must_use]
    pub fn backoff(mut self, first: Duration, max: Duration) -> Self {
        (self.backoff_first, self.backoff_max) = (first, max.max(first));
        self
    }

    /// HTTP/2 flow-control window of one stream: what a node may send to a subscription that does not read. Default
    /// 2 MiB, at least 64 KiB. Raised, more memory is taken by subscriptions that do not keep up.
    #[must_use]
    pub fn stream_window_bytes(mut self, bytes: u32) -> Self {
        self.stream_window_bytes = bytes.max(STREAM_WINDOW_BYTES_MIN);
        self
    }

    /// How many subscriptions share a connection. Default 8, from 1 to 100. A connection's window is that of a stream
    /// times this. Raised, there are fewer connections, and hot subscriptions share what one connection can carry.
    #[must_use]
    pub fn streams_per_connection(mut self, streams: usize) -> Self {
        self.streams_per_connection = streams.clamp(1, STREAMS_PER_CONNECTION_MAX);
        self
    }

    /// After `interval` without a sign of life a connection with open streams is probed, and given up after `timeout`
    /// without an answer. Default 10 s and 5 s.
    #[must_use]
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        (self.keep_alive_interval, self.keep_alive_timeout) = (interval, timeout);
        self
    }

    /// Connects: tries the addresses in random order until a node answers.
    ///
    /// # Errors
    /// When none does; see [`ConnectError`].
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let client = self.connect_lazily()?;
        client.probe().await?;
        Ok(client)
    }

    /// A client that connects when it is first used.
    ///
    /// # Errors
    /// When there is no address or one is not `host:port`.
    pub fn connect_lazily(self) -> Result<Client, ConnectError> {
        if self.addresses.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        let settings = Settings {
            connect_timeout: self.connect_timeout,
            stream_window_bytes: self.stream_window_bytes,
            streams_per_connection: self.streams_per_connection,
            keep_alive_interval: self.keep_alive_interval,
            keep_alive_timeout: self.keep_alive_timeout,
        };
        let addresses = self.addresses.into_iter().map(checked).collect::<Result<_, _>>()?;
        let pool = Arc::new(Pool::new(addresses, settings));
        let backoff = Backoff::new(self.backoff_first, self.backoff_max);
        Ok(Client::new(pool, self.connect_timeout, backoff))
    }
}

/// The address, if it is `host:port`.
fn checked(address: String) -> Result<Arc<str>, ConnectError> {
    let is_valid = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        && address.parse::<http::uri::Authority>().is_ok();
    if is_valid { Ok(address.into()) } else { Err(ConnectError::BadAddress(address)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["127.0.0.1:7400", "node-1:1", "[::1]:7400"] {
            assert!(checked(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", "node", ":7400", "node:", "node:70000", "http://node:1", "a b:1"] {
            assert!(checked(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
