//! One core's share of the broker, without I/O: replication and delivery composed under one memory budget.
//!
//! A shard owns every vbucket whose number modulo the number of shards is its own. Pushed messages are appended to an
//! open block ([`open_block`]), the block is sealed when the pushers that were ready have had their turn, commits
//! through the vbuckets' high watermarks, and is then handed to the readers of every shard of the node.

#![deny(missing_docs)]

mod arena;
mod assign;
mod commit;
mod config;
mod memory;
mod open_block;
mod outbox;
mod outcome;
mod push;
mod shard;

pub use assign::{Assignment, assignments};
pub use config::{ConfigError, ShardConfig, ShardId};
pub use outbox::{MirrorBlock, Outbox, Reply, Ticket};
pub use outcome::{Collector, Exception, ExceptionKind, PartOutcome};
pub use push::shards_of;
pub use shard::{Shard, ShardStats};
