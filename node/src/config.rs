//! What a node is told at its start, and why it may not start.

use std::io;
use std::net::SocketAddr;

use broky_proto::id::VBucketCount;
use broky_proto::limits::MESSAGE_BYTES_MAX;
use broky_shard::ConfigError;
use thiserror::Error;

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The node's name in the cluster. Default: the host's name.
    pub name: String,
    /// Where clients connect. Default: 127.0.0.1:7400; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `/metrics`, `/healthz`, `/readyz` and `/status` are served. Default: 127.0.0.1:7402.
    pub admin_listen: SocketAddr,
    /// The host:port that clients are told. Default: what `listen` was bound to.
    pub advertise: Option<String>,
    /// Memory for messages and what finds them, in bytes, over all shards. Default 512 MiB. Raised, slow and resuming
    /// subscribers miss less.
    pub memory_bytes: usize,
    /// The longest encoded message taken, in bytes. Default 1 MiB. Raised, one message can delay others for longer.
    pub message_bytes_max: usize,
    /// How many vbuckets a cluster founded by this node has. Default 1024. Raised, load spreads more evenly over many
    /// nodes, and each vbucket costs memory.
    pub vbuckets: VBucketCount,
    /// Worker threads, each with a shard. Default: one less than there are cores, at least one.
    pub workers: u16,
}

impl NodeConfig {
    /// 512 MiB.
    pub const MEMORY_BYTES_DEFAULT: usize = 512 << 20;

    /// The defaults, under this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            name: name.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 7402)),
            advertise: None,
            memory_bytes: Self::MEMORY_BYTES_DEFAULT,
            message_bytes_max: MESSAGE_BYTES_MAX,
            vbuckets: VBucketCount::DEFAULT,
            workers: u16::try_from(cores.saturating_sub(1).clamp(1, 64)).unwrap_or(1),
        }
    }
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
    #[error("--memory is too small for {workers} worker thread(s)")]
    Memory {
        /// How many share it.
        workers: u16,
        /// What a shard says.
        source: ConfigError,
    },
    /// The system refuses a thread, a runtime or randomness.
    #[error("cannot start {what}")]
    System {
        /// What was to be started.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}
