//! The difference of two placements, one vbucket at a time.

use broky_proto::id::{NodeId, VBucketId};

use super::Placement;

/// What one vbucket has to go through to get from one placement to another: first the adds, then the leader, then the
/// drops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VBucketMove {
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Nodes that must copy it.
    pub adds: Vec<NodeId>,
    /// The node that must take over leadership, when it changes.
    pub leader: Option<NodeId>,
    /// Nodes that can let go of it, once all else is done.
    pub drops: Vec<NodeId>,
}

/// What has to move to get from `current` to `target`, both by vbucket ascending. Vbuckets that stay as they are do not
/// appear.
#[must_use]
pub fn plan(current: &[Placement], target: &[Placement]) -> Vec<VBucketMove> {
    let nothing = Placement::default();
    let vbuckets = (0..=u16::MAX).map(VBucketId).zip(target);
    let changed = |(vbucket, after): (VBucketId, &Placement)| {
        let before = current.get(usize::from(vbucket.0)).unwrap_or(&nothing);
        let missing = |from: &Placement, other: &Placement| -> Vec<NodeId> {
            from.0.iter().copied().filter(|node| !other.contains(*node)).collect()
        };
        let (adds, drops) = (missing(after, before), missing(before, after));
        let leader = after.leader().filter(|leader| before.leader() != Some(*leader));
        let is_changed = !adds.is_empty() || !drops.is_empty() || leader.is_some();
        is_changed.then_some(VBucketMove { vbucket, adds, leader, drops })
    };
    vbuckets.filter_map(changed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placements<const N: usize>(sets: [&[u32]; N]) -> Vec<Placement> {
        sets.map(|set| Placement(set.iter().copied().map(NodeId).collect())).into()
    }

    #[test]
    fn only_what_changes_is_planned() {
        let current = placements([&[1, 2, 3], &[1, 2, 3], &[1, 2, 3], &[1, 2, 3]]);
        let target = placements([&[1, 2, 3], &[1, 3, 2], &[2, 1, 3], &[4, 2, 3]]);
        let moves = plan(&current, &target);
        assert_eq!(moves.iter().map(|step| step.vbucket.0).collect::<Vec<_>>(), [2, 3]);
        assert_eq!((&moves[0].adds, moves[0].leader, &moves[0].drops), (&vec![], Some(NodeId(2)), &vec![]));
        assert_eq!(
            (&moves[1].adds, moves[1].leader, &moves[1].drops),
            (&vec![NodeId(4)], Some(NodeId(4)), &vec![NodeId(1)])
        );
    }

    #[test]
    fn everything_is_added_to_nothing() {
        let moves = plan(&[], &placements([&[1, 2]]));
        assert_eq!(moves[0].adds, [NodeId(1), NodeId(2)]);
    }
}
