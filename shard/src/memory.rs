//! The memory budget: what is evicted, and when a stalled reader has to go.
//!
//! Counted are the arenas, what each block costs beside its bytes, and the producers, which may take an eighth. Beyond the
//! budget the oldest committed blocks go. Arenas whose blocks are all evicted but that a stalled transport still refers to count as well,
//! so the budget holds whatever readers do; when they pass a quarter of it, the readers that hold the oldest of them are
//! cut off.

use std::sync::Arc;

use broky_delivery::{BlockSeq, FeedId};
use broky_proto::id::VBucketId;

use crate::outbox::Outbox;
use crate::shard::Shard;

/// What one remembered producer of one vbucket costs, in bytes, roughly.
pub(crate) const PRODUCER_BYTES: usize = 256;
/// Vbuckets among which one is chosen to forget a producer.
const FORGET_AMONG: usize = 8;

impl Shard {
    /// Bytes in use under the budget.
    #[must_use]
    pub fn memory_used(&self) -> usize {
        self.arenas.bytes() + self.overhead_bytes + self.producers * PRODUCER_BYTES
    }

    /// Makes room for `need` bytes in the open block; seals it if that takes another arena or it gets too large.
    ///
    /// # Errors
    /// Why there is no room: everything in memory waits to be committed.
    pub(crate) fn make_room(&mut self, need: usize, out: &mut Outbox) -> Result<(), Arc<str>> {
        let is_full = self.open.len() + need > self.config.block_bytes_max || self.open.room() < need;
        if is_full && !self.open.is_empty() {
            self.flush(out);
        }
        if self.open.room() >= need {
            return Ok(());
        }
        // Before a new arena is opened the old one's handle must go, or it would pin itself.
        self.open.set_buffer(bytes::BytesMut::new());
        if !self.free(Some(need), out) && !self.uncommitted.is_empty() {
            return Err("the memory budget is used up by messages that wait for their replicas".into());
        }
        // When nothing is left but what stalled readers hold, they are being cut off, and a push must not wait.
        let buffer = self.arenas.open(need);
        self.open.set_buffer(buffer);
        Ok(())
    }

    /// Evicts until the budget is met.
    pub(crate) fn enforce_budget(&mut self, out: &mut Outbox) {
        if self.memory_used() > self.config.memory_bytes {
            self.free(None, out);
        }
    }

    /// Forgets producers until those remembered fit their part of the budget.
    pub(crate) fn forget_producers(&mut self) {
        while self.producers > self.producers_max {
            let Some(at) = self.most_remembering() else { return };
            let Some(Some(replica)) = self.replicas.get_mut(at) else { return };
            if !replica.forget_producer() {
                return;
            }
            self.stats.forgotten_producers += 1;
            self.count_producers(VBucketId(u16::try_from(at).unwrap_or(u16::MAX)));
        }
    }

    /// Of the next few vbuckets that remember producers, that which remembers most: one with a lone producer, which may
    /// well be pushing, is spared while others have many.
    fn most_remembering(&mut self) -> Option<usize> {
        let len = self.producers_of.len();
        let counts = (0..len).map(|step| (self.forget_from + step) % len).map(|at| (at, self.producers_of.get(at)));
        let few = counts.filter_map(|(at, count)| count.copied().filter(|count| *count > 0).map(|count| (at, count)));
        let few: Vec<(usize, usize)> = few.take(FORGET_AMONG).collect();
        self.forget_from = few.last().map_or(0, |(at, _)| at + 1);
        few.into_iter().max_by_key(|(_, count)| *count).map(|(at, _)| at)
    }

    /// Gives up spare arenas, then blocks, until the budget is met: with an arena for `need` more bytes, if given.
    ///
    /// What is evicted here the node's other shards hold until they hear of it, so with several shards it counts as gone
    /// at once. Otherwise each call would evict everything and free nothing. Should it stay, the next call counts it.
    ///
    /// Returns whether the budget is met; otherwise nothing is left to evict.
    fn free(&mut self, need: Option<usize>, out: &mut Outbox) -> bool {
        self.arenas.reclaim();
        let pinned = self.arenas.pinned_bytes();
        loop {
            let growth = need.map_or(0, |need| self.arenas.growth_for(need));
            let leaving = match self.config.shards {
                1 => 0,
                _ => self.arenas.pinned_bytes().saturating_sub(pinned),
            };
            if self.memory_used() + growth <= self.config.memory_bytes + leaving {
                return true;
            }
            if self.arenas.release_spare(need) {
                continue;
            }
            // The blocks of the arena being written to stay: they free nothing, and whoever keeps up reads them next.
            if !self.arenas.has_older() || !self.evict_oldest(out) {
                return false;
            }
        }
    }

    fn evict_oldest(&mut self, out: &mut Outbox) -> bool {
        let feed = FeedId(self.config.shard.0);
        let mut freed = 0;
        let (replicas, stats) = (&mut self.replicas, &mut self.stats);
        let evicted = self.delivery.evict_oldest(feed, |block| {
            freed = block.overhead_bytes();
            stats.evicted_messages += u64::from(block.messages);
            for run in &block.runs {
                if let Some(Some(replica)) = replicas.get_mut(usize::from(run.vbucket.0)) {
                    replica.evict(run.end());
                }
            }
        });
        if !evicted {
            return false;
        }
        self.overhead_bytes -= freed;
        self.arenas.note_evicted(self.delivery.oldest(feed));
        out.mirror_evicted += 1;
        self.cut_holders(out);
        true
    }

    /// Cuts off the readers that hold the oldest evicted blocks, when arenas of such blocks take too much.
    fn cut_holders(&mut self, out: &mut Outbox) {
        if self.arenas.pinned_bytes() <= self.config.memory_bytes / 4 {
            return;
        }
        let Some(through) = self.arenas.oldest_pinned() else { return };
        // Nobody can tell which shard's reader holds it.
        out.mirror_cut = Some(through);
        self.cut_holders_of(FeedId(self.config.shard.0), through, out);
    }

    /// Cuts off the readers of this shard that hold evicted blocks of a shard, up to `through`, because that shard needs
    /// the memory.
    pub fn handle_mirror_cut(&mut self, feed: FeedId, through: BlockSeq, out: &mut Outbox) {
        self.cut_holders_of(feed, through, out);
    }

    fn cut_holders_of(&mut self, feed: FeedId, through: BlockSeq, out: &mut Outbox) {
        for id in self.delivery.holders_of_evicted(feed, through) {
            self.delivery.end_for_memory(id);
            out.cut.push(id);
        }
    }
}
