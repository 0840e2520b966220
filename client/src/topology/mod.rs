//! The cluster map as a client sees it: who leads which vbucket. [`feed`] follows it.

mod feed;
mod search;

use std::sync::Arc;

use broky_proto::id::{ClusterId, Epoch, Incarnation, MapVersion, Token, VBucketCount, VBucketId};
use broky_proto::v1;
use thiserror::Error;

pub(crate) use self::feed::Feed;
pub use self::feed::TopologyWatch;
use crate::transport::{CallError, ConnectError};

/// Why the cluster map could not be had. Nothing changed. Retry, unless the cause says otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum TopologyError {
    /// No connection. Retry once a node is up.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The call failed. Retry if [`CallError::is_retryable`] says so.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// A node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopologyNode {
    /// Its name.
    pub name: String,
    /// Which of its process lifetimes this is.
    pub incarnation: Incarnation,
    /// `host:port` of its client listener.
    pub address: String,
    /// Its zone; may be empty.
    pub zone: String,
}

/// A snapshot of the cluster map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topology {
    /// The cluster's name.
    pub cluster_id: ClusterId,
    /// The map's version. Higher is newer.
    pub map_version: MapVersion,
    /// Every node, in the map's order.
    pub nodes: Vec<TopologyNode>,
    vbuckets: VBucketCount,
    /// Per vbucket: index into `nodes` and epoch.
    leaders: Vec<(Option<usize>, Epoch)>,
    /// Per vbucket: the number of its group.
    groups: Vec<u32>,
}

impl Topology {
    pub(crate) fn new(response: v1::TopologyResponse) -> Result<Self, CallError> {
        let invalid = |words: &str| CallError::Invalid(format!("topology: {words}"));
        let cluster_id = ClusterId::from_bytes(&response.cluster_id).ok_or_else(|| invalid("cluster id"))?;
        let vbuckets = VBucketCount::new(response.vbuckets).ok_or_else(|| invalid("vbucket count"))?;
        if response.leaders.len() != vbuckets.len() || response.epochs.len() != vbuckets.len() {
            return Err(invalid("not one leader and epoch per vbucket"));
        }
        let mut groups = response.groups;
        if groups.is_empty() {
            groups.resize(vbuckets.len(), 0);
        }
        if groups.len() != vbuckets.len() {
            return Err(invalid("not one group per vbucket"));
        }
        let nodes: Vec<TopologyNode> = response.nodes.into_iter().map(TopologyNode::new).collect();
        let leader = |index: u32| match (index as usize).checked_sub(1) {
            Some(at) if at >= nodes.len() => Err(invalid("leader is not among the nodes")),
            leader => Ok(leader),
        };
        let leaders = response
            .leaders
            .iter()
            .zip(&response.epochs)
            .map(|(&index, &epoch)| Ok((leader(index)?, Epoch(epoch))))
            .collect::<Result<_, CallError>>()?;
        Ok(Self { cluster_id, map_version: MapVersion(response.map_version), nodes, vbuckets, leaders, groups })
    }

    /// Whether this map takes the place of another: it is newer, or of a cluster founded anew, whose versions cannot be
    /// compared with those of the old one.
    pub(crate) fn supersedes(&self, other: &Self) -> bool {
        self.cluster_id != other.cluster_id || self.map_version > other.map_version
    }

    /// Whether this map is no older than another.
    pub(crate) fn is_as_new_as(&self, other: &Self) -> bool {
        self.supersedes(other) || self.map_version == other.map_version
    }

    /// The nodes' addresses.
    pub(crate) fn addresses(&self) -> Vec<Arc<str>> {
        let addresses = self.nodes.iter().map(|node| node.address.as_str());
        addresses.filter(|address| !address.is_empty()).map(Arc::from).collect()
    }

    pub(crate) fn vbucket_count(&self) -> VBucketCount {
        self.vbuckets
    }

    /// How many vbuckets there are.
    #[must_use]
    pub fn vbuckets(&self) -> u16 {
        self.vbuckets.get()
    }

    /// The vbucket of messages with this `key_partition`, or, if that is empty, with this `key`.
    #[must_use]
    pub fn vbucket_of(&self, key_partition: &[u8], key: &[u8]) -> VBucketId {
        self.vbuckets.vbucket_of(Token::of(key_partition, key))
    }

    /// The group of a vbucket: what delays one of its leader's in it delays the others, and hardly any else.
    pub(crate) fn group(&self, vbucket: VBucketId) -> u32 {
        self.groups.get(usize::from(vbucket.0)).copied().unwrap_or_default()
    }

    /// The node that leads a vbucket, and its epoch. `None` while there is none, or without such a vbucket.
    #[must_use]
    pub fn leader(&self, vbucket: VBucketId) -> Option<(&TopologyNode, Epoch)> {
        let (leader, epoch) = self.leaders.get(usize::from(vbucket.0))?;
        self.nodes.get((*leader)?).map(|node| (node, *epoch))
    }
}

impl TopologyNode {
    fn new(node: v1::TopologyNode) -> Self {
        Self { name: node.name, incarnation: Incarnation(node.incarnation), address: node.address, zone: node.zone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> v1::TopologyResponse {
        let node = |name: &str| v1::TopologyNode { name: name.to_owned(), ..v1::TopologyNode::default() };
        v1::TopologyResponse {
            cluster_id: vec![1; 16].into(),
            map_version: 3,
            vbuckets: 4,
            nodes: vec![node("a"), node("b")],
            leaders: vec![1, 2, 0, 2],
            epochs: vec![5, 6, 7, 8],
            groups: Vec::new(),
        }
    }

    #[test]
    fn leader_is_index_plus_one() {
        let topology = Topology::new(response()).unwrap();
        let name = |vbucket| topology.leader(VBucketId(vbucket)).map(|(node, epoch)| (node.name.as_str(), epoch.0));
        assert_eq!([name(0), name(1), name(2), name(3)], [Some(("a", 5)), Some(("b", 6)), None, Some(("b", 8))]);
        assert_eq!(name(4), None);
    }

    #[test]
    fn older_map_does_not_supersede_unless_the_cluster_is_another() {
        let map = |cluster: u8, map_version| {
            Topology::new(v1::TopologyResponse { cluster_id: vec![cluster; 16].into(), map_version, ..response() })
        };
        let known = map(1, 3).unwrap();
        let supersedes = |cluster, version| map(cluster, version).unwrap().supersedes(&known);
        assert_eq!(
            [supersedes(1, 2), supersedes(1, 3), supersedes(1, 4), supersedes(2, 1)],
            [false, false, true, true]
        );
    }

    #[test]
    fn map_that_names_an_unknown_node_is_refused() {
        let mut bad = response();
        bad.leaders[0] = 3;
        assert!(Topology::new(bad).is_err());
    }
}
