//! When the newest surviving state may be out of date.

use super::ClusterState;
use crate::member::LogIndex;

impl ClusterState {
    /// Takes this state for what it is: one after which others may have decided more, of which nobody knows any more. They
    /// may have led and held anything, so every vbucket begins a new lineage: what was committed meanwhile is lost, its
    /// readers are told, and no offset is used again. `index` is above all applied before.
    pub fn doubt(&mut self, index: LogIndex) {
        self.applied = self.applied.max(index);
        self.edit_all(|vbucket| {
            vbucket.isr.clear();
            vbucket.eligible.clear();
            vbucket.leader = None;
        });
    }
}
