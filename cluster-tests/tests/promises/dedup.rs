//! A push that is repeated with its producer id and sequence is stored once.

use broky_cluster_tests::grpc::{Call, Connection};
use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::v1::{ErrorCode, Message, OutcomeKind, PushRequest, PushResponse};

with_one_and_three_workers!(
    repeated_request_is_stored_once,
    repeated_request_on_another_connection_is_stored_once,
    request_without_a_producer_is_stored_each_time,
    sequence_of_somebody_else_is_refused,
    what_a_broken_stream_left_on_its_way_is_not_stored,
);

const MESSAGES: usize = 50;

/// Messages of many vbuckets.
fn request(producer_id: u64, sequence: u64) -> PushRequest {
    let message = |number| Message { key: format!("key-{number}").into(), payload: "x".into(), ..Message::default() };
    PushRequest {
        messages: (0..MESSAGES).map(message).collect(),
        producer_id,
        sequence,
        want_positions: true,
        ..PushRequest::default()
    }
}

async fn push(call: &mut Call, request: &PushRequest) -> PushResponse {
    call.send_message(request);
    call.next().await.unwrap()
}

#[track_caller]
fn assert_committed(response: &PushResponse, duplicate: bool) {
    let committed = OutcomeKind::Committed as i32;
    assert!(
        response.outcomes.iter().all(|outcome| outcome.kind == committed && outcome.duplicate == duplicate),
        "{response:?}"
    );
    assert_eq!(response.outcomes.iter().map(|outcome| outcome.count as usize).sum::<usize>(), MESSAGES);
}

async fn assert_stored(node: &TestNode, stored: usize, duplicates: usize) {
    let metrics = node.metrics().await;
    assert_eq!(metrics.get("broky_push_messages_total") as usize, stored);
    assert_eq!(metrics.get("broky_push_duplicate_messages_total") as usize, duplicates);
}

async fn repeated_request_is_stored_once(workers: u16) {
    let node = TestNode::start(workers);
    let mut connection = Connection::open(node.address()).await;
    let mut call = connection.call("PushStream").await;
    let first = push(&mut call, &request(7, 1)).await;
    assert_committed(&first, false);
    let second = push(&mut call, &request(7, 1)).await;
    assert_committed(&second, true);
    assert_eq!(first.positions, second.positions);
    // The two may also come in one breath.
    call.send_message(&request(7, 51));
    call.send_message(&request(7, 51));
    assert_committed(&call.next().await.unwrap(), false);
    assert_committed(&call.next().await.unwrap(), true);
    assert_stored(&node, 2 * MESSAGES, 2 * MESSAGES).await;
    drop((call, connection));
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn repeated_request_on_another_connection_is_stored_once(workers: u16) {
    let node = TestNode::start(workers);
    // Connections go to the workers in turn.
    for attempt in 0..3 {
        let mut connection = Connection::open(node.address()).await;
        let mut call = connection.call("Push").await;
        call.send_message(&request(u64::MAX, 1));
        call.half_close();
        assert_committed(&call.next().await.unwrap(), attempt > 0);
        assert_eq!(call.end().await.status, Some(0));
    }
    assert_stored(&node, MESSAGES, 2 * MESSAGES).await;
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn request_without_a_producer_is_stored_each_time(workers: u16) {
    let node = TestNode::start(workers);
    let mut connection = Connection::open(node.address()).await;
    let mut call = connection.call("PushStream").await;
    for _ in 0..2 {
        assert_committed(&push(&mut call, &request(0, 0)).await, false);
    }
    assert_stored(&node, 2 * MESSAGES, 0).await;
    drop((call, connection));
    node.until_nothing_is_left().await;
    node.stop().await;
}

/// A request of one message, of the same vbucket as any other such.
fn one(sequence: u64, producer_epoch: u32) -> PushRequest {
    let messages = vec![Message { key: "k".into(), ..Message::default() }];
    PushRequest { messages, producer_id: 3, sequence, producer_epoch, ..PushRequest::default() }
}

#[track_caller]
fn assert_out_of_sequence(response: &PushResponse) {
    assert_eq!(response.outcomes.len(), 1);
    let outcome = &response.outcomes[0];
    assert_eq!((outcome.kind(), outcome.code()), (OutcomeKind::Rejected, ErrorCode::OutOfSequence));
}

async fn sequence_of_somebody_else_is_refused(workers: u16) {
    let node = TestNode::start(workers);
    let mut connection = Connection::open(node.address()).await;
    let mut call = connection.call("PushStream").await;
    // 1, 5, and then 3, which was never there.
    push(&mut call, &one(1, 0)).await;
    push(&mut call, &one(5, 0)).await;
    assert_out_of_sequence(&push(&mut call, &one(3, 0)).await);
    assert_stored(&node, 2, 0).await;
    drop((call, connection));
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn what_a_broken_stream_left_on_its_way_is_not_stored(workers: u16) {
    let node = TestNode::start(workers);
    let mut first = Connection::open(node.address()).await;
    let mut second = Connection::open(node.address()).await;
    let (mut left, mut next) = (first.call("PushStream").await, second.call("PushStream").await);
    push(&mut left, &one(1, 1)).await;
    // The producer goes back, on another stream, and has given up 2.
    push(&mut next, &one(3, 2)).await;
    assert_out_of_sequence(&push(&mut left, &one(2, 1)).await);
    // Nothing of the former is stored beyond either, though all of that is new.
    assert_out_of_sequence(&push(&mut left, &one(4, 1)).await);
    push(&mut next, &one(4, 2)).await;
    assert_stored(&node, 3, 0).await;
    drop((left, next, first, second));
    node.until_nothing_is_left().await;
    node.stop().await;
}
