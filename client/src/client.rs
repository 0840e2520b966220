//! The handle everything starts from: [`Client`] and how it is built.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use broky_proto::frame::encode;
use broky_proto::v1::{TopologyRequest, TopologyResponse};
use prost::Message as _;

use crate::backoff::Backoff;
use crate::message::AsMessage;
use crate::producer::{Lane, Producer, ProducerOptions, PushError, Receipt, unary};
use crate::subscription::{SubscribeError, SubscribeOptions, Subscription, Upstream};
use crate::topology::{Topology, TopologyError};
use crate::transport::{Attempt, CallError, ConnectError, Dialing, Method, Pool, RequestBody, Settings};

/// A client of a broky cluster. Clones are handles to the same one.
///
/// It needs the address of one node that is up; giving it all of them lets it survive the death of any. Any node takes
/// any request.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What all handles, producers and subscriptions of a client share.
pub(crate) struct Shared {
    pub(crate) pool: Arc<Pool>,
    pub(crate) connect_timeout: Duration,
    backoff_first: Duration,
    backoff_max: Duration,
    is_closed: AtomicBool,
    lanes: Mutex<Vec<Weak<Lane>>>,
    upstreams: Mutex<Vec<Weak<Upstream>>>,
}

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
        let shared = Shared {
            pool: Arc::new(Pool::new(addresses, settings)),
            connect_timeout: self.connect_timeout,
            backoff_first: self.backoff_first,
            backoff_max: self.backoff_max,
            is_closed: AtomicBool::new(false),
            lanes: Mutex::default(),
            upstreams: Mutex::default(),
        };
        Ok(Client { shared: Arc::new(shared) })
    }
}

/// The address, if it is `host:port`.
fn checked(address: String) -> Result<Arc<str>, ConnectError> {
    let is_valid = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        && address.parse::<http::uri::Authority>().is_ok();
    if is_valid { Ok(address.into()) } else { Err(ConnectError::BadAddress(address)) }
}

impl Client {
    /// Connects to a cluster of which these are client addresses, `host:port` each, with the defaults of
    /// [`ClientBuilder`].
    ///
    /// # Errors
    /// When none of them answers; see [`ConnectError`].
    pub async fn connect(addresses: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, ConnectError> {
        Self::builder().addresses(addresses).connect().await
    }

    /// A builder, for other settings.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A producer with the default options. It connects in the background.
    ///
    /// # Errors
    /// [`ConnectError::Closed`] once the client is closed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn producer(&self) -> Result<Producer, ConnectError> {
        self.producer_with(ProducerOptions::default())
    }

