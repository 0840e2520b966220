//! The shell of a broky node: threads, sockets, the clock, gRPC, admin HTTP and metrics around the pure shards.
//!
//! One worker thread per core but one owns a shard and serves its share of the connections, all on one thread without a
//! lock. The control thread accepts connections and serves the admin HTTP. Decisions are made in `shard`; this crate
//! moves bytes and calls.

#![deny(missing_docs)]

mod admin;
mod config;
mod control;
#[cfg_attr(not(test), expect(dead_code, reason = "wired in by the cluster start"))]
mod gossip;
mod grpc;
mod listener;
mod metrics;
mod node;
mod process;
mod sniff;
mod worker;

pub use config::{NodeConfig, StartError};
pub use node::Node;
