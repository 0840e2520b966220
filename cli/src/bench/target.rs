//! What a broker under test must be able to do. Everything else (pace, window, checks, histogram) is the same for all.
//!
//! Workers are single-threaded, so nothing here is `Send`: each worker builds its own target.

use anyhow::Result;

use super::run::{Outgoing, Sink};

/// One broker as one worker thread sees it.
pub(crate) trait Target: 'static {
    type Publisher: Publish + 'static;
    type Subscriber: Receive + 'static;

    /// A publisher with its own connection.
    async fn publisher(&self) -> Result<Self::Publisher>;

    /// `count` subscribers over one connection, as one or more readers. On return the broker has confirmed all of them:
    /// whatever is published from now on reaches them.
    async fn subscribers(&self, count: usize) -> Result<Vec<Self::Subscriber>>;

    /// What the broker says of itself, such as its version.
    async fn describe(&self) -> Result<String>;
}

/// Sends messages.
pub(crate) trait Publish {
    /// Sends all messages of `outgoing`, and leaves none in a buffer of its own that waits for more to come.
    /// Waits when the broker does not take them.
    async fn publish(&mut self, outgoing: &mut Outgoing<'_>) -> Result<()>;

    /// Waits until the broker has taken all of them.
    async fn finish(&mut self) -> Result<()>;
}

/// Receives messages for one or more subscribers of a connection.
pub(crate) trait Receive {
    /// Number of subscribers behind this reader; the sink knows them by their index.
    fn subscribers(&self) -> usize;

    /// Waits for messages and hands over what has arrived: `arrived` once, then `message` for each. Returns now and
    /// then, so that the counters can be brought up to date.
    async fn receive(&mut self, sink: &mut Sink) -> Result<()>;
}
