//! What a controller should propose next: one function, asked again after every entry.
//!
//! The loop is: ask, propose, apply, ask again. It keeps no plan of its own, so a controller that changes, or proposes
//! on a stale state, does no harm: the difference between targets and replicas *is* the plan. First the targets are
//! made to fit the nodes; then each vbucket is moved one step closer to its target. Where nothing is out of place
//! nothing is proposed, so the loop ends.
//!
//! Vbuckets with the fewest copies in sync come first.

use std::collections::{BTreeMap, BTreeSet};

use broky_proto::id::{NodeId, VBucketId};

use super::ClusterState;
use super::election::Tally;
use crate::command::{BATCH_MAX, Command, Step};
use crate::map::VBucket;
use crate::member::Member;
use crate::placement::{Candidate, Placement, placement};

/// How much may be under way at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoveLimits {
    /// Vbuckets being copied, in the whole cluster. Default 256. Each time a leader looks through all it holds, so
    /// raised, moves cost less in all; but more memory is taken twice while they last.
    pub learners: usize,
    /// Of these, vbuckets being copied to any one node. Default 64. Raised: likewise.
    pub learners_per_node: usize,
    /// Vbuckets that begin to be copied by one proposal. Default 4. Raised: moves end sooner, and pushes notice them
    /// more, for while a vbucket has another set of copies than others its messages go in blocks of their own.
    pub starts: usize,
    /// Leaderships transferred by one proposal. Default 4. Raised: more pushes wait at the same time.
    pub transfers: usize,
}

impl Default for MoveLimits {
    fn default() -> Self {
        Self { learners: 256, learners_per_node: 64, starts: 4, transfers: 4 }
    }
}

/// What is left of the limits.
struct Budget {
    limits: MoveLimits,
    learners: usize,
    learners_at: BTreeMap<NodeId, usize>,
    starts: usize,
    transfers: usize,
}

impl ClusterState {
    /// The commands that bring the cluster closer to where it should be. Empty when it is there, or when all that can
    /// be done at once is under way. Ask again when they are applied.
    #[must_use]
    pub fn next_moves(&self, limits: MoveLimits) -> Vec<Command> {
        self.next_moves_around(limits, &BTreeSet::new())
    }

    /// The same, but vbuckets whose leader has just changed are not given back to the preferred one yet.
    ///
    /// A leader that resigned because it does not reach its followers is in the ISR for as long as it takes the next
    /// one to notice. Given back at once, the lead would go to and fro, and no push would ever be committed.
    #[must_use]
    pub fn next_moves_around(&self, limits: MoveLimits, restless: &BTreeSet<VBucketId>) -> Vec<Command> {
        let targets = self.next_targets();
        if !targets.is_empty() {
            return targets.chunks(BATCH_MAX).map(|targets| Command::Reassign { targets: targets.to_vec() }).collect();
        }
        let steps = self.next_steps(limits, restless);
        if steps.is_empty() { Vec::new() } else { vec![Command::Move { steps }] }
    }

    /// The targets that no longer fit the nodes.
    fn next_targets(&self) -> Vec<(VBucketId, Placement)> {
        let Some(vbuckets) = self.map.vbucket_count() else { return Vec::new() };
        let is_placed = self.map.vbuckets.iter().any(|vbucket| !vbucket.target.0.is_empty());
        if !is_placed && self.map.nodes.len() < usize::from(self.expect) {
            return Vec::new();
        }
        let candidates: Vec<Candidate> = self
            .map
            .nodes()
            .filter(|(id, _)| self.is_placeable(*id))
            .map(|(id, node)| Candidate { node: id, zone: node.zone.clone(), is_open: self.map.alive(id).is_some() })
            .collect();
        if candidates.is_empty() {
            return Vec::new();
        }
        let before: Vec<Placement> = self.map.vbuckets.iter().map(|vbucket| vbucket.target.clone()).collect();
        let after = placement(&candidates, vbuckets, self.map.copies.replicas, &before);
        vbuckets
            .iter()
            .zip(after)
            .zip(before)
            .filter(|((_, after), before)| after != before)
            .map(|(new, _)| new)
            .collect()
    }

