//! Connections of the control plane, and asking over them.
//!
//! Raft has connections of its own: a large map on its way to somebody must not delay a vote.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broky_proto::id::Member;
use broky_proto::peer_v1::control_client::ControlClient;
use http::Uri;
use thiserror::Error;
use tonic::{Response, Status};

use super::detector::{How, Suspicion};
use super::shared::{Shared, lock};
use super::timing;
use crate::peer::{DialError, Link, dial};

/// Longest message of a peer: a seed or a map of the largest cluster.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What a connection is used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Use {
    Raft,
    Other,
}

type Slot = Arc<tokio::sync::Mutex<Option<Link>>>;

/// One connection per address and use. Addresses are those of the map and of `--join`; there are not many.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<HashMap<(String, Use), Slot>>);

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// There is no connection. Nothing was asked.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke, or the peer refuses the call. It may have been carried out.
    #[error("{0}")]
    Status(Box<Status>),
    /// It may have been carried out.
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

impl Shared {
    /// The connection to an address; dialled if there is none.
    pub(super) async fn link(self: &Arc<Self>, address: &str, how: Use) -> Result<Link, DialError> {
        let slot = lock(&self.links.0).entry((address.to_owned(), how)).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.is_closed()) {
            return Ok(link.clone());
        }
        *slot = None;
        let dialled = dial(address, &self.hello(None), timing::DIAL).await;
        if let Err(DialError::Reply(reply)) = &dialled {
            self.note_reply(*reply);
        }
        let link = dialled?;
        *slot = Some(link.clone());
        if how == Use::Raft {
            tokio::spawn(self.clone().watch_raft_link(address.to_owned(), link.clone()));
        }
        Ok(link)
    }

    /// Whoever's raft connection breaks may be dead.
    async fn watch_raft_link(self: Arc<Self>, address: String, link: Link) {
        link.closed().await;
        let map = self.map();
        let node = map.nodes().find(|(_, node)| node.addresses.peer == address);
        if let Some((id, node)) = node {
            let member = Member { node: id, incarnation: node.incarnation };
            if let Some(group) = self.group() {
                tokio::spawn(self.clone().look_around(group));
            }
            // Nobody listens when the node ends.
            let _ = self.suspicions.send(Suspicion { member, how: How::Refused, by: self.me() });
        }
    }

    /// Asks whoever is at an address.
    pub(super) async fn ask<A, F>(
        self: &Arc<Self>,
        address: &str,
        deadline: Duration,
        call: impl FnOnce(ControlClient<Link>) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let link = self.link(address, Use::Other).await?;
        ask_over(link, deadline, call).await
    }

    /// Whether a process can be reached, found out by a connection of its own.
    pub(super) async fn probe(&self, member: Member, address: &str) -> Result<(), DialError> {
        dial(address, &self.hello(Some(member)), timing::PROBE).await.map(drop)
    }
}

/// Asks over a connection.
pub(super) async fn ask_over<A, F>(
    link: Link,
    deadline: Duration,
    call: impl FnOnce(ControlClient<Link>) -> F,
) -> Result<A, CallError>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    // HTTP/2 wants an authority; nobody looks at it.
    let client = ControlClient::with_origin(link, Uri::from_static("http://peer"))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    match tokio::time::timeout(deadline, call(client)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(CallError::Status(Box::new(status))),
        Err(_) => Err(CallError::Silent(deadline)),
    }
}
