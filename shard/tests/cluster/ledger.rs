//! Every message that was acknowledged or shown, and where.

use std::collections::BTreeMap;

/// Number of a message, unique in a run.
pub(crate) type Id = u64;

#[derive(Default)]
pub(crate) struct Ledger {
    /// By vbucket and offset. Lineages have ranges of their own.
    places: BTreeMap<(u32, u64), Id>,
    at: BTreeMap<Id, (u32, u64)>,
    /// Acknowledged as committed.
    pub(crate) acknowledged: BTreeMap<Id, (u32, u64)>,
    /// Deliveries.
    pub(crate) shown: usize,
}

impl Ledger {
    /// Notes that a message stands at a place.
    pub(crate) fn note(&mut self, id: Id, vbucket: u32, offset: u64) {
        let known = *self.places.entry((vbucket, offset)).or_insert(id);
        assert_eq!(known, id, "two messages at vbucket {vbucket} offset {offset}");
        let place = *self.at.entry(id).or_insert((vbucket, offset));
        assert_eq!(place, (vbucket, offset), "message {id} is at two places");
    }

    pub(crate) fn acknowledge(&mut self, id: Id, vbucket: u32, offset: u64) {
        self.note(id, vbucket, offset);
        self.acknowledged.insert(id, (vbucket, offset));
    }

    /// Forgets messages of lineages that are lost: their producers push them again.
    pub(crate) fn lose(&mut self, vbucket: u32, below: u64) {
        let lost: Vec<Id> =
            self.at.iter().filter(|(_, place)| place.0 == vbucket && place.1 < below).map(|(id, _)| *id).collect();
        for id in lost {
            self.at.remove(&id);
            self.acknowledged.remove(&id);
        }
    }

    /// The first place from `from` to before `to` that holds a message for which `is_wanted` holds.
    pub(crate) fn find(&self, vbucket: u32, from: u64, to: u64, is_wanted: impl Fn(Id) -> bool) -> Option<u64> {
        if from >= to {
            return None;
        }
        let mut range = self.places.range((vbucket, from)..(vbucket, to));
        range.find(|(_, id)| is_wanted(**id)).map(|((_, offset), _)| *offset)
    }

    pub(crate) fn has(&self, id: Id) -> bool {
        self.at.contains_key(&id)
    }
}
