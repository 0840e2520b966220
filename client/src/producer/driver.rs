//! The task behind a lane: keeps a stream to its node, takes in the answers, and looks at the time.
//!
//! It decides nothing about messages: that is the window's. Its states are the functions it is in: `connect` (no
//! stream), `serve` (a stream), `pause` (a wait before a retry or before the next stream). In each of them it looks at
//! the time as long as something is unsettled ([`Driver::attend`]).
//!
//! When the lane's node cannot be reached any other will do, since nodes forward. When a stream was lost, or the node
//! refuses what another leads by now, the next is to one that leads what the lane waits for: nodes forward only to whom
//! they reach. While that lasts the driver tries the right one beside the stream ([`Driver::look_for_target`]), at the
//! intervals that the pool allows; once it answers, the stream moves there, after everything sent was answered.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use broky_proto::v1::PushResponse;
use prost::Message as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use super::lane::{Lane, Tick};
use super::window::Next;
use crate::backoff::{Backoff, random};
use crate::transport::{CallError, Connection, Dialing, Lease, Method, Pool, RequestBody, Responses};

/// How long the node may take to end a stream that we ended.
const END_WAIT: Duration = Duration::from_secs(1);
/// How long to stay away from the lane's node after a stream to it was lost: it may answer, and be of no use.
const RETURN_FIRST: Duration = Duration::from_millis(500);
const RETURN_MAX: Duration = Duration::from_secs(30);
/// A stream that lasted for so long was of use.
const STREAM_OF_USE: Duration = Duration::from_secs(10);
/// Bounds of the time between two looks at the time.
const TICK_MIN: Duration = Duration::from_millis(1);
const TICK_MAX: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Driver {
    lane: Lane,
    pool: Arc<Pool>,
    backoff: Backoff,
    tick: Duration,
    sleep: Pin<Box<Sleep>>,
    is_ticking: bool,
    /// Where the stream leads.
    connected: Option<Arc<str>>,
    /// An attempt to reach the lane's node.
    probe: Option<JoinHandle<Option<Connection>>>,
    /// A connection to the lane's node, on which it has answered.
    found: Option<Connection>,
    /// When the lane's node may be tried again after a stream to it was lost.
    return_at: Instant,
    return_backoff: Backoff,
    /// Streams lost so far.
    lost: usize,
    /// Since when every answer asks for a retry.
    refused_since: Option<Instant>,
    /// Whether the last answer did.
    was_refused: bool,
    /// Whether the node owed an answer at the last look.
    is_silent: bool,
}

/// Why something was interrupted.
enum Stop {
    /// The lane is gone.
    Done,
    /// The lane's node can be reached, and nothing is unanswered here.
    Move,
    /// The node refuses, and another leads what waits. Nothing is unanswered here.
    Elsewhere,
    /// The stream is of no further use.
    Broken(CallError),
    /// The node asked us to go elsewhere, or was silent for too long.
    Leave(String),
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        Self::Broken(error)
    }
}

impl Driver {
    /// `patience`: the shortest of the times the driver watches over.
    pub(super) fn new(lane: Lane, pool: Arc<Pool>, backoff: Backoff, patience: Duration) -> Self {
        Self {
            lane,
            pool,
            backoff,
            tick: (patience / 8).clamp(TICK_MIN, TICK_MAX),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            is_ticking: false,
            connected: None,
            probe: None,
            found: None,
            return_at: Instant::now(),
            return_backoff: Backoff::new(RETURN_FIRST, RETURN_MAX),
            lost: 0,
            refused_since: None,
            was_refused: false,
            is_silent: false,
        }
    }

    /// Runs until the lane is over.
    pub(super) async fn run(mut self) {
        self.follow().await;
        if let Some(probe) = &self.probe {
            probe.abort();
        }
        self.lane.lanes.handle_driver_end();
    }

