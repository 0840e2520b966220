//! A shard's state and its parts.

use std::collections::BTreeMap;

use broky_delivery::{Delivery, DeliveryConfig, DeliveryStats};
use broky_proto::id::{Epoch, MapVersion, Member, NodeId, VBucketId};
use broky_proto::time::Timestamp;
use broky_replication::{Replica, Role};

use crate::arena::Arenas;
use crate::config::{ConfigError, ShardConfig};
use crate::early::Early;
use crate::following::Inbound;
use crate::histories::Histories;
use crate::isr::Absent;
use crate::memory::Received;
use crate::outbox::{InboundId, Mirror, Outbox, Reply};
use crate::pending::Pending;
use crate::replies::Replies;
use crate::roles::Place;
use crate::sessions::Sessions;
use crate::upstream::Upstreams;
use crate::writers::Writers;

/// What has happened since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ShardStats {
    /// Messages stored by pushes.
    pub pushed_messages: u64,
    /// Messages taken from leaders.
    pub replicated_messages: u64,
    /// Messages relayed by other nodes.
    pub relayed_messages: u64,
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
    /// The latest moment heard of.
    pub(crate) now: Timestamp,
    pub(crate) map_version: MapVersion,
    /// Current processes of all nodes, ascending.
    pub(crate) members: Vec<Member>,
    /// Nodes that may not enter an ISR: fenced, or being drained.
    pub(crate) barred: Vec<NodeId>,
    /// When one of them was heard of again.
    pub(crate) returned_at: Timestamp,
    /// Processes to which a link is needed, ascending.
    pub(crate) wanted_sessions: Vec<Member>,
    /// Per vbucket: what the map says.
    pub(crate) places: Vec<Place>,
    /// Per vbucket: the epoch in which links to followers replicate it.
    pub(crate) staged: Vec<Epoch>,
    /// Per vbucket; `None` where another shard or node holds it.
    pub(crate) replicas: Vec<Option<Replica>>,
    pub(crate) delivery: Delivery,
    pub(crate) writers: Writers,
    pub(crate) received: Received,
    pub(crate) pending: Pending,
    pub(crate) replies: Replies,
    /// Replies whose wait ended because nobody can tell any more.
    pub(crate) lost: Vec<Reply>,
    pub(crate) arenas: Arenas,
    /// What readable blocks cost beside their bytes.
    pub(crate) overhead_bytes: usize,
    /// Links to followers.
    pub(crate) sessions: Sessions,
    /// Processes to which a link is wanted and missing.
    pub(crate) absent: BTreeMap<Member, Absent>,
    /// When time was last told.
    pub(crate) ticked_at: Timestamp,
    /// Who was out of sync when ISR changes were last proposed.
    pub(crate) leaving: Vec<Member>,
    pub(crate) isr_is_due: bool,
    pub(crate) proposed_at: Timestamp,
    pub(crate) joined_at: Timestamp,
    pub(crate) extended_at: Timestamp,
    pub(crate) passed_at: Timestamp,
    /// Per vbucket: who leads it.
    pub(crate) leaders: Vec<Option<Member>>,
    pub(crate) early: Early,
    pub(crate) upstreams: Upstreams,
    pub(crate) histories: Histories,
    /// Links from leaders.
    pub(crate) inbound: BTreeMap<InboundId, Inbound>,
    /// Frames were taken that are not acknowledged.
    pub(crate) is_turn_due: bool,
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
        let vbuckets = config.vbuckets;
        let delivery = Delivery::new(DeliveryConfig {
            cluster: config.cluster,
            incarnation: config.me.incarnation,
            vbuckets,
            feeds: config.shards,
            cursor_interval_bytes: config.memory_bytes as u64 / 4,
        });
        Ok(Self {
            now: Timestamp::default(),
            map_version: MapVersion(0),
            members: Vec::new(),
            barred: Vec::new(),
            returned_at: Timestamp::default(),
            wanted_sessions: Vec::new(),
            places: vec![Place::default(); vbuckets.len()],
            staged: vec![Epoch::default(); vbuckets.len()],
            replicas: vbuckets.iter().map(|_| None).collect(),
            delivery,
            writers: Writers::new(vbuckets),
            received: Received::default(),
            pending: Pending::default(),
            replies: Replies::default(),
            lost: Vec::new(),
            arenas: Arenas::new(config.arena_bytes()),
            overhead_bytes: 0,
            sessions: Sessions::new(),
            absent: BTreeMap::new(),
            ticked_at: Timestamp::default(),
            leaving: Vec::new(),
            isr_is_due: false,
            proposed_at: Timestamp::default(),
            joined_at: Timestamp::default(),
            extended_at: Timestamp::default(),
            passed_at: Timestamp::default(),
            leaders: vec![None; vbuckets.len()],
            early: Early::default(),
            upstreams: Upstreams::new(vbuckets),
            histories: Histories::default(),
            inbound: BTreeMap::new(),
            is_turn_due: false,
            producers: 0,
            producers_max: config.memory_bytes / 8 / crate::memory::PRODUCER_BYTES,
            producers_of: vec![0; vbuckets.len()],
            forget_from: 0,
            stats: ShardStats::default(),
            config,
        })
    }

    /// The map that this shard goes by.
    #[must_use]
    pub fn map_version(&self) -> MapVersion {
        self.map_version
    }

    /// What this shard holds of a vbucket.
    #[must_use]
    pub fn replica(&self, vbucket: VBucketId) -> Option<&Replica> {
        self.replicas.get(usize::from(vbucket.0)).and_then(Option::as_ref)
    }

    pub(crate) fn replica_mut(&mut self, vbucket: VBucketId) -> Option<&mut Replica> {
        self.replicas.get_mut(usize::from(vbucket.0)).and_then(Option::as_mut)
    }

    /// Has the node's other shards do the same for their readers.
    pub(crate) fn mirror(&self, mirror: Mirror, out: &mut Outbox) {
        if self.config.shards > 1 {
            out.mirror.push(mirror);
        }
    }

    pub(crate) fn count_producers(&mut self, vbucket: VBucketId) {
        let at = usize::from(vbucket.0);
        let known = self.replica(vbucket).map_or(0, |replica| replica.dedup().len());
        if let Some(counted) = self.producers_of.get_mut(at) {
            self.producers = self.producers - *counted + known;
            *counted = known;
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

    /// Whether something was pushed, or taken from a leader, since the last flush.
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        self.is_turn_due || !self.writers.is_empty()
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
        self.replicas.iter().flatten().filter(|replica| matches!(replica.role(), Role::Leader(_))).count()
    }

    /// Vbuckets that this shard follows.
    #[must_use]
    pub fn followed(&self) -> usize {
        self.replicas.iter().flatten().filter(|replica| matches!(replica.role(), Role::Follower(_))).count()
    }

    /// Replies that wait for blocks to be committed.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.replies.len()
    }

    /// A vbucket's log: where it starts, up to where it is committed, and where it ends.
    #[must_use]
    pub fn log(&self, vbucket: VBucketId) -> Option<&broky_replication::Log> {
        self.replica(vbucket).map(Replica::log)
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
                // A log that began anew above a hole has forgotten what readers may still read below it.
                let log = replica.log();
                assert!(
                    start <= log.start(),
                    "readers of vbucket {vbucket} can read all of its log, from {}, not only from {start} to {end}",
                    log.start()
                );
                assert!(end <= log.high_watermark(), "readers of vbucket {vbucket} see committed messages only");
            }
        }
    }
}
