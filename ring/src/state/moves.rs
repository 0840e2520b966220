//! The steps of a move: a learner is added, catches up, enters the ISR (by its leader's `AlterIsr`), leadership goes
//! over, and only then the old copy is dropped.
//!
//! Each step is an entry of its own and leaves a state in which the vbucket could stay for ever, so a move that breaks
//! off anywhere costs nothing. Each checks for itself that it is still right when its turn comes: whoever proposed it
//! may have seen an older state.

use broky_proto::id::{NodeId, VBucketId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ClusterState;
use super::election::Tally;
use crate::command::{Effect, Step};
use crate::map::VBucket;

/// Why a step was not taken. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum MoveRefusal {
    /// There is no such vbucket. Nothing to retry.
    #[error("no such vbucket")]
    UnknownVBucket,
    /// The vbucket has changed in this very entry. Propose the next step in another one.
    #[error("one step per entry")]
    OneStepPerEntry,
    /// The node is no target of the vbucket. Nothing to retry: the target has changed.
    #[error("not a target")]
    NotTarget,
    /// The node is a target of the vbucket: its copy is to stay. Nothing to retry.
    #[error("a target")]
    Target,
    /// The node holds a copy already. Nothing to retry.
    #[error("holds a copy")]
    HasCopy,
    /// The node holds no copy. Nothing to retry.
    #[error("holds no copy")]
    NoCopy,
    /// The node is dead, draining or unknown. Retry when it is back.
    #[error("takes no part")]
    Unfit,
    /// The node is not in the ISR. Retry when it is.
    #[error("not in sync")]
    NotInSync,
    /// The node leads. Transfer leadership first.
    #[error("leads")]
    Leads,
    /// The node holds everything committed, at a time when few do. Retry when the ISR is large enough.
    #[error("holds committed messages that too few others hold")]
    Needed,
}

impl ClusterState {
    pub(super) fn take_step(&mut self, tally: &mut Tally, step: Step) -> Result<Effect, MoveRefusal> {
        let id = step.vbucket();
        let vbucket = self.map.vbucket(id).ok_or(MoveRefusal::UnknownVBucket)?;
        if vbucket.version == self.version() {
            return Err(MoveRefusal::OneStepPerEntry);
        }
        self.check_step(vbucket, step)?;
        let leader = match step {
            Step::TransferLeadership { to, .. } => self.map.alive(to),
            Step::AddLearner { .. } | Step::Drop { .. } => None,
        };
        let is_changed = self.edit(id, tally, |vbucket| match step {
            Step::AddLearner { node, .. } => vbucket.learners.push(node),
            Step::TransferLeadership { .. } => vbucket.leader = leader.or(vbucket.leader),
            Step::Drop { node, .. } => {
                vbucket.learners.retain(|other| *other != node);
                vbucket.replicas.retain(|other| *other != node);
                vbucket.isr.retain(|member| member.node != node);
            }
        });
        Ok(if is_changed { Effect::Changed } else { Effect::Unchanged })
    }

    /// Whether the vbucket can take the step now.
    pub(super) fn check_step(&self, vbucket: &VBucket, step: Step) -> Result<(), MoveRefusal> {
        match step {
            Step::AddLearner { node, .. } => self.check_learner(vbucket, node),
            Step::TransferLeadership { to, .. } => self.check_transfer(vbucket, to),
            Step::Drop { node, .. } => self.check_drop(vbucket, node),
        }
    }

    fn check_learner(&self, vbucket: &VBucket, node: NodeId) -> Result<(), MoveRefusal> {
        if !vbucket.target.contains(node) {
            return Err(MoveRefusal::NotTarget);
        }
        if vbucket.has_copy_at(node) {
            return Err(MoveRefusal::HasCopy);
        }
        if self.map.alive(node).is_none() || self.is_draining(node) {
            return Err(MoveRefusal::Unfit);
        }
        Ok(())
    }

    fn check_transfer(&self, vbucket: &VBucket, to: NodeId) -> Result<(), MoveRefusal> {
        if self.map.alive(to).is_none() || self.is_draining(to) {
            return Err(MoveRefusal::Unfit);
        }
        if !vbucket.isr.iter().any(|member| member.node == to) {
            return Err(MoveRefusal::NotInSync);
        }
        Ok(())
    }

    fn check_drop(&self, vbucket: &VBucket, node: NodeId) -> Result<(), MoveRefusal> {
        if vbucket.target.contains(node) {
            return Err(MoveRefusal::Target);
        }
        if vbucket.learners.contains(&node) {
            return Ok(());
        }
        if !vbucket.replicas.contains(&node) {
            return Err(MoveRefusal::NoCopy);
        }
        if vbucket.leader.is_some_and(|leader| leader.node == node) {
            return Err(MoveRefusal::Leads);
        }
        let is_in_sync = vbucket.isr.iter().any(|member| member.node == node);
        let too_few_in_sync = is_in_sync && vbucket.isr.len() <= usize::from(vbucket.min_isr);
        // A dead node's place is kept until another has taken it. A node being drained leaves in any case: its operator
        // has decided that fewer copies will do.
        let too_few = !self.is_draining(node) && vbucket.replicas.len() <= usize::from(self.goal().replicas);
        if too_few_in_sync || too_few || vbucket.eligible.iter().any(|member| member.node == node) {
            return Err(MoveRefusal::Needed);
        }
        Ok(())
    }

    /// The vbuckets that `node` is a learner of.
    pub(super) fn learning(&self, node: NodeId) -> impl Iterator<Item = VBucketId> {
        self.map.vbuckets().filter(move |(_, vbucket)| vbucket.learners.contains(&node)).map(|(id, _)| id)
    }
}
