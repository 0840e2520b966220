//! Connections of the control plane, and asking over them.
//!
//! Raft has connections of its own: a large map on its way to somebody must not delay a vote. Whoever does not answer
//! is looked for by other ways ([`super::detour`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broky_proto::id::Member;
use broky_proto::peer_v1::control_client::ControlClient;
use http::Uri;
use thiserror::Error;
use tonic::{Response, Status};

use super::detector::{How, Suspicion};
use super::detour::Way;
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

/// One connection per address and use. Addresses are those of the map and of `--join`; there are not many.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<HashMap<(String, Use), Arc<Way>>>);

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
    /// The connection to an address; dialled if there is none. While that takes long, others are asked for a way.
    pub(super) async fn link(self: &Arc<Self>, address: &str, how: Use) -> Result<Link, DialError> {
        let way = self.way(address, how);
        way.note_asked();
        if let Some(link) = way.link() {
            return Ok(link);
        }
        tokio::select! {
            link = way.found() => Ok(link),
            dialled = self.dial_once(address, how, &way) => dialled,
        }
    }

    async fn dial_once(self: &Arc<Self>, address: &str, how: Use, way: &Way) -> Result<Link, DialError> {
        let _turn = way.dialling.lock().await;
        if let Some(link) = way.link() {
            return Ok(link);
        }
        let hello = self.hello(None);
        let mut dialling = std::pin::pin!(dial(address, &hello, timing::DIAL));
        // Whoever asks may not wait for the end of it.
        let dialled = match tokio::time::timeout(timing::HEAD_START, &mut dialling).await {
            Ok(dialled) => dialled,
            Err(_) => {
                self.seek_way(address, how);
                dialling.await
            }
        };
        match &dialled {
            Ok(link) => {
                way.take_direct(link.clone());
                self.watch(address, how, link);
            }
            Err(DialError::Reply(reply)) => self.note_reply(*reply),
            Err(DialError::Silent(_) | DialError::Io(_)) => self.seek_way(address, how),
            Err(DialError::Refused | DialError::Stranger(_) | DialError::Http(_)) => {}
        }
        dialled
    }

    /// How an address is reached.
    pub(super) fn way(&self, address: &str, how: Use) -> Arc<Way> {
        lock(&self.links.0).entry((address.to_owned(), how)).or_default().clone()
    }

    /// Notices when a new connection breaks.
    pub(super) fn watch(self: &Arc<Self>, address: &str, how: Use, link: &Link) {
        if how == Use::Raft {
            let (shared, way, address) = (self.clone(), self.way(address, how), address.to_owned());
            let mut ending = link.ending();
            tokio::spawn(async move {
                ending.reached().await;
                // One that was given up for another says nothing.
                if way.is_in_use(&ending) {
                    shared.suspect(&address);
                }
            });
        }
    }

    /// Whoever's raft connection breaks may be dead.
    fn suspect(self: Arc<Self>, address: &str) {
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

    /// Asks whoever is at an address. The deadline is of all of it: many may wait for one connection to come about, and it is
    /// looked for whether they do or not.
    pub(super) async fn ask<A, F>(
        self: &Arc<Self>,
        address: &str,
        deadline: Duration,
        call: impl FnOnce(ControlClient<Link>) -> F,
    ) -> Result<A, CallError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let link = tokio::time::timeout(deadline, self.link(address, Use::Other)).await;
        let link = link.unwrap_or(Err(DialError::Silent(deadline)))?;
        let answer = ask_over(link.clone(), deadline, call).await;
        self.heed(address, Use::Other, &link, answer)
    }

    /// Looks for another way to whoever did not answer. Passes the answer on.
    pub(super) fn heed<A>(
        self: &Arc<Self>,
        address: &str,
        how: Use,
        link: &Link,
        answer: Result<A, CallError>,
    ) -> Result<A, CallError> {
        match &answer {
            Ok(_) => self.way(address, how).trust(link),
            Err(CallError::Silent(_)) => {
                let way = self.way(address, how);
                way.note_asked();
                way.doubt(link);
                self.seek_way(address, how);
            }
            Err(CallError::Dial(_) | CallError::Status(_)) => {}
        }
        answer
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

#[cfg(test)]
mod tests {
    use broky_proto::peer_v1 as pb;
    use broky_ring::member::BootId;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn deadline_of_a_question_is_of_the_connection_as_well() {
        let config = super::super::tests::lone_config("n0");
        let shared = Arc::new(Shared::new(config, BootId([1; 16]), mpsc::unbounded_channel().0));
        // Connections come about, and nobody says anything on them.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let deadline = timing::HEARTBEAT;
        let call =
            |mut client: super::super::Client| async move { client.heartbeat(pb::HeartbeatRequest::default()).await };
        let error = shared.ask(&address, deadline, call).await.unwrap_err();
        assert!(matches!(error, CallError::Dial(DialError::Silent(after)) if after == deadline), "{error}");
    }
}
