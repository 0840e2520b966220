//! The replicated state of the cluster: the machine behind the control log.
//!
//! Raft orders the commands; this machine alone says what they do. It is total (any command in any state has a typed
//! outcome and none panics) and pure, so every node that applied the same entries holds the same state. Its notion of
//! time is the index of the entry being applied: epochs, incarnations and versions are such indices, never counters
//! that could restart (KIP-903, memberlist #311).
//!
//! Every change of a vbucket goes through `ClusterState::edit`, which settles it: whoever may lead and is alive leads,
//! the bookkeeping of who holds what is brought up to date, and what changed is stamped. So one entry does all that a
//! death or a registration entails, for every vbucket at once.
//!
//! What a command does is part of the cluster's protocol: nodes of different versions apply the same log. Change the
//! effect of an existing command only under a new command. Placement is no part of that: its result is proposed as
//! data.
//!
//! One file per concern: `configure`, `register`, `liveness`, `membership`, `isr`, `lead`, `reassign`, `moves`;
//! `election` settles, `proposals` proposes, `invariants` checks.

mod configure;
mod doubt;
mod election;
mod invariants;
mod isr;
mod lead;
mod liveness;
mod membership;
mod moves;
mod proposals;
mod reassign;
mod register;

use std::collections::{BTreeMap, VecDeque};

use broky_proto::id::{Epoch, IsrVersion, MapVersion, NodeId, VBucketId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::command::{BATCH_MAX, Command, Effect, Outcome};
use crate::map::{ClusterMap, Node, VBucket};
use crate::member::{BootId, Copies, LogIndex};

pub use configure::{ConfigureRefusal, FoundRefusal};
pub use invariants::Violation;
pub use isr::{Ineligible, IsrRefusal};
pub use lead::{ExtendRefusal, ResignRefusal};
pub use membership::NodeRefusal;
pub use moves::MoveRefusal;
pub use proposals::MoveLimits;
pub use reassign::ReassignRefusal;
pub use register::{NAME_BYTES_MAX, NODES_MAX, RegisterRefusal, Registration};

use election::Tally;

/// The cluster's state after some prefix of the control log.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct ClusterState {
    map: ClusterMap,
    applied: LogIndex,
    /// Nodes to wait for before the first placement.
    expect: u16,
    /// The last node id given away.
    last_node: NodeId,
    /// By node: what its latest processes drew at their start, the current one first.
    boots: BTreeMap<NodeId, VecDeque<BootId>>,
}

/// A batch names more vbuckets than an entry may. Nothing changed; split it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
#[error("{len} vbuckets in one entry; at most {BATCH_MAX}")]
pub struct BatchRefusal {
    /// How many it names.
    pub len: usize,
}

