//! The cluster map in the form that clients get.

use std::collections::{BTreeMap, BTreeSet};

use broky_proto::id::{MapVersion, NodeId};
use broky_proto::v1::{TopologyNode, TopologyResponse};
use broky_ring::map::{ClusterMap, VBucket};

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
        groups: groups(map),
    }
}

/// Groups of a leader whose copies are at different nodes, at the most: a client sends each in a stream of its own.
const GROUPS_MAX: usize = 8;
/// The group of vbuckets of which another is about to lead.
const MOVING: u32 = 0;

/// Per vbucket, a number that it shares with those of its leader whose copies are at the same nodes.
fn groups(map: &ClusterMap) -> Vec<u32> {
    let mut sets: BTreeMap<Option<NodeId>, BTreeSet<Vec<NodeId>>> = BTreeMap::new();
    let all: Vec<_> = map.vbuckets().map(|(_, vbucket)| (leader_of(vbucket), copies(vbucket))).collect();
    for (leader, copies) in &all {
        sets.entry(*leader).or_default().extend(copies.clone());
    }
    let group = |(leader, copies): &(Option<NodeId>, Option<Vec<NodeId>>)| {
        let Some(copies) = copies else { return MOVING };
        let bytes: Vec<u8> = copies.iter().flat_map(|node| node.0.to_be_bytes()).collect();
        // The same in every version of the map, as long as the copies stay where they are.
        let number = crc32fast::hash(&bytes);
        let is_few = sets.get(leader).is_none_or(|sets| sets.len() <= GROUPS_MAX);
        if is_few { number.max(1) } else { 1 + number % u32::try_from(GROUPS_MAX).unwrap_or(1) }
    };
    all.iter().map(group).collect()
}

fn leader_of(vbucket: &VBucket) -> Option<NodeId> {
    vbucket.leader.map(|leader| leader.node)
}

/// The nodes with a copy, ascending; `None` when another is about to lead.
fn copies(vbucket: &VBucket) -> Option<Vec<NodeId>> {
    let sorted = |nodes: &[NodeId]| {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        nodes
    };
    let copies = sorted(&vbucket.replicas);
    let preferred = vbucket.target.leader();
    let returns = vbucket.isr.iter().any(|member| Some(member.node) == preferred) && preferred != leader_of(vbucket);
    (!returns).then_some(copies)
}
