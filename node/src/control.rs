//! The cluster of one: founding it, and the map it results in.

use std::io;

use broky_proto::id::{ClusterId, Epoch, Incarnation, Lineage, MapVersion, NodeId, Offset, VBucketCount};
use broky_proto::v1::{TopologyNode, TopologyResponse};
use broky_replication::MemberId;
use broky_shard::Assignment;

/// A cluster that this node has founded and is alone in.
#[derive(Clone, Debug)]
pub(crate) struct Founded {
    pub(crate) cluster: ClusterId,
    pub(crate) me: MemberId,
    pub(crate) map_version: MapVersion,
    vbuckets: VBucketCount,
}

const FIRST_EPOCH: Epoch = Epoch(1);
const FIRST_LINEAGE: Lineage = Lineage(1);

/// Founds a cluster under a random id, so that nothing of an earlier one is mistaken for its own.
pub(crate) fn found(vbuckets: VBucketCount) -> io::Result<Founded> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(io::Error::from)?;
    let me = MemberId { node: NodeId(1), incarnation: Incarnation(1) };
    Ok(Founded { cluster: ClusterId(id), me, map_version: MapVersion(1), vbuckets })
}

impl Founded {
    /// Every vbucket, led by this node with an ISR of itself.
    pub(crate) fn assignments(&self) -> Vec<Assignment> {
        let lead = |vbucket| Assignment {
            vbucket,
            lineage: FIRST_LINEAGE,
            epoch: FIRST_EPOCH,
            base: Offset::ZERO,
            followers: Vec::new(),
            min_isr: 1,
        };
        self.vbuckets.iter().map(lead).collect()
    }

    /// The map in the form that clients get.
    pub(crate) fn topology(&self, name: &str, address: &str) -> TopologyResponse {
        TopologyResponse {
            cluster_id: self.cluster.0.to_vec().into(),
            map_version: self.map_version.0,
            vbuckets: u32::from(self.vbuckets.get()),
            nodes: vec![TopologyNode {
                name: name.to_owned(),
                incarnation: self.me.incarnation.0,
                address: address.to_owned(),
                zone: String::new(),
            }],
            leaders: vec![1; self.vbuckets.len()],
            epochs: vec![FIRST_EPOCH.0; self.vbuckets.len()],
        }
    }
}
