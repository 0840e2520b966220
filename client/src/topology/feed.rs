//! Following the cluster map: one stream per client, to whichever node has it, opened again whenever it ends.
//!
//! **Invariant:** map versions never go back. A node may lag behind another, and a stream to one that has an older map
//! than we know is of no use, so it is left for another node. The exception is another cluster id: the cluster was
//! founded anew, and its versions mean nothing beside those of the old one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use broky_proto::v1::TopologyResponse;
use bytes::Bytes;
use futures_core::Stream;
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Topology;
use crate::backoff::{Backoff, random};
use crate::transport::{CallError, Connection, Dialing, Pool, Responses, ask_topology};

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
        let mut stream = first;
        let mut avoid: Option<Arc<str>> = None;
        loop {
            let reason = match stream.take() {
                Some((connection, responses)) => {
                    let reason = self.follow(&connection, responses).await;
                    avoid = Some(Arc::clone(connection.address()));
                    reason
                }
                None => match self.open(avoid.as_deref()).await {
                    Ok(opened) => {
                        stream = Some(opened);
                        continue;
                    }
                    Err(reason) => reason,
                },
            };
            tracing::debug!(reason, "cluster map not followed");
            tokio::time::sleep(self.backoff.next_wait(random())).await;
        }
    }

    async fn open(&self, avoid: Option<&str>) -> Result<(Connection, Responses), String> {
        let connecting = self.pool.connection(Dialing::Shared, None, avoid);
        let (connection, place) = connecting.await.map_err(|error| error.to_string())?;
        match self.answer(ask_topology(&connection, place)).await.flatten() {
            Ok(responses) => Ok((connection, responses)),
            Err(error) => {
                self.give_up_on(&connection, &error);
                Err(error.to_string())
            }
        }
    }

    /// Takes in maps until the stream is of no further use; says why.
    async fn follow(&mut self, connection: &Connection, mut responses: Responses) -> String {
        let address = connection.address();
        let mut next = self.answer(responses.next()).await;
        loop {
            let taken = next.and_then(|message| self.take(message));
            match taken {
                Ok(true) => {
                    self.pool.handle_answer(address);
                    self.backoff.reset();
                }
                Ok(false) => return format!("{address} has an older map than another node"),
                Err(error) => {
                    self.give_up_on(connection, &error);
                    return error.to_string();
                }
            }
            next = tokio::select! {
                message = responses.next() => Ok(message),
                // A stream of ours to that node broke or went silent: this one may be silent as well.
                () = self.pool.distrusted(address) => return format!("{address} cannot be relied on"),
                // It is early to say so; but should it be dead, the map that says so comes from another node.
                () = self.pool.silent(address) => return format!("{address} owes an answer"),
            };
        }
    }

    /// Waits for what a node has to answer at once.
    async fn answer<T>(&self, answer: impl Future<Output = T>) -> Result<T, CallError> {
        let limit = self.pool.connect_timeout();
        tokio::time::timeout(limit, answer).await.map_err(|_| CallError::TimedOut(limit))
    }

    /// Takes in a map. Returns whether it is at least as new as the latest.
    fn take(&self, message: Option<Result<Bytes, CallError>>) -> Result<bool, CallError> {
        let message = message.ok_or_else(|| CallError::Connection("the node ended the stream".to_owned()))??;
        let response = TopologyResponse::decode(message).map_err(|error| CallError::Invalid(error.to_string()))?;
        let map = Topology::new(response)?;
        let latest = self.latest.borrow().clone();
        if latest.as_ref().is_none_or(|latest| map.supersedes(latest)) {
            self.pool.learn(&map.addresses());
            self.latest.send_replace(Some(Arc::new(map)));
            return Ok(true);
        }
        Ok(latest.is_some_and(|latest| latest.map_version == map.map_version))
    }

    fn give_up_on(&self, connection: &Connection, error: &CallError) {
        if !matches!(error, CallError::Refused { .. }) {
            connection.suspect();
            self.pool.handle_failure(connection.address());
        }
    }
}

/// The cluster map whenever it changes, as a `Stream`: the newest one known first, then each newer. Maps that follow one
/// another quickly may be passed over for the newest. It ends when the client is closed.
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
