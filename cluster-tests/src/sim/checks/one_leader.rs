//! I8, one leader per epoch: epochs go up, each has one leader, and nothing is stored in an epoch behind a later one's.

use std::collections::BTreeMap;

use broky_proto::id::{Epoch, Lineage, MapVersion, Member, VBucketId};
use broky_ring::lineage::lineage_base;
use broky_ring::map::ClusterMap;

use super::{Broken, Place};

/// What has changed for a vbucket.
pub(super) struct Change {
    pub(super) vbucket: VBucketId,
    /// Who held the history before, and could have led it.
    pub(super) holders: Vec<Member>,
    pub(super) is_new_leader: bool,
    pub(super) is_new_lineage: bool,
    /// The first offset of its lineage.
    pub(super) base: u64,
}

/// What was known of a vbucket when it was last looked at.
#[derive(Clone, Default)]
struct Known {
    lineage: Lineage,
    leader: Option<Member>,
    holders: Vec<Member>,
}

/// See the module.
#[derive(Default)]
pub(super) struct OneLeader {
    version: MapVersion,
    known: Vec<Known>,
    leaders: BTreeMap<(VBucketId, Epoch), Member>,
    /// The epoch of what is stored, by offset.
    epochs: BTreeMap<(VBucketId, u64), u64>,
}

impl OneLeader {
    /// What is new in a map; `None` when it is the one seen last.
    pub(super) fn changes(&mut self, map: &ClusterMap) -> Option<Vec<Change>> {
        if std::mem::replace(&mut self.version, map.version()) == map.version() {
            return None;
        }
        self.known.resize_with(map.vbuckets().count(), Known::default);
        let changes = map.vbuckets().zip(&mut self.known).map(|((vbucket, now), known)| {
            let holders = now.isr.iter().chain(&now.eligible).copied().collect();
            let now_known = Known { lineage: now.lineage, leader: now.leader, holders };
            let before = std::mem::replace(known, now_known);
            Change {
                vbucket,
                holders: before.holders,
                is_new_leader: now.leader.is_some() && now.leader != before.leader,
                is_new_lineage: now.lineage > before.lineage,
                base: lineage_base(now.lineage).0,
            }
        });
        Some(changes.filter(|change| change.is_new_leader || change.is_new_lineage).collect())
    }

    /// Notes who leads.
    pub(super) fn note(&mut self, map: &ClusterMap) -> Result<(), Broken> {
        for (id, vbucket) in map.vbuckets() {
            let Some(leader) = vbucket.leader else { continue };
            let known = *self.leaders.entry((id, vbucket.epoch)).or_insert(leader);
            if known != leader {
                let words = format!("vbucket {id}: {known} and {leader} lead in epoch {}", vbucket.epoch);
                return Err(("one leader", words));
            }
        }
        Ok(())
    }

    /// Notes in which epoch something was stored.
    pub(super) fn note_stored(&mut self, place: Place) -> Result<(), Broken> {
        let Place { vbucket, offset, epoch, .. } = place;
        let of_it = |at: &u64| *at;
        let before = self.epochs.range((vbucket, 0)..(vbucket, offset)).next_back().map(|(_, it)| of_it(it));
        let behind = self.epochs.range((vbucket, offset + 1)..(vbucket, u64::MAX)).next().map(|(_, it)| of_it(it));
        self.epochs.insert((vbucket, offset), epoch);
        if before.is_some_and(|before| before > epoch) || behind.is_some_and(|behind| behind < epoch) {
            return Err(("one leader", format!("{place:?} stands between epochs {before:?} and {behind:?}")));
        }
        if !self.leaders.contains_key(&(vbucket, Epoch(epoch))) {
            return Err(("one leader", format!("{place:?} is of an epoch in which nobody led")));
        }
        Ok(())
    }
}
