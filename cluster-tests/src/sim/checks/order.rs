//! I2, order: what a producer pushes into a vbucket stands there in the order in which it was pushed.

use std::collections::BTreeMap;

use broky_proto::id::VBucketId;

use super::{Broken, MessageId, Place};

/// Sequences by offset, of each producer in each vbucket.
#[derive(Default)]
pub(super) struct Order(BTreeMap<(u64, VBucketId), BTreeMap<u64, u64>>);

impl Order {
    pub(super) fn note(&mut self, id: MessageId, place: Place) -> Result<(), Broken> {
        let log = self.0.entry((id.producer, place.vbucket)).or_default();
        let before = log.range(..place.offset).next_back().map(|(_, sequence)| *sequence);
        let behind = log.range(place.offset..).next().map(|(_, sequence)| *sequence);
        log.insert(place.offset, id.sequence);
        if before.is_some_and(|before| before >= id.sequence) || behind.is_some_and(|behind| behind <= id.sequence) {
            return Err(("order", format!("{id:?} at {place:?} stands between {before:?} and {behind:?}")));
        }
        Ok(())
    }

    /// What a vbucket held below an offset is lost, and may come again.
    pub(super) fn lose(&mut self, vbucket: VBucketId, below: u64) {
        let of_it = self.0.iter_mut().filter(|((_, of), _)| *of == vbucket);
        of_it.for_each(|(_, log)| *log = log.split_off(&below));
    }
}
