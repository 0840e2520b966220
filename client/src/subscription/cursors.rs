//! Where a subscription stands in each vbucket, and what that says about what arrives.
//!
//! Pure. One slot per vbucket: the next offset that was not given out yet, and the epoch and lineage it belongs to. A
//! message below the slot's offset was given out before (the node repeats after a resume) and is dropped; one at it or
//! above moves it. Gaps move it before the messages of a delivery, cursors after.
//!
//! Offsets never go back, not even when a vbucket's history is lost: a new lineage begins above everything ever shown.
//! So an offset alone decides what is new, and a cursor below the slot says nothing.
//!
//! **Invariant:** a position given to the broker on a resume never lies behind something that was given out, and never
//! ahead of something that was neither given out nor told as a gap.

use broky_proto::id::{ClusterId, Lineage, Offset, Token, VBucketCount, VBucketId};
use broky_proto::v1::{self, GapReason};

/// Offsets `[from, to)` of a vbucket that this subscription will not get.
///
/// The range counts every message of the vbucket: for a subscription with patterns it is the most that can have been
/// missed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The vbucket.
    pub vbucket: VBucketId,
    /// The history the range belongs to.
    pub lineage: Lineage,
    /// First offset missed.
    pub from: Offset,
    /// The offset behind the last one missed.
    pub to: Offset,
    /// Why.
    pub reason: GapReason,
}

/// The first position after a gap, or before it, in one vbucket.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Slot {
    lineage: u64,
    epoch: u64,
    next: u64,
    is_known: bool,
}

impl Slot {
    /// The slot before a message that was received and not given out.
    pub(super) fn before_message(self, epoch: u64, offset: u64) -> Self {
        Self { epoch, next: offset, is_known: true, ..self }
    }
}

/// What a message means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// It is to be given out.
    Fresh,
    /// It was given out before.
    Duplicate,
}

/// The node broke the protocol.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Violation {
    #[error("vbucket {0} does not exist")]
    NoSuchVBucket(u32),
    #[error("a gap from {from} to {to}")]
    Range { from: u64, to: u64 },
    #[error("a vbucket count of {0}")]
    Count(u32),
    #[error("a cluster id that has not 16 bytes")]
    ClusterId,
    #[error("cluster {theirs}, not {ours}")]
    Foreign { ours: ClusterId, theirs: ClusterId },
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Cursors {
    cluster: Option<ClusterId>,
    slots: Vec<Slot>,
    /// Whether every message matches, so that offsets must follow one another.
    is_complete: bool,
    /// The key_partitions the subscription is narrowed to; empty for all.
    narrowed: Vec<Token>,
    /// Messages dropped because they had been given out.
    pub(super) duplicates: u64,
    /// Offsets passed over without a gap, while every message should have matched.
    pub(super) skipped: u64,
}

impl Cursors {
    pub(super) fn new(is_complete: bool, narrowed: Vec<Token>) -> Self {
        Self { cluster: None, slots: Vec::new(), is_complete, narrowed, duplicates: 0, skipped: 0 }
    }

    /// Takes the positions of a resume token.
    pub(super) fn restore(&mut self, resume: &v1::Resume) -> Result<(), Violation> {
        self.cluster = Some(ClusterId::from_bytes(&resume.cluster_id).ok_or(Violation::ClusterId)?);
        self.slots.clear();
        for cursor in &resume.cursors {
            let at = vbucket(cursor.vbucket)?;
            if self.slots.len() <= at {
                self.slots.resize(at + 1, Slot::default());
            }
            self.apply_cursor(cursor);
        }
        Ok(())
    }

    /// Forgets every position: the subscription begins anew.
    pub(super) fn clear(&mut self) {
        self.cluster = None;
        self.slots.clear();
    }

    /// Where to open: at our positions, once there are any; until then where the application said.
    ///
    /// A vbucket without a position starts live on a resume. If the application wanted the earliest messages, and the
    /// stream broke before the position of a vbucket it reads was told, that is the very first.
    pub(super) fn start(&self, wanted: v1::start::Start) -> v1::Start {
        let Some(cluster) = self.cluster else { return v1::Start { start: Some(wanted) } };
        let is_earliest = matches!(wanted, v1::start::Start::Earliest(_));
        if is_earliest && !self.slots.iter().any(|slot| slot.is_known) {
            return v1::Start { start: Some(wanted) };
        }
        let unknown = if is_earliest { self.wanted() } else { vec![false; self.slots.len()] };
        let resume = resume(cluster, &self.slots, &unknown);
        v1::Start { start: Some(v1::start::Start::Resume(resume)) }
    }

    /// The positions, with those in `before` in place of our own: for what was received and not given out. Later ones
    /// win. `None` before the first confirmation.
    pub(super) fn positions(&self, before: impl Iterator<Item = (VBucketId, Slot)>) -> Option<v1::Resume> {
        let mut slots = self.slots.clone();
        for (vbucket, slot) in before {
            if let Some(place) = slots.get_mut(usize::from(vbucket.0)) {
                *place = slot;
            }
        }
        Some(resume(self.cluster?, &slots, &vec![false; slots.len()]))
    }

    /// Per vbucket: whether the subscription reads it.
    fn wanted(&self) -> Vec<bool> {
        let count = u32::try_from(self.slots.len()).ok().and_then(VBucketCount::new);
        let mut wanted = vec![self.narrowed.is_empty(); self.slots.len()];
        for vbucket in self.narrowed.iter().filter_map(|token| Some(count?.vbucket_of(*token))) {
            if let Some(wanted) = wanted.get_mut(usize::from(vbucket.0)) {
                *wanted = true;
            }
        }
        wanted
    }

