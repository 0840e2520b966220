//! What has to hold, looked at after every event: one file per invariant.
//!
//! Numbers are those of the history checker ([`crate::check`]). Both judge the same promises, from two sides: here
//! every replica can be looked into at every moment; there only what clients, processes and faults have written down
//! counts.
//!
//! Offsets tell lineages apart by themselves, as each begins above all that was shown of those before it; so a place is
//! a vbucket and an offset.

mod acked_kept;
mod committed_only;
mod coverage;
mod no_phantom;
mod no_silent_skip;
mod offsets;
mod one_leader;
mod order;
mod progress;
mod replicas_agree;

use broky_proto::id::{Member, VBucketCount, VBucketId};

pub use self::coverage::Coverage;
use super::message::MessageId;
use super::world::World;
use acked_kept::AckedKept;
use committed_only::CommittedOnly;
use no_phantom::NoPhantom;
use no_silent_skip::NoSilentSkip;
use offsets::Offsets;
use one_leader::OneLeader;
use order::Order;
use replicas_agree::ReplicasAgree;

/// Where a message stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) vbucket: VBucketId,
    pub(super) lineage: u64,
    pub(super) epoch: u64,
    pub(super) offset: u64,
}

/// Who sees something of a vbucket, and which keys it wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sight {
    pub(super) reader: usize,
    pub(super) tag: Option<u8>,
    pub(super) vbucket: VBucketId,
}

impl Sight {
    fn wants(self, id: MessageId) -> bool {
        self.tag.is_none_or(|tag| tag == id.tag())
    }
}

/// A rule that was broken, and how.
pub(super) type Broken = (&'static str, String);

/// See the module.
pub(super) struct Checks {
    acked_kept: AckedKept,
    order: Order,
    no_phantom: NoPhantom,
    offsets: Offsets,
    committed_only: CommittedOnly,
    no_silent_skip: NoSilentSkip,
    one_leader: OneLeader,
    replicas_agree: ReplicasAgree,
    pub(super) coverage: Coverage,
}

impl Checks {
    pub(super) fn new(vbuckets: VBucketCount) -> Self {
        Self {
            acked_kept: AckedKept::new(vbuckets),
            order: Order::default(),
            no_phantom: NoPhantom::default(),
            offsets: Offsets::default(),
            committed_only: CommittedOnly::new(vbuckets),
            no_silent_skip: NoSilentSkip::default(),
            one_leader: OneLeader::default(),
            replicas_agree: ReplicasAgree::default(),
            coverage: Coverage::default(),
        }
    }

    /// A message is about to be pushed.
    pub(super) fn note_pushed(&mut self, id: MessageId, vbucket: VBucketId) {
        self.no_phantom.note_pushed(id, vbucket);
        self.coverage.pushed += 1;
    }

    /// A producer has given a message up. Unless it is in doubt, it was never stored.
    pub(super) fn note_end(&mut self, id: MessageId, is_in_doubt: bool) {
        let count = if is_in_doubt { &mut self.coverage.unknown } else { &mut self.coverage.rejected };
        *count += 1;
        if !is_in_doubt {
            self.no_phantom.note_rejected(id);
        }
    }

    /// A message stands at a place, as somebody has seen.
    fn place(&mut self, id: MessageId, place: Place) -> Result<(), Broken> {
        self.no_phantom.check(id, place)?;
        if self.offsets.note(id, place)? {
            self.order.note(id, place)?;
            self.one_leader.note_stored(place)?;
        }
        Ok(())
    }

    /// A reader is shown a message.
    pub(super) fn show(&mut self, sight: Sight, place: Place, key: &[u8], payload: &[u8]) -> Result<(), Broken> {
        self.coverage.shown += 1;
        let id = self.no_phantom.read(place, payload)?;
        if key.first() != Some(&id.tag()) || !sight.wants(id) {
            return Err(("no phantom", format!("{id:?} at {place:?} was not asked for")));
        }
        self.place(id, place)
    }

    /// A reader goes on from one offset to another without having been told what is between.
    pub(super) fn note_passed(&mut self, sight: Sight, from: u64, to: u64) {
        self.no_silent_skip.note(sight, from, to);
    }

    /// Whether there is anything between two offsets that a reader wants.
    pub(super) fn has_wanted(&self, sight: Sight, from: u64, to: u64) -> bool {
        self.offsets.find(sight, from, to).is_some()
    }
}

impl World {
    /// A message is acknowledged.
    pub(super) fn acknowledged(&mut self, id: MessageId, place: Option<Place>) {
        self.checks.coverage.acked += 1;
        self.record_acknowledged(id, place);
        // A duplicate of long ago has no position any more.
        let Some(place) = place else { return };
        let sound = self.checks.place(id, place);
        self.checks.acked_kept.note(id, place);
        let sound = sound.and_then(|()| acked_kept::check_holders(self, place.vbucket));
        self.judge(sound);
    }

    fn judge(&mut self, sound: Result<(), Broken>) {
        if let Err((rule, words)) = sound {
            self.fail(rule, words);
        }
    }

    /// Looks at a node whose shard has just done something.
    pub(super) fn look_at(&mut self, at: usize) {
        let sound = replicas_agree::look(self, at)
            .and_then(|()| acked_kept::look(self, at))
            .and_then(|()| committed_only::look(self, at));
        self.judge(sound);
    }

    /// Looks at what the control plane has decided. Whether that is anything.
    pub(super) fn look_at_map(&mut self) -> bool {
        let map = self.metadata.map().clone();
        let Some(changes) = self.checks.one_leader.changes(&map) else { return false };
        for change in &changes {
            if change.is_new_lineage {
                self.checks.coverage.lineages += 1;
                let sound = acked_kept::check_excuse(self, change);
                self.judge(sound);
                self.checks.offsets.lose(change.vbucket, change.base);
                self.checks.order.lose(change.vbucket, change.base);
            } else if change.is_new_leader {
                self.checks.coverage.elections += 1;
                let sound = acked_kept::check_holders(self, change.vbucket);
                self.judge(sound);
            }
        }
        let sound = self.checks.one_leader.note(&map);
        self.judge(sound);
        true
    }

    /// A process has registered.
    pub(super) fn note_birth(&mut self, at: usize, member: Member) {
        self.checks.replicas_agree.forget(at);
        self.say(|| format!("node {at} takes part as {member}"));
    }

    /// A process has died.
    pub(super) fn note_death(&mut self, at: usize, member: Member) {
        self.checks.coverage.deaths += 1;
        self.say(|| format!("{member} at node {at} is dead"));
    }

    /// The last look, when everything has come to rest.
    pub(super) fn look_at_the_end(&mut self) {
        let sound = self.checks.no_silent_skip.finish(&self.checks.offsets);
        self.judge(sound);
        let sound = acked_kept::finish(self);
        self.judge(sound);
        let missed = self.readers.iter().map(|reader| reader.missed).sum::<u64>();
        self.checks.coverage.missed += missed;
    }
}
