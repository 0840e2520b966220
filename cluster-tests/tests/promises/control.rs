//! Topology, health, reflection, and the admin HTTP as it should be used.

use broky_client::Message;
use broky_cluster_tests::grpc::{Call, Connection};
use broky_cluster_tests::http::get;
use broky_cluster_tests::metrics::Metrics;
use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::wire::{Wire, framed};
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::id::VBucketCount;

with_one_and_three_workers!(
    topology_tells_where_messages_go,
    health_is_serving_until_the_node_stops,
    health_of_an_unknown_service_is_not_found,
    reflection_lists_the_services,
    metrics_count_what_was_done,
    status_and_probes_answer,
);

async fn topology_tells_where_messages_go(workers: u16) {
    let node = TestNode::start_with(workers, |config| {
        config.advertise = Some("example.org:7400".to_owned());
        config.vbuckets = VBucketCount::new(64).unwrap();
    });
    let client = node.client().await;
    let topology = client.topology().await.unwrap();
    assert_eq!(topology.vbuckets(), 64);
    assert_eq!(topology.nodes.len(), 1);
    assert_eq!((topology.nodes[0].name.as_str(), topology.nodes[0].address.as_str()), ("test", "example.org:7400"));
    let receipt = client.push(&[Message::new("k", "x").key_partition("p")]).await.unwrap();
    let position = receipt[0].as_ref().unwrap().position.unwrap();
    assert_eq!(position.vbucket, topology.vbucket_of(b"p", b"k"));
    client.close().await;
    node.until_nothing_is_left().await;
    node.stop().await;
}

/// Begins a health call for a service.
async fn health(connection: &mut Connection, method: &str, service: &str) -> Call {
    let mut call = connection.call_path(&format!("/grpc.health.v1.Health/{method}")).await;
    call.send(framed(0, Wire::new().bytes(1, service)));
    call.half_close();
    call
}

const SERVING: [u8; 2] = [8, 1];
const NOT_SERVING: [u8; 2] = [8, 2];

async fn health_is_serving_until_the_node_stops(workers: u16) {
    let node = TestNode::start(workers);
    let mut connection = Connection::open(node.address()).await;
    for service in ["", "broky.v1.Broker"] {
        let mut check = health(&mut connection, "Check", service).await;
        assert_eq!(check.next_bytes().await.unwrap(), SERVING[..]);
        assert_eq!(check.end().await.status, Some(0));
    }
    let mut watch = health(&mut connection, "Watch", "broky.v1.Broker").await;
    assert_eq!(watch.next_bytes().await.unwrap(), SERVING[..]);
    let stopping = tokio::spawn(node.stop());
    assert_eq!(watch.next_bytes().await.unwrap(), NOT_SERVING[..]);
    drop((watch, connection));
    stopping.await.unwrap();
}

async fn health_of_an_unknown_service_is_not_found(workers: u16) {
    let node = TestNode::start(workers);
    let mut connection = Connection::open(node.address()).await;
    let end = health(&mut connection, "Check", "no.such.Service").await.end().await;
    assert_eq!(end.status, Some(5));
    drop(connection);
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn reflection_lists_the_services(workers: u16) {
    let node = TestNode::start(workers);
    let mut connection = Connection::open(node.address()).await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let mut call = connection.call_path(&path).await;
        // list_services
        call.send(framed(0, Wire::new().bytes(7, "")));
        let answer = call.next_bytes().await.unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("broky.v1.Broker") && text.contains("grpc.health.v1.Health"), "{text}");
        call.half_close();
        assert_eq!(call.end().await.status, Some(0));
    }
    drop(connection);
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn metrics_count_what_was_done(workers: u16) {
    let node = TestNode::start(workers);
    let before = node.metrics().await;
    let client = node.client().await;
    let mut subscription = client.subscribe(broky_client::SubscribeOptions::new(["*"])).await.unwrap();
    client.push(&[Message::new("a", "x"), Message::new("b", "y")]).await.unwrap();
    let mut ledger = broky_cluster_tests::ledger::Ledger::new();
    ledger.read(&mut subscription, 2).await;
    let during = node.metrics().await;
    assert_eq!(during.get("broky_push_messages_total") - before.get("broky_push_messages_total"), 2.0);
    assert_eq!(during.get("broky_delivery_messages_total") - before.get("broky_delivery_messages_total"), 2.0);
    assert_eq!(during.get("broky_delivery_subscriptions"), 1.0);
    assert_eq!(during.get("broky_vbuckets_led"), 1024.0);
    assert!(during.get("broky_connections_open") >= 1.0);
    assert!(before.names().all(|name| name.starts_with("broky_")));
    client.close().await;
    drop(subscription);
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn status_and_probes_answer(workers: u16) {
    let node = TestNode::start(workers);
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = get(node.admin(), path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, body));
    }
    let metrics = get(node.admin(), "/metrics").await;
    assert!(metrics.head.contains("text/plain; version=0.0.4"), "{}", metrics.head);
    Metrics::parse(&metrics.body).unwrap();
    let status = get(node.admin(), "/status").await;
    let status: serde_json::Value = serde_json::from_str(&status.body).unwrap();
    assert_eq!((&status["workers"], &status["vbuckets_led"]), (&workers.into(), &1024.into()));
    assert_eq!(status["address"], node.address().to_string());
    node.stop().await;
}
