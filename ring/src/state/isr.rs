//! ISR changes: compare-and-swap by the leader.
//!
//! The leader sees who keeps up; the control log decides. A change is accepted only from the leader of that epoch, on
//! top of the ISR version it names, and only with members that are registered under just that incarnation and not
//! fenced (KIP-841, KIP-903): an add that was on its way while the follower restarted is refused. Each version is used
//! once, also by a change that is refused. Learners that enter the ISR become replicas by that, so a copy counts from
//! the moment it is complete, not before.
//!
//! Rules for leaders that this relies on: the high watermark is the least log end over the committed ISR *and* every
//! change proposed and not yet decided, and it stands still while the *committed* ISR has fewer than `min_isr` members.

use broky_proto::id::{Epoch, Incarnation, IsrVersion, NodeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ClusterState;
use super::election::Tally;
use crate::command::IsrChange;
use crate::map::{Liveness, VBucket};
use crate::member::Member;

/// Why an ISR was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum IsrRefusal {
    /// There is no such vbucket. Nothing to retry.
    #[error("no such vbucket")]
    UnknownVBucket,
    /// The proposer does not lead it, or not in that epoch. Stop leading; the map says who does.
    #[error("not the leader in this epoch; it is {epoch}")]
    NotLeader {
        /// Who leads.
        leader: Option<Member>,
        /// In which epoch.
        epoch: Epoch,
    },
    /// The ISR has changed since. Propose again on top of it.
    #[error("the isr is at version {current}")]
    StaleVersion {
        /// The ISR's version.
        current: IsrVersion,
    },
    /// The leader would not be in it. A bug of the proposer.
    #[error("the isr must contain its leader")]
    WithoutLeader,
    /// It names a node twice. A bug of the proposer.
    #[error("node {node} is named twice")]
    Duplicate {
        /// Which node.
        node: NodeId,
    },
    /// It names a node that is neither replica nor learner. Propose again without it.
    #[error("node {node} holds no copy")]
    NoCopy {
        /// Which node.
        node: NodeId,
    },
    /// It names a process that may not be in an ISR. Propose again without it.
    #[error("{member} may not be in sync: {reason}")]
    Ineligible {
        /// Which process.
        member: Member,
        /// Why not.
        reason: Ineligible,
    },
}

/// Why a process may not be in an ISR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum Ineligible {
    /// Its node is not registered.
    #[error("not registered")]
    Unregistered,
    /// Its node is registered with another incarnation. What the proposer knows of its log is void.
    #[error("its incarnation is {current}")]
    Replaced {
        /// The lifetime that counts.
        current: Incarnation,
    },
    /// It was declared dead.
    #[error("fenced")]
    Fenced,
    /// It is being drained, and was not in the ISR before.
    #[error("draining")]
    Draining,
}

impl IsrRefusal {
    /// Whether the change was its leader's next one. Then another copy of it may still be on its way and find things
    /// otherwise; as its version is used up, it is refused as well. So a leader goes by the map alone: while that shows
    /// the version it proposed on, what it proposed may yet come true.
    fn uses_up_version(&self) -> bool {
        match self {
            Self::UnknownVBucket | Self::NotLeader { .. } | Self::StaleVersion { .. } => false,
            Self::WithoutLeader | Self::Duplicate { .. } | Self::NoCopy { .. } | Self::Ineligible { .. } => true,
        }
    }
}

impl ClusterState {
    pub(super) fn alter_isr(
        &mut self,
        tally: &mut Tally,
        leader: Member,
        change: IsrChange,
    ) -> Result<IsrVersion, IsrRefusal> {
        let id = change.vbucket;
        match self.check_isr(leader, change) {
            Ok(isr) => self.edit(id, tally, |vbucket| vbucket.set_isr(isr)),
            Err(refusal) => {
                if refusal.uses_up_version() {
                    let version = IsrVersion(self.applied.0);
                    self.edit(id, tally, |vbucket| vbucket.isr_version = version);
                }
                return Err(refusal);
            }
        };
        self.map.vbucket(id).map(|vbucket| vbucket.isr_version).ok_or(IsrRefusal::UnknownVBucket)
    }

    /// The proposed ISR, sorted, if it is acceptable.
    fn check_isr(&self, leader: Member, change: IsrChange) -> Result<Vec<Member>, IsrRefusal> {
        let vbucket = self.map.vbucket(change.vbucket).ok_or(IsrRefusal::UnknownVBucket)?;
        if vbucket.leader != Some(leader) || vbucket.epoch != change.epoch {
            return Err(IsrRefusal::NotLeader { leader: vbucket.leader, epoch: vbucket.epoch });
        }
        if vbucket.isr_version != change.expected {
            return Err(IsrRefusal::StaleVersion { current: vbucket.isr_version });
        }
        let mut isr = change.isr;
        isr.sort_unstable();
        if !isr.contains(&leader) {
            return Err(IsrRefusal::WithoutLeader);
        }
        let twice = |pair: &[Member]| match pair {
            [one, other] if one.node == other.node => Some(one.node),
            _ => None,
        };
        if let Some(node) = isr.windows(2).find_map(twice) {
            return Err(IsrRefusal::Duplicate { node });
        }
        for member in isr.iter().copied() {
            if !vbucket.has_copy_at(member.node) {
                return Err(IsrRefusal::NoCopy { node: member.node });
            }
            if let Err(reason) = self.check_member(member, vbucket) {
                return Err(IsrRefusal::Ineligible { member, reason });
            }
        }
        Ok(isr)
    }

    fn check_member(&self, member: Member, vbucket: &VBucket) -> Result<(), Ineligible> {
        let node = self.map.node(member.node).ok_or(Ineligible::Unregistered)?;
        if node.incarnation != member.incarnation {
            return Err(Ineligible::Replaced { current: node.incarnation });
        }
        match node.liveness {
            Liveness::Fenced | Liveness::Evicted => Err(Ineligible::Fenced),
            // A node being drained keeps what it has until others have it; only a new entry would be in vain.
            Liveness::Alive if node.is_draining && !vbucket.isr.contains(&member) => Err(Ineligible::Draining),
            Liveness::Alive => Ok(()),
        }
    }
}

impl VBucket {
    fn set_isr(&mut self, isr: Vec<Member>) {
        for member in &isr {
            if let Some(at) = self.learners.iter().position(|node| *node == member.node) {
                self.replicas.push(self.learners.remove(at));
            }
        }
        let before = std::mem::replace(&mut self.isr, isr);
        let left = before.into_iter().filter(|member| !self.isr.contains(member)).collect();
        self.eligible.retain(|member| !self.isr.contains(member));
        self.keep_eligible(left);
    }
}
