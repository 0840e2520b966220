//! The memory budget: what is evicted, and when a stalled reader has to go.
//!
//! Counted are the arenas, what each block costs beside its bytes, and the producers, which may take an eighth. Beyond
//! the budget the oldest committed blocks go. Arenas whose blocks are all evicted but that a stalled transport still
//! refers to count as well, so the budget holds whatever readers do; when they pass a quarter of it, the readers that
//! hold the oldest of them are cut off.

use std::sync::Arc;

use broky_delivery::{ArenaId, Block, BlockSeq, FeedId, Kind};
use broky_proto::frame::{PREFIX_LEN, prefix};
use broky_proto::id::VBucketId;
use bytes::{BufMut, Bytes, BytesMut};

use crate::block::APART;
use crate::outbox::{Mirror, Outbox};
use crate::shard::Shard;
use crate::writers::SetId;

/// What one remembered producer of one vbucket costs, in bytes, roughly.
pub(crate) const PRODUCER_BYTES: usize = 256;
/// Vbuckets among which one is chosen to forget a producer.
const FORGET_AMONG: usize = 8;

/// Where blocks of other nodes are copied to.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) arena: Option<ArenaId>,
    pub(crate) buffer: BytesMut,
}

/// What a block costs beside its arena's bytes.
pub(crate) fn cost(block: &Block) -> usize {
    let own = if block.arena == APART { block.framed.len() } else { 0 };
    block.overhead_bytes() + own
}

impl Shard {
    /// Bytes in use under the budget.
    #[must_use]
    pub fn memory_used(&self) -> usize {
        self.arenas.bytes() + self.overhead_bytes + self.producers * PRODUCER_BYTES
    }

    /// Makes room for `need` bytes in the block being written for a set; seals it if that takes another arena or it
    /// gets too large.
    ///
    /// # Errors
    /// Why there is no room: everything in memory waits to be committed.
    pub(crate) fn make_room(&mut self, set: SetId, need: usize, out: &mut Outbox) -> Result<(), Arc<str>> {
        let max = self.config.block_bytes_max;
        let open = self.writers.open(set);
        let is_full = open.len() + need > max || open.room() < need;
        if is_full && !open.is_empty() {
            self.flush(out);
        }
        if self.writers.open(set).room() >= need {
            return Ok(());
        }
        // Before a new arena is opened the old one's handle must go, or it would pin itself.
        if let Some(arena) = self.writers.open(set).close_buffer() {
            self.arenas.close(arena);
        }
        if !self.free(Some(need), out) && !self.pending.is_empty() {
            return Err("the memory budget is used up by messages that wait for their replicas".into());
        }
        // When nothing is left but what stalled readers hold, they are being cut off, and a push must not wait.
        let (arena, buffer) = self.arenas.open(need);
        self.writers.open(set).set_buffer(arena, buffer);
        Ok(())
    }

    /// Copies a block that came from another node into this shard's memory.
    ///
    /// There is always room for it: refusing it would stall its leader. What followers have in flight is bounded by the
    /// leaders' windows, and by that much the budget may be exceeded while nothing can be evicted.
    pub(crate) fn keep_copy(&mut self, messages: &[u8], out: &mut Outbox) -> (ArenaId, Bytes) {
        let need = PREFIX_LEN + messages.len();
        if self.received.buffer.capacity() < need {
            if let Some(arena) = self.received.arena.take() {
                self.received.buffer = BytesMut::new();
                self.arenas.close(arena);
            }
            self.free(Some(need), out);
            let (arena, buffer) = self.arenas.open(need);
            self.received = Received { arena: Some(arena), buffer };
        }
        let buffer = &mut self.received.buffer;
        buffer.put_slice(&prefix(messages.len()));
        buffer.put_slice(messages);
        let arena = self.received.arena.unwrap_or_default();
        self.arenas.note_cut(arena);
        (arena, buffer.split().freeze())
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
    /// What is evicted here the node's other shards hold until they hear of it, so with several shards it counts as
    /// gone at once. Otherwise each call would evict everything and free nothing. Should it stay, the next call counts
    /// it.
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
            if !self.arenas.has_closed() || !self.evict_oldest(out) {
                return false;
            }
        }
    }

    fn evict_oldest(&mut self, out: &mut Outbox) -> bool {
        let feed = FeedId(self.config.shard.0);
        let (mut freed, mut arena, mut runs) = (0, ArenaId::default(), None);
        let stats = &mut self.stats;
        let evicted = self.delivery.evict_oldest(feed, |kind, block| {
            // A note of a gap costs nothing that was counted.
            (freed, arena) = (if block.messages > 0 { cost(block) } else { 0 }, block.arena);
            if kind == Kind::Relayed {
                return;
            }
            stats.evicted_messages += u64::from(block.messages);
            runs = Some(block.runs.clone());
        });
        if !evicted {
            return false;
        }
        // Not by the block's own offsets: a copy that was dropped and begun anew may hold the same in another block.
        for run in runs.iter().flat_map(|runs| runs.iter()) {
            let start = self.delivery.bounds(run.vbucket).map(|(start, _)| start);
            if let (Some(start), Some(replica)) = (start, self.replica_mut(run.vbucket)) {
                replica.evict(start);
            }
        }
        self.overhead_bytes -= freed;
        self.arenas.note_gone(arena);
        if self.config.shards > 1 {
            out.mirror.push(Mirror::Evicted);
        }
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

    pub(crate) fn cut_holders_of(&mut self, feed: FeedId, through: BlockSeq, out: &mut Outbox) {
        for id in self.delivery.holders_of_evicted(feed, through) {
            self.delivery.end_for_memory(id);
            out.cut.push(id);
        }
    }
}
