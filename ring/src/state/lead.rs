//! What leaders ask for besides ISR changes: to be replaced, and for more offsets.

use broky_proto::id::{Epoch, Lineage, VBucketId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ClusterState;
use super::election::Tally;
use crate::command::Effect;
use crate::lineage::LINEAGE_END;
use crate::member::Member;

/// Why a leader was not replaced. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum ResignRefusal {
    /// It does not lead, or not in that epoch. Stop leading.
    #[error("not the leader in this epoch; it is {epoch}")]
    NotLeader {
        /// In which epoch somebody else does.
        epoch: Epoch,
    },
    /// Nobody else alive holds everything committed. Lead on; retry when a follower is heard of.
    #[error("nobody else may lead")]
    NoSuccessor,
}

/// Why no offsets were reserved. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum ExtendRefusal {
    /// The proposer does not lead, or not in that epoch. Stop leading.
    #[error("not the leader in this epoch; it is {epoch}")]
    NotLeader {
        /// In which epoch somebody else does.
        epoch: Epoch,
    },
    /// More than one stretch at a time, or beyond the last offset. Ask for the next one only.
    #[error("lineages are reserved one at a time, and up to {LINEAGE_END}; the next is {next}")]
    TooFar {
        /// The first not reserved.
        next: Lineage,
    },
}

impl ClusterState {
    pub(super) fn resign(
        &mut self,
        tally: &mut Tally,
        leader: Member,
        id: VBucketId,
        epoch: Epoch,
    ) -> Result<Member, ResignRefusal> {
        self.check_leader(leader, id, epoch).map_err(|epoch| ResignRefusal::NotLeader { epoch })?;
        let successor = self.map.vbucket(id).and_then(|vbucket| self.successor(vbucket, Some(leader), tally));
        let successor = successor.ok_or(ResignRefusal::NoSuccessor)?;
        self.edit(id, tally, |vbucket| vbucket.install(successor));
        Ok(successor)
    }

    pub(super) fn extend_lineage(
        &mut self,
        leader: Member,
        id: VBucketId,
        epoch: Epoch,
        end: Lineage,
    ) -> Result<Effect, ExtendRefusal> {
        self.check_leader(leader, id, epoch).map_err(|epoch| ExtendRefusal::NotLeader { epoch })?;
        let next = self.map.vbucket(id).map(|vbucket| vbucket.lineage_end).unwrap_or_default();
        if end.0 > next.0.saturating_add(1) || end > LINEAGE_END {
            return Err(ExtendRefusal::TooFar { next });
        }
        let mut tally = Tally::of(self);
        let is_changed = self.edit(id, &mut tally, |vbucket| vbucket.lineage_end = end.max(vbucket.lineage_end));
        Ok(if is_changed { Effect::Changed } else { Effect::Unchanged })
    }

    /// Whether `leader` leads the vbucket in `epoch`; if not, the epoch it is in.
    fn check_leader(&self, leader: Member, id: VBucketId, epoch: Epoch) -> Result<(), Epoch> {
        let vbucket = self.map.vbucket(id).ok_or_else(Epoch::default)?;
        if vbucket.leader == Some(leader) && vbucket.epoch == epoch { Ok(()) } else { Err(vbucket.epoch) }
    }
}
