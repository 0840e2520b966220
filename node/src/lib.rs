//! The shell of a broky node: threads, sockets, the clock, gRPC, admin HTTP and metrics around the pure shards.
//!
//! One worker thread per core but one owns a shard and serves its share of the connections, all on one thread without a
//! lock. The control thread takes part in the cluster's control plane, accepts connections and serves the admin HTTP.
//! Decisions are made in `ring` and `shard`; this crate moves bytes and calls.

#![deny(missing_docs)]

mod admin;
mod advertise;
mod audit;
mod config;
mod control;
mod data;
mod gossip;
mod grpc;
mod listener;
mod metrics;
mod node;
mod peer;
mod ports;
mod process;
mod sniff;
mod topology;
mod worker;

pub use audit::{AuditEvent, AuditRecord};
pub use config::{NodeConfig, StartError};
pub use control::End;
pub use node::Node;
pub use ports::Ports;
pub use process::host_name;
