//! I4, offsets: no offset holds two messages, and no message stands at two offsets.
//!
//! Whoever has seen a message somewhere says so: leaders with their acknowledgements, replicas with what they have
//! committed, readers with what they were shown. All have to agree, in what and in which epoch.

use std::collections::BTreeMap;

use broky_proto::id::VBucketId;

use super::{Broken, MessageId, Place, Sight};

/// See the module.
#[derive(Default)]
pub(super) struct Offsets {
    placed: BTreeMap<(VBucketId, u64), (MessageId, u64)>,
    at: BTreeMap<MessageId, (VBucketId, u64)>,
}

impl Offsets {
    /// Notes what stands at a place. Whether that is new.
    pub(super) fn note(&mut self, id: MessageId, place: Place) -> Result<bool, Broken> {
        let key = (place.vbucket, place.offset);
        match self.placed.get(&key) {
            Some(known) if *known == (id, place.epoch) => return Ok(false),
            Some(known) => return Err(("offsets", format!("{id:?} at {place:?}, where {known:?} was"))),
            None => {}
        }
        if let Some(other) = self.at.insert(id, key) {
            return Err(("offsets", format!("{id:?} at {place:?}, and at {other:?} as well")));
        }
        self.placed.insert(key, (id, place.epoch));
        Ok(true)
    }

    /// What a vbucket held below an offset is lost; whoever pushed it may push it again.
    pub(super) fn lose(&mut self, vbucket: VBucketId, below: u64) {
        self.at.retain(|_, place| place.0 != vbucket || place.1 >= below);
    }

    /// The first offset from `from` to before `to` at which something stands that is wanted.
    pub(super) fn find(&self, sight: Sight, from: u64, to: u64) -> Option<u64> {
        if from >= to {
            return None;
        }
        let mut range = self.placed.range((sight.vbucket, from)..(sight.vbucket, to));
        range.find(|(_, (id, _))| sight.wants(*id)).map(|((_, offset), _)| *offset)
    }

    pub(super) fn id_at(&self, vbucket: VBucketId, offset: u64) -> Option<MessageId> {
        self.placed.get(&(vbucket, offset)).map(|(id, _)| *id)
    }
}
