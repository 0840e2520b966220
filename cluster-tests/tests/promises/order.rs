//! Order per key_partition, each message once: with many publishers, and across broken connections.

use broky_client::{Client, Message, SubscribeOptions, Subscription};
use broky_cluster_tests::ledger::Ledger;
use broky_cluster_tests::node::{TestNode, client_of};
use broky_cluster_tests::relay::Relay;
use broky_cluster_tests::with_one_and_three_workers;
use futures_util::future::join_all;

const PUBLISHERS: usize = 10;
const SUBSCRIBERS: usize = 10;
const MESSAGES_EACH: usize = 600;
const PARTITIONS: usize = 13;

with_one_and_three_workers!(
    ten_subscribers_get_what_ten_publishers_push_once_and_in_order,
    broken_connections_lose_repeat_and_reorder_nothing,
    each_message_arrives_as_it_was_pushed,
);

/// Publisher and number, as they are in a payload.
fn decode(payload: &[u8]) -> (usize, usize) {
    let text = std::str::from_utf8(payload).unwrap();
    let (publisher, number) = text.split_once(':').unwrap();
    (publisher.parse().unwrap(), number.parse().unwrap())
}

/// Pushes this publisher's messages over the partitions that all publishers share.
async fn publish(client: &Client, publisher: usize) {
    let producer = client.producer().unwrap();
    for number in 0..MESSAGES_EACH {
        let partition = format!("part-{}", (number * 7 + publisher) % PARTITIONS);
        let message = Message::new(format!("key.{publisher}"), format!("{publisher}:{number}"));
        producer.push_detached(message.key_partition(partition)).await.unwrap();
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let summary = producer.close().await;
    assert_eq!((summary.committed, summary.rejected, summary.unknown), (MESSAGES_EACH as u64, 0, 0));
}

async fn read(mut subscription: Subscription) -> (Ledger, Subscription) {
    let mut ledger = Ledger::new();
    ledger.read(&mut subscription, (PUBLISHERS * MESSAGES_EACH) as u64).await;
    (ledger, subscription)
}

/// Every message once; in each partition each publisher's in the order it pushed them.
fn check(ledger: &Ledger) {
    assert_eq!(ledger.missed, 0);
    let mut got: Vec<_> = ledger.payloads().iter().map(|payload| decode(payload)).collect();
    got.sort_unstable();
    let pushed: Vec<_> = (0..PUBLISHERS).flat_map(|p| (0..MESSAGES_EACH).map(move |n| (p, n))).collect();
    assert!(got == pushed, "a message is missing, foreign or repeated");
    assert_eq!(ledger.partitions.len(), PARTITIONS);
    for (partition, payloads) in &ledger.partitions {
        let mut last = [None; PUBLISHERS];
        for (publisher, number) in payloads.iter().map(|payload| decode(payload)) {
            let last = last[publisher].replace(number);
            assert!(last < Some(number), "{partition:?}: {number} of {publisher} after {last:?}");
        }
    }
}

async fn ten_subscribers_get_what_ten_publishers_push_once_and_in_order(workers: u16) {
    let node = TestNode::start(workers);
    let client = node.client().await;
    // Different interests, all of which want everything.
    let patterns = ["*", "key.*", "k*", "*.?", "???.*"];
    let options = (0..SUBSCRIBERS).map(|number| SubscribeOptions::new([patterns[number % patterns.len()]]));
    let subscriptions = join_all(options.map(|options| client.subscribe(options))).await;
    let readers = subscriptions.into_iter().map(|subscription| tokio::spawn(read(subscription.unwrap())));
    let readers: Vec<_> = readers.collect();
    join_all((0..PUBLISHERS).map(|publisher| publish(&client, publisher))).await;
    let mut ledgers = Vec::new();
    for reader in readers {
        let (ledger, subscription) = reader.await.unwrap();
        check(&ledger);
        let stats = subscription.stats();
        assert_eq!((stats.skipped, stats.duplicates, stats.reconnects), (0, 0, 0));
        ledgers.push(ledger);
    }
    // One order, the same for all.
    assert!(
        ledgers.iter().all(|ledger| ledger.partitions == ledgers[0].partitions && ledger.places == ledgers[0].places)
    );
    client.close().await;
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn broken_connections_lose_repeat_and_reorder_nothing(workers: u16) {
    let node = TestNode::start(workers);
    let relay = Relay::start(node.address()).await;
    let client = client_of(relay.address()).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(tokio::spawn(read(client.subscribe(SubscribeOptions::new(["*"])).await.unwrap())));
    }
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let client = client.clone();
            tokio::spawn(async move { publish(&client, publisher).await })
        })
        .collect();
    // Cut at different fills, whenever some more has been stored.
    for part in 1..=5 {
        let stored = (part * PUBLISHERS * MESSAGES_EACH / 8) as f64;
        node.until("broky_push_messages_total", |messages| messages >= stored).await;
        relay.cut();
    }
    join_all(publishers).await.into_iter().for_each(Result::unwrap);
    for reader in readers {
        let (ledger, subscription) = reader.await.unwrap();
        check(&ledger);
        assert_eq!(subscription.stats().skipped, 0);
    }
    client.close().await;
    node.until_nothing_is_left().await;
    node.stop().await;
}

async fn each_message_arrives_as_it_was_pushed(workers: u16) {
    let node = TestNode::start(workers);
    let client = node.client().await;
    let mut subscription = client.subscribe(SubscribeOptions::new(["*"])).await.unwrap();
    let message = Message::new(&b"\x00key\xff"[..], vec![0xfe; 300_000])
        .key_partition(&b"\xff\x00"[..])
        .header("name", &b"\xff\x00"[..])
        .header("", "")
        .uid([9; 20])
        .ts_producer(-1)
        .retain(true)
        .ttl_ms(u32::MAX);
    let receipts = client.push(&[message, Message::default()]).await.unwrap();
    let position = receipts[0].as_ref().unwrap().position.unwrap();
    let mut ledger = Ledger::new();
    let mut views = 0;
    while ledger.messages < 2 {
        let batch = subscription.next_batch().await.unwrap().unwrap();
        ledger.add(&batch);
        for view in batch.messages().filter(|view| !view.key().is_empty()) {
            views += 1;
            assert_eq!((view.key(), view.key_partition()), (&b"\x00key\xff"[..], &b"\xff\x00"[..]));
            assert!(view.payload().len() == 300_000 && view.payload().iter().all(|byte| *byte == 0xfe));
            let headers = view.headers();
            assert_eq!((headers.len(), &headers["name"][..], &headers[""][..]), (2, &b"\xff\x00"[..], &b""[..]));
            assert_eq!(
                (view.uid(), view.ts_producer(), view.retain(), view.ttl_ms()),
                (Some([9; 20]), -1, true, u32::MAX)
            );
            assert_eq!(
                (view.vbucket(), view.offset(), view.epoch()),
                (position.vbucket, position.offset, position.epoch)
            );
            assert!(view.ts_broker() > 1_700_000_000_000_000_000);
        }
    }
    assert_eq!(views, 1);
    client.close().await;
    node.stop().await;
}
