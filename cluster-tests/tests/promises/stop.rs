//! A node that is stopped says so to everybody, and is quick about it.

use std::time::Duration;

use broky_client::{ConnectError, Message, SubscribeError, SubscribeOptions};
use broky_cluster_tests::grpc::Connection;
use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::wait::{in_time, until};
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::v1::subscribe_request::Request;
use broky_proto::v1::{
    Delivery, ErrorCode, Message as Pushed, Open, PushRequest, PushResponse, SubscribeRequest, TopologyRequest,
    TopologyResponse,
};

with_one_and_three_workers!(
    every_open_call_is_told,
    stopped_node_takes_no_connections,
    node_without_clients_stops_at_once
);

async fn every_open_call_is_told(workers: u16) {
    until("it is quick", async || stop_with_open_calls(workers).await, |took| *took < Duration::from_secs(2)).await;
}

/// Stops a node with calls of all kinds, which are told; gives how long that took.
async fn stop_with_open_calls(workers: u16) -> Duration {
    let node = TestNode::start(workers);
    let mut connections = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..workers {
        let mut connection = Connection::open(node.address()).await;
        let mut subscribe = connection.call("Subscribe").await;
        let open = Open { patterns: vec!["*".into()], ..Open::default() };
        subscribe.send_message(&SubscribeRequest { request: Some(Request::Open(open)) });
        assert!(subscribe.next::<Delivery>().await.unwrap().confirmed.is_some());
        let mut push = connection.call("PushStream").await;
        push.send_message(&PushRequest { messages: vec![Pushed::default()], ..PushRequest::default() });
        push.next::<PushResponse>().await.unwrap();
        let mut topology = connection.call("Topology").await;
        topology.send_message(&TopologyRequest {});
        topology.next::<TopologyResponse>().await.unwrap();
        calls.extend([subscribe, push, topology]);
        connections.push(connection);
    }
    let stopping = tokio::spawn(node.stop());
    for mut call in calls {
        let end = loop {
            // Deliveries may precede the end.
            if let Err(end) = call.next_bytes().await {
                break end;
            }
        };
        end.assert_refused(ErrorCode::ShuttingDown, "shutting down");
    }
    for connection in connections {
        connection.closed().await.unwrap();
    }
    in_time("the node stops", stopping).await.unwrap()
}

async fn stopped_node_takes_no_connections(workers: u16) {
    let node = TestNode::start(workers);
    let (address, client) = (node.address(), node.client().await);
    let mut subscription = client.subscribe(SubscribeOptions::new(["*"])).await.unwrap();
    client.push(&[Message::new("k", "x")]).await.unwrap();
    node.stop().await;
    // What was delivered before the end arrives; then the client looks for another node until it is closed.
    assert_eq!(in_time("the message", subscription.next_batch()).await.unwrap().unwrap().len(), 1);
    client.close().await;
    assert!(in_time("the end", subscription.next_batch()).await.is_none());
    let refused = broky_client::Client::connect([address.to_string()]).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Unreachable { .. }), "{refused:?}");
    let refused = client.subscribe(SubscribeOptions::new(["*"])).await.unwrap_err();
    assert!(matches!(refused, SubscribeError::Connect(ConnectError::Closed)), "{refused:?}");
}

async fn node_without_clients_stops_at_once(workers: u16) {
    let stop = async || TestNode::start(workers).stop().await;
    until("it is quick", stop, |took| *took < Duration::from_secs(1)).await;
}
