//! The servers, the stream, and the consumers, through JetStream's API.
//!
//! A consumer's state is kept in memory by one server, the cheapest there is, and it is not flow controlled, as the
//! window of the run already is. JetStream picks that server at random, so a consumer is asked for until it is where it
//! is wanted; one that is not is deleted.
//!
//! The stream is purged when a worker opens it. All workers do before any of them publishes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::super::super::args::ReadFrom;
use super::super::super::units::nanos;
use super::super::connection::{connect, request};

/// The stream. Every run uses the same, so that runs against one cluster do not leave one behind each.
const STREAM: &str = "BROKY_BENCH";
/// What the stream keeps: more than a run of some seconds stores, so that JetStream is spared what removing a message
/// for each new one costs it.
const STREAM_BYTES: u64 = 1 << 30;
/// A consumer that nobody listens to is forgotten after this long.
const INACTIVE: Duration = Duration::from_secs(60);
/// How long the servers may take to find one another and to choose a leader.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// After how long without an answer a question is asked again: servers without a leader are silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// How often a consumer is asked for. Of three servers, at least one fits.
const PLACEMENTS_MAX: usize = 64;

struct Server {
    name: String,
    address: String,
}

/// The servers, with the stream.
pub(super) struct Cluster {
    servers: Vec<Server>,
    version: String,
    /// Name of the server that leads the stream. Empty when there is only one.
    leader: String,
}

impl Cluster {
    /// Makes sure that the stream is there, and empty.
    ///
    /// # Errors
    /// A server does not answer, or has no JetStream, or they do not agree on a leader.
    pub(super) async fn open(addresses: &[String]) -> Result<Self> {
        let (mut servers, mut version) = (Vec::new(), String::new());
        for address in addresses {
            let (_, greeting) = connect(address, b"").await?;
            version = greeting.version().to_owned();
            servers.push(Server { name: greeting.server_name().to_owned(), address: address.clone() });
        }
        let address = addresses.first().context("no address")?;
        let stream = ask(address, &format!("STREAM.CREATE.{STREAM}"), &stream_config(addresses.len())).await?;
        ask(address, &format!("STREAM.PURGE.{STREAM}"), &Value::Null).await?;
        Ok(Self { servers, version, leader: leader(&stream).to_owned() })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Address of the server that leads the stream.
    pub(super) fn leader(&self) -> Result<&str> {
        self.address(&self.leader)
    }

    /// Creates a consumer that sends whatever is stored from now on to this inbox. Returns where to subscribe.
    pub(super) async fn consume(&self, inbox: &str, read_from: ReadFrom) -> Result<&str> {
        for _ in 0..PLACEMENTS_MAX {
            let consumer = ask(self.leader()?, &format!("CONSUMER.CREATE.{STREAM}"), &consumer_config(inbox)).await?;
            let place = leader(&consumer);
            if fits(read_from, place == self.leader) {
                return self.address(place);
            }
            let name = consumer.get("name").and_then(Value::as_str).context("a consumer without a name")?;
            ask(self.leader()?, &format!("CONSUMER.DELETE.{STREAM}.{name}"), &Value::Null).await?;
        }
        bail!("none of {PLACEMENTS_MAX} consumers came to be at the {read_from}")
    }

    fn address(&self, name: &str) -> Result<&str> {
        let mut found = self.servers.iter().filter(|server| server.name == name || self.servers.len() == 1);
        let server = found.next().with_context(|| format!("the address of server {name:?} was not given"))?;
        Ok(&server.address)
    }
}

fn fits(read_from: ReadFrom, is_leader: bool) -> bool {
    match read_from {
        ReadFrom::Any => true,
        ReadFrom::Leader => is_leader,
        ReadFrom::Follower => !is_leader,
    }
}

/// Name of the server that leads a stream or a consumer. Empty when the answer has none: the server is alone.
fn leader(answer: &Value) -> &str {
    answer.pointer("/cluster/leader").and_then(Value::as_str).unwrap_or_default()
}

fn stream_config(replicas: usize) -> Value {
    json!({
        "name": STREAM,
        "subjects": ["b", "b.*"],
        "storage": "memory",
        "num_replicas": replicas,
        "retention": "limits",
        "discard": "old",
        "max_bytes": STREAM_BYTES,
        "max_msgs": -1,
        "max_age": 0,
    })
}

fn consumer_config(inbox: &str) -> Value {
    json!({
        "stream_name": STREAM,
        "config": {
            "deliver_subject": inbox,
            "deliver_policy": "new",
            "ack_policy": "none",
            "replay_policy": "instant",
            "num_replicas": 1,
            "mem_storage": true,
            "inactive_threshold": nanos(INACTIVE),
        },
    })
}

/// Asks until the servers can answer.
async fn ask(address: &str, what: &str, question: &Value) -> Result<Value> {
    let (subject, deadline) = (format!("$JS.API.{what}"), Instant::now() + READY_TIMEOUT);
    loop {
        let refusal = match tokio::time::timeout(ANSWER_TIMEOUT, request(address, &subject, question)).await {
            Ok(answer) => {
                let answer = answer?;
                match answer.get("error") {
                    None => return Ok(answer),
                    Some(error) => error.to_string(),
                }
            }
            Err(_) => "no answer".to_owned(),
        };
        ensure!(Instant::now() < deadline, "JetStream at {address}: {what}: {refusal}");
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(names: &[&str], leader: &str) -> Cluster {
        let server = |name: &&str| Server { name: (*name).to_owned(), address: format!("{name}:4222") };
        Cluster { servers: names.iter().map(server).collect(), version: String::new(), leader: leader.to_owned() }
    }

    #[test]
    fn the_leader_is_found_by_its_name() {
        assert_eq!(cluster(&["n0", "n1"], "n1").leader().unwrap(), "n1:4222");
        assert!(cluster(&["n0", "n1"], "n2").leader().is_err());
    }

    #[test]
    fn a_server_that_is_alone_needs_no_name() {
        assert_eq!(leader(&json!({"config": {}})), "");
        assert_eq!(cluster(&["n0"], "").leader().unwrap(), "n0:4222");
    }

    #[test]
    fn a_leader_is_read_from_an_answer() {
        assert_eq!(leader(&json!({"cluster": {"name": "bench", "leader": "n2"}})), "n2");
    }
}