    fn next_steps(&self, limits: MoveLimits, restless: &BTreeSet<VBucketId>) -> Vec<Step> {
        let mut budget = self.budget(limits);
        let tally = Tally::of(self);
        let mut vbuckets: Vec<(VBucketId, &VBucket)> = self.map.vbuckets().collect();
        vbuckets.sort_by_key(|(_, vbucket)| vbucket.isr.len());
        vbuckets
            .into_iter()
            .filter_map(|(id, vbucket)| self.next_step((id, restless.contains(&id)), vbucket, &tally, &mut budget))
            .take(BATCH_MAX)
            .collect()
    }

    fn budget(&self, limits: MoveLimits) -> Budget {
        // A learner whose process is dead copies nothing and must not hold up others.
        let busy = |id: NodeId| self.map.alive(id).map(|_| (id, self.learning(id).count()));
        let learners_at: BTreeMap<NodeId, usize> = self.map.nodes().filter_map(|(id, _)| busy(id)).collect();
        Budget { limits, learners: learners_at.values().sum(), learners_at, starts: 0, transfers: 0 }
    }

    /// The next step of one vbucket, if there is one and the budget allows it.
    fn next_step(
        &self,
        (id, is_restless): (VBucketId, bool),
        vbucket: &VBucket,
        tally: &Tally,
        budget: &mut Budget,
    ) -> Option<Step> {
        let leader = vbucket.leader?;
        let stale = vbucket.learners.iter().copied().find(|node| !vbucket.target.contains(*node));
        if let Some(node) = stale {
            return Some(Step::Drop { vbucket: id, node });
        }
        let may_stay = !self.is_draining(leader.node) && vbucket.target.contains(leader.node);
        if !(is_restless && may_stay)
            && let Some(to) = self.better_leader(vbucket, leader, tally)
            && budget.take_transfer()
        {
            return Some(Step::TransferLeadership { vbucket: id, to });
        }
        let can = |step: &Step| self.check_step(vbucket, *step).is_ok();
        if !vbucket.learners.iter().any(|node| self.map.alive(*node).is_some()) {
            let mut missing = vbucket.target.0.iter().map(|node| Step::AddLearner { vbucket: id, node: *node });
            if let Some(step @ Step::AddLearner { node, .. }) = missing.find(can) {
                return budget.take_learner(node).then_some(step);
            }
        }
        // Nothing is let go before everybody who is to have it, and lives, has it.
        let has_it = |node: &NodeId| self.map.alive(*node).is_none_or(|member| vbucket.isr.contains(&member));
        let mut obsolete = vbucket.replicas.iter().map(|node| Step::Drop { vbucket: id, node: *node });
        if vbucket.target.0.iter().all(has_it) { obsolete.find(can) } else { None }
    }

    /// Who should lead instead: the preferred leader, or anybody who is to stay when the present one is not.
    fn better_leader(&self, vbucket: &VBucket, leader: Member, tally: &Tally) -> Option<NodeId> {
        let can_lead = |node: &NodeId| {
            let step = Step::TransferLeadership { vbucket: VBucketId::default(), to: *node };
            *node != leader.node && self.check_step(vbucket, step).is_ok()
        };
        if vbucket.target.leader() == Some(leader.node) {
            return None;
        }
        if let Some(preferred) = vbucket.target.leader().filter(can_lead) {
            return Some(preferred);
        }
        let is_staying = !self.is_draining(leader.node);
        if is_staying && vbucket.target.contains(leader.node) {
            return None;
        }
        let least = |nodes: &[NodeId]| nodes.iter().copied().filter(can_lead).min_by_key(|node| tally.leads(*node));
        least(&vbucket.target.0).or_else(|| if is_staying { None } else { least(&vbucket.replicas) })
    }
}

impl Budget {
    fn take_transfer(&mut self) -> bool {
        let is_free = self.transfers < self.limits.transfers;
        self.transfers += usize::from(is_free);
        is_free
    }

    fn take_learner(&mut self, node: NodeId) -> bool {
        let at = self.learners_at.entry(node).or_default();
        let limits = &self.limits;
        let is_free = self.starts < limits.starts && self.learners < limits.learners && *at < limits.learners_per_node;
        self.starts += usize::from(is_free);
        self.learners += usize::from(is_free);
        *at += usize::from(is_free);
        is_free
    }
}
