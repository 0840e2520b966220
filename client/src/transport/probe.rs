//! Finding out whether there is a node at an address.
//!
//! A connection alone proves little: the kernel of a paused node makes it. A probe asks for the cluster map, which any
//! node has, and whose stream is of use to whoever follows the map.

use std::sync::Arc;

use broky_proto::frame::encode;
use broky_proto::v1::TopologyRequest;

use super::body::RequestBody;
use super::call::{Method, Responses};
use super::connection::{Connection, Lease};
use super::pool::Pool;
use super::status::CallError;

/// Asks for the cluster map, now and whenever it changes.
pub(crate) async fn ask_topology(connection: &Connection, place: Lease) -> Result<Responses, CallError> {
    let request = RequestBody::Once(Some(encode(&TopologyRequest {})));
    connection.call(Method::Topology, request, place).await
}

impl Pool {
    /// Makes sure that a node answers at an address. Gives the connection, and the stream of the cluster map unless the
    /// node refused it.
    pub(crate) async fn probe(&self, address: &Arc<str>) -> Result<(Connection, Option<Responses>), String> {
        let limit = self.connect_timeout();
        let answered = async {
            let connection = self.dial(address).await?;
            match ask_topology(&connection, connection.map_lease()).await {
                Ok(responses) => Ok((connection, Some(responses))),
                // Whatever its answer, a node gave one.
                Err(CallError::Refused { .. }) => Ok((connection, None)),
                Err(error) => Err(error.to_string()),
            }
        };
        let answered = tokio::time::timeout(limit, answered).await;
        let answered = answered.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
        match &answered {
            Ok(_) => self.handle_answer(address),
            Err(_) => self.handle_failure(address),
        }
        answered
    }
}
