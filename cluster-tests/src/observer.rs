//! What the nodes say of the cluster: its map, by the peer port, and what the admin HTTP tells.
//!
//! The client protocol tells who leads a vbucket but not who follows it, so the whole map is pulled as a peer would
//! pull it, by a stranger who is registered nowhere. Everything here has a deadline: a paused node takes connections
//! and never answers.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use broky_proto::frame::{Deframer, encode};
use broky_proto::id::{MapVersion, Member, VBucketId};
use broky_proto::peer::{Hello, Purpose, REPLY_BYTES, Reply};
use broky_proto::peer_v1::{PullMapRequest, PullMapResponse};
use broky_ring::map::{ClusterMap, MapDiff, VBucket};
use http::Request;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::error::HarnessError;
use crate::grpc::settings;
use crate::metrics::Metrics;
use crate::supervisor::Supervisor;

/// Time that one question may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How often the map is looked at while something is waited for: at first, and after a long wait. Whole maps of all
/// nodes cost these, and whoever looks, a good part of a core when they are pulled all the time.
const PERIOD_MIN: Duration = Duration::from_millis(20);
const PERIOD_MAX: Duration = Duration::from_millis(500);
/// One look for each twentieth of the time waited: what takes long is known as exactly as what does not.
const LOOKS: u32 = 20;
/// Vbuckets that are described.
const SHOWN_MAX: usize = 8;
/// More than any map takes.
const MAP_BYTES_MAX: usize = 16 << 20;

/// The whole map as one node knows it.
///
/// # Errors
/// When it does not answer in time, or is not a node.
pub async fn pull_map(peer: SocketAddr) -> Result<ClusterMap, HarnessError> {
    in_time(format!("pull the map of {peer}"), pull(peer)).await
}

async fn pull(peer: SocketAddr) -> Result<ClusterMap, HarnessError> {
    let asked = || format!("pull the map of {peer}");
    let fail = |words: &dyn std::fmt::Display| HarnessError::answer(asked(), words);
    let mut stream = TcpStream::connect(peer).await.map_err(HarnessError::io(asked()))?;
    let hello = Hello { purpose: Purpose::Control, shard: 0, cluster: None, from: None, to: None };
    stream.write_all(&hello.encode()).await.map_err(HarnessError::io(asked()))?;
    let mut reply = [0; REPLY_BYTES];
    stream.read_exact(&mut reply).await.map_err(HarnessError::io(asked()))?;
    match Reply::decode(&reply) {
        Ok(Reply::Ok) => {}
        other => return Err(fail(&format!("{other:?}"))),
    }
    let (send, connection) = settings().handshake(stream).await.map_err(|error| fail(&error))?;
    let driver = tokio::spawn(connection);
    let request = Request::post("http://peer/broky.peer.v1.Control/PullMap")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let request = request.body(()).map_err(|error| fail(&error))?;
    let mut ready = send.ready().await.map_err(|error| fail(&error))?;
    let (answer, mut body) = ready.send_request(request, false).map_err(|error| fail(&error))?;
    body.send_data(encode(&PullMapRequest { since: 0 }), true).map_err(|error| fail(&error))?;
    let mut answer = answer.await.map_err(|error| fail(&error))?.into_body();
    let mut deframer = Deframer::new(MAP_BYTES_MAX);
    let message = loop {
        if let Some(message) = deframer.next_message().map_err(|error| fail(&error))? {
            break message;
        }
        let Some(data) = answer.data().await else { return Err(fail(&"no map")) };
        let data = data.map_err(|error| fail(&error))?;
        // The window only grows.
        let _ = answer.flow_control().release_capacity(data.len());
        deframer.push(data);
    };
    driver.abort();
    let response = PullMapResponse::decode(message).map_err(|error| fail(&error))?;
    let diff: MapDiff = postcard::from_bytes(&response.diff).map_err(|error| fail(&error))?;
    let mut map = ClusterMap::default();
    if diff.version > MapVersion(0) {
        map.merge(diff).map_err(|error| fail(&error))?;
    }
    Ok(map)
}

/// The newest map that a running node knows.
///
/// # Errors
/// When none answers.
pub async fn newest_map(cluster: &Supervisor) -> Result<ClusterMap, HarnessError> {
    let mut newest: Result<ClusterMap, _> = Err(HarnessError::answer("the cluster map", "no node runs"));
    for (_, node) in cluster.running() {
        match (pull_map(node.peer).await, &newest) {
            (Ok(map), Ok(known)) if map.version() <= known.version() => {}
            (Ok(map), _) => newest = Ok(map),
            (Err(error), Err(_)) => newest = Err(error),
            (Err(_), Ok(_)) => {}
        }
    }
    newest
}

/// Waits until the newest map satisfies a condition, and gives it. A node that ends meanwhile is an error.
///
/// # Errors
/// When it takes longer than `limit`.
pub async fn until_map(
    cluster: &mut Supervisor,
    what: &str,
    limit: Duration,
    is_met: impl Fn(&ClusterMap) -> bool,
) -> Result<ClusterMap, HarnessError> {
    let begun = Instant::now();
    loop {
        let map = newest_map(cluster).await;
        if let Ok(map) = &map
            && is_met(map)
        {
            return Ok(map.clone());
        }
        cluster.check()?;
        if begun.elapsed() > limit {
            let seen = map.map_or_else(|error| error.to_string(), |map| describe(&map));
            return Err(HarnessError::Late { what: what.to_owned(), limit, seen });
        }
        tokio::time::sleep((begun.elapsed() / LOOKS).clamp(PERIOD_MIN, PERIOD_MAX)).await;
    }
}

