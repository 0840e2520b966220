//! Getting the map from a peer, beside raft: whoever is cut off from the raft leader need not be ignorant of what it
//! decided.

use std::sync::Arc;

use broky_proto::id::{Epoch, MapVersion, Member};
use broky_proto::peer_v1 as pb;
use broky_ring::map::{ClusterMap, DiffError, MapDiff};
use thiserror::Error;

use super::Client;
use super::shared::Shared;
use super::timing;

/// Why a map was not pulled.
#[derive(Debug, Error)]
pub(crate) enum PullError {
    /// The peer did not answer.
    #[error("{0}")]
    Call(String),
    /// What it answered is no difference of maps.
    #[error("the answer cannot be read")]
    Malformed,
    /// It does not fit.
    #[error(transparent)]
    Diff(#[from] DiffError),
}

impl Shared {
    /// Gets what has changed from the peer at an address. True when there was news.
    pub(super) async fn pull_map(self: &Arc<Self>, address: &str) -> Result<bool, PullError> {
        let MapVersion(since) = self.map().version();
        let request = pb::PullMapRequest { since };
        let call = |mut client: Client| async move { client.pull_map(request).await };
        let response =
            self.ask(address, timing::CALL, call).await.map_err(|error| PullError::Call(error.to_string()))?;
        let diff: MapDiff = postcard::from_bytes(&response.diff).map_err(|_| PullError::Malformed)?;
        Ok(self.merge(diff)?)
    }

    /// Gets the map that says who leads since `epoch`. A leader that was deposed, and to whom raft does not say so, has
    /// it from whoever leads in its place; what it does about it follows from the map, as always.
    pub(super) async fn hear_of_leader(self: &Arc<Self>, leader: Member, epoch: Epoch) {
        // Both are indices of entries: a map of that version or later holds what that entry did.
        let knows_it = |map: &ClusterMap| map.version() >= MapVersion(epoch.0);
        let map = self.map();
        let me = self.me().map(|me| me.node);
        let mut nodes: Vec<_> = map.nodes().filter(|(id, _)| Some(*id) != me).collect();
        nodes.sort_by_key(|(id, _)| (*id != leader.node, map.alive(*id).is_none()));
        for (id, node) in nodes {
            if knows_it(&self.map()) {
                return;
            }
            if let Err(error) = self.pull_map(&node.addresses.peer).await {
                tracing::debug!(node = %id, %epoch, %error, "the map of a newer leader was not to be had");
            }
        }
    }
}