    /// The subscription was opened.
    pub(super) fn handle_confirmed(&mut self, confirmed: &v1::Confirmed) -> Result<(), Violation> {
        let theirs = ClusterId::from_bytes(&confirmed.cluster_id).ok_or(Violation::ClusterId)?;
        let count = VBucketCount::new(confirmed.vbuckets).ok_or(Violation::Count(confirmed.vbuckets))?;
        match self.cluster {
            Some(ours) if ours != theirs => return Err(Violation::Foreign { ours, theirs }),
            Some(_) | None => self.cluster = Some(theirs),
        }
        if self.slots.len() > count.len() {
            return Err(Violation::Count(confirmed.vbuckets));
        }
        self.slots.resize(count.len(), Slot::default());
        Ok(())
    }

    /// Whether a delivery can be applied: its gaps and cursors, and messages of vbuckets up to the given one. Nothing
    /// of it is applied otherwise, so that the positions never pass over what is not given out.
    pub(super) fn check(&self, delivery: &v1::Delivery, vbucket_max: Option<u32>) -> Result<(), Violation> {
        let gaps = delivery.gaps.iter().map(|gap| gap.vbucket);
        let cursors = delivery.cursors.iter().map(|cursor| cursor.vbucket);
        for number in gaps.chain(cursors).chain(vbucket_max) {
            if vbucket(number)? >= self.slots.len() {
                return Err(Violation::NoSuchVBucket(number));
            }
        }
        match delivery.gaps.iter().find(|gap| gap.from > gap.to) {
            Some(gap) => Err(Violation::Range { from: gap.from, to: gap.to }),
            None => Ok(()),
        }
    }

    /// A message arrived.
    #[inline]
    pub(super) fn admit(&mut self, vbucket: u32, epoch: u64, offset: u64) -> Admission {
        // `check` came first.
        let Some(slot) = self.slots.get_mut(vbucket as usize) else { return Admission::Duplicate };
        if slot.is_known {
            if offset < slot.next {
                self.duplicates += 1;
                return Admission::Duplicate;
            }
            if self.is_complete {
                self.skipped = self.skipped.saturating_add(offset - slot.next);
            }
        }
        slot.is_known = true;
        slot.epoch = epoch;
        slot.next = offset.saturating_add(1);
        Admission::Fresh
    }

    /// A gap arrived. Returns what of it is news, with the slot before it; `None` when all of it was given out before.
    pub(super) fn apply_gap(&mut self, gap: &v1::Gap) -> Option<(Gap, Slot)> {
        let slot = self.slots.get_mut(gap.vbucket as usize)?;
        let before = *slot;
        let is_same_lineage = gap.lineage == 0 || gap.lineage == slot.lineage;
        // That a history was lost is told even if nothing of it is known to have been missed.
        let is_lost = gap.reason() == GapReason::Lost;
        if slot.is_known && is_same_lineage && !is_lost && gap.to <= slot.next {
            return None;
        }
        let from = if slot.is_known { gap.from.max(slot.next.min(gap.to)) } else { gap.from };
        if slot.is_known && self.is_complete {
            self.skipped = self.skipped.saturating_add(from.saturating_sub(slot.next));
        }
        let next = if slot.is_known { gap.to.max(slot.next) } else { gap.to };
        let lineage = if gap.lineage == 0 { slot.lineage } else { gap.lineage };
        *slot = Slot { lineage, next, is_known: true, ..*slot };
        let news = Gap {
            vbucket: VBucketId(u16::try_from(gap.vbucket).ok()?),
            lineage: Lineage(lineage),
            from: Offset(from),
            to: Offset(gap.to),
            reason: gap.reason(),
        };
        let before = if before.is_known { before } else { Slot { lineage, next: from, is_known: true, epoch: 0 } };
        Some((news, before))
    }

    /// A cursor arrived: everything below it was sent.
    pub(super) fn apply_cursor(&mut self, cursor: &v1::Cursor) {
        let Some(slot) = self.slots.get_mut(cursor.vbucket as usize) else { return };
        if slot.is_known && cursor.offset < slot.next {
            return;
        }
        if slot.is_known && self.is_complete {
            self.skipped = self.skipped.saturating_add(cursor.offset - slot.next);
        }
        *slot = Slot { lineage: cursor.lineage, epoch: cursor.epoch, next: cursor.offset, is_known: true };
    }

    pub(super) fn slot(&self, vbucket: VBucketId) -> Slot {
        self.slots.get(usize::from(vbucket.0)).copied().unwrap_or_default()
    }
}

/// The known positions, and of the unknown those that are asked for.
fn resume(cluster: ClusterId, slots: &[Slot], unknown: &[bool]) -> v1::Resume {
    let slots = slots.iter().zip(unknown).zip(0_u32..).filter(|((slot, unknown), _)| slot.is_known || **unknown);
    let cursors = slots.map(|((slot, _), vbucket)| v1::Cursor {
        vbucket,
        lineage: slot.lineage,
        epoch: slot.epoch,
        offset: slot.next,
    });
    v1::Resume { cluster_id: cluster.0.to_vec().into(), cursors: cursors.collect() }
}

/// A vbucket from the wire as an index.
fn vbucket(vbucket: u32) -> Result<usize, Violation> {
    match u16::try_from(vbucket) {
        Ok(id) if id < 1 << 15 => Ok(usize::from(id)),
        Ok(_) | Err(_) => Err(Violation::NoSuchVBucket(vbucket)),
    }
}

#[cfg(test)]
#[path = "cursors_tests.rs"]
mod tests;
