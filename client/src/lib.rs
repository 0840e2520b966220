//! The Rust client of broky: a clustered, in-memory push/subscribe broker.
//!
//! [`Client::connect`] gives a handle that is cheap to clone. [`Client::producer`] opens a pipelined, deduplicated push
//! stream per node: [`Producer::push`] appends to the open batch of the node that leads the message's vbucket and
//! returns a [`Ticket`] for the outcome. [`Client::subscribe`] gives a [`Subscription`]: a `Stream` of [`Event`]s, or,
//! faster, [`Subscription::next_batch`]. Both sides reconnect by themselves; a producer sends again what was not
//! answered, a subscription resumes where it stopped, and whatever cannot be had any more arrives as an explicit
//! [`Gap`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use broky_client::{Client, Message, SubscribeOptions};
//!
//! let client = Client::connect(["127.0.0.1:7400"]).await?;
//! let mut orders = client.subscribe(SubscribeOptions::new(["orders.*"])).await?;
//!
//! let producer = client.producer()?;
//! producer.send(Message::new("orders.eu", "one chair")).await?;
//!
//! while let Some(batch) = orders.next_batch().await {
//!     for message in batch?.messages() {
//!         println!("{:?}", message.payload());
//!     }
//! #   break;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A tokio runtime with I/O and time enabled is needed. The modules behind this page: `message` and `encode` (what is
//! pushed), `producer` (batches, window, driver), `subscription` (cursors, deliveries, resuming), `transport` (HTTP/2
//! connections and gRPC calls over hyper), `topology`.

#![deny(missing_docs)]

mod backoff;
mod builder;
mod client;
mod encode;
mod message;
mod producer;
mod subscription;
mod topology;
mod transport;

pub use broky_proto::id::{ClusterId, Epoch, Lineage, MapVersion, Offset, VBucketId};
pub use broky_proto::resume::TokenError;
pub use broky_proto::v1::{Acks, ErrorCode, GapReason};
pub use builder::ClientBuilder;
pub use client::Client;
pub use message::{AsMessage, Message, MessageRef};
pub use producer::{FlushSummary, Position, Producer, ProducerOptions, PushError, Receipt, Ticket};
pub use subscription::{
    Batch, Event, Gap, MessageView, OnSlow, Received, ResumeToken, Start, SubscribeError, SubscribeOptions,
    Subscription, SubscriptionStats,
};
pub use topology::{Topology, TopologyError, TopologyNode, TopologyWatch};
pub use transport::{Attempt, CallError, ConnectError};
