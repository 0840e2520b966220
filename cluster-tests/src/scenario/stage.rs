//! What every scenario stands on: a cluster that is ready, load on it, subscribers, and the checks between two acts.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use broky_client::{Client, Start, SubscribeError, SubscribeOptions, VBucketId};
use broky_proto::id::NodeId;
use broky_proto::limits::KEY_PARTITIONS_MAX;
use broky_ring::map::ClusterMap;

use super::Plan;
use crate::audit::Audit;
use crate::error::HarnessError;
use crate::observer::{is_settled, newest_map, until_map};
use crate::reader::Reader;
use crate::spans::first_acks;
use crate::supervisor::{ClusterOptions, Supervisor};
use crate::verdict::Verdict;
use crate::workload::{Attempt, Since, Workload, WorkloadOptions, key_of};

/// Time for a cluster to found itself, and for one to come to rest.
pub const SETTLED_LIMIT: Duration = Duration::from_secs(60);
/// Time for a reader to get something more.
const READER_PATIENCE: Duration = Duration::from_secs(10);
/// Time to open a reader.
const OPEN_LIMIT: Duration = Duration::from_secs(8);

/// See the module.
#[derive(Debug)]
pub struct Stage {
    /// The cluster.
    pub cluster: Supervisor,
    /// The load.
    pub workload: Workload,
    /// Subscribers from before the first push. Empty where nodes refuse subscriptions to what they do not hold.
    pub readers: Vec<Reader>,
    /// What was found so far.
    pub audit: Audit,
    /// What is to be said.
    pub verdict: Verdict,
    delivery_timeout: Duration,
    is_relayed: bool,
    /// When another cluster took the place of the one before.
    lives: Vec<Since>,
}

impl Stage {
    /// Starts a cluster, waits until it is at rest, and connects everybody. Nothing is pushed yet.
    ///
    /// # Errors
    /// When that does not work.
    pub async fn open(plan: &Plan, options: ClusterOptions, load: WorkloadOptions) -> Result<Self, HarnessError> {
        let nodes = options.nodes;
        let mut cluster = Supervisor::start(options)?;
        let has_all = |map: &ClusterMap| map.nodes().count() == nodes && is_settled(map);
        until_map(&mut cluster, "the cluster is founded and at rest", SETTLED_LIMIT, has_all).await?;
        let workload = Workload::start(&cluster.addresses(), &load).await?;
        let verdict = Verdict::new(&plan.scenario);
        let delivery_timeout = load.delivery_timeout;
        let (readers, audit, lives) = (Vec::new(), Audit::default(), Vec::new());
        let is_relayed = false;
        let mut stage = Self { cluster, workload, readers, audit, verdict, delivery_timeout, is_relayed, lives };
        stage.subscribe().await?;
        Ok(stage)
    }

    /// A subscriber that begins at each node, and goes on at any.
    async fn subscribe(&mut self) -> Result<(), HarnessError> {
        let addresses = self.cluster.addresses();
        let holds_all = newest_map(&self.cluster).await?.vbuckets().all(|(_, vb)| vb.isr.len() == addresses.len());
        for (at, address) in addresses.iter().enumerate() {
            let client = Client::connect([address]).await?;
            let opening = Reader::open(format!("live {at}"), client, SubscribeOptions::new(["*"]));
            match tokio::time::timeout(OPEN_LIMIT, opening).await {
                Ok(Ok(reader)) => self.readers.push(reader),
                Ok(Err(error)) if holds_all => return Err(error.into()),
                Ok(Err(_)) | Err(_) => {
                    self.readers.clear();
                    let words = "nodes refuse subscriptions to what they do not hold: no live subscribers, and each final \
                                 reader reads what its node holds";
                    self.verdict.note(words);
                    return Ok(());
                }
            }
        }
        self.is_relayed = !holds_all;
        Ok(())
    }

