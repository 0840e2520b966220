//! From the cluster map to what a node's shards have to do: level-triggered, from the whole map, never from events.

use broky_proto::id::{Epoch, Lineage, Member, Offset, VBucketId};
use broky_replication::Follower;
use broky_ring::lineage::lineage_base;
use broky_ring::map::ClusterMap;

/// A vbucket that this node leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Its history.
    pub lineage: Lineage,
    /// The leader epoch.
    pub epoch: Epoch,
    /// The offset of the first message of the lineage.
    pub base: Offset,
    /// In-sync replicas other than this node.
    pub followers: Vec<Follower>,
    /// Members the ISR must have, the leader included.
    pub min_isr: usize,
}

/// What the map has this process lead.
#[must_use]
pub fn assignments(map: &ClusterMap, me: Member) -> Vec<Assignment> {
    let led = map.vbuckets().filter(|(_, vbucket)| vbucket.leader == Some(me));
    led.map(|(id, vbucket)| {
        let base = lineage_base(vbucket.lineage);
        let others = vbucket.isr.iter().filter(|member| **member != me);
        let follower = |member: &Member| Follower { id: *member, log_end: base };
        Assignment {
            vbucket: id,
            lineage: vbucket.lineage,
            epoch: vbucket.epoch,
            base,
            followers: others.map(follower).collect(),
            min_isr: usize::from(vbucket.min_isr),
        }
    })
    .collect()
}