impl ClusterState {
    /// The state before the first entry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The map that nodes and clients go by.
    #[must_use]
    pub fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// The newest entry applied.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Whether there is a cluster.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        !self.map.vbuckets.is_empty()
    }

    /// How many copies are wanted now: as configured, but never more than there are nodes to stay. Counts nodes dead or
    /// alive: a death never lowers it, only drain and forget do.
    #[must_use]
    pub fn goal(&self) -> Copies {
        self.map.copies.capped(self.staying().count())
    }

    /// Applies the entry at `index`, which is above all applied before. A refusal changes nothing but
    /// [`applied`](Self::applied).
    pub fn apply(&mut self, index: LogIndex, command: Command) -> Outcome {
        if index <= self.applied {
            return Outcome::StaleIndex { applied: self.applied };
        }
        self.applied = index;
        match command {
            Command::Found { cluster, vbuckets, shards, copies, expect } => {
                Outcome::Found(self.found(cluster, vbuckets, shards, copies, expect))
            }
            _ if !self.is_founded() => Outcome::NotFounded,
            Command::Register { name, boot, addresses, zone } => {
                Outcome::Register(self.register(name, boot, addresses, zone))
            }
            Command::Fence { member } => Outcome::Node(self.fence(member)),
            Command::Unfence { member } => Outcome::Node(self.unfence(member)),
            Command::Evict { member } => Outcome::Node(self.evict(member)),
            Command::Drain { node, force } => Outcome::Node(self.drain(node, force)),
            Command::Undrain { node } => Outcome::Node(self.undrain(node)),
            Command::Forget { node } => Outcome::Node(self.forget(node)),
            Command::AlterIsr { leader, changes } => {
                Outcome::AlterIsr(self.each(changes, |state, tally, change| state.alter_isr(tally, leader, change)))
            }
            Command::Resign { leader, vbuckets } => Outcome::Resign(
                self.each(vbuckets, |state, tally, (vbucket, epoch)| state.resign(tally, leader, vbucket, epoch)),
            ),
            Command::ExtendLineage { leader, vbucket, epoch, end } => {
                Outcome::ExtendLineage(self.extend_lineage(leader, vbucket, epoch, end))
            }
            Command::Reassign { targets } => Outcome::Reassign(
                self.each(targets, |state, tally, (vbucket, target)| state.reassign(tally, vbucket, target)),
            ),
            Command::Move { steps } => {
                Outcome::Move(self.each(steps, |state, tally, step| state.take_step(tally, step)))
            }
            Command::Configure { copies } => Outcome::Configure(self.configure(copies)),
        }
    }

    /// The version that this entry's changes are stamped with.
    fn version(&self) -> MapVersion {
        MapVersion(self.applied.0)
    }

    /// The nodes that are to stay, dead or alive.
    fn staying(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.map.nodes().filter(|(_, node)| !node.is_draining)
    }

    /// Does `one` for each item of a batch.
    fn each<I, O>(
        &mut self,
        items: Vec<I>,
        mut one: impl FnMut(&mut Self, &mut Tally, I) -> O,
    ) -> Result<Vec<O>, BatchRefusal> {
        if items.len() > BATCH_MAX {
            return Err(BatchRefusal { len: items.len() });
        }
        let mut tally = Tally::of(self);
        Ok(items.into_iter().map(|item| one(self, &mut tally, item)).collect())
    }

    /// Changes one vbucket, settles it, and stamps what came of it. False when it is as before.
    fn edit(&mut self, id: VBucketId, tally: &mut Tally, change: impl FnOnce(&mut VBucket)) -> bool {
        let Some(before) = self.map.vbucket(id) else { return false };
        let mut after = before.clone();
        change(&mut after);
        self.settle(before, &mut after, tally);
        if after == *before {
            return false;
        }
        after.version = self.version();
        if (after.leader, after.lineage) != (before.leader, before.lineage) {
            after.epoch = Epoch(self.applied.0);
        }
        // What was proposed for the ISR before a copy was dropped or begun anew is about a copy that is no more.
        if after.isr != before.isr || after.learners != before.learners {
            after.isr_version = IsrVersion(self.applied.0);
        }
        tally.replace(before.leader, after.leader);
        self.map.version = after.version;
        if let Some(place) = self.map.vbuckets.get_mut(usize::from(id.0)) {
            *place = after;
        }
        true
    }

    /// Changes every vbucket likewise.
    fn edit_all(&mut self, change: impl Fn(&mut VBucket)) {
        let mut tally = Tally::of(self);
        for id in (0..=u16::MAX).map(VBucketId).take(self.map.vbuckets.len()) {
            self.edit(id, &mut tally, &change);
        }
    }

    /// Changes one node's entry and stamps it, then settles every vbucket under `change`.
    fn edit_node(&mut self, id: NodeId, change_node: impl FnOnce(&mut Node), change: impl Fn(&mut VBucket)) -> Effect {
        let version = self.version();
        let Some(node) = self.map.nodes.get_mut(&id) else { return Effect::Unchanged };
        let before = node.clone();
        change_node(node);
        if *node == before {
            return Effect::Unchanged;
        }
        node.version = version;
        self.map.version = version;
        self.edit_all(change);
        Effect::Changed
    }
}

#[cfg(test)]
mod tests;
