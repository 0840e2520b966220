//! The handle everything starts from: [`Client`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use broky_proto::v1::TopologyResponse;
use prost::Message as _;

use crate::backoff::Backoff;
use crate::builder::ClientBuilder;
use crate::message::AsMessage;
use crate::producer::{Lanes, Producer, ProducerOptions, PushError, Receipt, unary};
use crate::subscription::{SubscribeError, SubscribeOptions, Subscription, Upstream};
use crate::topology::{Feed, Topology, TopologyError, TopologyWatch};
use crate::transport::{Attempt, CallError, ConnectError, Dialing, Pool, ask_topology};

/// A client of a broky cluster. Clones are handles to the same one.
///
/// It needs the address of one node that is up, and learns those of the others from it. Any node takes any request.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

/// What all handles, producers and subscriptions of a client share.
pub(crate) struct Shared {
    pub(crate) pool: Arc<Pool>,
    pub(crate) connect_timeout: Duration,
    backoff: Backoff,
    is_closed: AtomicBool,
    feed: Arc<Feed>,
    producers: Mutex<Vec<Weak<Lanes>>>,
    upstreams: Mutex<Vec<Weak<Upstream>>>,
}

impl Client {
    pub(crate) fn new(pool: Arc<Pool>, connect_timeout: Duration, backoff: Backoff) -> Self {
        let shared = Shared {
            feed: Arc::new(Feed::new(Arc::clone(&pool), backoff)),
            pool,
            connect_timeout,
            backoff,
            is_closed: AtomicBool::new(false),
            producers: Mutex::default(),
            upstreams: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

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
        let Shared { pool, feed, .. } = &*self.shared;
        let producer = Producer::start(options, Arc::clone(pool), Arc::clone(feed), self.shared.backoff());
        register(&self.shared.producers, producer.lanes());
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

    /// Opens a subscription; returns once the broker has confirmed it. From then on whatever is committed and matches
    /// is delivered, or its loss is told.
    ///
    /// Waits for at most the connect timeout per address; afterwards the subscription reconnects for as long as it
    /// takes.
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
        let (connection, place) = self.shared.pool.connection(Dialing::Shared, None, None).await?;
        let call = async {
            let mut responses = ask_topology(&connection, place).await?;
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

    /// The cluster map, now and whenever it changes. All watches and producers of a client share one stream, which goes
    /// on at another node when it breaks. Versions only go up, unless the cluster is founded anew, which its id shows.
    ///
    /// # Errors
    /// [`ConnectError::Closed`] once the client is closed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch_topology(&self) -> Result<TopologyWatch, ConnectError> {
        if self.shared.is_closed() {
            return Err(ConnectError::Closed);
        }
        Ok(TopologyWatch::new(&self.shared.feed))
    }

    /// Closes the client: no new producers and subscriptions, subscriptions end, producers take no more messages. Waits
    /// until everything pushed has an outcome, which takes the delivery timeout at the most.
    pub async fn close(&self) {
        self.shared.is_closed.store(true, Ordering::Relaxed);
        for upstream in registered(&self.shared.upstreams) {
            upstream.close();
        }
        let producers = registered(&self.shared.producers);
        producers.iter().for_each(|lanes| lanes.close());
        for lanes in producers {
            lanes.finished().await;
        }
        self.shared.feed.stop();
        self.shared.pool.close();
    }

    /// Makes sure that some node answers.
    pub(crate) async fn probe(&self) -> Result<(), ConnectError> {
        let pool = &self.shared.pool;
        let mut attempts = Vec::new();
        for address in pool.order(None, None) {
            match pool.probe(&address).await {
                Ok((connection, responses)) => {
                    pool.keep(&connection);
                    if let Some(responses) = responses {
                        self.shared.feed.start(connection, responses);
                    }
                    return Ok(());
                }
                Err(error) => attempts.push(Attempt { address: address.to_string(), error }),
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
        self.backoff
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
    fn list_of_dead_entries_does_not_grow() {
        let list = Mutex::default();
        for number in 0..10_000 {
            register(&list, &Arc::new(number));
        }
        assert!(lock(&list).capacity() < 64);
    }
}
