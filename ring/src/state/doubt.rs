//! When what the newest surviving state says may be out of date.

use broky_proto::id::VBucketId;

use super::ClusterState;
use super::election::Tally;
use crate::map::ClusterMap;
use crate::member::{LogIndex, Member};

impl ClusterState {
    /// Takes this state for what it is: that of survivors, after whom others may have decided more that nobody knows of any
    /// more. Whatever they may have committed without a survivor is given up: a vbucket that somebody else could have come
    /// to lead, because he was in its ISR or eligible, begins a new lineage. Its readers are told, and no offset is used
    /// again. `index` is above all applied before.
    ///
    /// `committed` is the map as it was certainly decided: what a survivor has put into the log since, alone, is nothing to
    /// go by.
    pub fn doubt(&mut self, index: LogIndex, survivors: &[Member], committed: &ClusterMap) {
        self.applied = self.applied.max(index);
        let mut tally = Tally::of(self);
        for id in (0..=u16::MAX).map(VBucketId).take(self.map.vbuckets.len()) {
            let is_in_doubt = {
                let known = [self.map.vbucket(id), committed.vbucket(id)].into_iter().flatten();
                let mut holders = known.flat_map(|vbucket| vbucket.isr.iter().chain(&vbucket.eligible));
                holders.any(|holder| !survivors.contains(holder))
            };
            if !is_in_doubt {
                continue;
            }
            self.edit(id, &mut tally, |vbucket| {
                vbucket.isr.clear();
                vbucket.eligible.clear();
                vbucket.leader = None;
            });
        }
    }
}
