//! Where a subscription begins: live, at the earliest message, or where another one stopped.

use broky_client::{Client, GapReason, Message, ResumeToken, Start, SubscribeError, SubscribeOptions};
use broky_cluster_tests::ledger::Ledger;
use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::wait::in_time;
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::resume::{decode_token, encode_token};
use broky_proto::v1::{Cursor, Resume};

with_one_and_three_workers!(
    live_begins_with_what_is_committed_after_the_confirmation,
    earliest_begins_with_everything_in_memory,
    kept_token_continues_exactly_where_its_subscription_stopped,
    token_in_the_middle_of_a_batch_repeats_and_skips_nothing,
    token_of_another_cluster_is_refused,
    position_ahead_of_the_cluster_is_refused,
    evicted_messages_are_told_exactly,
);

/// Enough partitions that every shard has some.
const PARTITIONS: u32 = 40;

/// Pushes messages with these numbers, and waits until they are committed.
async fn push(client: &Client, numbers: std::ops::Range<u32>) {
    push_sized(client, numbers, 0).await;
}

async fn push_sized(client: &Client, numbers: std::ops::Range<u32>, padding: usize) {
    let producer = client.producer().unwrap();
    let count = numbers.len() as u64;
    for number in numbers {
        let message = Message::new("k", format!("{number:08}{}", "x".repeat(padding)));
        producer.push_detached(message.key_partition(format!("part-{}", number % PARTITIONS))).await.unwrap();
    }
    assert_eq!(producer.close().await.committed, count);
}

fn all() -> SubscribeOptions {
    SubscribeOptions::new(["*"])
}

/// The numbers that came, sorted.
fn numbers(ledger: &Ledger) -> Vec<u32> {
    let number = |payload: &Vec<u8>| std::str::from_utf8(&payload[..8]).unwrap().parse().unwrap();
    ledger.payloads().iter().map(number).collect()
}

/// A subscription's next messages, and where it stands behind them.
async fn read(client: &Client, options: SubscribeOptions, count: u64) -> (Ledger, ResumeToken) {
    let mut subscription = client.subscribe(options).await.unwrap();
    let mut ledger = Ledger::new();
    ledger.read(&mut subscription, count).await;
    (ledger, subscription.resume_token().unwrap())
}

async fn live_begins_with_what_is_committed_after_the_confirmation(workers: u16) {
    let node = TestNode::start(workers);
    let client = node.client().await;
    push(&client, 0..100).await;
    let mut subscription = client.subscribe(all()).await.unwrap();
    push(&client, 100..200).await;
    let mut ledger = Ledger::new();
    ledger.read(&mut subscription, 100).await;
    assert_eq!(numbers(&ledger), (100..200).collect::<Vec<_>>());
    client.close().await;
    node.stop().await;
}

async fn earliest_begins_with_everything_in_memory(workers: u16) {
    let node = TestNode::start(workers);
    let client = node.client().await;
    push(&client, 0..500).await;
    let (ledger, _) = read(&client, all().start(Start::Earliest), 500).await;
    assert_eq!(numbers(&ledger), (0..500).collect::<Vec<_>>());
    client.close().await;
    node.stop().await;
}

async fn kept_token_continues_exactly_where_its_subscription_stopped(workers: u16) {
    let node = TestNode::start(workers);
    let client = node.client().await;
    push(&client, 0..300).await;
    let (first, token) = read(&client, all().start(Start::Earliest), 300).await;
    push(&client, 300..500).await;
    let kept = ResumeToken::from_bytes(token.as_bytes()).unwrap();
    // Another client: nothing but the token is left of the first subscription.
    let other = node.client().await;
    let (second, _) = read(&other, all().start(Start::Resume(kept)), 200).await;
    assert_eq!((first.missed, second.missed), (0, 0));
    assert_eq!([numbers(&first), numbers(&second)].concat(), (0..500).collect::<Vec<_>>());
    client.close().await;
    other.close().await;
    node.stop().await;
}

