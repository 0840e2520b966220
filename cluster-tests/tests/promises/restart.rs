//! A node that goes away and comes back: another cluster, because its memory is gone.

use broky_client::{Message, Start, SubscribeError, SubscribeOptions};
use broky_cluster_tests::ledger::Ledger;
use broky_cluster_tests::node::{TestNode, client_of};
use broky_cluster_tests::relay::Relay;
use broky_cluster_tests::wait::in_time;
use broky_cluster_tests::with_one_and_three_workers;

with_one_and_three_workers!(
    producer_goes_on_with_the_new_node,
    subscriber_is_refused_by_the_new_node_and_may_restart,
    idle_subscriber_is_refused_by_the_new_node,
);

async fn producer_goes_on_with_the_new_node(workers: u16) {
    let node = TestNode::start(workers);
    let relay = Relay::start(node.address()).await;
    let client = client_of(relay.address()).await;
    let producer = client.producer().unwrap();
    for number in 0..100 {
        producer.send(Message::new("k", format!("{number}"))).await.unwrap();
    }
    let replacement = TestNode::start(workers);
    relay.lead_to(replacement.address());
    // Pushed while nobody is there: sent when somebody is.
    let (_, tickets) = tokio::join!(node.stop(), async {
        let mut tickets = Vec::new();
        for number in 100..200 {
            tickets.push(producer.push(Message::new("k", format!("{number}"))).await.unwrap());
        }
        tickets
    });
    relay.cut();
    for ticket in tickets {
        assert!(in_time("an outcome", ticket).await.is_ok());
    }
    let summary = producer.close().await;
    assert_eq!((summary.committed, summary.rejected, summary.unknown), (200, 0, 0));
    // The old node took the first hundred with it, and those of the second that it had acked.
    let stored = replacement.metrics().await.get("broky_push_messages_total");
    assert!(stored <= 100.0, "{stored}");
    client.close().await;
    replacement.until_nothing_is_left().await;
    replacement.stop().await;
}

async fn subscriber_is_refused_by_the_new_node_and_may_restart(workers: u16) {
    let node = TestNode::start(workers);
    let relay = Relay::start(node.address()).await;
    let client = client_of(relay.address()).await;
    let mut subscription = client.subscribe(SubscribeOptions::new(["*"])).await.unwrap();
    client.push(&[Message::new("k", "old")]).await.unwrap();
    let mut ledger = Ledger::new();
    ledger.read(&mut subscription, 1).await;
    let replacement = TestNode::start(workers);
    relay.lead_to(replacement.address());
    node.stop().await;
    relay.cut();
    let refused = in_time("the refusal", subscription.next_batch()).await.unwrap().unwrap_err();
    assert!(matches!(refused, SubscribeError::ForeignCluster(_)), "{refused:?}");
    assert!(in_time("the end", subscription.next_batch()).await.is_none());
    let fresh = client_of(relay.address()).await;
    fresh.push(&[Message::new("k", "new")]).await.unwrap();
    subscription.restart(Start::Earliest).await.unwrap();
    let mut ledger = Ledger::new();
    ledger.read(&mut subscription, 1).await;
    assert_eq!(ledger.payloads(), [b"new"]);
    client.close().await;
    fresh.close().await;
    replacement.stop().await;
}

async fn idle_subscriber_is_refused_by_the_new_node(workers: u16) {
    // Nobody gets to it but through the relay: it goes on, and a client would go on with it.
    let node = TestNode::start_with(workers, |config| config.advertise = Some("127.0.0.1:1".to_owned()));
    let relay = Relay::start(node.address()).await;
    let client = client_of(relay.address()).await;
    let mut subscription = client.subscribe(SubscribeOptions::new(["never"])).await.unwrap();
    let replacement = TestNode::start(workers);
    relay.lead_to(replacement.address());
    // No goodbye.
    relay.cut();
    let refused = in_time("the refusal", subscription.next_batch()).await.unwrap().unwrap_err();
    assert!(matches!(refused, SubscribeError::ForeignCluster(_)), "{refused:?}");
    client.close().await;
    node.stop().await;
    replacement.until_nothing_is_left().await;
    replacement.stop().await;
}
