//! When the newest surviving state may be out of date.

use broky_proto::id::Lineage;

use super::ClusterState;
use crate::lineage::LINEAGE_END;
use crate::member::LogIndex;

/// Lineages that others may have begun of which nobody knows. Each is the loss of every copy, and all in the time that
/// it takes to restart a majority.
const UNKNOWN_LINEAGES: u64 = 64;

impl ClusterState {
    /// Takes this state for what it is: one after which others may have decided more, of which nobody knows any more.
    /// They may have led and held anything, so every vbucket begins a new lineage: what was committed meanwhile is
    /// lost, its readers are told, and no offset is used again. Every entry of the map is new, as somebody may know
    /// what was decided and lost, and asks only for what has changed since. `index` is above all applied before.
    pub fn doubt(&mut self, index: LogIndex) {
        self.applied = self.applied.max(index);
        let version = self.version();
        self.map.nodes.values_mut().for_each(|node| node.version = version);
        self.map.version = version;
        self.edit_all(|vbucket| {
            vbucket.lineage_end = Lineage((vbucket.lineage_end.0 + UNKNOWN_LINEAGES).min(LINEAGE_END.0));
            if !vbucket.has_holders() {
                // Others may have begun what this state has yet to begin. Where there are holders, the loss of them
                // begins one.
                vbucket.begin_lineage();
            }
            vbucket.isr.clear();
            vbucket.eligible.clear();
            vbucket.leader = None;
        });
    }
}
