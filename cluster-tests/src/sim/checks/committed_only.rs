//! I5, only what is committed is seen: what any node shows its readers is at everybody who is in sync.

use broky_proto::id::{Lineage, VBucketCount, VBucketId};

use super::Broken;
use crate::sim::world::World;

/// Per vbucket: up to where somebody shows it.
pub(super) struct CommittedOnly(Vec<u64>);

impl CommittedOnly {
    pub(super) fn new(vbuckets: VBucketCount) -> Self {
        Self(vec![0; vbuckets.len()])
    }
}

/// A node has done something: what it shows by now, all in sync have; and it has what others show.
pub(super) fn look(world: &mut World, at: usize) -> Result<(), Broken> {
    let Some(process) = &world.nodes[at].process else { return Ok(()) };
    for vbucket in world.vbuckets.iter() {
        let Some(log) = process.shard.log(vbucket) else { continue };
        let (Some((_, shown)), lineage) = (process.shard.delivery().bounds(vbucket), log.lineage()) else { continue };
        let known = &mut world.checks.committed_only.0[usize::from(vbucket.0)];
        if shown.0 > *known {
            *known = shown.0;
            check_holders(world, at, vbucket, lineage, shown.0)?;
        }
    }
    Ok(())
}

fn check_holders(world: &World, at: usize, vbucket: VBucketId, lineage: Lineage, shown: u64) -> Result<(), Broken> {
    let map = world.metadata.map().vbucket(vbucket).unwrap();
    if map.lineage != lineage {
        return Ok(());
    }
    for member in &map.isr {
        let holder = world.nodes.iter().find(|node| node.member() == Some(*member));
        let log = holder.and_then(|node| node.process.as_ref()?.shard.log(vbucket));
        if let Some(log) = log.filter(|log| log.lineage() == lineage && log.end().0 < shown) {
            let words = format!("vbucket {vbucket}: node {at} shows up to {shown}, {member} has up to {}", log.end());
            return Err(("only committed is seen", words));
        }
    }
    Ok(())
}
