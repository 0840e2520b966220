//! One core's share of the broker, without I/O: replication and delivery composed under one memory budget.
//!
//! A shard owns every vbucket whose number modulo the number of shards is its own. Pushed messages are appended to an
//! open block ([`open_block`]), the block is sealed when the pushers that were ready have had their turn, commits
//! through the vbuckets' high watermarks, and is then handed to the readers of every shard of the node.
//!
//! Towards other nodes a shard leads ([`leading`], [`catch_up`], [`isr`]) or follows ([`following`]); which of the two,
//! it reads off the cluster map ([`roles`]).

#![deny(missing_docs)]

mod arena;
mod block;
mod catch_up;
mod commit;
mod config;
mod downstream;
mod early;
mod following;
mod forwarded;
mod groups;
mod histories;
mod isr;
mod leading;
mod memory;
mod open_block;
mod outbox;
mod outcome;
mod pending;
mod push;
mod replies;
mod roles;
mod router;
mod rows;
mod sessions;
mod shard;
mod upstream;
mod visible;
mod writers;

pub use config::{ConfigError, ShardConfig, ShardId};
pub use following::InboundError;
pub use isr::{LAG_MAX, TICK};
pub use leading::NOTICE_DELAY;
pub use outbox::{Frame, HistoryId, InboundId, Mirror, MirrorBlock, Outbox, Reply, SessionId, Ticket, UpstreamId};
pub use outcome::{Collector, Exception, ExceptionKind, PartOutcome};
pub use push::shards_of;
pub use router::{Part, PartId, Routed, Router, Target, Told};
pub use shard::{Shard, ShardStats};
