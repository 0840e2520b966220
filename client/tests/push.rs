//! Producers against a broker that fails at chosen points.

mod support;

use std::time::Duration;

use broky_client::{Client, ErrorCode, Message, Producer, ProducerOptions, PushError};
use support::{Broker, PushFault, in_time};

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

async fn push_many(producer: &Producer, count: usize) {
    for n in 0..count {
        drop(producer.push(Message::new(format!("k{}", n % 7), format!("{n}"))).await.unwrap());
    }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
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
