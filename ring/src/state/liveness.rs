//! Death and return of processes.
//!
//! Only the control log declares a death; gossip may suggest it. A fenced process is counted out of every ISR, so that
//! commits need not wait for it, and leads nothing. But it may be merely paused or cut off: what it held while the
//! watermark stood still keeps counting, and it returns under the same incarnation when it is heard again. A process
//! that really died returns as another incarnation; only that, or `Forget`, ends what it held.

use super::{ClusterState, NodeRefusal};
use crate::command::Effect;
use crate::map::Liveness;
use crate::member::Member;

impl ClusterState {
    pub(super) fn fence(&mut self, member: Member) -> Result<Effect, NodeRefusal> {
        if self.liveness(member)? != Liveness::Alive {
            return Ok(Effect::Unchanged);
        }
        let fence = Liveness::Fenced;
        Ok(self.edit_node(member.node, |node| node.liveness = fence, |vbucket| vbucket.shrink(|left| *left == member)))
    }

    pub(super) fn unfence(&mut self, member: Member) -> Result<Effect, NodeRefusal> {
        self.liveness(member)?;
        Ok(self.edit_node(member.node, |node| node.liveness = Liveness::Alive, |_| ()))
    }

    pub(super) fn evict(&mut self, member: Member) -> Result<Effect, NodeRefusal> {
        match self.liveness(member)? {
            Liveness::Alive => Err(NodeRefusal::Alive),
            Liveness::Fenced | Liveness::Evicted => {
                Ok(self.edit_node(member.node, |node| node.liveness = Liveness::Evicted, |_| ()))
            }
        }
    }

    fn liveness(&self, member: Member) -> Result<Liveness, NodeRefusal> {
        let node = self.map.node(member.node).ok_or(NodeRefusal::Unregistered)?;
        if node.incarnation != member.incarnation {
            return Err(NodeRefusal::Replaced { current: node.incarnation });
        }
        Ok(node.liveness)
    }
}
