//! Finding a node that has the cluster map.
//!
//! One node after the other is asked, the next one beside those that owe an answer for a moment: the kernel of a paused
//! node takes connections and requests, and nothing comes of them. The first that answers is the one. A node whose map
//! is older than the one we know is of no use.

use std::sync::Arc;
use std::time::Duration;

use broky_proto::v1::TopologyResponse;
use bytes::Bytes;
use prost::Message as _;
use tokio::task::JoinSet;

use super::Topology;
use crate::transport::{CallError, Connection, Pool, Responses, ask_topology};

/// How long one node is asked alone.
const STAGGER: Duration = Duration::from_millis(250);

/// A stream of cluster maps.
pub(super) struct MapStream {
    pub(super) connection: Connection,
    pub(super) responses: Responses,
    /// What it has told already.
    pub(super) map: Option<Topology>,
}

/// Asks these addresses for the map, and follows whoever is the first to give one that is no older than `known`.
pub(super) async fn search(
    pool: Arc<Pool>,
    addresses: Vec<Arc<str>>,
    known: Option<Arc<Topology>>,
) -> Result<MapStream, String> {
    let mut waiting = addresses.into_iter();
    let mut asked: JoinSet<Result<MapStream, String>> = JoinSet::new();
    let mut reason = "no address is left to ask for the cluster map".to_owned();
    loop {
        if let Some(address) = waiting.next() {
            let (pool, known) = (Arc::clone(&pool), known.clone());
            asked.spawn(async move { ask(&pool, address, known.as_deref()).await });
        }
        let has_more = waiting.len() > 0;
        tokio::select! {
            biased;
            answer = asked.join_next() => match answer {
                Some(Ok(Ok(found))) => return Ok(found),
                Some(Ok(Err(error))) => reason = error,
                // A task that was dropped with its runtime.
                Some(Err(_)) => {}
                None => return Err(reason),
            },
            () = tokio::time::sleep(STAGGER), if has_more => {}
        }
    }
}

async fn ask(pool: &Pool, address: Arc<str>, known: Option<&Topology>) -> Result<MapStream, String> {
    let limit = pool.connect_timeout();
    let (connection, place, is_new) = match pool.shared_at(&address) {
        Some((connection, place)) => (connection, place, false),
        None => {
            let connection = pool.dial(&address).await?;
            let place = connection.map_lease();
            (connection, place, true)
        }
    };
    let answered = async {
        let mut responses = ask_topology(&connection, place).await?;
        let map = decode(responses.next().await)?;
        Ok((responses, map))
    };
    let answered = tokio::time::timeout(limit, answered).await.unwrap_or(Err(CallError::TimedOut(limit)));
    if let Err(error) = &answered {
        give_up_on(pool, &connection, error);
    }
    let (responses, map) = answered.map_err(|error| error.to_string())?;
    pool.handle_answer(&address);
    if is_new {
        pool.keep(&connection);
    }
    if known.is_some_and(|known| !map.is_as_new_as(known)) {
        return Err(format!("{address} has an older map than another node"));
    }
    Ok(MapStream { connection, responses, map: Some(map) })
}

/// A map as a node told it.
pub(super) fn decode(message: Option<Result<Bytes, CallError>>) -> Result<Topology, CallError> {
    let message = message.ok_or_else(|| CallError::Connection("the node ended the stream".to_owned()))??;
    let response = TopologyResponse::decode(message).map_err(|error| CallError::Invalid(error.to_string()))?;
    Topology::new(response)
}

/// Keeps everybody off a connection that is of no use, unless the node answered after all.
pub(super) fn give_up_on(pool: &Pool, connection: &Connection, error: &CallError) {
    if !matches!(error, CallError::Refused { .. }) {
        connection.suspect();
        pool.handle_failure(connection.address());
    }
}
