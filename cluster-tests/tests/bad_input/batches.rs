//! Requests that are too large, or of very many messages.

use broky_cluster_tests::grpc::{Connection, settings};
use broky_cluster_tests::wire::{Wire, framed};
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX};
use broky_proto::v1::{ErrorCode, OutcomeKind, PushResponse};

use crate::victim::{Victim, assert_committed, push_bytes, request};

with_one_and_three_workers!(
    most_messages_of_a_batch_are_stored_and_one_more_is_refused,
    million_messages_in_one_batch_are_refused,
    largest_batch_is_stored,
    many_requests_in_one_breath_are_answered_in_order,
    unread_answers_stop_the_stream_and_nothing_else,
    tiny_requests_of_whoever_reads_the_answers_are_all_answered,
    tiny_requests_without_end_wait_their_turn,
);

/// A request of empty messages.
fn empty_messages(count: usize) -> Vec<u8> {
    [10, 0].repeat(count)
}

async fn most_messages_of_a_batch_are_stored_and_one_more_is_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let end = push_bytes(&mut connection, empty_messages(BATCH_MESSAGES_MAX + 1)).await.unwrap_err();
    end.assert_refused(ErrorCode::BatchTooLarge, "65536 messages");
    let most = push_bytes(&mut connection, empty_messages(BATCH_MESSAGES_MAX)).await.unwrap();
    assert_committed(&most, 65_536);
    assert_eq!(most.outcomes.len(), 1, "equal outcomes are one run");
    // And as many that are rejected.
    let broken = [10, 1, 0xff].repeat(BATCH_MESSAGES_MAX);
    let response = push_bytes(&mut connection, broken).await.unwrap();
    assert!(response.outcomes.iter().all(|outcome| outcome.kind() == OutcomeKind::Rejected));
    assert_eq!(response.outcomes.iter().map(|outcome| outcome.count).sum::<u32>(), 65_536);
    drop(connection);
    assert_eq!(victim.metrics().await.get("broky_push_messages_total"), 65_536.0);
    victim.assert_unharmed().await;
}

async fn million_messages_in_one_batch_are_refused(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let end = push_bytes(&mut connection, empty_messages(1_000_000)).await.unwrap_err();
    end.assert_refused(ErrorCode::BatchTooLarge, "65536 messages");
    drop(connection);
    assert_eq!(victim.metrics().await.get("broky_push_messages_total"), 0.0);
    victim.assert_unharmed().await;
}

async fn largest_batch_is_stored(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let message = |bytes: usize| Wire::new().bytes(2, "large").bytes(3, vec![1; bytes]);
    let mut batch = (0..4).fold(Wire::new(), |batch, _| batch.bytes(1, message(1_000_000)));
    // An unknown field fills it up.
    const FIELD_OVERHEAD: usize = 5;
    let left = BATCH_BYTES_MAX - batch.0.len();
    let filled = batch.clone().bytes(99, vec![0; left - FIELD_OVERHEAD]);
    assert_eq!(filled.0.len(), BATCH_BYTES_MAX);
    assert_committed(&push_bytes(&mut connection, filled).await.unwrap(), 4);
    batch = batch.bytes(99, vec![0; left - FIELD_OVERHEAD + 1]);
    let end = push_bytes(&mut connection, batch).await.unwrap_err();
    end.assert_refused(ErrorCode::BatchTooLarge, "4194305 bytes");
    drop(connection);
    victim.stored("large", 4).await;
    victim.assert_unharmed().await;
}

async fn many_requests_in_one_breath_are_answered_in_order(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let mut call = connection.call("PushStream").await;
    // More than wait for their outcome at a time, and more than one frame holds. Each is told by its count.
    let requests: Vec<u8> = (0..5000).flat_map(|number| framed(0, empty_messages(number % 7))).collect();
    call.send(requests);
    call.half_close();
    for number in 0..5000 {
        assert_committed(&call.next().await.unwrap(), number % 7);
    }
    assert_eq!(call.end().await.status, Some(0));
    drop((call, connection));
    victim.assert_unharmed().await;
}

async fn unread_answers_stop_the_stream_and_nothing_else(workers: u16) {
    let victim = Victim::start(workers).await;
    // A connection's window is larger than a stream's, so that one stream cannot hold the others back.
    let mut settings = settings();
    settings.initial_connection_window_size(1 << 20);
    let mut connection = Connection::open_with(victim.address(), &settings).await;
    let mut call = connection.call("PushStream").await;
    // Positions make the answers longer than what HTTP/2 takes of a reader that does not read.
    let keys: Vec<String> = (0..200).map(|number| format!("key-{number}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let one = framed(0, request(&keys).varint(5, 1));
    for _ in 0..3000 {
        call.send(one.clone());
    }
    // Others of the same connection go on meanwhile.
    for _ in 0..20 {
        push_bytes(&mut connection, request(&["other"])).await.unwrap();
    }
    let mut answers = 0;
    call.half_close();
    while answers < 3000 {
        assert_committed(&call.next::<PushResponse>().await.unwrap(), 200);
        answers += 1;
    }
    assert_eq!(call.end().await.status, Some(0));
    drop((call, connection));
    victim.assert_unharmed().await;
}

/// A request of one message, in a frame of its own, as a client sends it that does not join messages.
fn tiny_request() -> bytes::Bytes {
    bytes::Bytes::from(framed(0, request(&["tiny"])))
}

async fn tiny_requests_of_whoever_reads_the_answers_are_all_answered(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let mut call = connection.call("PushStream").await;
    const REQUESTS: usize = 50_000;
    const AHEAD: usize = 1000;
    for number in 0..REQUESTS + AHEAD {
        if number < REQUESTS {
            call.send(tiny_request());
        }
        if number >= AHEAD {
            assert_committed(&call.next().await.unwrap(), 1);
        }
    }
    call.half_close();
    assert_eq!(call.end().await.status, Some(0));
    drop((call, connection));
    assert_eq!(victim.metrics().await.get("broky_push_messages_total"), REQUESTS as f64);
    victim.assert_unharmed().await;
}

async fn tiny_requests_without_end_wait_their_turn(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let mut call = connection.call("PushStream").await;
    const REQUESTS: u64 = 100_000;
    for _ in 0..REQUESTS {
        call.send(tiny_request());
    }
    call.half_close();
    for _ in 0..REQUESTS {
        assert_committed(&call.next::<PushResponse>().await.unwrap(), 1);
    }
    assert_eq!(call.end().await.status, Some(0));
    drop((call, connection));
    assert_eq!(victim.stored("tiny", REQUESTS).await.missed, 0);
    victim.assert_unharmed().await;
}
