//! Producers against a broker that fails at chosen points.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

mod support;

use std::time::Duration;

use broky_client::{Client, ErrorCode, Message, Producer, ProducerOptions, PushError, Ticket};
use support::{Arrived, Broker, PushFault, in_time};

async fn start() -> (Broker, Client) {
    let broker = Broker::start().await;
    let client = Client::builder()
        .address(broker.address())
        .backoff(Duration::from_millis(1), Duration::from_millis(20))
        .connect()
        .await
        .unwrap();
    (broker, client)
}

/// Messages go out one by one, however many are unanswered.
fn eager() -> ProducerOptions {
    ProducerOptions { unanswered_requests_max: 1_000, ..ProducerOptions::default() }
}

async fn push_many(producer: &Producer, count: usize) -> Vec<Ticket> {
    let mut tickets = Vec::new();
    for n in 0..count {
        tickets.push(producer.push(Message::new(format!("k{}", n % 7), format!("{n}"))).await.unwrap());
        if n % 10 == 9 {
            // So that there are several requests.
            tokio::task::yield_now().await;
        }
    }
    tickets
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

fn sorted(mut payloads: Vec<String>) -> Vec<String> {
    payloads.sort_by_key(|payload| payload.parse::<u64>().unwrap());
    payloads
}

/// Messages of each vbucket are in the order of their payloads.
fn check_order(broker: &Broker) {
    let mut last = std::collections::HashMap::new();
    for stored in broker.lock().log.all() {
        let number: u64 = std::str::from_utf8(&stored.payload).unwrap().parse().unwrap();
        let before = last.insert(stored.vbucket, number);
        assert!(before.is_none_or(|before| before < number), "{number} behind {before:?}");
    }
}

#[tokio::test]
async fn pushed_messages_are_stored_once_and_in_order() {
    let (broker, client) = start().await;
    let producer = client.producer().unwrap();
    push_many(&producer, 10_000).await;
    let summary = in_time(producer.close()).await;
    assert_eq!((summary.committed, summary.duplicates), (10_000, 0));
    assert_eq!(broker.payloads(), numbers(10_000));
    broker.until("the stream ends in order", |state| state.ended_push_streams == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_share_a_producer() {
    let (broker, client) = start().await;
    let producer = std::sync::Arc::new(client.producer().unwrap());
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let producer = std::sync::Arc::clone(&producer);
            tokio::spawn(async move {
                for n in 0..500 {
                    producer.send(Message::new("k", format!("{}", task * 500 + n))).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        in_time(task).await.unwrap();
    }
    assert_eq!(sorted(broker.payloads()), numbers(4_000));
}

#[tokio::test]
async fn breaks_lose_nothing_and_repeat_nothing() {
    let (broker, client) = start().await;
    let faults = [PushFault::None, PushFault::CutBeforeStoring, PushFault::None, PushFault::CutBeforeAnswering];
    broker.fault(faults.into_iter().cycle().take(24));
    let producer = client.producer_with(eager()).unwrap();
    let tickets = push_many(&producer, 3_000).await;
    for ticket in tickets {
        in_time(ticket).await.unwrap();
    }
    assert_eq!(sorted(broker.payloads()), numbers(3_000));
    check_order(&broker);
    let summary = producer.summary();
    assert_eq!(summary.committed, 3_000);
    assert!(summary.duplicates > 0, "what was stored without an answer came again: {summary:?}");
}

#[tokio::test]
async fn unanswered_request_comes_again_under_the_same_sequence() {
    let (broker, client) = start().await;
    broker.fault([PushFault::CutBeforeStoring, PushFault::CutBeforeAnswering]);
    let producer = client.producer().unwrap();
    let receipt = in_time(producer.send(Message::new("k", "0"))).await.unwrap();
    assert!(receipt.duplicate);
    let arrived = broker.lock().arrived.clone();
    assert_eq!(arrived.len(), 3);
    assert!(arrived.iter().all(|request| *request == arrived[0] && request.sequence == 1), "{arrived:?}");
    assert_ne!(arrived[0].producer, 0);
}

#[tokio::test]
async fn refused_messages_are_retried_in_order() {
    let (broker, client) = start().await;
    let refusal = |code| PushFault::Reject { vbucket: Some(1), code, retry: true };
    broker.fault([
        PushFault::None,
        refusal(ErrorCode::NotEnoughReplicas),
        PushFault::None,
        refusal(ErrorCode::NotLeader),
        refusal(ErrorCode::Overloaded),
        PushFault::None,
        refusal(ErrorCode::ShuttingDown),
    ]);
    let producer = client.producer_with(eager()).unwrap();
    push_many(&producer, 2_000).await;
    let summary = in_time(producer.flush()).await;
    assert_eq!((summary.committed, summary.rejected, summary.unknown), (2_000, 0, 0));
    assert_eq!(sorted(broker.payloads()), numbers(2_000));
    check_order(&broker);
}

#[tokio::test]
async fn final_refusal_is_told_and_nothing_else_suffers() {
    let (broker, client) = start().await;
    broker.fault([PushFault::Reject { vbucket: None, code: ErrorCode::MessageTooLarge, retry: false }]);
    let producer = client.producer().unwrap();
    let refused = in_time(producer.send(Message::new("k", "0"))).await.unwrap_err();
    assert!(matches!(refused, PushError::Rejected { code: ErrorCode::MessageTooLarge, retry: false, .. }), "{refused}");
    in_time(producer.send(Message::new("k", "1"))).await.unwrap();
    assert_eq!(broker.payloads(), ["1"]);
}

#[tokio::test]
async fn unknown_outcome_is_cleared_up_by_a_retry() {
    let (broker, client) = start().await;
    broker.fault([PushFault::StoreAndAnswerUnknown]);
    let producer = client.producer().unwrap();
    assert!(in_time(producer.send(Message::new("k", "0"))).await.unwrap().duplicate);
    assert_eq!(broker.payloads(), ["0"]);
}

#[tokio::test]
async fn message_without_an_answer_is_unknown_after_the_delivery_timeout() {
    let (broker, client) = start().await;
    broker.fault([PushFault::Ignore]);
    let options = ProducerOptions { delivery_timeout: Duration::from_secs(1), ..ProducerOptions::default() };
    let producer = client.producer_with(options).unwrap();
    let error = in_time(producer.send(Message::new("k", "0"))).await.unwrap_err();
    assert!(error.is_unknown(), "{error}");
    in_time(producer.send(Message::new("k", "1"))).await.unwrap();
    let arrived = broker.lock().arrived.clone();
    assert_eq!(arrived[0].producer, arrived[1].producer);
    assert_eq!((arrived[0].sequence, arrived[1].sequence), (1, 2));
}

#[tokio::test]
async fn silent_node_is_left() {
    let (broker, client) = start().await;
    broker.fault([PushFault::Ignore]);
    let options = ProducerOptions { silence_timeout: Duration::from_millis(50), ..ProducerOptions::default() };
    let producer = client.producer_with(options).unwrap();
    in_time(producer.send(Message::new("k", "0"))).await.unwrap();
    assert!(broker.lock().arrived.len() >= 2);
}

#[tokio::test]
async fn silent_node_is_left_for_another() {
    let (first, second) = (Broker::start().await, Broker::start().await);
    first.fault([PushFault::Ignore]);
    second.fault([PushFault::Ignore]);
    let builder = Client::builder().addresses([first.address(), second.address()]);
    let client = builder.backoff(Duration::from_millis(1), Duration::from_millis(20)).connect().await.unwrap();
    let options = ProducerOptions { silence_timeout: Duration::from_millis(50), ..ProducerOptions::default() };
    let producer = client.producer_with(options).unwrap();
    in_time(producer.send(Message::new("k", "0"))).await.unwrap();
    let requests = [first.lock().arrived.len(), second.lock().arrived.len()];
    assert!(!requests.contains(&0), "each in turn: {requests:?}");
}

#[tokio::test]
async fn message_is_reported_as_not_sent_without_a_node() {
    let client = Client::builder().address("127.0.0.1:1").connect_lazily().unwrap();
    let options = ProducerOptions { delivery_timeout: Duration::from_millis(50), ..ProducerOptions::default() };
    let producer = client.producer_with(options).unwrap();
    let error = in_time(producer.send(Message::new("k", "0"))).await.unwrap_err();
    assert!(matches!(&error, PushError::NotSent { reason } if reason.contains("127.0.0.1:1")), "{error}");
}

#[tokio::test]
async fn node_that_comes_up_late_gets_what_was_pushed_before() {
    let (broker, client) = start().await;
    broker.cut_all();
    let producer = client.producer().unwrap();
    push_many(&producer, 100).await;
    assert_eq!(in_time(producer.flush()).await.committed, 100);
    assert_eq!(broker.payloads(), numbers(100));
}

#[tokio::test]
async fn full_window_holds_pushers_back() {
    let (broker, client) = start().await;
    broker.fault([PushFault::Ignore]);
    let options = ProducerOptions {
        in_flight_bytes_max: 10_000,
        silence_timeout: Duration::from_millis(200),
        ..ProducerOptions::default()
    };
    let producer = client.producer_with(options).unwrap();
    let payload = vec![b'x'; 1_000];
    let mut pushed = 0;
    let error = loop {
        match producer.try_push(Message::new("k", payload.clone())) {
            Ok(_) => pushed += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error, pushed), (PushError::WouldBlock, 9));
    // It waits until the request is sent again and answered.
    let ticket = in_time(producer.push(Message::new("k", payload.clone()))).await.unwrap();
    in_time(ticket).await.unwrap();
    assert_eq!(broker.payloads().len(), 10);
}

#[tokio::test]
async fn oversized_message_is_refused_here() {
    let (broker, client) = start().await;
    let options = ProducerOptions { message_bytes_max: 100, ..ProducerOptions::default() };
    let producer = client.producer_with(options).unwrap();
    let error = producer.push(Message::new("k", vec![0; 200])).await.unwrap_err();
    assert!(matches!(error, PushError::MessageTooLarge { bytes: 206, bytes_max: 100 }), "{error}");
    assert!(broker.lock().arrived.is_empty());
}

#[tokio::test]
async fn large_messages_pass_the_flow_control_windows() {
    let (broker, client) = start().await;
    let producer = client.producer().unwrap();
    let payload = "7".repeat(700_000);
    for _ in 0..30 {
        drop(producer.push(Message::new("k", payload.clone())).await.unwrap());
    }
    assert_eq!(in_time(producer.close()).await.committed, 30);
    assert!(broker.payloads().iter().all(|stored| *stored == payload));
}

#[tokio::test]
async fn receipts_tell_positions_when_wanted() {
    let (_broker, client) = start().await;
    let producer =
        client.producer_with(ProducerOptions { want_positions: true, ..ProducerOptions::default() }).unwrap();
    let mut offsets = Vec::new();
    for ticket in push_many(&producer, 70).await {
        let position = in_time(ticket).await.unwrap().position.unwrap();
        offsets.push((position.vbucket.0, position.offset.0));
    }
    let mut by_vbucket = std::collections::HashMap::new();
    for (vbucket, offset) in offsets {
        let next = by_vbucket.entry(vbucket).or_insert(0);
        assert_eq!(offset, *next);
        *next += 1;
    }
}

#[tokio::test]
async fn answer_that_breaks_the_protocol_breaks_the_stream_only() {
    let (broker, client) = start().await;
    broker.fault([PushFault::AnswerTooMuch]);
    let producer = client.producer().unwrap();
    in_time(producer.send(Message::new("k", "0"))).await.unwrap();
    assert_eq!(broker.lock().arrived.len(), 2);
    assert_eq!(broker.payloads(), ["0"]);
}

#[tokio::test]
async fn stream_refused_for_now_is_tried_again() {
    let (broker, client) = start().await;
    broker.fault([PushFault::EndStream(ErrorCode::ShuttingDown)]);
    let producer = client.producer().unwrap();
    in_time(producer.send(Message::new("k", "0"))).await.unwrap();
    assert_eq!(broker.payloads(), ["0"]);
}

#[tokio::test]
async fn stream_refused_for_good_fails_what_it_was_about() {
    let (broker, client) = start().await;
    broker.fault([PushFault::EndStream(ErrorCode::Malformed)]);
    let producer = client.producer().unwrap();
    let error = in_time(producer.send(Message::new("k", "0"))).await.unwrap_err();
    assert!(matches!(&error, PushError::Unknown { reason } if reason.contains("MALFORMED")), "{error}");
    in_time(producer.send(Message::new("k", "1"))).await.unwrap();
}

#[tokio::test]
async fn dropped_producer_still_sends_what_was_pushed() {
    let (broker, client) = start().await;
    let producer = client.producer().unwrap();
    push_many(&producer, 50).await;
    drop(producer);
    broker.until("everything is stored", |state| state.log.all().len() == 50).await;
    broker.until("the stream ends in order", |state| state.ended_push_streams == 1).await;
}

#[tokio::test]
async fn closed_client_settles_and_takes_no_more() {
    let (broker, client) = start().await;
    let producer = client.producer().unwrap();
    push_many(&producer, 50).await;
    in_time(client.close()).await;
    assert_eq!(broker.payloads(), numbers(50));
    assert_eq!(producer.push(Message::new("k", "0")).await.unwrap_err(), PushError::Closed);
    assert!(client.producer().is_err());
}

#[tokio::test]
async fn first_sequence_is_one_and_messages_count_on() {
    let (broker, client) = start().await;
    let producer = client.producer().unwrap();
    for n in 0..3 {
        in_time(producer.send(Message::new("k", format!("{n}")))).await.unwrap();
    }
    let arrived = broker.lock().arrived.clone();
    let sequences: Vec<u64> = arrived.iter().map(|Arrived { sequence, .. }| *sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
}
