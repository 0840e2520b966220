//! The blocks being written: one for each set of nodes that hold the same vbuckets.
//!
//! A block never mixes vbuckets of different replica sets, so every node that gets a block wants all of it, and in
//! steady state it commits as a whole. A lone node has one set; a cluster of three with three copies has one as well.

use broky_delivery::{ArenaId, Entry};
use broky_proto::id::{NodeId, VBucketCount, VBucketId};

use crate::open_block::OpenBlock;

/// Which set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct SetId(pub(crate) u16);

#[derive(Debug)]
struct Writer {
    /// The other nodes with copies, ascending.
    nodes: Vec<NodeId>,
    /// Vbuckets of this set.
    vbuckets: usize,
    open: OpenBlock,
}

/// The blocks being written.
#[derive(Debug)]
pub(crate) struct Writers {
    count: VBucketCount,
    writers: Vec<Writer>,
    /// Per vbucket.
    set_of: Vec<SetId>,
}

impl Writers {
    /// Every vbucket is held by this node alone.
    pub(crate) fn new(vbuckets: VBucketCount) -> Self {
        let alone = Writer { nodes: Vec::new(), vbuckets: vbuckets.len(), open: OpenBlock::new(vbuckets, false) };
        Self { count: vbuckets, writers: vec![alone], set_of: vec![SetId::default(); vbuckets.len()] }
    }

    #[inline]
    pub(crate) fn set_of(&self, vbucket: VBucketId) -> SetId {
        self.set_of.get(usize::from(vbucket.0)).copied().unwrap_or_default()
    }

    /// Notes which other nodes hold copies of a vbucket. Returns the buffer of a set that is no longer used by that.
    ///
    /// # Panics
    /// When messages of the vbucket are in the block being written: flush first.
    pub(crate) fn assign(&mut self, vbucket: VBucketId, mut others: Vec<NodeId>) -> Option<ArenaId> {
        others.sort_unstable();
        let before = self.set_of(vbucket);
        if self.writers.get(usize::from(before.0)).is_some_and(|writer| writer.nodes == others) {
            return None;
        }
        let after = self.set_for(others);
        if let Some(set) = self.set_of.get_mut(usize::from(vbucket.0)) {
            *set = after;
        }
        if let Some(writer) = self.writers.get_mut(usize::from(after.0)) {
            writer.vbuckets += 1;
        }
        let writer = self.writers.get_mut(usize::from(before.0))?;
        assert!(!writer.open.has(vbucket), "vbucket {vbucket} is being written");
        writer.vbuckets -= 1;
        if writer.vbuckets == 0 { writer.open.close_buffer() } else { None }
    }

    fn set_for(&mut self, nodes: Vec<NodeId>) -> SetId {
        let known = self.writers.iter().position(|writer| writer.nodes == nodes && writer.vbuckets > 0);
        let unused = || self.writers.iter().position(|writer| writer.vbuckets == 0);
        let at = known.or_else(unused).unwrap_or(self.writers.len());
        if known.is_none() {
            let open = OpenBlock::new(self.count, !nodes.is_empty());
            let writer = Writer { nodes, vbuckets: 0, open };
            match self.writers.get_mut(at) {
                Some(place) => *place = writer,
                None => self.writers.push(writer),
            }
        }
        // There are at most as many sets in use as vbuckets.
        SetId(u16::try_from(at).unwrap_or(u16::MAX))
    }

    /// The set of all vbuckets, if they have the same.
    pub(crate) fn only(&self) -> Option<SetId> {
        let mut used = self.sets().zip(&self.writers).filter(|(_, writer)| writer.vbuckets > 0);
        used.next().map(|(set, _)| set).filter(|_| used.next().is_none())
    }

    pub(crate) fn sets(&self) -> impl Iterator<Item = SetId> + use<> {
        (0..u16::try_from(self.writers.len()).unwrap_or(u16::MAX)).map(SetId)
    }

    /// The block being written for a set.
    ///
    /// # Panics
    /// When there is no such set: a bug, as ids come from here.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a set is never taken away")]
    pub(crate) fn open(&mut self, set: SetId) -> &mut OpenBlock {
        &mut self.writers[usize::from(set.0)].open
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.writers.iter().all(|writer| writer.open.is_empty())
    }

    /// The other nodes that hold the vbuckets of a set.
    pub(crate) fn nodes(&self, set: SetId) -> &[NodeId] {
        self.writers.get(usize::from(set.0)).map(|writer| writer.nodes.as_slice()).unwrap_or_default()
    }

    /// Gives back the list of a delivered block, so that the next block needs no new one.
    pub(crate) fn recycle(&mut self, entries: Vec<Entry>) {
        if let Some(writer) = self.writers.iter_mut().find(|writer| writer.vbuckets > 0) {
            writer.open.recycle(entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vbuckets_with_the_same_copies_share_a_block() {
        let mut writers = Writers::new(VBucketCount::new(4).unwrap());
        let nodes = |ids: &[u32]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
        writers.assign(VBucketId(0), nodes(&[2, 1]));
        writers.assign(VBucketId(1), nodes(&[1, 2]));
        writers.assign(VBucketId(2), nodes(&[1, 3]));
        assert_eq!(writers.set_of(VBucketId(0)), writers.set_of(VBucketId(1)));
        assert_ne!(writers.set_of(VBucketId(0)), writers.set_of(VBucketId(2)));
        assert_eq!(writers.set_of(VBucketId(3)), SetId(0));
        assert_eq!(writers.only(), None);
        for vbucket in 0..4 {
            writers.assign(VBucketId(vbucket), nodes(&[1, 2]));
        }
        assert_eq!(writers.only(), Some(writers.set_of(VBucketId(0))));
    }

    #[test]
    fn place_of_an_unused_set_is_used_again() {
        let mut writers = Writers::new(VBucketCount::new(1).unwrap());
        for node in 1..50 {
            writers.assign(VBucketId(0), vec![NodeId(node)]);
        }
        let sets = writers.sets().count();
        assert!(sets <= 2, "{sets} sets");
    }
}
