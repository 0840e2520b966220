//! What always holds, for the simulator and the tests to check after every entry.

use std::collections::BTreeSet;

use broky_proto::id::{Epoch, IsrVersion, NodeId, VBucketId};
use thiserror::Error;

use super::ClusterState;
use crate::map::VBucket;
use crate::member::Member;

/// A broken invariant: a bug of ours.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{rule} ({vbucket:?})")]
pub struct Violation {
    /// What should hold.
    pub rule: &'static str,
    /// Where it does not.
    pub vbucket: Option<Box<(VBucketId, VBucket)>>,
}

/// `Err` with the first rule that does not hold.
fn all<const N: usize>(rules: [(bool, &'static str); N]) -> Result<(), &'static str> {
    rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
}

fn distinct<T: Ord>(items: &[T]) -> bool {
    items.iter().collect::<BTreeSet<_>>().len() == items.len()
}

fn ascending(members: &[Member]) -> bool {
    members.is_sorted_by_key(|member| member.node) && distinct(&members.iter().map(|m| m.node).collect::<Vec<_>>())
}

impl ClusterState {
    /// Checks this state.
    ///
    /// # Errors
    /// The first invariant that is broken.
    pub fn check_invariants(&self) -> Result<(), Violation> {
        self.check_nodes().map_err(|rule| Violation { rule, vbucket: None })?;
        for (id, vbucket) in self.map.vbuckets() {
            let broken = |rule| Violation { rule, vbucket: Some(Box::new((id, vbucket.clone()))) };
            self.check_sets(vbucket).map_err(broken)?;
            self.check_holders(vbucket).map_err(broken)?;
            self.check_numbers(vbucket).map_err(broken)?;
        }
        Ok(())
    }

    /// Checks this state as a successor of `earlier`.
    ///
    /// # Errors
    /// The first number that went back, or the first history that ended although somebody may still hold it.
    pub fn check_successor(&self, earlier: &Self) -> Result<(), Violation> {
        let forward = all([
            (self.applied >= earlier.applied, "applied entries do not go back"),
            (self.map.version >= earlier.map.version, "map versions do not go back"),
            (self.last_node >= earlier.last_node, "node ids are not given away twice"),
            (!earlier.is_founded() || self.map.cluster == earlier.map.cluster, "a cluster keeps its name"),
        ]);
        forward.map_err(|rule| Violation { rule, vbucket: None })?;
        for ((id, now), (_, before)) in self.map.vbuckets().zip(earlier.map.vbuckets()) {
            let lost = before.has_holders()
                && before.isr.iter().chain(&before.eligible).all(|holder| !self.map.is_current(*holder));
            let rules = all([
                (now.version >= before.version, "vbucket versions do not go back"),
                (now.epoch >= before.epoch, "epochs do not go back"),
                (now.isr_version >= before.isr_version, "isr versions do not go back"),
                (now.leader == before.leader || now.epoch > before.epoch, "a new leader has a new epoch"),
                (now.isr == before.isr || now.isr_version > before.isr_version, "a new isr has a new version"),
                (now.lineage_end >= before.lineage_end, "reserved offsets stay reserved"),
                (!lost || now.lineage >= before.lineage_end, "a lost history is followed by one above it"),
                (lost || now.lineage == before.lineage, "a history ends only when nobody can hold it"),
                (now.lineage == before.lineage || now.epoch > before.epoch, "a new lineage has a new epoch"),
                (now == before || now.version > before.version, "what changes is stamped"),
            ]);
            rules.map_err(|rule| Violation { rule, vbucket: Some(Box::new((id, now.clone()))) })?;
        }
        Ok(())
    }

    fn check_nodes(&self) -> Result<(), &'static str> {
        let nodes: Vec<_> = self.map.nodes().collect();
        let names: Vec<_> = nodes.iter().map(|(_, node)| &node.name).collect();
        let incarnations: Vec<_> = nodes.iter().map(|(_, node)| node.incarnation).collect();
        all([
            (distinct(&names), "names are unique"),
            (distinct(&incarnations), "incarnations are unique"),
            (incarnations.iter().all(|i| i.0 <= self.applied.0), "incarnations are applied entries"),
            (nodes.iter().all(|(id, _)| *id <= self.last_node), "nodes have ids that were given away"),
            (nodes.iter().all(|(_, node)| node.version <= self.map.version), "no node is newer than the map"),
            (nodes.iter().all(|(id, _)| self.boots.contains_key(id)), "nodes have boot ids"),
            (self.boots.len() == nodes.len(), "boot ids are of registered nodes"),
            (self.map.version.0 <= self.applied.0, "the map is no newer than what is applied"),
        ])
    }

    fn check_sets(&self, vbucket: &VBucket) -> Result<(), &'static str> {
        let is_node = |id: &NodeId| self.map.node(*id).is_some();
        let is_replica = |member: &Member| vbucket.replicas.contains(&member.node);
        all([
            (distinct(&vbucket.replicas), "replicas are distinct"),
            (distinct(&vbucket.learners), "learners are distinct"),
            (vbucket.replicas.iter().all(is_node), "replicas are registered"),
            (vbucket.learners.iter().all(is_node), "learners are registered"),
            (vbucket.target.0.iter().all(is_node), "targets are registered"),
            (!vbucket.learners.iter().any(|node| vbucket.replicas.contains(node)), "learners are no replicas"),
            (vbucket.isr.iter().all(is_replica), "the isr is a subset of the replicas"),
            (vbucket.eligible.iter().all(is_replica), "the eligible are replicas"),
            (ascending(&vbucket.isr), "the isr is in order and names each node once"),
            (ascending(&vbucket.eligible), "the eligible are in order and named once"),
            (
                !vbucket.eligible.iter().any(|m| vbucket.isr.iter().any(|i| i.node == m.node)),
                "the eligible are out of sync",
            ),
        ])
    }

    fn check_holders(&self, vbucket: &VBucket) -> Result<(), &'static str> {
        let is_alive = |member: &Member| self.map.is_alive(*member);
        let is_room = vbucket.lineage < vbucket.lineage_end;
        let nobody_can_open = vbucket.replicas.iter().all(|node| self.map.alive(*node).is_none());
        all([
            (vbucket.isr.iter().all(is_alive), "the isr is alive, in its current incarnations"),
            (vbucket.eligible.iter().all(|m| self.map.is_current(*m)), "the eligible are current incarnations"),
            (vbucket.eligible.is_empty() || vbucket.is_frozen(), "there are eligible ones only below min_isr"),
            (vbucket.leader.is_none_or(|leader| vbucket.isr.contains(&leader)), "the leader is in the isr"),
            (vbucket.leader.is_some() || vbucket.isr.is_empty(), "an isr has a leader"),
            (vbucket.leader.is_some() || !vbucket.eligible.iter().any(is_alive), "an eligible one alive leads"),
            (vbucket.has_holders() || !is_room || nobody_can_open, "an empty vbucket is opened by who can"),
        ])
    }

    fn check_numbers(&self, vbucket: &VBucket) -> Result<(), &'static str> {
        let applied = self.applied.0;
        all([
            (vbucket.version <= self.map.version, "no vbucket is newer than the map"),
            (vbucket.epoch <= Epoch(applied), "epochs are applied entries"),
            (vbucket.isr_version <= IsrVersion(applied), "isr versions are applied entries"),
            (vbucket.min_isr >= 1, "min_isr is at least one"),
            (vbucket.min_isr <= self.goal().min_isr, "min_isr is no more than can be had"),
            (vbucket.lineage <= vbucket.lineage_end, "the current lineage is reserved"),
        ])
    }
}
