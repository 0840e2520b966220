//! The task behind a producer: keeps a stream to some node, takes in its answers, and looks at the time.
//!
//! It decides nothing about messages: that is the window's. Its states are the functions it is in: `connect` (no stream),
//! `serve` (a stream), `pause` (a wait before a retry or before the next stream). In each of them it looks at the time
//! as long as something is unsettled ([`Driver::attend`]).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use broky_proto::v1::PushResponse;
use prost::Message as _;
use tokio::time::{Instant, Sleep};

use super::lane::{Lane, Tick};
use super::window::Next;
use crate::backoff::{Backoff, random};
use crate::transport::{CallError, Connection, Dialing, Lease, Method, Pool, RequestBody, Responses};

/// How long the node may take to end a stream that we ended.
const END_WAIT: Duration = Duration::from_secs(1);
/// Bounds of the time between two looks at the time.
const TICK_MIN: Duration = Duration::from_millis(1);
const TICK_MAX: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Driver {
    lane: Arc<Lane>,
    pool: Arc<Pool>,
    backoff: Backoff,
    tick: Duration,
    sleep: Pin<Box<Sleep>>,
    is_ticking: bool,
}

/// Why something was interrupted.
enum Stop {
    /// The producer is closed and everything is settled.
    Done,
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
    pub(super) fn new(lane: Arc<Lane>, pool: Arc<Pool>, backoff: Backoff, patience: Duration) -> Self {
        Self {
            lane,
            pool,
            backoff,
            tick: (patience / 8).clamp(TICK_MIN, TICK_MAX),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            is_ticking: false,
        }
    }

    /// Runs until the lane is closed and everything in it is settled.
    pub(super) async fn run(mut self) {
        let mut avoid: Option<Arc<str>> = None;
        while let Some((connection, place)) = self.connect(avoid.as_deref()).await {
            let stop = self.serve(&connection, place).await;
            let reason = match stop {
                Stop::Done => break,
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
            connection.suspect();
            avoid = Some(Arc::clone(connection.address()));
            if self.pause().await.is_err() {
                break;
            }
        }
        self.lane.finish();
    }

    /// A connection to some node; `None` once the lane is done.
    async fn connect(&mut self, avoid: Option<&str>) -> Option<(Connection, Lease)> {
        let pool = Arc::clone(&self.pool);
        loop {
            match self.attend(pool.connection(Dialing::Dedicated, None, avoid)).await {
                Ok(Ok(found)) => return Some(found),
                Ok(Err(error)) => self.lane.handle_error(error.to_string()),
                Err(Stop::Done) => return None,
                // Nothing is unanswered without a stream; to be safe, go on.
                Err(Stop::Broken(_) | Stop::Leave(_)) => {}
            }
            self.pause().await.ok()?;
        }
    }

    async fn serve(&mut self, connection: &Connection, place: Lease) -> Stop {
        let body = RequestBody::Stream(Box::new(self.lane.handle_connect()));
        let call = connection.call(Method::PushStream, body, place);
        let mut responses = match self.attend(call).await {
            Ok(Ok(responses)) => responses,
            Ok(Err(error)) => return error.into(),
            Err(stop) => return stop,
        };
        loop {
            if let Err(stop) = self.serve_one(&mut responses).await {
                if matches!(stop, Stop::Done) {
                    drain(responses).await;
                }
                return stop;
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
            Next::Continue => self.backoff.reset(),
            Next::Wait => {
                self.pause().await?;
                self.lane.handle_retry();
            }
            Next::Leave => return Err(Stop::Leave("the node is shutting down".to_owned())),
        }
        Ok(())
    }

    /// Waits before the next attempt.
    async fn pause(&mut self) -> Result<(), Stop> {
        let wait = self.backoff.next_wait(random());
        self.attend(tokio::time::sleep(wait)).await
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
            }
            let now = Instant::now();
            match self.lane.handle_tick(now) {
                Tick::Idle => self.is_ticking = false,
                Tick::Busy => {
                    self.is_ticking = true;
                    self.sleep.as_mut().reset(now + self.tick);
                }
                Tick::Leave(reason) => return Err(Stop::Leave(reason)),
                Tick::Done => return Err(Stop::Done),
            }
        }
    }
}

/// Lets the node end the stream in its own time, so that it sees an orderly end and no reset.
async fn drain(mut responses: Responses) {
    let end = async { while let Some(Ok(_)) = responses.next().await {} };
    if tokio::time::timeout(END_WAIT, end).await.is_err() {
        tracing::debug!("push stream not ended by the node in time");
    }
}
