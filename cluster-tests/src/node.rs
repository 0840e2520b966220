//! A node in this process.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use broky_client::Client;
use broky_node::{Node, NodeConfig};

use crate::http::get;
use crate::metrics::Metrics;
use crate::wait::{in_time, until};

/// Memory of a node unless a test says otherwise, in bytes.
const MEMORY_BYTES: usize = 64 << 20;
/// What must be zero on a node whose clients have all gone.
const LEFTOVERS: [&str; 5] = [
    "broky_connections_open",
    "broky_delivery_subscriptions",
    "broky_delivery_interests",
    "broky_push_requests_waiting",
    "broky_push_inbound_bytes",
];

/// A node in this process, on free ports.
#[derive(Debug)]
pub struct TestNode {
    /// Until it is stopped.
    node: Option<Node>,
    client_address: SocketAddr,
    peer_address: SocketAddr,
    admin_address: SocketAddr,
}

impl TestNode {
    /// Starts a node.
    #[must_use]
    pub fn start(workers: u16) -> Self {
        Self::start_with(workers, |_| ())
    }

    /// Starts a node with other settings.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with(workers: u16, change: impl FnOnce(&mut NodeConfig)) -> Self {
        let mut config = NodeConfig::new("test");
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.peer_listen = config.listen;
        config.admin_listen = config.listen;
        config.memory_bytes = MEMORY_BYTES;
        config.workers = NonZeroU16::new(workers);
        change(&mut config);
        // A node has runtimes of its own, which cannot be started from within another.
        let node = std::thread::spawn(|| Node::start(config)).join().unwrap().unwrap();
        let (client_address, peer_address, admin_address) =
            (node.client_address(), node.peer_address(), node.admin_address());
        Self { node: Some(node), client_address, peer_address, admin_address }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where other nodes connect.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// Where the admin HTTP is.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin_address
    }

    /// A client of this node.
    pub async fn client(&self) -> Client {
        client_of(self.client_address).await
    }

    /// What the node measures now.
    pub async fn metrics(&self) -> Metrics {
        let answer = get(self.admin_address, "/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Metrics::parse(&answer.body).unwrap()
    }

    /// Waits until a metric satisfies a condition.
    pub async fn until(&self, name: &str, is_met: impl Fn(f64) -> bool) {
        until(name, async || self.metrics().await.get(name), |value| is_met(*value)).await;
    }

    /// Waits until nothing is left of any client.
    pub async fn until_nothing_is_left(&self) {
        let look = async || {
            let metrics = self.metrics().await;
            let left = LEFTOVERS.into_iter().map(|name| (name, metrics.get(name)));
            left.filter(|(_, value)| *value != 0.0).collect::<Vec<_>>()
        };
        until("nothing is left of the clients", look, Vec::is_empty).await;
    }

    /// Stops the node as SIGTERM does; gives how long that took.
    pub async fn stop(mut self) -> Duration {
        let node = self.node.take().unwrap();
        let started = Instant::now();
        in_time("the node stops", tokio::task::spawn_blocking(|| node.stop())).await.unwrap();
        started.elapsed()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        // A test that failed. Stopping waits for clients, which may need this very thread.
        if let Some(node) = self.node.take() {
            std::thread::spawn(|| drop(node));
        }
    }
}

/// A client of whatever listens there, which comes back quickly after a break.
///
/// # Panics
/// When it cannot connect.
pub async fn client_of(address: SocketAddr) -> Client {
    let builder = Client::builder().address(address.to_string());
    builder.backoff(Duration::from_millis(1), Duration::from_millis(50)).connect().await.unwrap()
}