    /// A producer. Options out of range are taken as the nearest value within. It connects in the background.
    ///
    /// # Errors
    /// [`ConnectError::Closed`] once the client is closed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn producer_with(&self, options: ProducerOptions) -> Result<Producer, ConnectError> {
        if self.shared.is_closed() {
            return Err(ConnectError::Closed);
        }
        let producer = Producer::start(options, Arc::clone(&self.shared.pool), self.shared.backoff());
        register(&self.shared.lanes, producer.lane());
        Ok(producer)
    }

    /// Pushes a batch in one call, once, and gives what became of each message, with positions. It neither retries nor
    /// deduplicates: a message whose outcome is unknown may have been stored. A [`Producer`] does both, and is faster.
    ///
    /// # Errors
    /// When all messages met with the same failure; see [`PushError`].
    pub async fn push(&self, messages: &[impl AsMessage]) -> Result<Vec<Result<Receipt, PushError>>, PushError> {
        if self.shared.is_closed() {
            return Err(PushError::Closed);
        }
        unary::push(&self.shared, messages).await
    }

    /// Opens a subscription; returns once the broker has confirmed it. From then on whatever is committed and matches is
    /// delivered, or its loss is told.
    ///
    /// Waits for at most the connect timeout per address; afterwards the subscription reconnects for as long as it takes.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    pub async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, SubscribeError> {
        if self.shared.is_closed() {
            return Err(SubscribeError::Connect(ConnectError::Closed));
        }
        Subscription::open(Arc::clone(&self.shared), options).await
    }

    /// The cluster map as some node knows it now.
    ///
    /// # Errors
    /// See [`TopologyError`].
    pub async fn topology(&self) -> Result<Topology, TopologyError> {
        let (connection, lease) = self.shared.pool.connection(Dialing::Shared, None).await?;
        let call = async {
            let request = RequestBody::Once(Some(encode(&TopologyRequest {})));
            let mut responses = connection.call(Method::Topology, request, lease).await?;
            let Some(message) = responses.next().await else {
                return Err(CallError::Invalid("no topology in the answer".to_owned()));
            };
            TopologyResponse::decode(message?).map_err(|error| CallError::Invalid(error.to_string()))
        };
        let limit = self.shared.connect_timeout;
        let response = tokio::time::timeout(limit, call).await.unwrap_or(Err(CallError::TimedOut(limit)));
        if response.is_err() {
            connection.suspect();
        }
        Ok(Topology::new(response?)?)
    }

    /// Closes the client: no new producers and subscriptions, subscriptions end, producers take no more messages. Waits
    /// until everything pushed has an outcome, which takes the delivery timeout at the most.
    pub async fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        for upstream in registered(&self.shared.upstreams) {
            upstream.close();
        }
        let lanes = registered(&self.shared.lanes);
        lanes.iter().for_each(|lane| lane.close());
        for lane in lanes {
            lane.finished().await;
        }
        self.shared.pool.clear();
    }

    /// Makes sure that some node speaks gRPC. A connection alone proves little: the kernel of a paused node makes it.
    async fn probe(&self) -> Result<(), ConnectError> {
        let pool = &self.shared.pool;
        let mut attempts = Vec::new();
        for address in pool.shuffled(None) {
            let answered = async {
                let connection = pool.dial(&address).await?;
                let request = RequestBody::Once(Some(encode(&TopologyRequest {})));
                match connection.call(Method::Topology, request, connection.lease()).await {
                    // Whatever its answer, a node gave one.
                    Ok(_) | Err(CallError::Refused { .. }) => Ok(connection),
                    Err(error) => Err(error.to_string()),
                }
            };
            let limit = self.shared.connect_timeout;
            match tokio::time::timeout(limit, answered).await {
                Ok(Ok(connection)) => {
                    pool.keep_idle(&connection);
                    return Ok(());
                }
                Ok(Err(error)) => attempts.push(Attempt { address: address.to_string(), error }),
                Err(_) => {
                    let error = format!("no answer within {limit:?}");
                    attempts.push(Attempt { address: address.to_string(), error });
                }
            }
        }
        Err(ConnectError::Unreachable { attempts })
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("is_closed", &self.shared.is_closed()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.backoff_first, self.backoff_max)
    }

    /// Lets [`Client::close`] reach a subscription.
    pub(crate) fn register(&self, upstream: &Arc<Upstream>) {
        register(&self.upstreams, upstream);
    }
}

/// Adds an entry, and forgets those that are gone once they may be half of all.
fn register<T>(list: &Mutex<Vec<Weak<T>>>, entry: &Arc<T>) {
    let mut list = lock(list);
    if list.len() == list.capacity() {
        list.retain(|entry| entry.strong_count() > 0);
        let live = list.len();
        list.reserve(live + 1);
    }
    list.push(Arc::downgrade(entry));
}

fn registered<T>(list: &Mutex<Vec<Weak<T>>>) -> Vec<Arc<T>> {
    lock(list).iter().filter_map(Weak::upgrade).collect()
}

fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn list_of_dead_entries_does_not_grow() {
        let list = Mutex::default();
        for number in 0..10_000 {
            register(&list, &Arc::new(number));
        }
        assert!(lock(&list).capacity() < 64);
    }
}
