//! Settling a vbucket: who leads, who counts as holding what, and when its history is over.
//!
//! Whoever is in the ISR holds everything committed. So does whoever left it while the high watermark stood still, as
//! long as its process lives (KIP-966). These are the *holders*; only one of them can continue the history. A holder
//! that is fenced may still live, and is waited for. When no holder can be alive any more, because each was replaced by
//! a newer lifetime or forgotten, what they held is lost: a new lineage begins, above all that was shown, with whatever
//! replicas are alive, all equally empty and hence all in sync.
//!
//! **Invariant:** a vbucket has a leader whenever anybody who may lead it is alive.

use std::collections::BTreeMap;

use broky_proto::id::{Lineage, NodeId};

use super::ClusterState;
use crate::lineage::LINEAGE_END;
use crate::map::VBucket;
use crate::member::Member;

/// What is counted once per entry: how many vbuckets each node leads, so that elections spread what a dead node led,
/// and how many copies a commit can be made to need.
pub(super) struct Tally {
    leads: BTreeMap<NodeId, usize>,
    min_isr: u8,
}

impl Tally {
    pub(super) fn of(state: &ClusterState) -> Self {
        let mut tally = Self { leads: BTreeMap::new(), min_isr: state.goal().min_isr };
        state.map.vbuckets.iter().for_each(|vbucket| tally.replace(None, vbucket.leader));
        tally
    }

    pub(super) fn replace(&mut self, before: Option<Member>, after: Option<Member>) {
        if let Some(leads) = before.and_then(|leader| self.leads.get_mut(&leader.node)) {
            *leads = leads.saturating_sub(1);
        }
        if let Some(leader) = after {
            *self.leads.entry(leader.node).or_default() += 1;
        }
    }

    pub(super) fn leads(&self, node: NodeId) -> usize {
        self.leads.get(&node).copied().unwrap_or_default()
    }
}

impl ClusterState {
    /// Brings a changed vbucket into a state in which all invariants hold. `before` is how it was.
    pub(super) fn settle(&self, before: &VBucket, vbucket: &mut VBucket, tally: &Tally) {
        vbucket.order();
        // Lowered by what the cluster can have, which no death lowers; raised only when enough copies are in sync, so
        // that a growing cluster refuses nothing while it copies.
        vbucket.min_isr = vbucket.min_isr.min(tally.min_isr);
        if before.has_holders() && !vbucket.has_holders() {
            vbucket.begin_lineage();
        }
        if !vbucket.has_holders() && (vbucket.replicas.is_empty() || self.is_any_alive(&vbucket.target.0)) {
            // There is nothing to copy, so the copies are at once where they should be.
            vbucket.replicas.clone_from(&vbucket.target.0);
            vbucket.learners.clear();
        }
        if vbucket.leader.is_some_and(|leader| !vbucket.isr.contains(&leader)) {
            vbucket.leader = None;
        }
        if vbucket.leader.is_none() {
            self.elect(vbucket, tally);
        }
        if !vbucket.is_frozen() {
            vbucket.eligible.clear();
        }
        let in_sync = u8::try_from(vbucket.isr.len()).unwrap_or(u8::MAX);
        vbucket.min_isr = vbucket.min_isr.max(tally.min_isr.min(in_sync));
    }

    /// Who would lead in place of `but`: a member of the ISR, or else an eligible one.
    pub(super) fn successor(&self, vbucket: &VBucket, but: Option<Member>, tally: &Tally) -> Option<Member> {
        let alive = |members: &[Member]| -> Vec<Member> {
            members.iter().copied().filter(|member| Some(*member) != but && self.map.is_alive(*member)).collect()
        };
        self.best(vbucket, &alive(&vbucket.isr), tally).or_else(|| self.best(vbucket, &alive(&vbucket.eligible), tally))
    }

