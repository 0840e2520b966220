//! The small values that commands, map and state share.
//!
//! A copy of data belongs to a process, not to a machine: every crash of an in-memory node is amnesia. So wherever a
//! copy is counted it is named by a [`Member`], a node *and* its incarnation (KIP-903), and a node's number alone only
//! says where a copy should be.

use std::fmt;

pub use broky_proto::id::Member;
use serde::{Deserialize, Serialize};

/// The most copies a vbucket can be configured to have.
pub const REPLICAS_MAX: u8 = 7;

/// Position of an entry in the control log. Rises with each entry; the source of every epoch, version and incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct LogIndex(pub u64);

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 128 random bits that a process draws at its start, so that a registration sent twice is one registration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

/// A failure domain: copies of one vbucket are kept in distinct zones. Nodes without a zone share the empty one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Zone(pub String);

/// Where a node is reached, as `host:port`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Addresses {
    /// By clients.
    pub client: String,
    /// By other nodes.
    pub peer: String,
    /// By operators.
    pub admin: String,
}

/// How many copies are wanted, and how many must hold a message before it is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Copies {
    /// Copies of each vbucket, the leader's included. From 1 to [`REPLICAS_MAX`], default 3. Raised: more memory and
    /// traffic.
    pub replicas: u8,
    /// Copies below which nothing is committed. From 1 to `replicas`, default 2. Raised: pushes are refused sooner.
    pub min_isr: u8,
}

impl Copies {
    /// Three copies, two of which must hold a message.
    pub const DEFAULT: Self = Self { replicas: 3, min_isr: 2 };

    /// Whether both numbers are in range.
    #[must_use]
    pub fn is_valid(self) -> bool {
        (1..=REPLICAS_MAX).contains(&self.replicas) && (1..=self.replicas).contains(&self.min_isr)
    }

    /// What can be had of this with `nodes` nodes: never more copies than nodes, never less than one.
    #[must_use]
    pub fn capped(self, nodes: usize) -> Self {
        let nodes = u8::try_from(nodes).unwrap_or(u8::MAX).max(1);
        let replicas = self.replicas.min(nodes);
        Self { replicas, min_isr: self.min_isr.min(replicas) }
    }
}

impl Default for Copies {
    fn default() -> Self {
        Self::DEFAULT
    }
}
