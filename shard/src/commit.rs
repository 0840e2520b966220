//! From an open block to its readers: seal, replicate, commit, deliver.

use std::sync::Arc;

use broky_delivery::{BlockSeq, FeedId, Kind, SubscriptionId};
use broky_proto::error::Refusal;
use broky_proto::v1::Open;
use broky_replication::Replica;

use crate::block::entries_of;
use crate::memory::cost;
use crate::open_block::Sealed;
use crate::outbox::{Mirror, MirrorBlock, Outbox};
use crate::pending::Progress;
use crate::shard::Shard;
use crate::writers::SetId;

impl Shard {
    /// Seals the blocks being written, sends them to followers, and commits what the high watermarks allow. Call it
    /// when the pushers that were ready have had their turn: then a block grows by itself under load, and goes at once
    /// when idle.
    pub fn flush(&mut self, out: &mut Outbox) {
        for set in self.writers.sets() {
            if let Some(sealed) = self.writers.open(set).seal() {
                self.handle_sealed(set, sealed, out);
            }
        }
        self.deliver_committed(out);
        self.forget_producers();
        self.enforce_budget(out);
        self.acknowledge(out);
        self.is_turn_due = false;
    }

    fn handle_sealed(&mut self, set: SetId, mut sealed: Sealed, out: &mut Outbox) {
        self.arenas.note_cut(sealed.block.arena);
        for run in sealed.block.runs.iter() {
            if let Some(Some(replica)) = self.replicas.get_mut(usize::from(run.vbucket.0)) {
                replica.advance_high_watermark();
            }
            self.count_producers(run.vbucket);
        }
        self.send_block(set, &mut sealed, out);
        self.pending.push(sealed);
    }

    /// Delivers whatever has come to be committed, and tells followers.
    pub(crate) fn deliver_committed(&mut self, out: &mut Outbox) {
        while let Some(sealed) = self.next_committed() {
            self.deliver(sealed, out);
        }
        for arena in self.pending.take_gone() {
            self.arenas.note_gone(arena);
        }
        out.replies.append(&mut self.lost);
        self.send_notices(out);
    }

    fn next_committed(&mut self) -> Option<Sealed> {
        let (replicas, delivery) = (&self.replicas, &self.delivery);
        let committed = |replica: &Replica| match replica.leader() {
            // Planted: a follower serves what it holds.
            None if cfg!(feature = "bug-serve-past-hw") => replica.log().end(),
            Some(_) | None => replica.log().high_watermark(),
        };
        self.pending.next_committed(|vbucket| {
            let replica = replicas.get(usize::from(vbucket.0)).and_then(Option::as_ref);
            Progress {
                readable: delivery.bounds(vbucket).map(|(_, end)| end).unwrap_or_default(),
                committed: replica.map(committed).unwrap_or_default(),
            }
        })
    }

    fn deliver(&mut self, sealed: Sealed, out: &mut Outbox) {
        self.note_commit(&sealed);
        match self.visibility(&sealed.block) {
            Some(kind) => self.deliver_as(kind, sealed, out),
            None => {
                for (kind, part) in self.divide_by_visibility(sealed) {
                    self.deliver_as(kind, part, out);
                }
            }
        }
        self.wake_relays(out);
    }

    fn deliver_as(&mut self, kind: Kind, sealed: Sealed, out: &mut Outbox) {
        let Sealed { block, mut entries, waiting, .. } = sealed;
        let feed = self.feed();
        self.overhead_bytes += cost(&block);
        self.stats.blocks += 1;
        self.stats.block_bytes += block.framed.len() as u64;
        self.arenas.note_delivered(block.arena, self.delivery.tail(feed));
        if entries.is_empty() && kind != Kind::Hidden && self.delivery.needs_entries(&block) {
            entries = entries_of(&block);
        }
        if self.config.shards > 1 {
            let mirrored = MirrorBlock { kind, block: block.clone(), entries: Arc::from(entries.as_slice()) };
            out.mirror.push(Mirror::Block(mirrored));
        }
        self.delivery.handle_block(feed, kind, block, &entries, &mut out.wake);
        self.writers.recycle(entries);
        for waiter in waiting {
            self.replies.done(waiter.reply, &mut out.replies);
        }
    }

