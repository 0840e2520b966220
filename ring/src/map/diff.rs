//! Differences of maps: what a peer that knows version `v` has to be sent.
//!
//! A difference carries whole entries, all that changed after `since`, so merging is replacing, and merging one that
//! reaches further back than needed does no harm. Nodes that were forgotten leave no trace in their own entry;
//! therefore the ids of all registered nodes go along.

use std::num::NonZeroU16;

use broky_proto::id::{ClusterId, MapVersion, NodeId, VBucketId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{ClusterMap, Node, VBucket};
use crate::member::Copies;

/// What changed in a map after a version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MapDiff {
    /// The cluster whose map this is.
    pub cluster: ClusterId,
    /// The version that the receiver has to have, or a newer one. Zero: none, the difference is the whole map.
    pub since: MapVersion,
    /// The version the receiver has afterwards.
    pub version: MapVersion,
    /// The configured copies.
    pub copies: Copies,
    /// How many shards every node has.
    pub shards: Option<NonZeroU16>,
    /// How many vbuckets there are.
    pub vbuckets_len: u16,
    /// Every registered node's id, ascending. Nodes that are not in here are gone.
    pub registered: Vec<NodeId>,
    /// The nodes that changed.
    pub nodes: Vec<(NodeId, Node)>,
    /// The vbuckets that changed.
    pub vbuckets: Vec<(VBucketId, VBucket)>,
}

/// Why a difference was not merged. The map is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum DiffError {
    /// It is another cluster's. Drop the link: that peer is not one of ours.
    #[error("map of cluster {theirs}; ours is {ours}")]
    OtherCluster {
        /// The receiver's cluster.
        ours: ClusterId,
        /// The sender's.
        theirs: ClusterId,
    },
    /// What lies between the receiver's version and the difference is missing. Ask again, from `ours`.
    #[error("difference since version {since}; ours is {ours}")]
    Hole {
        /// Where the difference begins.
        since: MapVersion,
        /// What the receiver has.
        ours: MapVersion,
    },
    /// It names vbuckets or nodes that it says do not exist. Drop the link.
    #[error("difference contradicts itself")]
    Malformed,
}

impl ClusterMap {
    /// What has changed after `since`.
    #[must_use]
    pub fn diff(&self, since: MapVersion) -> MapDiff {
        MapDiff {
            cluster: self.cluster,
            since,
            version: self.version,
            copies: self.copies,
            shards: self.shards,
            vbuckets_len: u16::try_from(self.vbuckets.len()).unwrap_or(u16::MAX),
            registered: self.nodes.keys().copied().collect(),
            nodes: self.nodes().filter(|(_, n)| n.version > since).map(|(id, n)| (id, n.clone())).collect(),
            vbuckets: self.vbuckets().filter(|(_, v)| v.version > since).map(|(id, v)| (id, v.clone())).collect(),
        }
    }

    /// Brings this map to the version of `diff`. False when it already is there or beyond.
    ///
    /// # Errors
    /// See [`DiffError`].
    pub fn merge(&mut self, diff: MapDiff) -> Result<bool, DiffError> {
        if self.version > MapVersion(0) && diff.cluster != self.cluster {
            return Err(DiffError::OtherCluster { ours: self.cluster, theirs: diff.cluster });
        }
        if diff.since > self.version {
            return Err(DiffError::Hole { since: diff.since, ours: self.version });
        }
        if diff.version <= self.version {
            return Ok(false);
        }
        let len = usize::from(diff.vbuckets_len);
        let is_sound = diff.vbuckets.iter().all(|(id, _)| usize::from(id.0) < len)
            && (self.vbuckets.len() == len || self.vbuckets.is_empty() && diff.vbuckets.len() == len)
            && diff.nodes.iter().all(|(id, _)| diff.registered.binary_search(id).is_ok());
        if !is_sound {
            return Err(DiffError::Malformed);
        }
        self.cluster = diff.cluster;
        self.version = diff.version;
        self.copies = diff.copies;
        self.shards = diff.shards;
        self.nodes.retain(|id, _| diff.registered.binary_search(id).is_ok());
        self.nodes.extend(diff.nodes);
        self.vbuckets.resize_with(len, VBucket::default);
        for (id, vbucket) in diff.vbuckets {
            if let Some(ours) = self.vbuckets.get_mut(usize::from(id.0)) {
                *ours = vbucket;
            }
        }
        Ok(true)
    }
}
