//! Placement: which nodes should hold each vbucket, and which of them should lead it.
//!
//! Three rules, the stronger first:
//! 1. the copies of a vbucket are on distinct nodes, spread over as many zones as there are, as evenly as they go;
//! 2. no node has more than 5 % over, or less than 5 % under, its fair share of copies, nor of leaders ([`Share`]);
//! 3. what is already placed stays, and what must move goes to the nearest node clockwise on the token ring.
//!
//! The third rule is why placement takes the previous placement as an input. As a pure function of the node set,
//! bounded loads (Mirrokni et al., "Consistent Hashing with Bounded Loads", 2016) move up to three times a joining
//! node's share: a copy that a full node passes on displaces another further on. And they bound loads from above only,
//! which leaves some nodes a third below the mean. The previous placement is in the replicated state anyway, so the
//! result is as deterministic as before, and a join or leave moves its ideal share (`docs/placement.md` has the
//! measurements).
//!
//! Integer arithmetic only, and no iteration order but that of ids: every node computes the same. An unmoved cluster
//! gives back the previous placement unchanged, so asking again never causes a move.

mod chain;
mod draft;
mod field;
mod leaders;
mod level;
mod plan;
mod share;

use broky_proto::id::{NodeId, VBucketCount};
use serde::{Deserialize, Serialize};

use crate::member::Zone;

pub use plan::{VBucketMove, plan};
pub use share::Share;

use draft::Draft;
use field::Field;

/// The nodes that should hold one vbucket, in order of preference: the first is the preferred leader.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Placement(pub Vec<NodeId>);

impl Placement {
    /// The node that should lead.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.0.first().copied()
    }

    /// Whether `node` should hold a copy.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }
}

/// A node that may hold copies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Its failure domain.
    pub zone: Zone,
    /// Whether it can be given more. A node that is not answering keeps what it has for a while, but gets nothing new.
    pub is_open: bool,
}

/// Where every vbucket should be: one [`Placement`] per vbucket, ascending.
///
/// `previous` is the placement to stay close to, by vbucket; empty for a cluster that has none. Each vbucket gets
/// `replicas` copies, or as many as there are nodes. Nodes may come in any order; of two with the same id the first
/// counts.
#[must_use]
pub fn placement(nodes: &[Candidate], vbuckets: VBucketCount, replicas: u8, previous: &[Placement]) -> Vec<Placement> {
    let field = Field::new(nodes, vbuckets, replicas);
    let mut draft = Draft::keep(&field, previous);
    draft.fill();
    draft.level();
    draft.choose_leaders();
    draft.level_leaders();
    draft.finish()
}

/// How many copies each node should hold, by rule 2: the same for all, except where zones force more or less on some.
#[must_use]
pub fn fair_shares(nodes: &[Candidate], vbuckets: VBucketCount, replicas: u8) -> Vec<(NodeId, Share)> {
    let field = Field::new(nodes, vbuckets, replicas);
    field.seats().filter_map(|seat| field.node(seat).map(|node| (node, field.share(seat)))).collect()
}
