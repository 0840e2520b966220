//! Gossip: who is heard, and what each says of itself, spread over UDP among all nodes.
//!
//! It suggests and never decides. Members come from the cluster map that raft replicates; gossip probes them, and
//! spreads which map version each has, which vbuckets it leads in which epoch, its load and its zone. So a node that
//! raft cannot reach still hears that there is a newer map, and a deposed leader that somebody else leads. What comes
//! of it is told as a [`GossipEvent`], and acted on elsewhere.
//!
//! [`engine`] holds the decisions and is pure, [`swim`] the failure detector around the one crate that this module
//! alone names, [`rumour`] what is said, [`envelope`] what protects it on its way, [`task`] the socket and the clock.
//!
//! Bounds: a datagram is 1400 bytes at the most, in either direction, and nothing is kept but what the members of the
//! map say, by part, the newest of each. Answers to strangers are bounded by the second.

mod engine;
mod envelope;
mod event;
mod resolve;
mod rumour;
mod stats;
mod swim;
mod task;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use broky_proto::id::{ClusterId, MapVersion, Member, VBucketCount};
use broky_ring::map::ClusterMap;
use broky_ring::member::Zone;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(crate) use self::event::GossipEvent;
pub(crate) use self::rumour::Load;
pub(crate) use self::rumour::own::Leads;
pub(crate) use self::stats::GossipStats;

use self::engine::{Engine, EngineConfig};
use self::swim::Identity;
use self::task::Task;

/// Suggestions that wait in the channel; more wait in gossip itself, where later ones replace earlier ones.
const EVENTS_MAX: usize = 64;

/// What gossip starts with, once this node is registered.
#[derive(Debug)]
pub(crate) struct GossipConfig {
    /// Where datagrams come and go: see [`bind`].
    pub(crate) socket: std::net::UdpSocket,
    /// This process.
    pub(crate) me: Member,
    /// The cluster it is in. What belongs to another is dropped.
    pub(crate) cluster: ClusterId,
    /// How many vbuckets that has.
    pub(crate) vbuckets: VBucketCount,
    /// Where other nodes reach the socket. With an unspecified IP address they take the one they see.
    pub(crate) address: SocketAddr,
    /// This node's failure domain.
    pub(crate) zone: Zone,
    /// `host:port` of further nodes to greet now and then: what `--join` named.
    pub(crate) seeds: Vec<String>,
    /// The cluster map as it is known here. Whom it does not show does not exist. Closed, gossip ends.
    pub(crate) map: watch::Receiver<Arc<ClusterMap>>,
}

/// What a peer says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerReport {
    /// Which peer.
    pub(crate) member: Member,
    /// Its load.
    pub(crate) load: Load,
    /// Its failure domain.
    pub(crate) zone: Zone,
    /// The map it had when it said so.
    pub(crate) map_version: MapVersion,
    /// How many vbuckets it leads, as far as it is known.
    pub(crate) vbuckets_led: usize,
}

/// What this node contributes.
#[derive(Clone, Default, Debug)]
struct Local {
    leads: Arc<Leads>,
    load: Load,
}

/// Running gossip. Dropped, it stops.
#[derive(Debug)]
pub(crate) struct GossipHandle {
    /// What gossip suggests.
    pub(crate) events: mpsc::Receiver<GossipEvent>,
    /// What the peers say of themselves, by node.
    #[cfg_attr(not(test), expect(dead_code, reason = "for placement by load and for `broky top`"))]
    pub(crate) reports: watch::Receiver<Vec<PeerReport>>,
    /// What it counts.
    pub(crate) stats: Arc<GossipStats>,
    local: watch::Sender<Local>,
    task: JoinHandle<()>,
}

impl GossipHandle {
    /// Says what this node leads now, all of it.
    pub(crate) fn set_leads(&self, leads: Leads) {
        self.local.send_modify(|local| local.leads = Arc::new(leads));
    }

    /// Says how loaded this node is.
    #[cfg_attr(not(test), expect(dead_code, reason = "for placement by load and for `broky top`"))]
    pub(crate) fn set_load(&self, load: Load) {
        self.local.send_if_modified(|local| std::mem::replace(&mut local.load, load) != load);
    }
}

impl Drop for GossipHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Binds the socket gossip uses: the peer listener's address and port, by UDP.
///
/// # Errors
/// What the system says.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Starts gossip as a task of the current runtime.
///
/// # Errors
/// The system refuses randomness, or the socket cannot be registered with the runtime.
///
/// # Panics
/// Outside a tokio runtime.
pub(crate) fn spawn(config: GossipConfig) -> io::Result<GossipHandle> {
    let GossipConfig { socket, me, cluster, vbuckets, address, zone, seeds, mut map } = config;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(io::Error::from)?;
    let stats = Arc::new(GossipStats::default());
    let newest = map.borrow_and_update().clone();
    let me = Identity { member: me, address };
    let engine = EngineConfig { me, cluster, vbuckets, zone, seeds, map: newest, seed: u64::from_be_bytes(seed) };
    let engine = Engine::new(Instant::now(), engine, stats.clone());
    let (events_in, events) = mpsc::channel(EVENTS_MAX);
    let (reports_in, reports) = watch::channel(Vec::new());
    let (local, local_out) = watch::channel(Local::default());
    let task =
        Task { socket, engine, stats: stats.clone(), map, local: local_out, events: events_in, reports: reports_in };
    Ok(GossipHandle { events, reports, stats, local, task: tokio::spawn(task.run()) })
}
