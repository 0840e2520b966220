//! The clients of a run: who pushes, who reads all along, and who reads everything in the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use broky_client::Client;
use futures_util::future::join_all;

use super::setup::Setup;
use super::subscriber::{Profile, Subscriber};
use crate::error::HarnessError;
use crate::history::{CloseReason, ReaderRole};
use crate::journal::{Folder, Journal};
use crate::supervisor::Supervisor;
use crate::workload::{Fate, Workload, WorkloadOptions};

/// How long a message is tried.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// Time without anything new after which a reader is at the end, whatever it lacks.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time without anything new to anybody after which nothing more is expected.
const QUIET: Duration = Duration::from_secs(3);
/// Keys of a producer's messages, in turn: subscribers to a part want one of them.
const KEYS: usize = 4;
/// Subscribers of a herd that share a client.
const HERD_PER_CLIENT: usize = 50;
/// How long a slow reader rests after each delivery.
const SLOW_REST: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) workload: Workload,
    subscribers: Vec<Subscriber>,
    folder: Folder,
    pushed: Journal,
}

impl Crowd {
    /// Connects everybody. Nothing is pushed yet.
    pub(super) async fn gather(
        setup: &Setup,
        cluster: &Supervisor,
        folder: Folder,
        cluster_id: String,
    ) -> Result<Self, HarnessError> {
        let pushed = folder.journal("producers")?;
        let options = WorkloadOptions {
            producers: setup.producers,
            rate_per_second: setup.rate_per_second,
            payload_bytes: setup.payload_bytes,
            delivery_timeout: DELIVERY_TIMEOUT,
            vbuckets: setup.vbuckets,
            only: None,
            key: |_, sequence| format!("k{}.{sequence}", sequence % KEYS),
            journal: Some((pushed.clone(), cluster_id)),
        };
        let workload = Workload::start(&cluster.addresses(), &options).await?;
        let mut crowd = Self { workload, subscribers: Vec::new(), folder, pushed };
        let kinds = [
            ("reader", setup.readers, ReaderRole::Plain, Duration::ZERO),
            ("filtered", setup.filtered, ReaderRole::Plain, Duration::ZERO),
            ("slow", setup.slow, ReaderRole::Slow, SLOW_REST),
        ];
        for (kind, count, role, rest) in kinds {
            for number in 0..count {
                let patterns =
                    if kind == "filtered" { vec![format!("k{}.*", number % KEYS)] } else { vec!["*".to_owned()] };
                let name = format!("{kind}-{number}");
                let profile = Profile { name, patterns, is_earliest: number % 2 == 0, role, rest };
                crowd.subscribe(cluster, number, profile).await?;
            }
        }
        crowd.gather_herd(cluster, setup.herd).await?;
        Ok(crowd)
    }

    /// Very many subscribers, to a hundredth each, over few connections: all begin at the first node.
    async fn gather_herd(&mut self, cluster: &Supervisor, count: usize) -> Result<(), HarnessError> {
        let addresses = cluster.addresses();
        for first in (0..count).step_by(HERD_PER_CLIENT) {
            let journal = self.folder.journal(&format!("herd-{first}"))?;
            let client = Client::builder().address(addresses.first().cloned().unwrap_or_default());
            let client = client.connect().await?;
            for number in first..count.min(first + HERD_PER_CLIENT) {
                let (name, patterns) = (format!("herd-{number}"), vec![format!("*{:02}", number % 100)]);
                let (role, rest) = (ReaderRole::Plain, Duration::ZERO);
                let profile = Profile { name, patterns, is_earliest: false, role, rest };
                self.subscribers.push(Subscriber::open(profile, client.clone(), journal.clone()).await?);
            }
        }
        Ok(())
    }

    /// Adds a subscriber, which begins at one node and knows all.
    async fn subscribe(&mut self, cluster: &Supervisor, first: usize, profile: Profile) -> Result<(), HarnessError> {
        let mut addresses = cluster.addresses();
        let first = first % addresses.len().max(1);
        addresses.rotate_left(first);
        let journal = self.folder.journal(&profile.name)?;
        let client = Client::connect(addresses).await?;
        self.subscribers.push(Subscriber::open(profile, client, journal).await?);
        Ok(())
    }

    /// Pushes nothing more, and waits for every outcome.
    pub(super) async fn settle(&self) -> Result<(), HarnessError> {
        self.workload.settle(DELIVERY_TIMEOUT + Duration::from_secs(5)).await
    }

    /// Has somebody read everything at each node that runs.
    pub(super) async fn read_everything(&self, cluster: &Supervisor) -> Result<(), HarnessError> {
        let ends = self.ends();
        for (_, node) in cluster.running() {
            let name = format!("final-{}", node.name);
            let profile = Profile {
                name: name.clone(),
                patterns: vec!["*".to_owned()],
                is_earliest: true,
                role: ReaderRole::Final,
                rest: Duration::ZERO,
            };
            let client = Client::connect([node.client_address().to_string()]).await?;
            let reader = Subscriber::open(profile, client, self.folder.journal(&name)?).await?;
            reader.until(&ends, PATIENCE).await;
            reader.close(CloseReason::Done).await;
        }
        Ok(())
    }

    /// Waits until everybody has what there is, and lets them go.
    pub(super) async fn disperse(&mut self) {
        let ends = self.ends();
        let is_reading = |role| role == ReaderRole::Plain;
        for subscriber in self.subscribers.iter().filter(|it| is_reading(it.profile().role)) {
            if subscriber.profile().patterns == ["*"] {
                subscriber.until(&ends, PATIENCE).await;
            }
        }
        // Where those stand who read a part is not known between their messages: until nothing more comes.
        let (mut known, mut since) = (self.messages(), Instant::now());
        while since.elapsed() < QUIET {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let messages = self.messages();
            if messages != known {
                (known, since) = (messages, Instant::now());
            }
        }
        let close = |subscriber: Subscriber| {
            let is_done = is_reading(subscriber.profile().role);
            subscriber.close(if is_done { CloseReason::Done } else { CloseReason::Stopped })
        };
        join_all(self.subscribers.drain(..).map(close)).await;
        self.pushed.flush();
    }

    /// What all who read as fast as they can have got together.
    fn messages(&self) -> u64 {
        let reading = self.subscribers.iter().filter(|it| it.profile().role == ReaderRole::Plain);
        reading.map(Subscriber::messages).sum()
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Behind the last acknowledged message of each vbucket.
    fn ends(&self) -> BTreeMap<u16, u64> {
        let mut ends: BTreeMap<u16, u64> = BTreeMap::new();
        self.workload.for_each(|_, _, attempt| {
            if let Fate::Committed(Some(position)) = attempt.fate {
                let end = ends.entry(position.vbucket.0).or_default();
                *end = (position.offset.0 + 1).max(*end);
            }
        });
        ends
    }
}
