//! Leaving: drain and forget.
//!
//! Draining empties a node move by move and costs no copy; forgetting removes what is empty or dead. Both lower the
//! number of copies that is wanted, when few nodes remain; nothing else does.

use broky_proto::id::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ClusterState;
use crate::command::Effect;
use crate::map::Liveness;

/// Why a node's state was not changed. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum NodeRefusal {
    /// There is no such node. Nothing to retry.
    #[error("no such node")]
    Unregistered,
    /// The process was replaced by a newer one. Nothing to retry: what is said of it holds no longer.
    #[error("replaced by incarnation {current}")]
    Replaced {
        /// The lifetime that counts.
        current: Incarnation,
    },
    /// The process is not fenced. Fence it first, if it is dead.
    #[error("the node is alive")]
    Alive,
    /// The node is alive and not empty. Drain it first.
    #[error("the node is alive and holds {copies} copies; drain it first")]
    NotDrained {
        /// How many copies it holds.
        copies: usize,
    },
    /// No other node is to stay. Add one first.
    #[error("no other node is left")]
    LastNode,
    /// Too few nodes would remain alive. Add or revive one, or force it.
    #[error("{alive} nodes would remain for a min_isr of {min_isr}")]
    BelowMinIsr {
        /// The nodes that would remain, alive and not draining.
        alive: usize,
        /// How many copies a commit needs now.
        min_isr: u8,
    },
}

impl ClusterState {
    pub(super) fn drain(&mut self, id: NodeId, force: bool) -> Result<Effect, NodeRefusal> {
        self.map.node(id).ok_or(NodeRefusal::Unregistered)?;
        if self.is_draining(id) {
            return Ok(Effect::Unchanged);
        }
        if self.staying().all(|(other, _)| other == id) {
            return Err(NodeRefusal::LastNode);
        }
        let min_isr = self.goal().min_isr;
        let stays = |(other, _): &(NodeId, _)| *other != id && self.map.alive(*other).is_some();
        let alive = self.staying().filter(stays).count();
        if alive < usize::from(min_isr) && !force {
            return Err(NodeRefusal::BelowMinIsr { alive, min_isr });
        }
        Ok(self.edit_node(id, |node| node.is_draining = true, |_| ()))
    }

    pub(super) fn undrain(&mut self, id: NodeId) -> Result<Effect, NodeRefusal> {
        self.map.node(id).ok_or(NodeRefusal::Unregistered)?;
        Ok(self.edit_node(id, |node| node.is_draining = false, |_| ()))
    }

    pub(super) fn forget(&mut self, id: NodeId) -> Result<Effect, NodeRefusal> {
        let node = self.map.node(id).ok_or(NodeRefusal::Unregistered)?;
        if self.map.nodes.len() == 1 {
            return Err(NodeRefusal::LastNode);
        }
        let copies = self.map.copies_at(id);
        if node.liveness == Liveness::Alive && (copies > 0 || !node.is_draining) {
            return Err(NodeRefusal::NotDrained { copies });
        }
        self.map.nodes.remove(&id);
        self.boots.remove(&id);
        self.map.version = self.version();
        self.edit_all(|vbucket| {
            vbucket.strip(id);
            for nodes in [&mut vbucket.replicas, &mut vbucket.learners, &mut vbucket.target.0] {
                nodes.retain(|node| *node != id);
            }
        });
        Ok(Effect::Changed)
    }
}
