//! I3, no phantom: what is stored was pushed, into this vbucket, with these bytes, and was never told to be refused.

use std::collections::{BTreeMap, BTreeSet};

use broky_proto::id::VBucketId;

use super::{Broken, MessageId, Place};

/// See the module.
#[derive(Default)]
pub(super) struct NoPhantom {
    pushed: BTreeMap<MessageId, VBucketId>,
    rejected: BTreeSet<MessageId>,
}

impl NoPhantom {
    pub(super) fn note_pushed(&mut self, id: MessageId, vbucket: VBucketId) {
        self.pushed.insert(id, vbucket);
    }

    pub(super) fn note_rejected(&mut self, id: MessageId) {
        self.rejected.insert(id);
    }

    /// Whose payload it is.
    pub(super) fn read(&self, place: Place, payload: &[u8]) -> Result<MessageId, Broken> {
        MessageId::of(payload).ok_or_else(|| ("no phantom", format!("a payload at {place:?} is not as it was")))
    }

    pub(super) fn check(&self, id: MessageId, place: Place) -> Result<(), Broken> {
        if self.rejected.contains(&id) {
            return Err(("no phantom", format!("{id:?}, which was rejected, is at {place:?}")));
        }
        match self.pushed.get(&id) {
            Some(vbucket) if *vbucket == place.vbucket => Ok(()),
            known => Err(("no phantom", format!("{id:?}, pushed to {known:?}, is at {place:?}"))),
        }
    }
}
