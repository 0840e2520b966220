//! Pushing: [`Producer`], its options, outcomes and errors.
//!
//! From the caller inwards: [`Producer::push`] encodes into the open batch of the [`lane::Lane`], whose
//! [`window::Window`] decides what is sent and what an answer means; the transport takes batches from the lane when it
//! can send; the [`driver::Driver`] keeps the stream up and feeds answers back.

mod batch;
mod driver;
mod error;
mod lane;
mod options;
mod ticket;
pub(crate) mod unary;
mod window;

use std::sync::Arc;

use self::driver::Driver;
pub use self::error::PushError;
pub(crate) use self::lane::Lane;
pub use self::options::ProducerOptions;
use self::ticket::Outcomes;
pub use self::ticket::{Position, Receipt, Ticket};
pub use self::window::FlushSummary;
use crate::backoff::Backoff;
use crate::encode::Encoder;
use crate::message::AsMessage;
use crate::transport::Pool;

/// A pipelined, deduplicated stream of pushes.
///
/// Messages of one producer and one `key_partition` are stored in the order they were pushed, each once, whatever
/// breaks in between. A message is sent at once when the stream is idle; under load messages travel in batches that grow
/// by themselves. There is no timer to tune.
///
/// It can be shared between tasks, by reference or in an `Arc`. Dropping it lets what was pushed be sent in the
/// background, as long as the runtime lives; [`Producer::close`] waits for that.
#[derive(Debug)]
pub struct Producer {
    lane: Arc<Lane>,
    message_bytes_max: usize,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("summary", &self.summary()).finish_non_exhaustive()
    }
}

impl Producer {
    /// Starts the producer's task on the current runtime.
    pub(crate) fn start(options: ProducerOptions, pool: Arc<Pool>, backoff: Backoff) -> Self {
        let options = options.clamped();
        let message_bytes_max = options.message_bytes_max;
        let patience = options.delivery_timeout.min(options.silence_timeout);
        let lane = Arc::new(Lane::new(options));
        tokio::spawn(Driver::new(Arc::clone(&lane), pool, backoff, patience).run());
        Self { lane, message_bytes_max }
    }

    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Appends a message to the open batch and returns the ticket for its outcome. Waits only while the in-flight window
    /// is full. Messages pushed one after the other keep their order.
    ///
    /// Cancelling it (dropping the future before it is ready) either pushed the message or did not; a ticket dropped
    /// with it cannot tell.
    ///
    /// # Errors
    /// [`PushError::MessageTooLarge`] and [`PushError::Closed`]; in both cases nothing was sent. Everything else arrives
    /// through the ticket.
    #[inline]
    pub async fn push(&self, message: impl AsMessage) -> Result<Ticket, PushError> {
        match self.append(&message, Ticket::new) {
            Ok((ticket, false)) => Ok(ticket),
            appended => self.finish(&message, appended, Ticket::new).await,
        }
    }

    /// As [`Producer::push`], without a ticket, which costs less: what became of the message shows in the
    /// [`FlushSummary`] only.
    ///
    /// # Errors
    /// As `push`.
    #[inline]
    pub async fn push_detached(&self, message: impl AsMessage) -> Result<(), PushError> {
        match self.append(&message, |_, _| ()) {
            Ok(((), false)) => Ok(()),
            appended => self.finish(&message, appended, |_, _| ()).await,
        }
    }

    /// As [`Producer::push`], without waiting.
    ///
    /// # Errors
    /// As `push`, and [`PushError::WouldBlock`] when the in-flight window is full.
    #[inline]
    pub fn try_push(&self, message: impl AsMessage) -> Result<Ticket, PushError> {
        Ok(self.append(&message, Ticket::new)?.0)
    }

    /// Pushes a message and waits for its outcome.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn send(&self, message: impl AsMessage) -> Result<Receipt, PushError> {
        self.push(message).await?.await
    }

    /// Waits until everything pushed before the call has an outcome, which takes the delivery timeout at the most.
    /// Returns the counts since the producer was made.
    pub async fn flush(&self) -> FlushSummary {
        self.lane.flush().await
    }

    /// The counts of settled messages since the producer was made.
    #[must_use]
    pub fn summary(&self) -> FlushSummary {
        self.lane.summary()
    }

    /// Takes no more messages, waits until everything pushed has an outcome, and ends the stream.
    pub async fn close(self) -> FlushSummary {
        self.lane.close();
        self.lane.finished().await
    }

    /// What is left to do when a message could not be appended at once, or filled a batch.
    async fn finish<T>(
        &self,
        message: &impl AsMessage,
        appended: Result<(T, bool), PushError>,
        handle: impl Fn(&Arc<Outcomes>, u32) -> T,
    ) -> Result<T, PushError> {
        let (handle, is_closed) = match appended {
            Err(PushError::WouldBlock) => self.lane.when_room(|| self.append(message, &handle)).await?,
            appended => appended?,
        };
        if is_closed {
            // Lets the transport have the full batch while it is warm. A loop that only pushes would otherwise fill the
            // whole window before the transport runs.
            tokio::task::yield_now().await;
        }
        Ok(handle)
    }

    /// Encodes the message into the open batch. The encoder lives only here, so that its fields stay in registers: kept
    /// across an await it would be written to the future and read back for every message.
    #[inline]
    fn append<T>(
        &self,
        message: &impl AsMessage,
        handle: impl FnOnce(&Arc<Outcomes>, u32) -> T,
    ) -> Result<(T, bool), PushError> {
        let encoder = Encoder::new(message.as_message());
        if encoder.message_len() > self.message_bytes_max {
            return Err(PushError::MessageTooLarge { bytes: encoder.message_len(), bytes_max: self.message_bytes_max });
        }
        self.lane.append(&encoder, handle)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.lane.close();
    }
}