    async fn follow(&mut self) {
        let mut avoid: Option<Arc<str>> = None;
        while let Some((connection, place)) = self.connect(avoid.as_deref()).await {
            self.connected = Some(Arc::clone(connection.address()));
            let since = Instant::now();
            let stop = self.serve(&connection, place).await;
            self.connected = None;
            let reason = match stop {
                Stop::Done => return,
                Stop::Move => {
                    self.lane.handle_disconnect("moving to the lane's own node".to_owned());
                    avoid = None;
                    continue;
                }
                Stop::Elsewhere => {
                    self.lane.handle_disconnect("another node leads what waits".to_owned());
                    self.lost += 1;
                    self.return_at = Instant::now() + self.return_backoff.next_wait(u64::MAX);
                    avoid = Some(Arc::clone(connection.address()));
                    continue;
                }
                Stop::Leave(reason) => reason,
                Stop::Broken(error) => {
                    // An answer that makes no sense is no refusal: the messages go again until their deadline.
                    if matches!(error, CallError::Refused { .. }) && !error.is_retryable() {
                        tracing::warn!(peer = &**connection.address(), %error, "push stream refused");
                        self.lane.handle_refusal(&error.to_string());
                    }
                    error.to_string()
                }
            };
            tracing::debug!(peer = &**connection.address(), reason, "push stream lost");
            self.lane.handle_disconnect(reason);
            self.lost += 1;
            connection.suspect();
            self.pool.handle_failure(connection.address());
            if since.elapsed() > STREAM_OF_USE {
                self.return_backoff.reset();
            }
            self.return_at = Instant::now() + self.return_backoff.next_wait(u64::MAX);
            avoid = Some(Arc::clone(connection.address()));
            if self.pause().await.is_err() {
                return;
            }
        }
    }

    /// A connection to the lane's node, or else to some node; `None` once the lane is gone.
    async fn connect(&mut self, avoid: Option<&str>) -> Option<(Connection, Lease)> {
        let pool = Arc::clone(&self.pool);
        loop {
            let is_wanted = |found: &Connection| {
                found.is_usable() && avoid != Some(&**found.address()) && pool.is_trusted(found.address())
            };
            if let Some(found) = self.found.take().filter(is_wanted) {
                let lease = found.lease();
                return Some((found, lease));
            }
            let way_out = avoid.and_then(|avoid| self.lane.way_out(avoid, self.lost));
            let target = way_out.or_else(|| self.lane.target());
            match self.attend(pool.connection(Dialing::Dedicated, target.as_deref(), avoid)).await {
                Ok(Ok(found)) => return Some(found),
                Ok(Err(error)) => self.lane.handle_error(error.to_string()),
                Err(Stop::Done) => return None,
                // Nothing is unanswered without a stream; to be safe, go on.
                Err(Stop::Broken(_) | Stop::Leave(_) | Stop::Move | Stop::Elsewhere) => {}
            }
            self.pause().await.ok()?;
        }
    }

    async fn serve(&mut self, connection: &Connection, place: Lease) -> Stop {
        let body = RequestBody::Stream(Box::new(self.lane.handle_connect(connection.address())));
        let call = connection.call(Method::PushStream, body, place);
        let mut responses = match self.attend(call).await {
            Ok(Ok(responses)) => responses,
            Ok(Err(error)) => return error.into(),
            Err(stop) => return stop,
        };
        let mut has_answered = false;
        loop {
            if let Err(stop) = self.serve_one(&mut responses).await {
                match stop {
                    Stop::Done => drain(responses).await,
                    Stop::Move | Stop::Elsewhere => drop(tokio::spawn(drain(responses))),
                    Stop::Leave(_) | Stop::Broken(_) => {}
                }
                return stop;
            }
            if !std::mem::replace(&mut has_answered, true) {
                self.pool.handle_answer(connection.address());
            }
        }
    }

