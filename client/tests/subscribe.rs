//! Subscriptions against a broker that fails at chosen points.

#![expect(clippy::unwrap_used, reason = "a failure here fails the test")]

mod support;

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use broky_client::{
    Client, ErrorCode, Event, GapReason, Message, Offset, OnSlow, ResumeToken, Start, SubscribeError, SubscribeOptions,
    Subscription,
};
use broky_proto::v1;
use futures_util::StreamExt as _;
use support::{Broker, in_time};

async fn start() -> (Broker, Client) {
    let broker = Broker::start().await;
    let client = connect(&broker).await;
    (broker, client)
}

async fn connect(broker: &Broker) -> Client {
    let builder = Client::builder().address(broker.address());
    builder.backoff(Duration::from_millis(1), Duration::from_millis(20)).connect().await.unwrap()
}

/// Pushes numbers, over all vbuckets.
async fn push(client: &Client, range: std::ops::Range<usize>) {
    let producer = client.producer().unwrap();
    for n in range {
        drop(producer.push(Message::new(format!("k{}", n % 7), format!("{n}"))).await.unwrap());
    }
    in_time(producer.close()).await;
}

/// The next `count` payloads, sorted: there is no order across vbuckets.
async fn take(subscription: &mut Subscription, count: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let batch = in_time(subscription.next_batch()).await.unwrap().unwrap();
        assert_eq!(batch.gaps().len(), 0);
        for message in batch.messages() {
            numbers.push(std::str::from_utf8(message.payload()).unwrap().parse().unwrap());
        }
    }
    numbers.sort_unstable();
    numbers
}

fn numbers(range: std::ops::Range<usize>) -> Vec<usize> {
    range.collect()
}

fn all() -> SubscribeOptions {
    SubscribeOptions::new(["*"])
}

#[tokio::test]
async fn live_subscription_gets_everything_pushed_after_it() {
    let (_broker, client) = start().await;
    push(&client, 0..10).await;
    let mut subscription = in_time(client.subscribe(all())).await.unwrap();
    push(&client, 10..500).await;
    assert_eq!(take(&mut subscription, 490).await, numbers(10..500));
    assert_eq!(subscription.stats().skipped, 0);
}

#[tokio::test]
async fn earliest_subscription_gets_everything() {
    let (_broker, client) = start().await;
    push(&client, 0..100).await;
    let mut subscription = in_time(client.subscribe(all().start(Start::Earliest))).await.unwrap();
    assert_eq!(take(&mut subscription, 100).await, numbers(0..100));
}

#[tokio::test]
async fn only_matching_messages_are_given_out() {
    let (_broker, client) = start().await;
    let mut subscription = in_time(client.subscribe(SubscribeOptions::new(["k3"]))).await.unwrap();
    push(&client, 0..70).await;
    let expected: Vec<usize> = (0..70).filter(|n| n % 7 == 3).collect();
    assert_eq!(take(&mut subscription, 10).await, expected);
    assert_eq!(subscription.stats().skipped, 0);
}

#[tokio::test]
async fn broken_subscription_goes_on_where_it_stopped() {
    let (broker, client) = start().await;
    let mut subscription = in_time(client.subscribe(all())).await.unwrap();
    push(&client, 0..100).await;
    let mut seen = take(&mut subscription, 100).await;
    for round in 1..5 {
        broker.lock().cut_after = Some(30 + round);
        broker.lock().repeat = round;
        let first = seen.len();
        push(&client, first..first + 100).await;
        seen.extend(take(&mut subscription, 100).await);
    }
    assert_eq!(seen, numbers(0..500));
    let stats = subscription.stats();
    assert_eq!((stats.messages, stats.skipped), (500, 0));
    assert!(stats.reconnects >= 4 && stats.duplicates > 0, "{stats:?}");
}

#[tokio::test]
async fn break_before_anything_arrived_loses_nothing() {
    let (broker, client) = start().await;
    let mut subscription = in_time(client.subscribe(all())).await.unwrap();
    broker.cut_all();
    push(&client, 0..50).await;
    assert_eq!(take(&mut subscription, 50).await, numbers(0..50));
    let opens = broker.lock().opens.clone();
    assert!(matches!(opens[1].start.as_ref().unwrap().start, Some(v1::start::Start::Resume(_))));
}

#[tokio::test]
async fn silent_stream_is_replaced() {
    let (broker, client) = start().await;
    broker.lock().mute = 1;
    let options = SubscribeOptions { silence_timeout: Duration::from_millis(50), ..all() };
    let mut subscription = in_time(client.subscribe(options)).await.unwrap();
    push(&client, 0..10).await;
    assert_eq!(take(&mut subscription, 10).await, numbers(0..10));
    assert!(subscription.stats().reconnects >= 1);
}

