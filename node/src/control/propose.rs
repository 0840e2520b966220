//! Proposing: an entry finds its way to the raft leader, and its outcome back.

use std::sync::Arc;

use broky_proto::peer_v1 as pb;
use broky_ring::command::{Command, Outcome};
use thiserror::Error;
use tokio::time::Instant;

use super::links::CallError;
use super::shared::Shared;
use super::timing;
use super::types::{Answer, Request};

/// Why a proposal has no outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum ProposeError {
    /// Nobody leads the raft group, or nobody who can be reached. Never applied; retry later.
    #[error("the control plane has no leader")]
    NoLeader,
    /// The connection or the leadership was lost on the way. It may be applied, now or later: look at the map, or
    /// propose again what may be proposed twice.
    #[error("the outcome is unknown")]
    Unknown,
}

impl Shared {
    /// Proposes a command, and repeats that while it is certain that it was not applied.
    pub(super) async fn propose(self: &Arc<Self>, command: Command) -> Result<Outcome, ProposeError> {
        match self.submit(Request::Command(command)).await? {
            Answer::Outcome(outcome) => Ok(outcome),
            // Only seeds and raft's own entries are answered otherwise.
            Answer::None | Answer::Seeded => Err(ProposeError::Unknown),
        }
    }

    pub(super) async fn submit(self: &Arc<Self>, request: Request) -> Result<Answer, ProposeError> {
        let deadline = Instant::now() + timing::PROPOSE;
        loop {
            match self.submit_once(request.clone()).await {
                Err(ProposeError::NoLeader) if Instant::now() < deadline => tokio::time::sleep(timing::RETRY).await,
                result => return result,
            }
        }
    }

    async fn submit_once(self: &Arc<Self>, request: Request) -> Result<Answer, ProposeError> {
        let group = self.group().ok_or(ProposeError::NoLeader)?;
        if group.is_leader() {
            return group.write(request).await;
        }
        let (_, leader) = group.leader().ok_or(ProposeError::NoLeader)?;
        let request = postcard::to_stdvec(&request).map_err(|_| ProposeError::NoLeader)?;
        let request = pb::ProposeRequest { group: group.id.0.to_vec().into(), request: request.into() };
        let call = |mut client: super::Client| async move { client.propose(request).await };
        match self.ask(&leader.address, timing::COMMIT + timing::CALL, call).await {
            Ok(response) => match response.proposal() {
                pb::Proposal::Applied => postcard::from_bytes(&response.answer).map_err(|_| ProposeError::Unknown),
                pb::Proposal::NotLeader => Err(ProposeError::NoLeader),
                pb::Proposal::Unknown | pb::Proposal::Unspecified => Err(ProposeError::Unknown),
            },
            Err(CallError::Dial(_)) => Err(ProposeError::NoLeader),
            Err(CallError::Status(_) | CallError::Silent(_)) => Err(ProposeError::Unknown),
        }
    }
}
