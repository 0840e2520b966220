//! I1, acked is kept: while one of those lives who were in sync, everything acknowledged is there.
//!
//! Whoever the control plane counts as in sync, and every leader it elects, has to hold all that was acknowledged of
//! the lineage; and a lineage may end only when everybody is dead who could have gone on with it.

use std::collections::BTreeMap;

use broky_proto::id::{Member, VBucketCount, VBucketId};

use super::one_leader::Change;
use super::{Broken, MessageId, Place};
use crate::sim::world::World;

/// See the module.
pub(super) struct AckedKept {
    /// Per vbucket: the offset behind the last one acknowledged.
    ends: Vec<u64>,
    acked: BTreeMap<(VBucketId, u64), MessageId>,
}

impl AckedKept {
    pub(super) fn new(vbuckets: VBucketCount) -> Self {
        Self { ends: vec![0; vbuckets.len()], acked: BTreeMap::new() }
    }

    pub(super) fn note(&mut self, id: MessageId, place: Place) {
        self.acked.insert((place.vbucket, place.offset), id);
        let end = &mut self.ends[usize::from(place.vbucket.0)];
        *end = (*end).max(place.offset + 1);
    }
}

/// Whether a process is there.
fn lives(world: &World, member: Member) -> Option<usize> {
    world.nodes.iter().position(|node| node.is_running && node.member() == Some(member))
}

/// Whether a process that has to hold a vbucket holds what was acknowledged of it.
fn check_copy(world: &World, at: usize, vbucket: VBucketId) -> Result<(), Broken> {
    let end = world.checks.acked_kept.ends[usize::from(vbucket.0)];
    let map = world.metadata.map().vbucket(vbucket).unwrap();
    let Some(process) = &world.nodes[at].process else { return Ok(()) };
    let Some(log) = process.shard.log(vbucket).filter(|log| log.lineage() == map.lineage) else { return Ok(()) };
    if log.end().0 < end && end > broky_ring::lineage::lineage_base(map.lineage).0 {
        let words =
            format!("vbucket {vbucket}: {} is in sync and ends at {}, acked is up to {end}", process.member, log.end());
        return Err(("acked is kept", words));
    }
    Ok(())
}

/// A node has done something.
pub(super) fn look(world: &World, at: usize) -> Result<(), Broken> {
    let Some(member) = world.nodes[at].member() else { return Ok(()) };
    for (vbucket, known) in world.metadata.map().vbuckets() {
        if known.isr.contains(&member) {
            check_copy(world, at, vbucket)?;
        }
    }
    Ok(())
}

/// Something was acknowledged, or another leads: all who are in sync have everything.
pub(super) fn check_holders(world: &World, vbucket: VBucketId) -> Result<(), Broken> {
    let known = world.metadata.map().vbucket(vbucket).unwrap();
    known.isr.iter().filter_map(|member| lives(world, *member)).try_for_each(|at| check_copy(world, at, vbucket))
}

/// A history has ended: nobody may live who held it.
pub(super) fn check_excuse(world: &World, change: &Change) -> Result<(), Broken> {
    let alive = change.holders.iter().find(|member| lives(world, **member).is_some());
    match alive {
        Some(member) => Err(("acked is kept", format!("vbucket {}: lost, and {member} lives", change.vbucket))),
        None => Ok(()),
    }
}

/// Everything acknowledged that is not told as lost, or evicted, can be read at every node that holds it.
pub(super) fn finish(world: &World) -> Result<(), Broken> {
    for ((vbucket, offset), id) in &world.checks.acked_kept.acked {
        let map = world.metadata.map().vbucket(*vbucket).unwrap();
        if *offset < broky_ring::lineage::lineage_base(map.lineage).0 {
            continue;
        }
        let found = world.checks.offsets.id_at(*vbucket, *offset);
        if found != Some(*id) {
            return Err(("acked is kept", format!("{id:?} at {offset} of vbucket {vbucket} is {found:?}")));
        }
        for node in &world.nodes {
            let Some(log) = node.process.as_ref().and_then(|process| process.shard.log(*vbucket)) else { continue };
            if log.lineage() == map.lineage && log.high_watermark().0 <= *offset {
                return Err((
                    "acked is kept",
                    format!("{id:?} at {offset} of vbucket {vbucket} is not at {}", node.name),
                ));
            }
        }
    }
    Ok(())
}
