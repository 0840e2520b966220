//! The cluster map in the form that clients get.

use broky_proto::id::MapVersion;
use broky_proto::v1::{TopologyNode, TopologyResponse};
use broky_ring::map::ClusterMap;

/// The map as clients are told it.
pub(crate) fn topology(map: &ClusterMap) -> TopologyResponse {
    let MapVersion(map_version) = map.version();
    let places: Vec<_> = map.nodes().map(|(id, _)| id).collect();
    let place = |leader| places.iter().position(|id| *id == leader).map_or(0, |at| at + 1);
    TopologyResponse {
        cluster_id: map.cluster().0.to_vec().into(),
        map_version,
        vbuckets: map.vbucket_count().map_or(0, |count| u32::from(count.get())),
        nodes: map
            .nodes()
            .map(|(_, node)| TopologyNode {
                name: node.name.clone(),
                incarnation: node.incarnation.0,
                address: node.addresses.client.clone(),
                zone: node.zone.0.clone(),
            })
            .collect(),
        leaders: map
            .vbuckets()
            .map(|(_, vbucket)| vbucket.leader.map_or(0, |leader| place(leader.node)))
            .map(|place| u32::try_from(place).unwrap_or_default())
            .collect(),
        epochs: map.vbuckets().map(|(_, vbucket)| vbucket.epoch.0).collect(),
    }
}
