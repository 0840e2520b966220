//! Credit: no more messages than a subscription has allowed.

use broky_client::{Message, SubscribeOptions};
use broky_cluster_tests::grpc::{Call, Connection};
use broky_cluster_tests::ledger::Ledger;
use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::v1::subscribe_request::Request;
use broky_proto::v1::{Delivery, Open, SubscribeRequest};

with_one_and_three_workers!(
    no_more_is_sent_than_was_allowed,
    client_renews_its_credit_by_itself,
    credit_without_end_does_not_overflow,
);

fn request(request: Request) -> SubscribeRequest {
    SubscribeRequest { request: Some(request) }
}

/// An open subscription with a credit, after its confirmation.
async fn open(node: &TestNode, credit: u64) -> (Connection, Call) {
    let mut connection = Connection::open(node.address()).await;
    let mut call = connection.call("Subscribe").await;
    call.send_message(&request(Request::Open(Open { patterns: vec!["*".into()], credit, ..Open::default() })));
    assert!(call.next::<Delivery>().await.unwrap().confirmed.is_some());
    (connection, call)
}

/// Messages that come before a heartbeat that follows a heartbeat: whatever may be sent has been by then.
async fn messages_sent(call: &mut Call) -> usize {
    let (mut messages, mut heartbeats) = (0, 0);
    while heartbeats < 2 {
        let delivery: Delivery = call.next().await.unwrap();
        assert!(delivery.gaps.is_empty());
        messages += delivery.messages.len();
        heartbeats = if delivery.heartbeat.is_some() { heartbeats + 1 } else { 0 };
    }
    messages
}

async fn push(node: &TestNode, count: usize) {
    let client = node.client().await;
    let messages: Vec<_> = (0..count).map(|number| Message::new(format!("k{number}"), "x")).collect();
    assert!(client.push(&messages).await.unwrap().iter().all(Result::is_ok));
    client.close().await;
}

async fn no_more_is_sent_than_was_allowed(workers: u16) {
    let node = TestNode::start(workers);
    let (connection, mut call) = open(&node, 3).await;
    push(&node, 100).await;
    assert_eq!(messages_sent(&mut call).await, 3);
    call.send_message(&request(Request::Credit(10)));
    call.send_message(&request(Request::Credit(1)));
    assert_eq!(messages_sent(&mut call).await, 11);
    call.send_message(&request(Request::Credit(1000)));
    assert_eq!(messages_sent(&mut call).await, 86);
    drop((call, connection));
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn client_renews_its_credit_by_itself(workers: u16) {
    let node = TestNode::start(workers);
    let client = node.client().await;
    let mut subscription = client.subscribe(SubscribeOptions::new(["*"]).credit(7)).await.unwrap();
    push(&node, 500).await;
    let mut ledger = Ledger::new();
    ledger.read(&mut subscription, 500).await;
    assert_eq!(ledger.missed, 0);
    client.close().await;
    node.stop().await;
}

async fn credit_without_end_does_not_overflow(workers: u16) {
    let node = TestNode::start(workers);
    let (connection, mut call) = open(&node, u64::MAX).await;
    call.send_message(&request(Request::Credit(u64::MAX)));
    call.send_message(&request(Request::Credit(1)));
    push(&node, 10).await;
    assert_eq!(messages_sent(&mut call).await, 10);
    drop((call, connection));
    node.until_nothing_is_left().await;
    node.stop().await;
}
