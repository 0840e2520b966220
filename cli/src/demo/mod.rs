//! `broky demo`: the broker's main job on real lines, watched and judged.
//!
//! A node is started in this process. A producer pushes lines; subscribers with different patterns read them over real
//! connections. What each of them must get is worked out from the input beside the broker, and compared at the end: every
//! message once, in order per key_partition, with the bytes that were pushed.

mod expect;
mod input;
mod report;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broky_client::{Client, MessageRef, ProducerOptions, SubscribeOptions, Subscription};
use broky_node::{Node, NodeConfig};

use crate::args::DemoArgs;
use crate::exit::{CONFIG, FAILED, OrExit as _, fail};
use expect::Tally;
use input::Input;

/// A pattern, and which keys that means.
type Subscriber = (&'static str, fn(&[u8]) -> bool);

/// What the demo's subscribers ask for, and, said without the broker's patterns, which keys that means.
const SUBSCRIBERS: [Subscriber; 4] = [
    ("*", |_| true),
    ("line.short", |key| key == b"line.short"),
    ("line.l*", |key| key.starts_with(b"line.l")),
    ("*.???", |key| key.len() >= 4 && key.get(key.len() - 4) == Some(&b'.')),
];
/// Without a message for this long the demo gives up.
const STALL: Duration = Duration::from_secs(20);

pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let input = Arc::new(Input::open(args)?);
    let mut config = NodeConfig::new("demo");
    config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.peer_listen = config.listen;
    config.admin_listen = config.listen;
    let node = Node::start(config).or_exit(CONFIG)?;
    println!("{}: {} lines to push, from {}", node.client_address(), input.total(), input.name());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let verdict = runtime.block_on(demo(&node.client_address().to_string(), input));
    node.stop();
    verdict
}

async fn demo(address: &str, input: Arc<Input>) -> anyhow::Result<()> {
    let client = Client::connect([address]).await?;
    let expected = SUBSCRIBERS.map(|(_, wants)| expect::expected(&input, wants));
    let mut readers = Vec::new();
    for ((pattern, _), expected) in SUBSCRIBERS.iter().zip(&expected) {
        let subscription = client.subscribe(SubscribeOptions::new([*pattern])).await?;
        readers.push(tokio::spawn(read(subscription, expected.messages())));
    }
    let started = Instant::now();
    let pushed = push(&client, &input).await?;
    let push_time = started.elapsed();
    let mut got = Vec::new();
    for reader in readers {
        got.push(reader.await??);
    }
    let time = started.elapsed();
    client.close().await;
    let rows: Vec<_> =
        SUBSCRIBERS.iter().zip(&expected).zip(&got).map(|(((pattern, _), want), got)| (*pattern, want, got)).collect();
    let is_good = report::print(&rows, pushed, push_time, time) && pushed == input.total();
    if is_good { Ok(()) } else { Err(fail(FAILED, "the demo lost, repeated or reordered messages")) }
}

/// Pushes every line; returns how many were committed.
async fn push(client: &Client, input: &Input) -> anyhow::Result<u64> {
    let producer = client.producer_with(ProducerOptions::default())?;
    for number in 0..input.total() {
        let line = input.line(number);
        let message = MessageRef { key_partition: line.partition, ..MessageRef::new(line.key, line.payload) };
        // Failures are counted by the producer.
        producer.push_detached(message).await?;
    }
    Ok(producer.close().await.committed)
}

/// Reads until as many messages came as must come.
async fn read(mut subscription: Subscription, expected: u64) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    while tally.messages() < expected {
        let batch = match tokio::time::timeout(STALL, subscription.next_batch()).await {
            Ok(Some(batch)) => batch?,
            Ok(None) | Err(_) => break,
        };
        tally.add_missed(batch.gaps().map(|gap| gap.to.since(gap.from)).sum());
        for message in batch.messages() {
            tally.add(message.key_partition(), message.key(), message.payload());
        }
    }
    Ok(tally)
}
