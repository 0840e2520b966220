//! A proxy in front of two nodes that are no more than sockets.

use std::net::{SocketAddr, UdpSocket as StdUdpSocket};

use broky_node::Ports;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::proxy::{Counts, Faults, Party, Place, Proxy};
use crate::wait::{in_time, until};

/// From clients to the first node.
pub(super) const LINK: (Party, Party) = (Party::Clients, Party::Node(0));
/// From the first node to clients.
pub(super) const BACK: (Party, Party) = (Party::Node(0), Party::Clients);
/// From the second node to the first.
pub(super) const PEERS: (Party, Party) = (Party::Node(1), Party::Node(0));
/// A pid that no process has.
pub(super) const NOBODY: u32 = u32::MAX;

/// See the module.
pub(super) struct Stand {
    pub(super) proxy: Proxy,
    /// Where the nodes are.
    pub(super) places: [Place; 2],
    /// Where the first node takes clients, until it is taken.
    pub(super) listener: Option<TcpListener>,
}

impl Stand {
    /// Both nodes are up, and the first one listens for clients.
    pub(super) async fn new(test: u32) -> Self {
        let proxy = Proxy::start(7);
        // Each test has ports of its own, and each run begins elsewhere.
        let mut ports = Ports::new((test * 50).wrapping_add(std::process::id().wrapping_mul(1_009)));
        let mut places = [0, 1].map(|at| {
            let (client, peer) = (ports.free().unwrap(), ports.free().unwrap());
            Place { advertised: Proxy::address_of(at), client, peer }
        });
        let listener = TcpListener::bind(places[0].client).await.unwrap();
        places[0].client = listener.local_addr().unwrap();
        for (at, place) in places.iter().enumerate() {
            assert_eq!(proxy.add_node(*place).unwrap(), at);
            proxy.set_up(at, NOBODY).unwrap();
        }
        Self { proxy, places, listener: Some(listener) }
    }

    /// Where clients find the first node.
    pub(super) fn address(&self) -> SocketAddr {
        self.proxy.client_address(0).unwrap()
    }

    /// A connection through the proxy: the client's end, and the node's.
    pub(super) async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.address()).await.unwrap();
        (client, self.accept().await)
    }

    /// The node's end of the next connection.
    pub(super) async fn accept(&self) -> TcpStream {
        let accepted = self.listener.as_ref().unwrap().accept();
        in_time("the connection comes through", accepted).await.unwrap().0
    }

    /// What is wrong with bytes from clients to the first node.
    pub(super) fn set(&self, faults: Faults) {
        self.proxy.set(LINK.0, LINK.1, faults);
    }

    pub(super) fn counts(&self, (from, to): (Party, Party)) -> Counts {
        self.proxy.counts(from, to)
    }

    /// Waits until the counts of a link are as they should be.
    pub(super) async fn until(&self, what: &str, link: (Party, Party), is_met: impl Fn(&Counts) -> bool) -> Counts {
        until(what, async || self.counts(link), is_met).await
    }

    /// The gossip sockets of both nodes, and the address at which the first is known.
    pub(super) fn gossip(&self) -> (UdpSocket, UdpSocket, SocketAddr) {
        let socket = |place: &Place| {
            let socket = StdUdpSocket::bind(place.peer).unwrap();
            socket.set_nonblocking(true).unwrap();
            UdpSocket::from_std(socket).unwrap()
        };
        let first = SocketAddr::new(self.places[0].advertised, self.places[0].peer.port());
        (socket(&self.places[0]), socket(&self.places[1]), first)
    }
}

/// Writes all of it.
pub(super) async fn write(stream: &mut TcpStream, bytes: &[u8]) {
    in_time("it is written", stream.write_all(bytes)).await.unwrap();
}

/// The next `len` bytes.
pub(super) async fn read(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    in_time("it is read", stream.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// Bytes that tell where they were.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// The next datagram, as the number that it is, and from where.
pub(super) async fn datagram(socket: &UdpSocket) -> (u32, SocketAddr) {
    let mut bytes = [0; 16];
    let (len, from) = in_time("a datagram comes", socket.recv_from(&mut bytes)).await.unwrap();
    (u32::from_be_bytes(bytes[..len].try_into().unwrap()), from)
}