    /// Takes what another shard of this node has done to its part of what readers see.
    pub fn handle_mirror(&mut self, feed: FeedId, mirror: Mirror, out: &mut Outbox) {
        match mirror {
            Mirror::Block(MirrorBlock { kind, block, entries }) => {
                if entries.is_empty() && kind != Kind::Hidden && self.delivery.needs_entries(&block) {
                    let entries = entries_of(&block);
                    self.delivery.handle_block(feed, kind, block, &entries, &mut out.wake);
                } else {
                    self.delivery.handle_block(feed, kind, block, &entries, &mut out.wake);
                }
                self.wake_relays(out);
            }
            Mirror::Evicted => {
                self.delivery.evict_oldest(feed, |_, _| {});
            }
            Mirror::View { vbucket, lineage, epoch, base } => {
                self.delivery.set_view(vbucket, (lineage, epoch), base, &mut out.wake);
            }
            Mirror::Lineage { vbucket, lineage, epoch, base } => {
                self.delivery.begin_lineage(feed, vbucket, (lineage, epoch), base, &mut out.wake);
            }
            Mirror::Skip { vbucket, next } => self.delivery.skip_to(feed, vbucket, next, &mut out.wake),
            Mirror::Epoch { vbucket, epoch } => self.delivery.set_epoch(vbucket, epoch),
            Mirror::InSync { vbucket, is_in_sync } => {
                self.delivery.set_in_sync(vbucket, is_in_sync, &mut out.wake);
                self.wake_relays(out);
            }
            Mirror::LoseUntil { vbucket, next, reason } => {
                self.delivery.lose_until(vbucket, next, reason, &mut out.wake);
            }
            Mirror::BeginRelayed { vbucket, history, next, gaps } => {
                self.delivery.begin_relayed(vbucket, history, next, gaps, &mut out.wake);
            }
            Mirror::PassRelayed { vbucket, next } => self.delivery.pass_relayed_to(vbucket, next),
            Mirror::PauseRelayed { vbucket } => self.delivery.pause_relayed(vbucket),
            Mirror::EndRelayed { vbucket } => self.delivery.end_relayed(vbucket),
            Mirror::EndReaders { vbucket } => self.delivery.end_readers_of(vbucket, &mut out.wake),
            Mirror::Wants { shard, wants } => self.handle_wants(shard, wants, out),
            Mirror::Covered { shard, want } => {
                if shard == self.config.shard {
                    self.delivery.set_covered(want, feed, &mut out.wake);
                }
            }
        }
        self.settle_subscriptions(out);
    }

    /// Opens a subscription.
    ///
    /// # Errors
    /// See [`broky_delivery::Delivery::open`].
    pub fn open_subscription(&mut self, open: &Open, out: &mut Outbox) -> Result<SubscriptionId, Refusal> {
        let opened = self.delivery.open(open);
        self.settle_subscriptions(out);
        opened
    }

    /// Ends a subscription at its reader's wish.
    pub fn close_subscription(&mut self, id: SubscriptionId, out: &mut Outbox) {
        self.delivery.close(id);
        self.settle_subscriptions(out);
    }

    /// Sees to what subscriptions that were opened, ended or begun need of other nodes.
    pub(crate) fn settle_subscriptions(&mut self, out: &mut Outbox) {
        let wants = self.delivery.take_wants();
        if !wants.is_empty() {
            let shard = self.config.shard;
            self.mirror(Mirror::Wants { shard, wants: wants.clone() }, out);
            self.handle_wants(shard, wants, out);
        }
        self.ask_for_histories(out);
    }

    /// Cuts off the readers of this shard that hold evicted blocks of another one, up to `through`, because that shard
    /// needs the memory.
    pub fn handle_mirror_cut(&mut self, feed: FeedId, through: BlockSeq, out: &mut Outbox) {
        self.cut_holders_of(feed, through, out);
    }

    pub(crate) fn feed(&self) -> FeedId {
        FeedId(self.config.shard.0)
    }
}
