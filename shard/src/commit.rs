//! From an open block to its readers: seal, commit, deliver.

use std::sync::Arc;

use broky_delivery::{Block, Entry, FeedId};

use crate::open_block::Sealed;
use crate::outbox::{MirrorBlock, Outbox};
use crate::shard::Shard;

impl Shard {
    /// Seals the open block and commits what its vbuckets' high watermarks allow. Call it when the pushers that were
    /// ready have had their turn: then a block grows by itself under load, and goes at once when idle.
    pub fn flush(&mut self, out: &mut Outbox) {
        if let Some(sealed) = self.open.seal() {
            for run in &sealed.block.runs {
                if let Some(Some(replica)) = self.replicas.get_mut(usize::from(run.vbucket.0)) {
                    replica.advance_high_watermark();
                }
                self.count_producers(run.vbucket);
            }
            self.uncommitted.push_back(sealed);
        }
        while let Some(sealed) = self.uncommitted.pop_front() {
            if !self.is_committed(&sealed.block) {
                self.uncommitted.push_front(sealed);
                break;
            }
            self.deliver(sealed, out);
        }
        self.forget_producers();
        self.enforce_budget(out);
    }

    fn is_committed(&self, block: &Block) -> bool {
        block.runs.iter().all(|run| {
            let replica = self.replicas.get(usize::from(run.vbucket.0)).and_then(Option::as_ref);
            replica.is_some_and(|replica| replica.log().high_watermark() >= run.end())
        })
    }

    fn deliver(&mut self, sealed: Sealed, out: &mut Outbox) {
        let Sealed { block, entries, waiting } = sealed;
        let feed = FeedId(self.config.shard.0);
        self.overhead_bytes += block.overhead_bytes();
        self.stats.blocks += 1;
        self.stats.block_bytes += block.framed.len() as u64;
        self.arenas.note_block(self.delivery.tail(feed));
        if self.config.shards > 1 {
            out.mirror.push(MirrorBlock { block: block.clone(), entries: Arc::from(entries.as_slice()) });
        }
        self.delivery.handle_block(feed, block, &entries, &mut out.wake);
        self.open.recycle(entries);
        out.replies.extend(waiting);
    }

    /// Takes a block that another shard of this node has committed.
    pub fn handle_mirrored(&mut self, feed: FeedId, block: Block, entries: &[Entry], out: &mut Outbox) {
        self.delivery.handle_block(feed, block, entries, &mut out.wake);
    }

    /// Drops another shard's oldest blocks, as it has.
    pub fn handle_mirror_evicted(&mut self, feed: FeedId, blocks: u64) {
        for _ in 0..blocks {
            if !self.delivery.evict_oldest(feed, |_| {}) {
                return;
            }
        }
    }
}
