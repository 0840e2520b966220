//! Targets: where copies should be.
//!
//! The controller computes a placement and proposes it as data, so that nodes whose placement code differs still agree.
//! Setting a target moves nothing: the moves to get there are proposed one by one. Only a vbucket that nobody holds
//! anything of takes its new replicas at once (see `election`); that is how a founded cluster opens.

use broky_proto::id::{NodeId, VBucketId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ClusterState;
use super::election::Tally;
use crate::command::Effect;
use crate::map::Liveness;
use crate::member::REPLICAS_MAX;
use crate::placement::Placement;

/// Why a target was not set. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum ReassignRefusal {
    /// There is no such vbucket. Nothing to retry.
    #[error("no such vbucket")]
    UnknownVBucket,
    /// It names no node, too many, or one twice. A bug of the proposer.
    #[error("a target is 1 to {REPLICAS_MAX} distinct nodes")]
    Malformed,
    /// It names a node that is not registered, draining or evicted. Compute the placement again.
    #[error("node {node} takes no copies")]
    Unfit {
        /// Which node.
        node: NodeId,
    },
}

impl ClusterState {
    pub(super) fn reassign(
        &mut self,
        tally: &mut Tally,
        id: VBucketId,
        target: Placement,
    ) -> Result<Effect, ReassignRefusal> {
        self.map.vbucket(id).ok_or(ReassignRefusal::UnknownVBucket)?;
        let nodes = &target.0;
        let is_distinct = nodes.iter().enumerate().all(|(rank, node)| !nodes.iter().take(rank).any(|n| n == node));
        if !(1..=usize::from(REPLICAS_MAX)).contains(&nodes.len()) || !is_distinct {
            return Err(ReassignRefusal::Malformed);
        }
        if let Some(node) = nodes.iter().copied().find(|node| !self.is_placeable(*node)) {
            return Err(ReassignRefusal::Unfit { node });
        }
        let is_changed = self.edit(id, tally, |vbucket| vbucket.target = target);
        Ok(if is_changed { Effect::Changed } else { Effect::Unchanged })
    }

    /// Whether copies can be meant to stay at this node.
    pub(super) fn is_placeable(&self, id: NodeId) -> bool {
        self.map.node(id).is_some_and(|node| !node.is_draining && node.liveness != Liveness::Evicted)
    }
}
