//! What all parts of the proxy share: the nodes there are, whether they live, and the links between them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::door::Door;
use super::faults::Party;
use super::link::Link;
use super::source::Sources;
use super::udp::Carrier;
use crate::error::HarnessError;

/// How many connections there may be. More are reset.
const CONNECTIONS_MAX: usize = 16_384;
/// The address of the first node; the next ones follow.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([127, 1, 0, 10]);

/// Where a node really is, and where others believe it to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The address that it advertises, with the ports below. One of its own for each node.
    pub advertised: IpAddr,
    /// Where it listens for clients.
    pub client: SocketAddr,
    /// Where it listens for other nodes, and from where it sends datagrams.
    pub peer: SocketAddr,
}

/// Those of whom it could not be told who they are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Strangers {
    /// Connections by neither a node nor this process. They were taken for those of clients.
    pub connections: u64,
    /// Datagrams from no node. They were dropped.
    pub datagrams: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    /// The master seed.
    pub seed: u64,
    /// Finds out who has dialled.
    pub sources: Sources,
    /// One permit for each connection there may be.
    pub slots: Arc<Semaphore>,
    runtime: Handle,
    nodes: Mutex<Vec<Node>>,
    links: Mutex<BTreeMap<(Party, Party), Arc<Link>>>,
    strangers: Mutex<Strangers>,
    closed: watch::Sender<bool>,
    /// Never becomes true: for whoever has no process that could end.
    immortal: watch::Sender<bool>,
}

#[derive(Debug)]
struct Node {
    place: Place,
    /// At its advertised address: where datagrams to it arrive, and from where those by it are sent.
    gossip: Arc<UdpSocket>,
    life: Option<Life>,
}

/// From the start of a node's process to its end.
#[derive(Debug)]
struct Life {
    pid: u32,
    doors: [Door; 2],
    is_over: watch::Sender<bool>,
}

/// The address of the node of this index.
pub(super) fn address_of(node: usize) -> IpAddr {
    let at = u32::try_from(node).unwrap_or_default();
    IpAddr::V4(Ipv4Addr::from(FIRST_ADDRESS.saturating_add(at)))
}

impl Shared {
    pub(super) fn start(seed: u64) -> Arc<Self> {
        let runtime = Handle::current();
        Arc::new_cyclic(|shared: &Weak<Self>| {
            let known = shared.clone();
            let (sources, looking) = Sources::new(move || known.upgrade().map(|it| it.pids()).unwrap_or_default());
            // Ends when it is asked no more.
            runtime.spawn(looking);
            let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            let (nodes, links, strangers) = (Mutex::default(), Mutex::default(), Mutex::default());
            let (closed, immortal) = (watch::Sender::default(), watch::Sender::default());
            Self { seed, sources, slots, runtime, nodes, links, strangers, closed, immortal }
        })
    }

    /// Runs something until it ends, or until nobody wants the proxy any more.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut closed = self.closed.subscribe();
        self.runtime.spawn(async move {
            tokio::select! {
                () = task => {}
                () = until_true(&mut closed) => {}
            }
        });
    }

    /// Ends everything that runs.
    pub(super) fn close(&self) {
        // Not in the loop's head, where the lock would be held until its end.
        let nodes = self.lock().len();
        (0..nodes).for_each(|at| self.set_down(at));
        self.closed.send_replace(true);
    }

    pub(super) fn add_node(self: &Arc<Self>, place: Place) -> Result<usize, HarnessError> {
        let address = SocketAddr::new(place.advertised, place.peer.port());
        let _context = self.runtime.enter();
        let gossip = udp_socket(address).map_err(HarnessError::io(format!("listen for datagrams at {address}")))?;
        let gossip = Arc::new(gossip);
        let mut nodes = self.lock();
        let at = nodes.len();
        nodes.push(Node { place, gossip: gossip.clone(), life: None });
        drop(nodes);
        self.spawn(Carrier::new(self.clone(), at).run(gossip));
        Ok(at)
    }

    pub(super) fn set_up(self: &Arc<Self>, at: usize, pid: u32) -> Result<(), HarnessError> {
        self.set_down(at);
        let unknown = || HarnessError::answer(format!("node {at}"), "there is no such node");
        let place = self.place(at).ok_or_else(unknown)?;
        let _context = self.runtime.enter();
        let door = |target: SocketAddr| {
            let address = SocketAddr::new(place.advertised, target.port());
            Door::new(address, target).map_err(HarnessError::io(format!("listen at {address}")))
        };
        let doors = [door(place.client)?, door(place.peer)?];
        let (is_over, life) = watch::channel(false);
        if let Some(node) = self.lock().get_mut(at) {
            node.life = Some(Life { pid, doors: doors.clone(), is_over });
        }
        for (door, target) in doors.into_iter().zip([place.client, place.peer]) {
            self.spawn(super::accept::accept(self.clone(), door, at, target, life.clone()));
        }
        Ok(())
    }

    pub(super) fn set_down(&self, at: usize) {
        let Some(life) = self.lock().get_mut(at).and_then(|node| node.life.take()) else { return };
        life.doors.iter().for_each(Door::close);
        life.is_over.send_replace(true);
    }

    /// The link from one to the other.
    pub(super) fn link(&self, from: Party, to: Party) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.entry((from, to)).or_insert_with(|| Arc::new(Link::new(self.seed, from, to))).clone()
    }

    /// All links that there was something on.
    pub(super) fn links(&self) -> Vec<Arc<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// All nodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Party> + use<> {
        (0..self.lock().len()).map(Party::Node)
    }

    pub(super) fn place(&self, at: usize) -> Option<Place> {
        self.lock().get(at).map(|node| node.place)
    }

    /// The node that sends datagrams from there.
    pub(super) fn node_at(&self, peer: SocketAddr) -> Option<usize> {
        self.lock().iter().position(|node| node.place.peer == peer)
    }

    /// From which socket a datagram goes from one node to another, and to which address.
    pub(super) fn gossip_path(&self, from: usize, to: usize) -> Option<(Arc<UdpSocket>, SocketAddr)> {
        let nodes = self.lock();
        Some((nodes.get(from)?.gossip.clone(), nodes.get(to)?.place.peer))
    }

    /// The node that this process is, and what tells of its end.
    pub(super) fn life_of(&self, pid: u32) -> Option<(usize, watch::Receiver<bool>)> {
        self.lock().iter().enumerate().find_map(|(at, node)| {
            let life = node.life.as_ref().filter(|life| life.pid == pid)?;
            Some((at, life.is_over.subscribe()))
        })
    }

    /// Tells of the end of somebody who does not end.
    pub(super) fn immortal(&self) -> watch::Receiver<bool> {
        self.immortal.subscribe()
    }

    /// Counts a stranger.
    pub(super) fn count(&self, change: impl FnOnce(&mut Strangers)) {
        change(&mut self.strangers.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn strangers(&self) -> Strangers {
        *self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pids(&self) -> Vec<u32> {
        self.lock().iter().filter_map(|node| node.life.as_ref()).map(|life| life.pid).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until it is so, or can no more become so.
pub(super) async fn until_true(state: &mut watch::Receiver<bool>) {
    let _ = state.wait_for(|is_so| *is_so).await;
}

fn udp_socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
