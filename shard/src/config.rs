//! What a shard is told at its start.

use broky_proto::id::Member;
use broky_proto::id::{ClusterId, VBucketCount, VBucketId};
use thiserror::Error;

/// A shard of a node: one per worker thread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(pub u16);

/// What a shard is told at its start.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub shard: ShardId,
    /// How many shards the node has; at least one.
    pub shards: u16,
    /// This process.
    pub me: Member,
    /// The cluster.
    pub cluster: ClusterId,
    /// How many vbuckets the cluster has.
    pub vbuckets: VBucketCount,
    /// Memory for blocks, their index and the producers, in bytes; at least [`ShardConfig::MEMORY_BYTES_MIN`]. Raised,
    /// slow and resuming readers miss less.
    pub memory_bytes: usize,
    /// A block is sealed before it exceeds this many bytes, unless a single request does. Raised, a block costs less
    /// per message and more per reader that wants a part of it.
    pub block_bytes_max: usize,
}

/// Why a shard cannot be built. Nothing was started; change the setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ConfigError {
    /// The memory budget holds too little to be of use.
    #[error("a shard needs at least {min} bytes of memory, got {got}", min = ShardConfig::MEMORY_BYTES_MIN)]
    MemoryTooSmall {
        /// The budget given, in bytes.
        got: usize,
    },
}

impl ShardConfig {
    /// The smallest budget: 16 MiB, room for two of the largest requests, their index, and a little history.
    pub const MEMORY_BYTES_MIN: usize = 16 << 20;
    /// 256 KiB.
    pub const BLOCK_BYTES_MAX_DEFAULT: usize = 256 << 10;

    /// Fails when the settings cannot work.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.memory_bytes < Self::MEMORY_BYTES_MIN {
            return Err(ConfigError::MemoryTooSmall { got: self.memory_bytes });
        }
        Ok(())
    }

    /// Whether this shard owns a vbucket.
    #[inline]
    #[must_use]
    pub fn owns(&self, vbucket: VBucketId) -> bool {
        vbucket.0 % self.shards == self.shard.0
    }

    /// Bytes of one arena: a 64th of the budget, from 64 KiB to 4 MiB.
    pub(crate) fn arena_bytes(&self) -> usize {
        (self.memory_bytes / 64).clamp(64 << 10, 4 << 20)
    }
}
