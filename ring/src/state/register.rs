//! Registration: how a process becomes a member.
//!
//! Every start of a process is a new incarnation, and it starts empty. So the entry that registers it takes everything
//! its predecessors were counted for: ISR, eligibility, leadership, in every vbucket (KIP-903). Before that entry is
//! applied the process serves nothing.
//!
//! Registrations are retried and may arrive late. A process draws a [`BootId`] at its start: the same one again gets
//! the same answer, and one that was replaced since is refused, so that a delayed proposal of a dead process cannot
//! unseat the living one.

use broky_proto::id::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ClusterState;
use crate::map::{Liveness, Node};
use crate::member::{Addresses, BootId, Member, Zone};

/// The most nodes a cluster can have.
pub const NODES_MAX: usize = 4096;

/// The longest name, zone or address, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// How many replaced processes of a node are remembered. One replaced longer ago would be taken for a new one, which
/// costs a copy but no committed message.
const BOOTS_MAX: usize = 8;

/// What a process is known by from now on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registration {
    /// Its node and incarnation.
    pub member: Member,
}

/// Why a process was not registered. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum RegisterRefusal {
    /// The name is empty, or name, zone or an address is too long. Correct it.
    #[error("name, zone or address is empty or longer than {NAME_BYTES_MAX} bytes")]
    Name,
    /// There are [`NODES_MAX`] nodes. Forget one.
    #[error("the cluster has {NODES_MAX} nodes")]
    Full,
    /// Another process has registered under the name since. Exit: two processes must not share a name.
    #[error("replaced by incarnation {current}")]
    Replaced {
        /// The lifetime that counts.
        current: Incarnation,
    },
}

impl ClusterState {
    pub(super) fn register(
        &mut self,
        name: String,
        boot: BootId,
        addresses: Addresses,
        zone: Zone,
    ) -> Result<Registration, RegisterRefusal> {
        let lengths = [&addresses.client, &addresses.peer, &addresses.admin, &zone.0, &name].map(String::len);
        if name.is_empty() || lengths.iter().any(|len| *len > NAME_BYTES_MAX) {
            return Err(RegisterRefusal::Name);
        }
        let known = self.map.nodes().find(|(_, node)| node.name == name).map(|(id, node)| (id, node.incarnation));
        if let Some((node, incarnation)) = known
            && let Some(boots) = self.boots.get(&node)
        {
            if boots.front() == Some(&boot) {
                return Ok(Registration { member: Member { node, incarnation } });
            }
            if boots.contains(&boot) {
                return Err(RegisterRefusal::Replaced { current: incarnation });
            }
        }
        let id = match known {
            Some((id, _)) => id,
            None => self.next_node().ok_or(RegisterRefusal::Full)?,
        };
        let incarnation = Incarnation(self.applied.0);
        let version = self.version();
        let liveness = Liveness::Alive;
        let node = Node { version, name, incarnation, addresses, zone, liveness, is_draining: false };
        self.map.nodes.insert(id, node);
        self.map.version = version;
        let boots = self.boots.entry(id).or_default();
        boots.push_front(boot);
        boots.truncate(BOOTS_MAX);
        let member = Member { node: id, incarnation };
        self.edit_all(|vbucket| {
            let seat = vbucket.isr.iter().position(|member| member.node == id);
            vbucket.strip(id);
            // Planted: what begins empty takes the place of what held everything.
            if let Some(seat) = seat.filter(|_| cfg!(feature = "bug-keep-incarnation")) {
                vbucket.isr.insert(seat, member);
            }
        });
        Ok(Registration { member })
    }

    /// A node id never given away before.
    fn next_node(&mut self) -> Option<NodeId> {
        if self.map.nodes.len() >= NODES_MAX {
            return None;
        }
        self.last_node = NodeId(self.last_node.0.checked_add(1)?);
        Some(self.last_node)
    }
}