    /// Ends a round: the load pauses, every push gets its outcome, every running node is read from the earliest message
    /// on, and whoever lacks something is noted. Goes on without load.
    ///
    /// # Errors
    /// When an outcome does not come, or a node cannot be read.
    pub async fn check(&mut self, round: u32) -> Result<(), HarnessError> {
        self.workload.settle(self.delivery_timeout + Duration::from_secs(5)).await?;
        let map = newest_map(&self.cluster).await?;
        let nodes = self.cluster.running().map(|(_, node)| (node.name.clone(), node.client_address()));
        let nodes: Vec<_> = nodes.collect();
        for (name, address) in nodes {
            let Some((id, _)) = map.nodes().find(|(_, node)| node.name == name) else { continue };
            let held: BTreeSet<_> = if self.is_relayed { all(&map) } else { held(&map, id) };
            let options = self.options(round, &held, held.len() == map.vbuckets().count());
            let client = Client::builder().address(address.to_string()).connect_lazily()?;
            let reader = match open(format!("final {name}"), client, options).await {
                Ok(reader) => reader,
                Err(error) => {
                    self.audit.unread.add(|| format!("{name} cannot be read in round {round}: {error}"));
                    continue;
                }
            };
            let concerns = |attempt: &Attempt| attempt.round == round && held.contains(&attempt.vbucket.0);
            caught_up(&self.workload, &reader, &concerns).await;
            let sight = reader.sight();
            self.audit.add_missing(&format!("{name} in round {round}"), &self.workload, &sight, concerns);
            self.audit.add_reader(&reader.name, &self.workload, &sight);
        }
        let concerns = |attempt: &Attempt| attempt.round == round;
        for reader in &self.readers {
            caught_up(&self.workload, reader, &concerns).await;
            let name = format!("{} in round {round}", reader.name);
            self.audit.add_missing(&name, &self.workload, &reader.sight(), concerns);
        }
        Ok(())
    }

    fn options(&self, round: u32, held: &BTreeSet<u16>, is_everything: bool) -> SubscribeOptions {
        let options = SubscribeOptions::new([key_of(round)]).start(Start::Earliest);
        if is_everything || held.len() > KEY_PARTITIONS_MAX {
            return options;
        }
        options.key_partitions(held.iter().map(|vbucket| self.workload.partition(VBucketId(*vbucket)).to_owned()))
    }

    /// Ends it: the verdict so far, and what was found.
    #[must_use]
    pub fn close(mut self) -> (Verdict, Audit) {
        let mut audit = Audit::of(&self.workload, &self.lives);
        audit.merge(&self.audit);
        for reader in &self.readers {
            let sight = reader.sight();
            audit.add_reader(&reader.name, &self.workload, &sight);
            if let Some(error) = &sight.ended {
                audit.unread.add(|| format!("{} ended: {error}", reader.name));
            }
        }
        self.verdict.figure("logs", self.cluster.directory().display());
        (self.verdict, audit)
    }

    /// From here on it is another cluster, whose offsets mean nothing beside those of the old one.
    pub fn begin_life(&mut self, since: Since) {
        self.lives.push(since);
    }

    /// Waits, under load, and gives the time from when to when.
    pub async fn pass(&self, time: Duration) -> Range<Since> {
        let from = self.workload.clock.now();
        tokio::time::sleep(time).await;
        from..self.workload.clock.now()
    }

    /// Waits until every vbucket has acknowledged something that was pushed since then; gives how long each took.
    ///
    /// # Errors
    /// When that takes longer than the limit.
    pub async fn until_served(&self, since: Since, limit: Duration) -> Result<Vec<Duration>, HarnessError> {
        let deadline = Instant::now() + limit;
        loop {
            let first = first_acks(&self.workload, since);
            if first.len() == self.workload.vbuckets() {
                return Ok(first.into_values().collect());
            }
            if Instant::now() > deadline {
                let seen = format!("{} of {}", first.len(), self.workload.vbuckets());
                return Err(HarnessError::Late { what: "every vbucket takes pushes".to_owned(), limit, seen });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn all(map: &ClusterMap) -> BTreeSet<u16> {
    map.vbuckets().map(|(id, _)| id.0).collect()
}

/// The vbuckets that a node holds in sync.
fn held(map: &ClusterMap, node: NodeId) -> BTreeSet<u16> {
    let holds = |vb: &broky_ring::map::VBucket| vb.isr.iter().any(|member| member.node == node);
    map.vbuckets().filter(|(_, vb)| holds(vb)).map(|(id, _)| id.0).collect()
}

async fn open(name: String, client: Client, options: SubscribeOptions) -> Result<Reader, String> {
    let opening = Reader::open(name, client, options);
    let opened = tokio::time::timeout(OPEN_LIMIT, opening).await.map_err(|_| "not opened in time".to_owned())?;
    opened.map_err(|error: SubscribeError| error.to_string())
}

/// Waits until the reader lacks nothing, or gets nothing more for a while.
async fn caught_up(workload: &Workload, reader: &Reader, concerns: &impl Fn(&Attempt) -> bool) {
    let (mut seen, mut since) = (reader.sight().messages, Instant::now());
    while Audit::missing(workload, &reader.sight(), concerns) > 0 && since.elapsed() < READER_PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = reader.sight().messages;
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}
