//! What a node is told at its start, and why it may not start.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use broky_proto::id::VBucketCount;
use broky_proto::limits::MESSAGE_BYTES_MAX;
use broky_ring::member::Copies;
use broky_shard::{ConfigError, ShardConfig};
use thiserror::Error;

use crate::control::{ControlError, DEAD_AFTER, End};

/// Shards of a node, at the most, unless it is told how many.
const SHARDS_MAX: usize = 64;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's name in the cluster. Default: the host's name.
    pub name: String,
    /// Where clients connect. Default: 127.0.0.1:7400; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where other nodes connect. Default: 127.0.0.1:7401; port 0 takes a free one.
    pub peer_listen: SocketAddr,
    /// Where `/metrics`, `/healthz`, `/readyz` and `/status` are served. Default: 127.0.0.1:7402.
    pub admin_listen: SocketAddr,
    /// The host, or host:port for clients, under which others reach this node. Default: what it listens on, and this
    /// host's name where that is every address.
    pub advertise: Option<String>,
    /// Memory for messages and what finds them, in bytes, over all shards. Default 512 MiB. Raised, slow and resuming
    /// subscribers miss less.
    pub memory_bytes: usize,
    /// The longest encoded message taken, in bytes. Default 1 MiB. Raised, one message can delay others for longer.
    pub message_bytes_max: usize,
    /// How many vbuckets a cluster founded by this node has. Default 1024. Raised, load spreads more evenly over many
    /// nodes, and each vbucket costs memory.
    pub vbuckets: VBucketCount,
    /// Peer addresses of nodes to form a cluster with, or to join. Default: none, the node founds a cluster of one.
    pub join: Vec<String>,
    /// How many nodes must have met before one of them founds a cluster. Default: none, the node only joins one.
    pub expect: Option<u16>,
    /// Copies of a cluster founded by this node. Default: 3, of which 2 must hold a message.
    pub copies: Copies,
    /// The node's failure domain; copies are kept in distinct ones. Default: the empty one.
    pub zone: String,
    /// Where the control log is kept. Default: in memory; a majority of nodes that dies at once then has to return
    /// before anything can be decided again.
    pub data_dir: Option<PathBuf>,
    /// Time after which a dead node's copies are rebuilt elsewhere. Default: 5 minutes. Raised, fewer copies remain for
    /// longer; lowered, a restart may move much data.
    pub dead_after: Duration,
    /// Worker threads, each with a shard, of every node of a cluster founded by this one; a node that joins another has
    /// as many as the nodes there. Default: one less than there are cores, at most 64, as far as the memory has room.
    pub workers: Option<NonZeroU16>,
    /// Where this process notes what the control log decides, as lines of [`AuditRecord`](crate::AuditRecord)s, for
    /// whoever judges a run afterwards. Default: nowhere. It grows without a bound.
    pub audit: Option<PathBuf>,
}

impl NodeConfig {
    /// 512 MiB.
    pub const MEMORY_BYTES_DEFAULT: usize = 512 << 20;

    /// The defaults, under this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            peer_listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 7402)),
            advertise: None,
            memory_bytes: Self::MEMORY_BYTES_DEFAULT,
            message_bytes_max: MESSAGE_BYTES_MAX,
            vbuckets: VBucketCount::DEFAULT,
            join: Vec::new(),
            expect: None,
            copies: Copies::DEFAULT,
            zone: String::new(),
            data_dir: None,
            dead_after: DEAD_AFTER,
            workers: None,
            audit: None,
        }
    }

    /// Shards of a node of a cluster founded by this one.
    pub(crate) fn shards(&self) -> NonZeroU16 {
        let by_default = || {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            shards_for(cores, self.memory_bytes)
        };
        self.workers.unwrap_or_else(by_default)
    }
}

/// As many shards as there are cores beside that of the control thread, each with the memory it needs.
fn shards_for(cores: usize, memory_bytes: usize) -> NonZeroU16 {
    let shards = cores.saturating_sub(1).min(SHARDS_MAX).min(memory_bytes / ShardConfig::MEMORY_BYTES_MIN);
    u16::try_from(shards).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN)
}

/// Why a node did not start. Nothing keeps running.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be listened on: in use, not of this machine, or not permitted. Choose another.
    #[error("cannot listen on {address} for {purpose}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What it is for.
        purpose: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The budget of each worker's shard is too small. Raise `--memory`.
    #[error("--memory is too small for {workers} worker thread(s), which is what each node of its cluster has")]
    Memory {
        /// How many share it.
        workers: u16,
        /// What a shard says.
        source: ConfigError,
    },
    /// The control plane cannot start: the data directory is in use, damaged or another node's. Correct `--data-dir`.
    #[error("the control plane cannot start (--data-dir)")]
    Control(#[source] ControlFault),
    /// The cluster does not take this process, or not any more.
    #[error(transparent)]
    Ended(End),
    /// The node was stopped before it had started.
    #[error("stopped")]
    Stopped,
    /// The system refuses a thread, a runtime or randomness.
    #[error("cannot start {what}")]
    System {
        /// What was to be started.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// What is wrong with the control plane, in words.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct ControlFault(#[from] ControlError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_as_many_as_cores_and_memory_allow() {
        let shards = |cores, mebibytes: usize| shards_for(cores, mebibytes << 20).get();
        assert_eq!([shards(1, 512), shards(2, 512), shards(4, 512), shards(1000, 4096)], [1, 1, 3, 64]);
        assert_eq!([shards(64, 512), shards(64, 47), shards(64, 1)], [32, 2, 1]);
    }
}
