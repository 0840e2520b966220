//! A shard's state and its parts.

use std::collections::VecDeque;

use broky_delivery::{Delivery, DeliveryConfig, DeliveryStats};
use broky_proto::id::{MapVersion, VBucketId};
use broky_replication::{Leader, Replica};

use crate::arena::Arenas;
use crate::assign::Assignment;
use crate::config::{ConfigError, ShardConfig};
use crate::open_block::{OpenBlock, Sealed};

/// What has happened since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ShardStats {
    /// Messages stored.
    pub pushed_messages: u64,
    /// Messages that an earlier attempt had stored.
    pub duplicate_messages: u64,
    /// Messages refused.
    pub rejected_messages: u64,
    /// Blocks committed.
    pub blocks: u64,
    /// Bytes of the blocks committed.
    pub block_bytes: u64,
    /// Messages evicted.
    pub evicted_messages: u64,
    /// Producers forgotten because their memory was needed.
    pub forgotten_producers: u64,
}

/// One core's share of the broker.
#[derive(Debug)]
pub struct Shard {
    pub(crate) config: ShardConfig,
    /// Per vbucket; `None` where another shard or node holds it.
    pub(crate) replicas: Vec<Option<Replica>>,
    pub(crate) delivery: Delivery,
    pub(crate) open: OpenBlock,
    /// Sealed blocks in the order in which they were written.
    pub(crate) uncommitted: VecDeque<Sealed>,
    pub(crate) arenas: Arenas,
    /// What readable blocks cost beside their bytes.
    pub(crate) overhead_bytes: usize,
    /// Producers remembered by all vbuckets, as of their last block.
    pub(crate) producers: usize,
    /// Beyond this many, those unused for longest are forgotten.
    pub(crate) producers_max: usize,
    pub(crate) producers_of: Vec<usize>,
    /// The vbucket after which to look for a producer to forget.
    pub(crate) forget_from: usize,
    pub(crate) stats: ShardStats,
}

impl Shard {
    /// A shard that owns nothing yet.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(config: ShardConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let delivery = Delivery::new(DeliveryConfig {
            cluster: config.cluster,
            incarnation: config.me.incarnation,
            vbuckets: config.vbuckets,
            feeds: config.shards,
            cursor_interval_bytes: config.memory_bytes as u64 / 4,
        });
        Ok(Self {
            replicas: config.vbuckets.iter().map(|_| None).collect(),
            delivery,
            open: OpenBlock::new(config.vbuckets),
            uncommitted: VecDeque::new(),
            arenas: Arenas::new(config.arena_bytes()),
            overhead_bytes: 0,
            producers: 0,
            producers_max: config.memory_bytes / 8 / crate::memory::PRODUCER_BYTES,
            producers_of: vec![0; config.vbuckets.len()],
            forget_from: 0,
            stats: ShardStats::default(),
            config,
        })
    }

    /// Takes the version of the cluster map that readers are told.
    pub fn handle_map_version(&mut self, version: MapVersion) {
        self.delivery.set_map_version(version);
    }

    /// Takes a vbucket of this node: leads it when this shard owns it, and lets readers see it in any case.
    pub fn handle_assignment(&mut self, assignment: Assignment) {
        let Assignment { vbucket, lineage, epoch, base, followers, min_isr } = assignment;
        self.delivery.set_view(vbucket, lineage, epoch, base);
        if !self.config.owns(vbucket) {
            return;
        }
        if let Some(slot) = self.replicas.get_mut(usize::from(vbucket.0)) {
            let mut replica = Replica::new(lineage, base);
            replica.lead(Leader::new(epoch, self.config.me, followers, min_isr));
            *slot = Some(replica);
        }
    }

    pub(crate) fn count_producers(&mut self, vbucket: VBucketId) {
        let at = usize::from(vbucket.0);
        let Some(Some(replica)) = self.replicas.get(at) else { return };
        if let Some(counted) = self.producers_of.get_mut(at) {
            self.producers = self.producers - *counted + replica.dedup().len();
            *counted = replica.dedup().len();
        }
    }

    /// The readers of this shard.
    #[must_use]
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// The readers of this shard, to serve them.
    pub fn delivery_mut(&mut self) -> &mut Delivery {
        &mut self.delivery
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ShardConfig {
        &self.config
    }

    /// Whether something was pushed since the last flush.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        !self.open.is_empty()
    }

    /// What has happened since the start.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        self.stats
    }

    /// What has happened to readers since the start.
    #[must_use]
    pub fn delivery_stats(&self) -> DeliveryStats {
        self.delivery.stats()
    }

    /// Vbuckets that this shard leads.
    #[must_use]
    pub fn led(&self) -> usize {
        self.replicas.iter().flatten().count()
    }

    /// Bytes of evicted blocks that readers' transports still hold.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        self.arenas.pinned_bytes()
    }

    /// Fails when the shard contradicts itself. O(vbuckets).
    pub fn check_invariants(&self) {
        for (vbucket, replica) in (0..).map(VBucketId).zip(&self.replicas) {
            let Some(replica) = replica else { continue };
            replica.check_invariants();
            if let Some((start, end)) = self.delivery.bounds(vbucket) {
                assert_eq!(start, replica.log().start(), "readers and replica agree on the start of vbucket {vbucket}");
                assert!(
                    end <= replica.log().high_watermark(),
                    "readers of vbucket {vbucket} see committed messages only"
                );
            }
        }
    }
}