#[tokio::test]
async fn token_resumes_in_another_client() {
    let (broker, client) = start().await;
    let mut first = in_time(client.subscribe(all())).await.unwrap();
    push(&client, 0..100).await;
    take(&mut first, 100).await;
    let kept = first.resume_token().unwrap().as_bytes().to_vec();
    drop(first);
    broker.until("the stream ended", |state| state.ended_subscriptions == 1).await;
    push(&client, 100..200).await;
    let token = ResumeToken::from_bytes(kept).unwrap();
    let other = connect(&broker).await;
    let mut second = in_time(other.subscribe(all().start(Start::Resume(token)))).await.unwrap();
    assert_eq!(take(&mut second, 100).await, numbers(100..200));
}

#[tokio::test]
async fn token_taken_in_the_middle_of_a_batch_loses_nothing() {
    let (broker, client) = start().await;
    push(&client, 0..100).await;
    let mut first = in_time(client.subscribe(all().start(Start::Earliest))).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..37 {
        let Event::Message(message) = in_time(first.next()).await.unwrap().unwrap() else { panic!("a gap") };
        seen.push(std::str::from_utf8(message.payload()).unwrap().parse::<usize>().unwrap());
    }
    let token = first.resume_token().unwrap();
    let other = connect(&broker).await;
    let mut second = in_time(other.subscribe(all().start(Start::Resume(token)))).await.unwrap();
    seen.extend(take(&mut second, 63).await);
    seen.sort_unstable();
    assert_eq!(seen, numbers(0..100));
}

#[tokio::test]
async fn batch_after_events_is_what_is_left() {
    let (_broker, client) = start().await;
    push(&client, 0..16).await;
    let mut subscription = in_time(client.subscribe(all().start(Start::Earliest))).await.unwrap();
    for _ in 0..5 {
        in_time(subscription.next()).await.unwrap().unwrap();
    }
    assert_eq!(take(&mut subscription, 11).await.len(), 11);
    assert_eq!(subscription.stats().messages, 16);
}

#[tokio::test]
async fn gap_is_an_event_before_the_messages() {
    let (broker, client) = start().await;
    let gap = v1::Gap { vbucket: 1, lineage: support::LINEAGE, from: 0, to: 9, reason: GapReason::Evicted.into() };
    broker.lock().gaps = vec![gap];
    let mut subscription = in_time(client.subscribe(all().start(Start::Earliest))).await.unwrap();
    let Event::Gap(gap) = in_time(subscription.next()).await.unwrap().unwrap() else { panic!("a message") };
    assert_eq!((gap.vbucket.0, gap.from, gap.to, gap.reason), (1, Offset(0), Offset(9), GapReason::Evicted));
}

#[tokio::test]
async fn cluster_founded_anew_is_an_error_and_can_be_restarted() {
    let (broker, client) = start().await;
    let mut subscription = in_time(client.subscribe(all())).await.unwrap();
    push(&client, 0..10).await;
    take(&mut subscription, 10).await;
    broker.lock().cluster_id = [8; 16];
    broker.cut_all();
    let error = in_time(subscription.next_batch()).await.unwrap().unwrap_err();
    assert!(matches!(error, SubscribeError::ForeignCluster(_)), "{error}");
    assert!(in_time(subscription.next_batch()).await.is_none());
    in_time(subscription.restart(Start::Earliest)).await.unwrap();
    assert_eq!(take(&mut subscription, 10).await, numbers(0..10));
}

#[tokio::test]
async fn token_of_another_cluster_is_refused() {
    let (broker, client) = start().await;
    let token = in_time(client.subscribe(all())).await.unwrap().resume_token().unwrap();
    broker.lock().cluster_id = [8; 16];
    let error = in_time(client.subscribe(all().start(Start::Resume(token)))).await.unwrap_err();
    assert!(matches!(error, SubscribeError::ForeignCluster(_)), "{error}");
}

#[tokio::test]
async fn damaged_message_ends_the_subscription_before_itself() {
    let (broker, client) = start().await;
    let mut subscription = in_time(client.subscribe(SubscribeOptions::new(["k3"]))).await.unwrap();
    broker.lock().damage = Some(0);
    push(&client, 3..4).await;
    let error = in_time(subscription.next_batch()).await.unwrap().unwrap_err();
    assert!(matches!(error, SubscribeError::Corrupted { .. }), "{error}");
    broker.lock().damage = None;
    let token = subscription.resume_token().unwrap();
    let mut again = in_time(client.subscribe(all().start(Start::Resume(token)))).await.unwrap();
    assert_eq!(take(&mut again, 1).await, [3]);
}