/// Whether every vbucket has a leader and as many copies in sync as there are to be, and none is being moved.
#[must_use]
pub fn is_full(map: &ClusterMap) -> bool {
    let wanted = usize::from(map.copies().replicas).min(map.nodes().count());
    map.vbucket_count().is_some() && map.vbuckets().all(|(_, vb)| vb.leader.is_some() && vb.isr.len() == wanted)
}

/// Whether it is full, and every vbucket is held and led where it should be.
#[must_use]
pub fn is_settled(map: &ClusterMap) -> bool {
    let is_home = |vb: &VBucket| {
        vb.learners.is_empty()
            && vb.leader.map(|leader| leader.node) == vb.target.leader()
            && vb.replicas.len() == vb.target.0.len()
            && vb.replicas.iter().all(|node| vb.target.contains(*node))
    };
    is_full(map) && map.vbuckets().all(|(_, vb)| is_home(vb))
}

/// The map in a line.
#[must_use]
pub fn describe(map: &ClusterMap) -> String {
    let count = |is: &dyn Fn(&VBucket) -> bool| map.vbuckets().filter(|(_, vb)| is(vb)).count();
    let nodes: Vec<_> = map
        .nodes()
        .map(|(id, node)| {
            let leads = count(&|vb| vb.leader.is_some_and(|leader| leader.node == id));
            let in_sync = count(&|vb| vb.isr.iter().any(|member| member.node == id));
            format!("{} {:?} leads {leads} in sync {in_sync}", node.name, node.liveness)
        })
        .collect();
    format!(
        "map {} of {}: {} vbuckets, {} without leader, {} with fewer than their copies in sync, {} learning; {}",
        map.version(),
        map.cluster(),
        map.vbuckets().count(),
        count(&|vb| vb.leader.is_none()),
        count(&|vb| vb.isr.len() < vb.replicas.len()),
        count(&|vb| !vb.learners.is_empty()),
        nodes.join(", ")
    )
}

/// The map in a line, and some of the vbuckets that are not as they should be.
#[must_use]
pub fn describe_except(map: &ClusterMap, is_fine: impl Fn(VBucketId) -> bool) -> String {
    let name = |member: &Member| map.node(member.node).map_or_else(|| member.to_string(), |node| node.name.clone());
    let wrong: Vec<_> = map
        .vbuckets()
        .filter(|(id, _)| !is_fine(*id))
        .take(SHOWN_MAX)
        .map(|(id, vb)| {
            let leader = vb.leader.as_ref().map_or_else(|| "nobody".to_owned(), name);
            let in_sync: Vec<_> = vb.isr.iter().map(name).collect();
            format!("vbucket {id} led by {leader} in epoch {}, in sync {}", vb.epoch, in_sync.join(" "))
        })
        .collect();
    format!("{}; among the others {}", describe(map), wrong.join(", "))
}

/// Empties a node as `broky drain` does, and waits until it holds nothing and everything has all its copies.
///
/// # Errors
/// When that is refused, or takes longer than `limit`.
pub async fn drain(cluster: &mut Supervisor, at: usize, limit: Duration) -> Result<(), HarnessError> {
    let (name, address) = (cluster.node(at)?.name.clone(), cluster.node(at)?.admin);
    admin(address, "POST", &format!("/nodes/{name}/drain")).await?;
    let is_empty = |map: &ClusterMap| {
        let node = map.nodes().find(|(_, node)| node.name == name).map(|(id, _)| id);
        let is_whole = |vb: &VBucket| vb.isr.len() >= vb.target.0.len() && vb.learners.is_empty();
        node.is_none_or(|id| map.copies_at(id) == 0) && map.vbuckets().all(|(_, vb)| is_whole(vb))
    };
    until_map(cluster, &format!("{name} is empty"), limit, is_empty).await.map(|_| ())
}

/// The name of the node that leads the raft group, as the first node that knows says.
pub async fn raft_leader(cluster: &Supervisor) -> Option<String> {
    for (_, node) in cluster.running() {
        let Ok(status) = admin(node.admin, "GET", "/status").await else { continue };
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        if let Some(leader) = status.pointer("/cluster/raft/leader").and_then(serde_json::Value::as_str) {
            return Some(leader.to_owned());
        }
    }
    None
}

/// A node's metrics.
///
/// # Errors
/// When it does not answer, or not in Prometheus' format.
pub async fn metrics(address: SocketAddr) -> Result<Metrics, HarnessError> {
    let text = admin(address, "GET", "/metrics").await?;
    Metrics::parse(&text).map_err(|words| HarnessError::answer("metrics", words))
}

/// One exchange with a node's admin HTTP; gives the body of a good answer.
///
/// # Errors
/// When it does not answer, or with another status than 200.
pub async fn admin(address: SocketAddr, method: &str, path: &str) -> Result<String, HarnessError> {
    let asked = format!("{method} {path} at {address}");
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.map_err(HarnessError::io(&*asked))?;
        let request = format!("{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(HarnessError::io(&*asked))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(HarnessError::io(&*asked))?;
        Ok(answer)
    };
    let answer = in_time(asked.clone(), exchange).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(HarnessError::answer(asked, format!("{head} {body}"))),
    }
}

async fn in_time<T>(what: String, asking: impl Future<Output = Result<T, HarnessError>>) -> Result<T, HarnessError> {
    let late = HarnessError::Late { what, limit: ANSWER_LIMIT, seen: "no answer".to_owned() };
    tokio::time::timeout(ANSWER_LIMIT, asking).await.unwrap_or(Err(late))
}
