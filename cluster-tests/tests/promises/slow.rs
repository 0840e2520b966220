//! Subscribers that do not keep up: what they miss is told exactly, and nobody else notices.

use std::time::Duration;

use broky_client::{Client, GapReason, Message, OnSlow, SubscribeError, SubscribeOptions, Subscription};
use broky_cluster_tests::ledger::Ledger;
use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::wait::in_time;
use broky_cluster_tests::with_one_and_three_workers;

with_one_and_three_workers!(
    stopped_subscriber_accounts_for_everything_and_harms_nobody,
    subscriber_that_asked_not_to_skip_is_disconnected_with_the_reason,
    slow_subscriber_of_a_part_is_told_of_no_other_vbucket,
    late_reader_of_many_tiny_deliveries_keeps_its_connection,
);

const PAYLOAD_BYTES: usize = 16 << 10;
const BATCH_MESSAGES: u64 = 60;
const PARTITIONS: u64 = 40;

fn small_node(workers: u16) -> TestNode {
    TestNode::start_with(workers, |config| config.memory_bytes = (16 << 20) * usize::from(workers))
}

/// A client whose connections hold little, so that a subscription that is not read falls behind soon.
async fn narrow_client(node: &TestNode) -> Client {
    let builder = Client::builder().address(node.address().to_string()).stream_window_bytes(65_535);
    builder.backoff(Duration::from_millis(1), Duration::from_millis(50)).connect().await.unwrap()
}

/// Pushes twice the memory, batch by batch, and reads it in step where somebody does; gives how many messages that are.
///
/// Each batch has something for every shard, and the next waits for it: no shard is far behind the others.
async fn push_much(client: &Client, workers: u16, mut reader: Option<(&mut Subscription, &mut Ledger)>) -> u64 {
    let payload = vec![b'x'; PAYLOAD_BYTES];
    let mut pushed = 0;
    for _ in 0..34 * u64::from(workers) {
        let message = |number: u64| {
            Message::new("k", payload.clone()).key_partition(format!("part-{}", (pushed + number) % PARTITIONS))
        };
        let batch: Vec<_> = (0..BATCH_MESSAGES).map(message).collect();
        assert!(client.push(&batch).await.unwrap().iter().all(Result::is_ok));
        pushed += BATCH_MESSAGES;
        if let Some((reader, ledger)) = &mut reader {
            ledger.read(reader, pushed).await;
        }
    }
    pushed
}

async fn stopped_subscriber_accounts_for_everything_and_harms_nobody(workers: u16) {
    let node = small_node(workers);
    let (client, narrow) = (node.client().await, narrow_client(&node).await);
    let mut stopped = narrow.subscribe(SubscribeOptions::new(["*"])).await.unwrap();
    let mut keen = client.subscribe(SubscribeOptions::new(["*"])).await.unwrap();
    let mut others = Ledger::new();
    let pushed = push_much(&client, workers, Some((&mut keen, &mut others))).await;
    assert_eq!((others.messages, others.missed), (pushed, 0));
    let mut ledger = Ledger::new();
    ledger.read(&mut stopped, pushed).await;
    assert!(ledger.missed > 0, "the load was too small to show anything");
    assert!(ledger.messages > 0);
    let metrics = node.metrics().await;
    assert_eq!(metrics.get("broky_push_messages_total") as u64, pushed);
    let (used, max) = (metrics.get("broky_memory_used_bytes"), metrics.get("broky_memory_max_bytes"));
    // With several workers, what one evicts another holds until it hears of it.
    assert!(used <= max * 1.25, "{used} of {max} bytes");
    // It goes on as if nothing had been.
    client.push(&[Message::new("k", "after")]).await.unwrap();
    ledger.read(&mut stopped, pushed + 1).await;
    assert_eq!(stopped.stats().skipped, 0);
    drop((keen, stopped));
    client.close().await;
    narrow.close().await;
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn subscriber_that_asked_not_to_skip_is_disconnected_with_the_reason(workers: u16) {
    let node = small_node(workers);
    let (client, narrow) = (node.client().await, narrow_client(&node).await);
    let options = SubscribeOptions::new(["*"]).on_slow(OnSlow::Disconnect);
    let (mut stopped, mut pushed, mut ledger, mut reasons);
    let error = loop {
        stopped = narrow.subscribe(options.clone()).await.unwrap();
        pushed = push_much(&client, workers, None).await;
        (ledger, reasons) = (Ledger::new(), Vec::new());
        // On a busy machine its connection may be given up before it reads on: it comes again then, and is told of what
        // has left the memory.
        let is_told = loop {
            match in_time("the end", stopped.next_batch()).await.unwrap() {
                Ok(batch) => {
                    reasons.extend(batch.gaps().map(|gap| gap.reason));
                    ledger.add(&batch);
                }
                Err(error) => break Some(error),
            }
            if stopped.stats().reconnects > 0 {
                break None;
            }
        };
        if let Some(error) = is_told {
            break error;
        }
    };
    assert!(matches!(&error, SubscribeError::SlowSubscriber(words) if words.contains("slower")), "{error:?}");
    assert!(ledger.missed > 0 && reasons.iter().all(|reason| *reason == GapReason::Slow), "{reasons:?}");
    assert!(in_time("nothing more", stopped.next_batch()).await.is_none());
    // It may come back for the rest.
    let start = broky_client::Start::Resume(stopped.resume_token().unwrap());
    let mut again = client.subscribe(options.start(start)).await.unwrap();
    ledger.read(&mut again, pushed).await;
    drop((again, stopped));
    client.close().await;
    narrow.close().await;
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn slow_subscriber_of_a_part_is_told_of_no_other_vbucket(workers: u16) {
    let node = small_node(workers);
    let (client, narrow) = (node.client().await, narrow_client(&node).await);
    let options = SubscribeOptions::new(["*"]).key_partitions(["part-7"]);
    let mut stopped = narrow.subscribe(options).await.unwrap();
    let pushed = push_much(&client, workers, None).await;
    // One partition of forty, alone in its vbucket.
    let mut ledger = Ledger::new();
    ledger.read(&mut stopped, pushed / PARTITIONS).await;
    assert_eq!(ledger.places.keys().map(|(vbucket, _)| vbucket).collect::<std::collections::BTreeSet<_>>().len(), 1);
    client.close().await;
    narrow.close().await;
    node.stop().await;
}

/// HTTP/2 frames that hold little cost their receiver more than they hold, so h2 ends connections with too many of them
/// unread. A reader that is merely late must not be taken for an attacker.
async fn late_reader_of_many_tiny_deliveries_keeps_its_connection(workers: u16) {
    let node = TestNode::start(workers);
    let client = node.client().await;
    let lone = Client::builder().address(node.address().to_string()).streams_per_connection(1);
    let mut late = lone.connect().await.unwrap().subscribe(SubscribeOptions::new(["*"])).await.unwrap();
    const MESSAGES: u64 = 10_000;
    for _ in 0..MESSAGES {
        // One at a time: each is a delivery of its own.
        client.push(&[Message::new("k", "v")]).await.unwrap();
    }
    let mut ledger = Ledger::new();
    ledger.read(&mut late, MESSAGES).await;
    assert_eq!((ledger.messages, ledger.missed, late.stats().reconnects), (MESSAGES, 0, 0));
}