#[tokio::test]
async fn refusals_are_typed_and_passing_ones_are_waited_out() {
    let (broker, client) = start().await;
    let refuse = |codes: &[ErrorCode]| broker.lock().refuse_opens.extend(codes);
    refuse(&[ErrorCode::BadPattern]);
    let error = in_time(client.subscribe(all())).await.unwrap_err();
    assert!(matches!(error, SubscribeError::BadPattern(_)), "{error}");
    refuse(&[ErrorCode::Unimplemented]);
    let error = in_time(client.subscribe(all())).await.unwrap_err();
    assert!(matches!(error, SubscribeError::Refused { code: ErrorCode::Unimplemented, .. }), "{error}");
    refuse(&[ErrorCode::Overloaded, ErrorCode::ShuttingDown, ErrorCode::NotLeader]);
    in_time(client.subscribe(all())).await.unwrap();
    assert_eq!(broker.lock().opens.len(), 6);
}

#[tokio::test]
async fn resume_refused_as_ahead_is_an_error() {
    let (broker, client) = start().await;
    let mut subscription = in_time(client.subscribe(all())).await.unwrap();
    broker.lock().refuse_opens.push_back(ErrorCode::PositionAhead);
    broker.cut_all();
    let error = in_time(subscription.next_batch()).await.unwrap().unwrap_err();
    assert!(matches!(error, SubscribeError::PositionAhead(_)), "{error}");
}

#[tokio::test]
async fn credit_is_renewed_as_messages_are_taken() {
    let (broker, client) = start().await;
    push(&client, 0..32).await;
    let options = all().start(Start::Earliest).credit(8).on_slow(OnSlow::Disconnect);
    let mut subscription = in_time(client.subscribe(options)).await.unwrap();
    assert_eq!(broker.lock().opens.last().unwrap().credit, 8);
    broker.until("nothing was given before anything was taken", |state| state.credits.is_empty()).await;
    for _ in 0..4 {
        in_time(subscription.next()).await.unwrap().unwrap();
    }
    broker.until("half of the credit is renewed", |state| state.credits == [4]).await;
    take(&mut subscription, 28).await;
    broker.until("all is renewed", |state| state.credits.iter().sum::<u64>() == 32).await;
}

#[tokio::test]
async fn closed_client_ends_its_subscriptions() {
    let (broker, client) = start().await;
    let mut subscription = in_time(client.subscribe(all())).await.unwrap();
    let (end, ()) = in_time(async { tokio::join!(subscription.next_batch(), client.close()) }).await;
    assert!(end.is_none());
    broker.until("the stream ended", |state| state.ended_subscriptions == 1).await;
    assert!(in_time(client.subscribe(all())).await.is_err());
}

#[tokio::test]
async fn next_batch_can_be_cancelled() {
    let (_broker, client) = start().await;
    let mut subscription = in_time(client.subscribe(all())).await.unwrap();
    for n in 0..20 {
        {
            let mut next = pin!(subscription.next_batch());
            assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        push(&client, n..n + 1).await;
        assert_eq!(take(&mut subscription, 1).await, [n]);
    }
}

#[tokio::test]
async fn first_subscription_shares_the_connection_of_the_map() {
    let broker = Broker::start().await;
    let builder = Client::builder().address(broker.address()).streams_per_connection(1);
    let client = in_time(builder.connect()).await.unwrap();
    let _subscription = in_time(client.subscribe(SubscribeOptions::new(["*"]))).await.unwrap();
    assert_eq!(broker.lock().connections, 1);
}

#[tokio::test]
async fn subscriptions_share_connections() {
    let (broker, client) = start().await;
    let before = broker.lock().connections;
    let opening: Vec<_> = (0..20).map(|_| client.subscribe(all())).collect();
    let mut subscriptions: Vec<Subscription> =
        futures_util::future::join_all(opening).await.into_iter().map(Result::unwrap).collect();
    assert!(broker.lock().connections - before <= 3, "8 on each, and the first connection is used too");
    push(&client, 0..50).await;
    for subscription in &mut subscriptions {
        assert_eq!(take(subscription, 50).await, numbers(0..50));
    }
}

#[tokio::test]
async fn stream_nobody_reads_does_not_starve_its_neighbours() {
    let (_broker, client) = start().await;
    let _unread = in_time(client.subscribe(all())).await.unwrap();
    let mut read = in_time(client.subscribe(all())).await.unwrap();
    let producer = client.producer().unwrap();
    let payload = vec![b'x'; 200_000];
    let pushing = async {
        for _ in 0..200 {
            drop(producer.push(Message::new("k", payload.clone())).await.unwrap());
        }
        producer.flush().await
    };
    let reading = async {
        let mut messages = 0;
        while messages < 200 {
            messages += read.next_batch().await.unwrap().unwrap().len();
        }
    };
    in_time(async { tokio::join!(pushing, reading) }).await;
}
