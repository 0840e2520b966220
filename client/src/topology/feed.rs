//! Following the cluster map: one stream per client, to whichever node has it, opened again whenever it ends.
//!
//! The hard case is a node that is silent: it may be dead, or wait for one that is. Its stream is kept until another
//! node has told a map; so it does no harm that the next one asked may be the dead one.
//!
//! **Invariant:** map versions never go back. A node may lag behind another, and a stream to one that has an older map
//! than we know is of no use, so it is left for another node. The exception is another cluster id: the cluster was
//! founded anew, and its versions mean nothing beside those of the old one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Topology;
use super::search::{MapStream, decode, give_up_on, search};
use crate::backoff::{Backoff, random};
use crate::transport::{CallError, Connection, Pool, Responses};

type Latest = Option<Arc<Topology>>;

/// The newest cluster map, followed from the first use until it is dropped.
pub(crate) struct Feed {
    pool: Arc<Pool>,
    backoff: Backoff,
    state: Mutex<State>,
}

enum State {
    /// For the first use.
    Waiting,
    Running(watch::Receiver<Latest>, JoinHandle<()>),
    Stopped(watch::Receiver<Latest>),
}

impl Feed {
    pub(crate) fn new(pool: Arc<Pool>, backoff: Backoff) -> Self {
        Self { pool, backoff, state: Mutex::new(State::Waiting) }
    }

    /// Begins with a stream that is open already.
    pub(crate) fn start(&self, connection: Connection, responses: Responses) {
        let mut state = self.lock();
        if let State::Waiting = *state {
            *state = self.run(Some((connection, responses)));
        }
    }

    /// The newest map, from now on. Begins to follow it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Latest> {
        let mut state = self.lock();
        if let State::Waiting = *state {
            *state = self.run(None);
        }
        match &*state {
            State::Running(latest, _) | State::Stopped(latest) => latest.clone(),
            State::Waiting => watch::channel(None).1,
        }
    }

    /// Follows it no longer.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        let latest = match &*state {
            State::Running(latest, task) => {
                task.abort();
                latest.clone()
            }
            State::Waiting | State::Stopped(_) => watch::channel(None).1,
        };
        *state = State::Stopped(latest);
    }

    fn run(&self, first: Option<(Connection, Responses)>) -> State {
        let (sender, latest) = watch::channel(None);
        let follower = Follower { pool: Arc::clone(&self.pool), backoff: self.backoff, latest: sender };
        State::Running(latest, tokio::spawn(follower.run(first)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Follower {
    pool: Arc<Pool>,
    backoff: Backoff,
    latest: watch::Sender<Latest>,
}

impl Follower {
    async fn run(mut self, first: Option<(Connection, Responses)>) {
        let mut next = first.map(|(connection, responses)| MapStream { connection, responses, map: None });
        let mut avoid: Option<Arc<str>> = None;
        loop {
            let found = match next.take() {
                Some(stream) => {
                    avoid = Some(Arc::clone(stream.connection.address()));
                    self.follow(stream).await
                }
                None => self.search(self.pool.order_shared(avoid.as_deref())).await,
            };
            match found {
                Ok(stream) => next = Some(stream),
                Err(reason) => {
                    tracing::debug!(reason, "cluster map not followed");
                    tokio::time::sleep(self.backoff.next_wait(random())).await;
                }
            }
        }
    }

    /// Looks for a node that has the map, at these addresses.
    fn search(&self, addresses: Vec<Arc<str>>) -> impl Future<Output = Result<MapStream, String>> + use<> {
        search(Arc::clone(&self.pool), addresses, self.latest.borrow().clone())
    }

    /// Takes in maps for as long as the stream is of use. Gives the one to follow in its place, or says why it is over.
    async fn follow(&mut self, stream: MapStream) -> Result<MapStream, String> {
        let MapStream { connection, mut responses, map } = stream;
        let address = connection.address();
        let mut silences = self.pool.silences(address);
        let mut next = match map {
            Some(map) => Ok(map),
            None => self.answer(responses.next()).await.and_then(decode),
        };
        loop {
            match next.map(|map| self.take(map)) {
                Ok(true) => {
                    self.pool.handle_answer(address);
                    self.backoff.reset();
                }
                Ok(false) => return Err(format!("{address} has an older map than another node")),
                Err(error) => {
                    give_up_on(&self.pool, &connection, &error);
                    return Err(error.to_string());
                }
            }
            next = tokio::select! {
                message = responses.next() => decode(message),
                // A stream of ours to that node broke or went silent: this one may be silent as well.
                () = self.pool.distrusted(address) => return Err(format!("{address} cannot be relied on")),
                // It is early to say so; but should it be dead, the map that says so comes from another node.
                found = async { silences.next().await; self.search_beside(address).await } => return Ok(found),
            };
        }
    }

    /// A node that has the map and is not at this address.
    async fn search_beside(&self, address: &Arc<str>) -> MapStream {
        let mut backoff = self.backoff;
        loop {
            let mut others = self.pool.order_shared(Some(address));
            others.retain(|other| other != address);
            match self.search(others).await {
                Ok(found) => return found,
                Err(reason) => tracing::debug!(reason, "no other node has the cluster map"),
            }
            tokio::time::sleep(backoff.next_wait(random())).await;
        }
    }

    /// Waits for what a node has to answer at once.
    async fn answer<T>(&self, answer: impl Future<Output = T>) -> Result<T, CallError> {
        let limit = self.pool.connect_timeout();
        tokio::time::timeout(limit, answer).await.map_err(|_| CallError::TimedOut(limit))
    }

    /// Takes in a map. Returns whether it is at least as new as the latest.
    fn take(&self, map: Topology) -> bool {
        let latest = self.latest.borrow().clone();
        if latest.as_ref().is_none_or(|latest| map.supersedes(latest)) {
            self.pool.learn(&map.addresses());
            self.latest.send_replace(Some(Arc::new(map)));
            return true;
        }
        latest.is_some_and(|latest| map.is_as_new_as(&latest))
    }
}

/// The cluster map whenever it changes, as a `Stream`: the newest one known first, then each newer. Maps that follow
/// one another quickly may be passed over for the newest. It ends when the client is closed.
pub struct TopologyWatch {
    /// Held, so that the map is followed.
    _feed: Arc<Feed>,
    next: Pin<Box<dyn Future<Output = Waited> + Send>>,
}

/// The receiver, and whether there is a map that was not given out.
type Waited = (watch::Receiver<Latest>, bool);

impl TopologyWatch {
    pub(crate) fn new(feed: &Arc<Feed>) -> Self {
        let mut latest = feed.subscribe();
        if latest.borrow().is_some() {
            latest.mark_changed();
        }
        Self { _feed: Arc::clone(feed), next: Box::pin(wait(latest)) }
    }

    /// The next map; `None` once the client is closed. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Arc<Topology>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

async fn wait(mut latest: watch::Receiver<Latest>) -> Waited {
    let is_changed = latest.changed().await.is_ok();
    (latest, is_changed)
}

impl Stream for TopologyWatch {
    type Item = Arc<Topology>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let (mut latest, is_changed) = ready!(self.next.as_mut().poll(cx));
            let map = latest.borrow_and_update().clone().filter(|_| is_changed);
            // At the end this gives the end again.
            self.next = Box::pin(wait(latest));
            if map.is_some() || !is_changed {
                return Poll::Ready(map);
            }
        }
    }
}

impl std::fmt::Debug for TopologyWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopologyWatch").finish_non_exhaustive()
    }
}
