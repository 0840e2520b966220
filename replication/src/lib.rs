//! One vbucket's replica, without I/O: its log's bounds, its leader's view of the ISR, its epochs and its producers.
//!
//! A replica decides *whether* and *where* a message is stored and *when* it is committed. The bytes themselves live in
//! blocks, which the shard keeps; a replica sees offsets only.

#![deny(missing_docs)]

mod dedup;
mod epoch;
mod follower;
mod leader;
mod log;
mod replica;
mod row;

pub use dedup::{Dedup, ProducerState, SequenceRun, Verdict};
pub use epoch::EpochHistory;
pub use follower::{AcceptError, AttachError, Attachment, Following, LogSummary};
pub use leader::{Isr, Leader, Proposal};
pub use log::Log;
pub use replica::{Append, Replica, Role};
pub use row::Row;
