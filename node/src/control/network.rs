//! How raft reaches its members.

use std::sync::Arc;
use std::time::Duration;

use broky_proto::peer_v1 as pb;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{RaftNetwork, RaftNetworkFactory};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::Instant;

use super::links::{CallError, Use, ask_over};
use super::shared::Shared;
use super::timing;
use super::types::{GroupId, Peer, RaftId, TypeConfig};

/// Makes connections for one group.
pub(super) struct Network {
    pub(super) shared: Arc<Shared>,
    pub(super) group: GroupId,
    pub(super) me: RaftId,
}

/// The way to one member.
pub(super) struct Route {
    shared: Arc<Shared>,
    group: GroupId,
    from: RaftId,
    to: RaftId,
    peer: Peer,
}

/// Why an RPC came to nothing.
#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("refused: {0:?}")]
    Refused(pb::RaftRefusal),
    #[error("the answer cannot be read")]
    Malformed,
}

impl Failure {
    /// Whether trying again at once is pointless.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Call(CallError::Dial(_)) | Self::Refused(_) | Self::Malformed => true,
            Self::Call(CallError::Status(_) | CallError::Silent(_)) => false,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Route;

    async fn new_client(&mut self, target: RaftId, node: &Peer) -> Route {
        Route { shared: self.shared.clone(), group: self.group, from: self.me, to: target, peer: node.clone() }
    }
}

impl Route {
    /// Asks within the deadline, which is before raft's own: what raft drops half way is not heeded.
    async fn send<Q: Serialize, A: DeserializeOwned>(
        &self,
        kind: pb::RaftKind,
        request: &Q,
        deadline: Duration,
    ) -> Result<A, Failure> {
        let request = pb::RaftRequest {
            group: self.group.0.to_vec().into(),
            from: self.from.0,
            to: self.to.0,
            kind: kind.into(),
            payload: postcard::to_stdvec(request).map_err(|_| Failure::Malformed)?.into(),
            has_quorum: self.has_quorum(),
        };
        let address = self.address();
        let link = self.shared.link(&address, Use::Raft).await.map_err(CallError::Dial)?;
        let call = |mut client: super::Client| async move { client.raft(request).await };
        let answer = ask_over(link.clone(), deadline, call).await;
        let response = self.shared.heed(&address, Use::Raft, &link, answer)?;
        match response.refusal() {
            pb::RaftRefusal::None => postcard::from_bytes(&response.payload).map_err(|_| Failure::Malformed),
            refusal => Err(Failure::Refused(refusal)),
        }
    }

    /// Whether this process leads the group and reaches a quorum of it.
    fn has_quorum(&self) -> bool {
        let group = self.shared.group_of(&self.group.0);
        group.is_some_and(|group| group.living_leader() == Some(self.from))
    }

    /// Where the member is now. A node that restarts may listen elsewhere, and only the map or the node itself knows.
    fn address(&self) -> String {
        if let Some(process) = self.shared.acquaintance(&self.peer.name) {
            return process.address;
        }
        self.shared.node_called(&self.peer.name).map_or_else(|| self.peer.address.clone(), |(_, address)| address)
    }
}

fn rpc_error<E: std::error::Error>(failure: &Failure) -> RPCError<RaftId, Peer, E> {
    if failure.is_lasting() {
        RPCError::Unreachable(Unreachable::new(failure))
    } else {
        RPCError::Network(NetworkError::new(failure))
    }
}

impl RaftNetwork<TypeConfig> for Route {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, RPCError<RaftId, Peer, RaftError<RaftId>>> {
        let asked = Instant::now();
        let sent: Result<AppendEntriesResponse<RaftId>, _> =
            self.send(pb::RaftKind::Append, &rpc, option.soft_ttl()).await;
        let does_follow = match &sent {
            Ok(AppendEntriesResponse::HigherVote(_)) | Err(_) => false,
            Ok(
                AppendEntriesResponse::Success
                | AppendEntriesResponse::PartialSuccess(_)
                | AppendEntriesResponse::Conflict,
            ) => true,
        };
        if let Some(group) = self.shared.group_of(&self.group.0).filter(|_| does_follow) {
            group.note_followed(rpc.vote, self.to, asked);
        }
        sent.map_err(|failure| rpc_error(&failure))
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftId>, RPCError<RaftId, Peer, RaftError<RaftId, InstallSnapshotError>>> {
        let sent: Result<Result<_, InstallSnapshotError>, _> =
            self.send(pb::RaftKind::Snapshot, &rpc, option.soft_ttl()).await;
        match sent {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(RPCError::RemoteError(RemoteError::new(self.to, RaftError::APIError(error)))),
            Err(failure) => Err(rpc_error(&failure)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftId>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, RPCError<RaftId, Peer, RaftError<RaftId>>> {
        let sent = self.send(pb::RaftKind::Vote, &rpc, option.soft_ttl()).await;
        sent.map_err(|failure| rpc_error(&failure))
    }

    fn backoff(&self) -> Backoff {
        let longer = |time: &Duration| Some((*time * 2).min(timing::RAFT_BACKOFF_MAX));
        Backoff::new(std::iter::successors(Some(timing::RAFT_BACKOFF), longer))
    }
}
