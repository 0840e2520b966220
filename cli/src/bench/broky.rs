//! broky as a target, through the Rust client as any program would use it.
//!
//! Publishers follow the topology to the leader, as the client does by itself. Where subscribers read is the flag's to
//! say. Keys are those that NATS gets as subjects, and so is the pattern: with several keys, both brokers match a
//! wildcard.

use anyhow::{Context as _, Result, bail, ensure};
use broky_client::{Client, MessageRef, Producer, ProducerOptions, SubscribeOptions, Subscription, TopologyNode};

use super::args::ReadFrom;
use super::check::STAMP_BYTES;
use super::plan::Plan;
use super::run::{Outgoing, Sink};
use super::subject::Subject;
use super::target::{Publish, Receive, Target};

/// What the target needs of the plan.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    addresses: Vec<String>,
    read_from: ReadFrom,
    size: usize,
    keys: usize,
    batch_bytes: Option<usize>,
}

impl Config {
    pub(crate) fn new(addresses: &[String], plan: &Plan) -> Self {
        Self {
            addresses: addresses.to_vec(),
            read_from: plan.read_from,
            size: plan.size,
            keys: plan.keys,
            batch_bytes: plan.asked_batch_bytes,
        }
    }
}

/// A broky node, seen from one worker thread.
pub(crate) struct Broky {
    config: Config,
}

impl Broky {
    pub(crate) fn new(config: Config) -> Self {
        Self { config }
    }

    async fn connect(&self, addresses: &[String], streams: usize) -> Result<Client> {
        let builder = Client::builder().addresses(addresses).streams_per_connection(streams);
        builder.connect().await.with_context(|| format!("connecting to {}", addresses.join(",")))
    }

    /// Addresses of the nodes that subscribers may read from.
    async fn sources(&self) -> Result<Vec<String>> {
        let wants_leader = match self.config.read_from {
            ReadFrom::Any => return Ok(self.config.addresses.clone()),
            ReadFrom::Leader => true,
            ReadFrom::Follower => false,
        };
        let topology = self.connect(&self.config.addresses, 1).await?.topology().await?;
        let vbucket = topology.vbucket_of(b"", Subject::new(self.config.keys).of(0));
        let (leader, _) = topology.leader(vbucket).context("the first key's vbucket has no leader")?;
        let fits = |node: &&TopologyNode| (node.address == leader.address) == wants_leader;
        let sources: Vec<_> = topology.nodes.iter().filter(fits).map(|node| node.address.clone()).collect();
        ensure!(!sources.is_empty(), "there is no node but the leader");
        Ok(sources)
    }
}

impl Target for Broky {
    type Publisher = Publisher;
    type Subscriber = Subscriber;

    async fn publisher(&self) -> Result<Publisher> {
        let client = self.connect(&self.config.addresses, 1).await?;
        let mut options = ProducerOptions { message_bytes_max: usize::MAX, ..ProducerOptions::default() };
        if let Some(bytes) = self.config.batch_bytes {
            options.batch_bytes_max = bytes;
        }
        let producer = client.producer_with(options)?;
        let payload = vec![b'.'; self.config.size];
        Ok(Publisher { producer, payload, subject: Subject::new(self.config.keys), _client: client })
    }

    async fn subscribers(&self, count: usize) -> Result<Vec<Subscriber>> {
        let client = self.connect(&self.sources().await?, count).await?;
        let mut subscribers = Vec::with_capacity(count);
        for _ in 0..count {
            let options = SubscribeOptions::new([Subject::pattern(self.config.keys)]);
            let subscription = client.subscribe(options).await?;
            subscribers.push(Subscriber { subscription, _client: client.clone() });
        }
        Ok(subscribers)
    }

    async fn describe(&self) -> Result<String> {
        let topology = self.connect(&self.config.addresses, 1).await?.topology().await?;
        Ok(format!("broky {}, {} node(s)", env!("CARGO_PKG_VERSION"), topology.nodes.len()))
    }
}

/// A producer with its own connection.
pub(crate) struct Publisher {
    producer: Producer,
    payload: Vec<u8>,
    subject: Subject,
    _client: Client,
}

impl Publish for Publisher {
    async fn publish(&mut self, outgoing: &mut Outgoing<'_>) -> Result<()> {
        let stamp_len = self.payload.len().min(STAMP_BYTES);
        while let Some(stamp) = outgoing.take() {
            let encoded = stamp.encode();
            if let (Some(place), Some(encoded)) = (self.payload.get_mut(..stamp_len), encoded.get(..stamp_len)) {
                place.copy_from_slice(encoded);
            }
            let message = MessageRef::new(self.subject.of(stamp.key), &self.payload);
            // What fails is counted by the producer, and looked at in the end.
            self.producer.push_detached(message).await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        let summary = self.producer.flush().await;
        ensure!(summary.rejected + summary.unknown == 0, "{} rejected, {} unknown", summary.rejected, summary.unknown);
        Ok(())
    }
}

/// One subscription.
pub(crate) struct Subscriber {
    subscription: Subscription,
    _client: Client,
}

impl Receive for Subscriber {
    fn subscribers(&self) -> usize {
        1
    }

    async fn receive(&mut self, sink: &mut Sink) -> Result<()> {
        let batch = self.subscription.next_batch().await.context("the subscription ended")??;
        sink.arrived();
        if let Some(gap) = batch.gaps().next() {
            bail!("a gap of {} messages: the window is larger than the node's memory", gap.to.since(gap.from));
        }
        for message in batch.messages() {
            sink.message(0, message.payload());
        }
        Ok(())
    }
}
