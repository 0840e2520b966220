//! The token ring, placement, and the replicated state of the cluster.
//!
//! Who holds which vbucket, who leads it, and which copies count: all of it is decided here, by one state machine that
//! raft replicates. A single node runs the same machine as a cluster of one. The crate is pure: no clock, socket,
//! thread or randomness; a raft log index is the only notion of time.
//!
//! [`state`] is the machine: [`state::ClusterState::apply`] turns commands into outcomes, and
//! [`state::ClusterState::next_moves`] says what a controller should propose next. [`map`] is what every node and
//! client reads. [`placement`] says where copies should be, [`ring`] in which order nodes are candidates for a vbucket.
//! [`lineage`] maps a vbucket's history to its range of offsets.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod command;
pub mod lineage;
pub mod map;
pub mod member;
pub mod placement;
pub mod ring;
pub mod state;