    /// Takes in one answer, and waits when it says so.
    async fn serve_one(&mut self, responses: &mut Responses) -> Result<(), Stop> {
        let Some(message) = self.attend(responses.next()).await? else {
            return Err(CallError::Connection("the node ended the stream".to_owned()).into());
        };
        let response = PushResponse::decode(message?).map_err(|error| CallError::Invalid(error.to_string()))?;
        match self.lane.handle_response(response).map_err(|error| CallError::Invalid(error.to_string()))? {
            Next::Continue => {
                self.backoff.reset();
                self.refused_since = None;
                self.was_refused = false;
            }
            Next::Wait => {
                // Once may be because the lead has just changed hands.
                let connected = self.connected.as_deref().unwrap_or_default();
                if std::mem::replace(&mut self.was_refused, true) && self.lane.way_out(connected, self.lost).is_some() {
                    self.was_refused = false;
                    return Err(Stop::Elsewhere);
                }
                // A node that refuses for so long may be the only one that does: cut off from the others, say.
                let since = *self.refused_since.get_or_insert_with(Instant::now);
                if since.elapsed() > self.lane.lanes.silence_timeout {
                    self.refused_since = None;
                    return Err(Stop::Leave(format!("refused for {:?}", since.elapsed())));
                }
                self.pause().await?;
                if !self.lane.handle_retry() {
                    // No answer will tell whether it is over.
                    self.refused_since = None;
                    self.was_refused = false;
                }
            }
            Next::Leave => return Err(Stop::Leave("the node is shutting down".to_owned())),
            Next::Drained => return Err(Stop::Move),
        }
        Ok(())
    }

    /// Waits before the next attempt; not any longer once there is a newer map.
    async fn pause(&mut self) -> Result<(), Stop> {
        let wait = self.backoff.next_wait(random());
        let lanes = Arc::clone(&self.lane.lanes);
        let waited = async {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = lanes.map_changed() => {}
            }
        };
        self.attend(waited).await
    }

    /// Waits for `future` while looking at the time.
    async fn attend<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Stop> {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => return Ok(output),
                () = self.lane.woken() => {}
                () = &mut self.sleep, if self.is_ticking => {}
                found = ended(&mut self.probe) => {
                    self.probe = None;
                    self.found = found;
                }
            }
            let now = Instant::now();
            match self.lane.handle_tick(now) {
                Tick::Idle(until) => {
                    self.is_ticking = until.is_some();
                    self.sleep.as_mut().reset(until.unwrap_or(now));
                }
                tick @ (Tick::Busy | Tick::Silent) => {
                    self.is_ticking = true;
                    self.sleep.as_mut().reset(now + self.tick);
                    // Once in a silence is enough.
                    let was_silent = std::mem::replace(&mut self.is_silent, tick == Tick::Silent);
                    if let Some(connected) = self.connected.as_ref().filter(|_| self.is_silent && !was_silent) {
                        self.pool.handle_silence(connected);
                    }
                    self.look_for_target()?;
                }
                Tick::Leave(reason) => return Err(Stop::Leave(reason)),
                Tick::Done => return Err(Stop::Done),
            }
        }
    }

    /// While the stream leads elsewhere: tries to reach the lane's node, and moves there once it has answered.
    fn look_for_target(&mut self) -> Result<(), Stop> {
        let Some(connected) = &self.connected else { return Ok(()) };
        let Some(target) = self.lane.target().filter(|target| target != connected) else { return Ok(()) };
        let found = self.found.take_if(|found| *found.address() != target || !found.is_usable());
        drop(found);
        if self.found.is_some() {
            return if self.lane.handle_drain() { Err(Stop::Move) } else { Ok(()) };
        }
        if self.probe.is_none() && Instant::now() >= self.return_at && self.pool.is_trusted(&target) {
            let pool = Arc::clone(&self.pool);
            self.probe =
                Some(tokio::spawn(async move { pool.probe(&target).await.ok().map(|(connection, _)| connection) }));
        }
        Ok(())
    }
}

/// What a probe found, once there is one and it has ended.
async fn ended(probe: &mut Option<JoinHandle<Option<Connection>>>) -> Option<Connection> {
    match probe {
        Some(probe) => probe.await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Lets the node end the stream in its own time, so that it sees an orderly end and no reset.
async fn drain(mut responses: Responses) {
    let end = async { while let Some(Ok(_)) = responses.next().await {} };
    if tokio::time::timeout(END_WAIT, end).await.is_err() {
        tracing::debug!("push stream not ended by the node in time");
    }
}