async fn token_in_the_middle_of_a_batch_repeats_and_skips_nothing(workers: u16) {
    use broky_client::Event;
    use futures_util::StreamExt as _;

    let node = TestNode::start(workers);
    let client = node.client().await;
    push(&client, 0..400).await;
    let mut got = Vec::new();
    let mut start = Start::Earliest;
    // Never more than 37 by one subscription, while deliveries hold more.
    while got.len() < 400 {
        let mut subscription = client.subscribe(all().start(start)).await.unwrap();
        for _ in 0..37.min(400 - got.len()) {
            match in_time("a message", subscription.next()).await.unwrap().unwrap() {
                Event::Message(message) => got.push((message.vbucket(), message.offset(), message.payload_bytes())),
                Event::Gap(gap) => panic!("{gap:?}"),
            }
        }
        start = Start::Resume(subscription.resume_token().unwrap());
    }
    got.sort_unstable();
    got.dedup();
    assert_eq!(got.len(), 400);
    client.close().await;
    node.stop().await;
}

async fn token_of_another_cluster_is_refused(workers: u16) {
    let (node, other) = (TestNode::start(workers), TestNode::start(workers));
    let (client, other_client) = (node.client().await, other.client().await);
    push(&client, 0..1).await;
    let (_, token) = read(&client, all().start(Start::Earliest), 1).await;
    let refused = other_client.subscribe(all().start(Start::Resume(token))).await.unwrap_err();
    assert!(matches!(refused, SubscribeError::ForeignCluster(_)), "{refused:?}");
    client.close().await;
    other_client.close().await;
    other.until_nothing_is_left().await;
    node.stop().await;
    other.stop().await;
}

async fn position_ahead_of_the_cluster_is_refused(workers: u16) {
    let node = TestNode::start(workers);
    let client = node.client().await;
    push(&client, 0..1).await;
    let (_, token) = read(&client, all().start(Start::Earliest), 1).await;
    let resume = decode_token(token.as_bytes()).unwrap();
    let behind_all = *resume.cursors.iter().find(|cursor| cursor.offset == 1).unwrap();
    let vbuckets = client.topology().await.unwrap().vbuckets().into();
    let ahead = [
        Cursor { offset: 1 << 40, ..behind_all },
        Cursor { offset: u64::MAX, epoch: u64::MAX, ..behind_all },
        Cursor { lineage: u64::MAX, ..behind_all },
        Cursor { vbucket: vbuckets, ..behind_all },
    ];
    for cursor in ahead {
        let resume = Resume { cluster_id: resume.cluster_id.clone(), cursors: vec![cursor] };
        let token = ResumeToken::from_bytes(encode_token(&resume)).unwrap();
        let refused = client.subscribe(all().start(Start::Resume(token))).await.err();
        assert!(matches!(refused, Some(SubscribeError::PositionAhead(_))), "{cursor:?}: {refused:?}");
    }
    if workers == 1 {
        // Several shards give one another time to catch up; one knows.
        let resume = Resume { cluster_id: resume.cluster_id, cursors: vec![Cursor { offset: 2, ..behind_all }] };
        let token = ResumeToken::from_bytes(encode_token(&resume)).unwrap();
        let refused = client.subscribe(all().start(Start::Resume(token))).await.err();
        assert!(matches!(refused, Some(SubscribeError::PositionAhead(_))), "{refused:?}");
    }
    client.close().await;
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn evicted_messages_are_told_exactly(workers: u16) {
    let node = TestNode::start_with(workers, |config| config.memory_bytes = (16 << 20) * usize::from(workers));
    let client = node.client().await;
    push(&client, 0..100).await;
    let (_, token) = read(&client, all().start(Start::Earliest), 100).await;
    // About twice the memory.
    let count = 2000 * u32::from(workers);
    push_sized(&client, 100..100 + count, 16 << 10).await;
    let mut subscription = client.subscribe(all().start(Start::Resume(token))).await.unwrap();
    let mut ledger = Ledger::new();
    let first = in_time("the gaps", subscription.next_batch()).await.unwrap().unwrap();
    assert!(first.gaps().len() > 0 && first.gaps().all(|gap| gap.reason == GapReason::Evicted));
    ledger.add(&first);
    drop(first);
    ledger.read(&mut subscription, count.into()).await;
    let evicted = node.metrics().await.get("broky_log_evicted_messages_total");
    // Of what was evicted the first subscription had read a hundred.
    assert_eq!(ledger.missed as f64, evicted - 100.0);
    assert!(ledger.messages > 0);
    client.close().await;
    node.stop().await;
}
