//! What readers see of the logs held here: from when on a log is in sync, and until then, what another node relays.

use broky_delivery::{Block, Kind};
use broky_proto::id::{Offset, VBucketId};
use broky_proto::v1::GapReason;
use broky_ring::lineage::lineage_base;

use crate::block::{Part, PartBuilder, part_of, stored_of};
use crate::open_block::Sealed;
use crate::outbox::{Mirror, Outbox};
use crate::shard::Shard;

/// Bytes that are copied into one block when readers return to a log.
const RETURN_BYTES: usize = 1 << 20;

impl Shard {
    /// Whether the map says that this node holds a vbucket in sync.
    pub(crate) fn is_in_sync(&self, vbucket: VBucketId) -> bool {
        let place = self.places.get(usize::from(vbucket.0));
        place.is_some_and(|place| place.is_held && place.isr.contains(&self.config.me))
    }

    /// Lets readers see a log that is in sync, and no other.
    pub(crate) fn show(&mut self, vbucket: VBucketId, out: &mut Outbox) {
        let is_in_sync = self.is_in_sync(vbucket);
        let is_shown = self.delivery.is_ready(vbucket) && !self.delivery.is_relayed(vbucket);
        if is_in_sync == is_shown {
            return;
        }
        if is_in_sync && self.delivery.is_relayed(vbucket) {
            self.return_to_log(vbucket, out);
        }
        self.delivery.set_in_sync(vbucket, is_in_sync, &mut out.wake);
        self.mirror(Mirror::InSync { vbucket, is_in_sync }, out);
    }

    /// Gives readers what the log holds beyond what was relayed. Behind that they see the log.
    fn return_to_log(&mut self, vbucket: VBucketId, out: &mut Outbox) {
        let Some(log) = self.replica(vbucket).map(|replica| replica.log().clone()) else { return };
        let (lineage, _, seen) = self.delivery.seen(vbucket);
        let Some((start, end)) = self.delivery.bounds(vbucket) else { return };
        if lineage < log.lineage() {
            self.lose_until(vbucket, lineage_base(log.lineage()), GapReason::Lost, out);
        }
        if seen.max(lineage_base(log.lineage())) < start {
            self.lose_until(vbucket, start, GapReason::Evicted, out);
        }
        let (_, _, mut from) = self.delivery.seen(vbucket);
        while from < end {
            let Some((block, next)) = self.copy_of(vbucket, from, end) else {
                // Whatever the log lacks, nobody goes on in silence.
                return self.lose_until(vbucket, end, GapReason::Evicted, out);
            };
            self.deliver_relayed(block, out);
            from = next;
        }
    }

    fn lose_until(&mut self, vbucket: VBucketId, next: Offset, reason: GapReason, out: &mut Outbox) {
        self.delivery.lose_until(vbucket, next, reason, &mut out.wake);
        self.mirror(Mirror::LoseUntil { vbucket, next, reason }, out);
    }

    /// A block of a vbucket's committed messages from `from` on, and where the next begins.
    fn copy_of(&self, vbucket: VBucketId, from: Offset, end: Offset) -> Option<(Block, Offset)> {
        let feed = self.feed();
        let mut seq = self.delivery.block_of(vbucket, from)?;
        let tail = self.delivery.tail(feed);
        let (mut part, mut next) = (PartBuilder::default(), from);
        while seq < tail && next < end && part.len() < RETURN_BYTES {
            if let Some(block) = self.delivery.block(feed, seq) {
                for stored in stored_of(block.encoded()).filter(|it| it.vbucket == vbucket && it.offset >= from) {
                    if stored.offset == next && next < end {
                        part.add(&stored);
                        next = next.plus(1);
                    }
                }
            }
            seq.0 += 1;
        }
        Some((part.finish()?, next))
    }

    /// What a committed block is to readers; `None` when they see a part of it.
    pub(crate) fn visibility(&self, block: &Block) -> Option<Kind> {
        let (mut hidden, mut shown) = (false, false);
        for run in block.runs.iter() {
            let below = self.delivery.hidden_below(run.vbucket);
            hidden |= run.first < below;
            shown |= run.end() > below;
        }
        match (hidden, shown) {
            (true, true) => None,
            (true, false) => Some(Kind::Hidden),
            (false, _) => Some(Kind::Log),
        }
    }

    /// The part of a committed block that readers do not see, and then the part that they do.
    pub(crate) fn divide_by_visibility(&mut self, sealed: Sealed) -> Vec<(Kind, Sealed)> {
        let Sealed { block, waiting, .. } = sealed;
        let is_hidden = |vbucket, offset| offset < self.delivery.hidden_below(vbucket);
        let parts = [
            (Kind::Hidden, part_of(&block, is_hidden)),
            (Kind::Log, part_of(&block, |vbucket, offset| !is_hidden(vbucket, offset))),
        ];
        self.arenas.note_gone(block.arena);
        let sealed = |Part { block, .. }| Sealed {
            block,
            entries: Vec::new(),
            origins: Vec::new(),
            waiting: Vec::new(),
            sent: Vec::new(),
        };
        let mut parts: Vec<(Kind, Sealed)> =
            parts.into_iter().filter_map(|(kind, part)| Some((kind, sealed(part?)))).collect();
        if let Some((_, last)) = parts.last_mut() {
            last.waiting = waiting;
        }
        parts
    }
}
