//! Pushing: [`Producer`], its options, outcomes and errors.
//!
//! From the caller inwards: [`Producer::push`] takes the lock of the [`lanes::Lanes`]; their [`router::Router`] picks
//! the lane, to the node that leads the message's vbucket; the message is encoded into the open batch of that lane's
//! [`window::Window`], which decides what is sent and what an answer means; the transport takes batches from the lane
//! when it can send. A [`driver::Driver`] per lane keeps its stream up and feeds answers back, and one
//! [`keeper::Keeper`] keeps the map up to date.

mod answer;
mod batch;
mod driver;
mod error;
mod keeper;
mod lane;
mod lanes;
mod numbering;
mod options;
mod router;
mod ticket;
pub(crate) mod unary;
mod window;

use std::sync::Arc;

pub use self::answer::FlushSummary;
pub use self::error::PushError;
use self::keeper::Keeper;
pub(crate) use self::lanes::Lanes;
pub use self::options::ProducerOptions;
use self::ticket::Outcomes;
pub use self::ticket::{Position, Receipt, Ticket};
use crate::backoff::Backoff;
use crate::encode::Encoder;
use crate::message::AsMessage;
use crate::topology::Feed;
use crate::transport::Pool;

/// A pipelined, deduplicated stream of pushes.
///
/// Messages of one producer and one `key_partition` are stored in the order they were pushed, each once, whatever
/// breaks in between. A message is sent at once when the stream is idle; under load messages travel in batches that
/// grow by themselves. There is no timer to tune.
///
/// In a cluster it goes straight to the node that leads a message's vbucket, over one stream per node, and follows the
/// vbucket when another node takes over. A node that cannot be reached from here is no hindrance: others forward.
///
/// It can be shared between tasks, by reference or in an `Arc`. Dropping it lets what was pushed be sent in the
/// background, as long as the runtime lives; [`Producer::close`] waits for that.
#[derive(Debug)]
pub struct Producer {
    lanes: Arc<Lanes>,
    message_bytes_max: usize,
}

impl Producer {
    /// Starts the producer's tasks on the current runtime.
    pub(crate) fn start(options: ProducerOptions, pool: Arc<Pool>, feed: Arc<Feed>, backoff: Backoff) -> Self {
        let options = options.clamped();
        let message_bytes_max = options.message_bytes_max;
        let patience = options.delivery_timeout.min(options.silence_timeout);
        let lanes = Arc::new(Lanes::new(options));
        let mut maps = feed.subscribe();
        // Now and not by the keeper, so that the first message already goes to its leader.
        if let Some(map) = maps.borrow_and_update().clone() {
            lanes.handle_map(&map);
        }
        tokio::spawn(Keeper { lanes: Arc::clone(&lanes), pool, _feed: feed, maps, backoff, patience }.run());
        Self { lanes, message_bytes_max }
    }

    pub(crate) fn lanes(&self) -> &Arc<Lanes> {
        &self.lanes
    }

    /// Appends a message to the open batch and returns the ticket for its outcome. Waits only while the in-flight
    /// window is full. Messages pushed one after the other keep their order.
    ///
    /// Cancelling it (dropping the future before it is ready) either pushed the message or did not; a ticket dropped
    /// with it cannot tell.
    ///
    /// # Errors
    /// [`PushError::MessageTooLarge`] and [`PushError::Closed`]; in both cases nothing was sent. Everything else
    /// arrives through the ticket.
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
        self.lanes.flush().await
    }

    /// The counts of settled messages since the producer was made.
    #[must_use]
    pub fn summary(&self) -> FlushSummary {
        self.lanes.summary()
    }

    /// Takes no more messages, waits until everything pushed has an outcome, and ends the stream.
    pub async fn close(self) -> FlushSummary {
        self.lanes.close();
        self.lanes.finished().await
    }

    /// What is left to do when a message could not be appended at once, or filled a batch.
    async fn finish<T>(
        &self,
        message: &impl AsMessage,
        appended: Result<(T, bool), PushError>,
        handle: impl Fn(&Arc<Outcomes>, u32) -> T,
    ) -> Result<T, PushError> {
        let (handle, is_closed) = match appended {
            Err(PushError::WouldBlock) => self.lanes.when_room(|| self.append(message, &handle)).await?,
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
        self.lanes.append(&encoder, handle)
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.lanes.close();
    }
}
