//! Opening a subscription's stream, at first and again.

use std::sync::Arc;
use std::time::Duration;

use broky_proto::v1;
use bytes::Bytes;
use tokio::time::Instant;

use super::error::SubscribeError;
use super::upstream::Upstream;
use crate::backoff::{Backoff, random};
use crate::client::Shared;
use crate::transport::{CallError, ConnectError, Connection, Dialing, Lease, Method, RequestBody, Responses};

/// A stream whose first delivery has arrived.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) responses: Responses,
    pub(super) first: Bytes,
    /// Failures so far, for the next time.
    pub(super) backoff: Backoff,
}

/// What it takes to open a stream.
pub(super) struct Opening {
    pub(super) shared: Arc<Shared>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) open: v1::Open,
    pub(super) silence_timeout: Duration,
    /// The address to try last.
    pub(super) avoid: Option<Arc<str>>,
    /// When to stop trying. `None`: never.
    pub(super) deadline: Option<Instant>,
    /// Whether the first attempt has to wait.
    pub(super) is_retry: bool,
    pub(super) backoff: Backoff,
}

/// Why one attempt failed.
enum Failure {
    Connect(ConnectError),
    Call(CallError),
}

impl Opening {
    /// Tries until a stream is open, the node refuses for good, or the deadline passes.
    pub(super) async fn run(mut self) -> Result<Opened, SubscribeError> {
        if self.is_retry {
            tokio::time::sleep(self.backoff.next_wait(random())).await;
        }
        loop {
            let failure = match self.attempt().await {
                Ok(opened) => return Ok(opened),
                Err(failure) => failure,
            };
            let is_late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            match failure {
                Failure::Call(error) if !error.is_retryable() => return Err(SubscribeError::refused(error)),
                Failure::Call(error) if is_late => return Err(SubscribeError::Open(error)),
                Failure::Connect(error) if is_late || self.shared.is_closed() => {
                    return Err(SubscribeError::Connect(error));
                }
                Failure::Call(error) => tracing::debug!(%error, "subscription not opened"),
                Failure::Connect(error) => tracing::debug!(%error, "subscription not opened"),
            }
            let wait = self.backoff.next_wait(random());
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            tokio::time::sleep(left.map_or(wait, |left| wait.min(left))).await;
        }
    }

    async fn attempt(&mut self) -> Result<Opened, Failure> {
        if self.shared.is_closed() {
            return Err(Failure::Connect(ConnectError::Closed));
        }
        let connecting = self.shared.pool.connection(Dialing::Shared, None, self.avoid.as_deref());
        let (connection, place) = connecting.await.map_err(Failure::Connect)?;
        let limit = self.silence_timeout;
        match tokio::time::timeout(limit, self.confirm(&connection, place)).await {
            Ok(Ok((responses, first))) => {
                self.shared.pool.handle_answer(connection.address());
                Ok(Opened { connection, responses, first, backoff: self.backoff })
            }
            Ok(Err(error)) => {
                match error {
                    // Another node may take it.
                    CallError::Refused { .. } => self.avoid = Some(Arc::clone(connection.address())),
                    CallError::Connection(_) | CallError::Invalid(_) | CallError::TimedOut(_) => {
                        self.give_up_on(&connection);
                    }
                }
                Err(Failure::Call(error))
            }
            Err(_) => {
                self.give_up_on(&connection);
                Err(Failure::Call(CallError::TimedOut(limit)))
            }
        }
    }

    async fn confirm(&self, connection: &Connection, place: Lease) -> Result<(Responses, Bytes), CallError> {
        let body = RequestBody::Stream(Box::new(self.upstream.begin(self.open.clone())));
        let mut responses = connection.call(Method::Subscribe, body, place).await?;
        match responses.next().await {
            Some(first) => Ok((responses, first?)),
            None => Err(CallError::Connection("the stream ended before it was confirmed".to_owned())),
        }
    }

    fn give_up_on(&mut self, connection: &Connection) {
        connection.suspect();
        self.shared.pool.handle_failure(connection.address());
        self.avoid = Some(Arc::clone(connection.address()));
    }
}