    fn elect(&self, vbucket: &mut VBucket, tally: &Tally) {
        if vbucket.has_holders() {
            if let Some(leader) = self.successor(vbucket, None, tally) {
                vbucket.install(leader);
            } else if cfg!(feature = "bug-elect-unclean")
                && let Some(leader) = self.best(vbucket, &self.openers(vbucket), tally)
            {
                // Planted: rather than wait for a holder, whoever is alive leads.
                vbucket.install(leader);
            }
        } else if vbucket.lineage < vbucket.lineage_end {
            let empty = self.openers(vbucket);
            if let Some(leader) = self.best(vbucket, &empty, tally) {
                let replicas = u8::try_from(vbucket.replicas.len()).unwrap_or(u8::MAX);
                vbucket.min_isr = vbucket.min_isr.max(tally.min_isr.min(replicas)).max(1);
                vbucket.isr = empty;
                vbucket.leader = Some(leader);
            }
        }
    }

    fn is_any_alive(&self, nodes: &[NodeId]) -> bool {
        nodes.iter().any(|node| self.map.alive(*node).is_some())
    }

    /// With whom an empty lineage begins: the replicas alive, those being drained only when there is no other.
    fn openers(&self, vbucket: &VBucket) -> Vec<Member> {
        let mut alive: Vec<Member> = vbucket.replicas.iter().filter_map(|node| self.map.alive(*node)).collect();
        alive.sort_unstable();
        let staying: Vec<Member> = alive.iter().copied().filter(|member| !self.is_draining(member.node)).collect();
        if staying.is_empty() { alive } else { staying }
    }

    /// The best leader among `candidates`: the preferred one, else the one that leads least, of equals the first in the
    /// order of preference. Nodes being drained come last.
    fn best(&self, vbucket: &VBucket, candidates: &[Member], tally: &Tally) -> Option<Member> {
        let rank = |member: &Member| {
            let is_preferred = vbucket.target.leader() == Some(member.node);
            let place = vbucket.replicas.iter().position(|node| *node == member.node);
            (self.is_draining(member.node), !is_preferred, tally.leads(member.node), place, member.node)
        };
        candidates.iter().copied().min_by_key(rank)
    }

    pub(super) fn is_draining(&self, node: NodeId) -> bool {
        self.map.node(node).is_some_and(|node| node.is_draining)
    }
}

impl VBucket {
    /// Takes members out of the ISR. While it is frozen they still hold everything committed.
    pub(super) fn shrink(&mut self, leaves: impl Fn(&Member) -> bool) {
        let (left, stay) = self.isr.iter().partition(|member| leaves(member));
        self.isr = stay;
        self.keep_eligible(left);
    }

    /// Counts those who just left the ISR as eligible, if it is frozen.
    pub(super) fn keep_eligible(&mut self, left: Vec<Member>) {
        if self.is_frozen() {
            self.eligible.extend(left);
            self.eligible.sort_unstable();
            self.eligible.dedup();
        }
    }

    /// Takes what a node's past lifetimes held out of every account.
    pub(super) fn strip(&mut self, node: NodeId) {
        self.isr.retain(|member| member.node != node);
        self.eligible.retain(|member| member.node != node);
        self.leader = self.leader.filter(|leader| leader.node != node);
    }

    /// Lets a holder lead. One that was eligible begins with an ISR of its own: the others must be shown to have what
    /// it has. The watermark stands still, so whoever makes way for it stays eligible.
    pub(super) fn install(&mut self, leader: Member) {
        if !self.isr.contains(&leader) {
            let left = std::mem::replace(&mut self.isr, vec![leader]);
            self.eligible.retain(|member| *member != leader);
            self.keep_eligible(left);
        }
        self.leader = Some(leader);
    }

    /// Ends a history of which nothing is left. At the end of all offsets no other begins.
    pub(super) fn begin_lineage(&mut self) {
        self.lineage = self.lineage_end;
        self.lineage_end = Lineage((self.lineage_end.0 + 1).min(LINEAGE_END.0));
        self.leader = None;
    }

    /// Puts the replicas in the order of the target; those that are to go come last.
    fn order(&mut self) {
        let target = &self.target.0;
        self.replicas.sort_by_key(|node| target.iter().position(|other| other == node).unwrap_or(target.len()));
    }
}
