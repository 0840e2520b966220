//! The node that is mistreated, and a client of it that must not notice.

use std::net::SocketAddr;

use broky_client::{Client, Message, SubscribeOptions, Subscription};
use broky_cluster_tests::grpc::{Call, Connection, End};
use broky_cluster_tests::ledger::Ledger;
use broky_cluster_tests::metrics::Metrics;
use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::wire::{Wire, framed};
use broky_proto::v1::{OutcomeKind, PushRequest, PushResponse};

/// A node with a well-behaved client that is subscribed from the start.
pub(crate) struct Victim {
    node: TestNode,
    client: Client,
    subscription: Subscription,
}

impl Victim {
    pub(crate) async fn start(workers: u16) -> Self {
        Self::of(TestNode::start(workers)).await
    }

    pub(crate) async fn of(node: TestNode) -> Self {
        let client = node.client().await;
        let subscription = client.subscribe(SubscribeOptions::new(["good.*"])).await.unwrap();
        Self { node, client, subscription }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.node.address()
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.node.admin()
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address()).await
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        self.node.metrics().await
    }

    /// Waits until a metric satisfies a condition.
    pub(crate) async fn until(&self, name: &str, is_met: impl Fn(f64) -> bool) {
        self.node.until(name, is_met).await;
    }

    /// What of this key is stored, read by a client of its own.
    pub(crate) async fn stored(&self, key: &'static str, count: u64) -> Ledger {
        let client = self.node.client().await;
        let options = SubscribeOptions::new([key]).start(broky_client::Start::Earliest);
        let mut subscription = client.subscribe(options).await.unwrap();
        let mut ledger = Ledger::new();
        ledger.read(&mut subscription, count).await;
        client.close().await;
        ledger
    }

    /// Fails unless the client that was there before is served as if nothing had happened, a new one is as well, and
    /// nothing is left of anybody.
    pub(crate) async fn assert_unharmed(mut self) {
        let new = self.node.client().await;
        for client in [&self.client, &new] {
            let messages: Vec<_> = (0..30).map(|number| Message::new(format!("good.{number}"), "x")).collect();
            assert!(client.push(&messages).await.unwrap().iter().all(Result::is_ok));
        }
        let mut ledger = Ledger::new();
        ledger.read(&mut self.subscription, 60).await;
        assert_eq!(ledger.missed, 0);
        assert_eq!(self.subscription.stats().reconnects, 0);
        new.close().await;
        self.client.close().await;
        drop(self.subscription);
        self.node.until_nothing_is_left().await;
        self.node.stop().await;
    }
}

/// Pushes these bytes as one request in one call.
pub(crate) async fn push_bytes(connection: &mut Connection, request: impl AsRef<[u8]>) -> Result<PushResponse, End> {
    let mut call = connection.call("PushStream").await;
    call.send(framed(0, request));
    call.half_close();
    let response = call.next().await?;
    assert_eq!(call.end().await.status, Some(0));
    Ok(response)
}

/// A valid request of messages with these keys.
pub(crate) fn request(keys: &[&str]) -> Wire {
    keys.iter().fold(Wire::new(), |request, key| request.bytes(1, Wire::new().bytes(2, key)))
}

/// Pushes one message of this key, which must work.
pub(crate) async fn push_good(call: &mut Call, key: &str) {
    call.send(framed(0, request(&[key])));
    assert_committed(&call.next().await.unwrap(), 1);
}

/// Fails unless all of as many messages were committed.
#[track_caller]
pub(crate) fn assert_committed(response: &PushResponse, count: u32) {
    let committed = response.outcomes.iter().filter(|outcome| outcome.kind() == OutcomeKind::Committed);
    assert_eq!(committed.map(|outcome| outcome.count).sum::<u32>(), count, "{response:?}");
}

/// An empty request.
pub(crate) fn nothing() -> PushRequest {
    PushRequest::default()
}
