//! A run under way: the cluster, its clients, and what a scenario can do and look at.
//!
//! What is done to the cluster is in [`super::nemesis`].

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use broky_proto::id::Member;
use broky_ring::map::ClusterMap;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::audits::registered;
use super::crowd::Crowd;
use super::nemesis::Log;
use super::setup::Setup;
use crate::error::HarnessError;
use crate::history::{End, Event, Heal, Nanos};
use crate::journal::{Folder, now};
use crate::observer::{describe_except, is_full, is_settled, newest_map, raft_leader, until_map};
use crate::supervisor::{Lifetime, Supervisor};
use crate::verdict::Verdict;
use crate::workload::{Fate, Since};

/// Time for a cluster to found itself.
const FOUNDED_LIMIT: Duration = Duration::from_secs(60);
/// Time in which what a process answered before it died reaches a client.
const LAST_WORDS: Duration = Duration::from_millis(20);
/// Time for one to come to rest after the last fault.
const REST_LIMIT: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Debug)]
pub struct Arena {
    /// What it is made of.
    pub setup: Setup,
    /// The processes.
    pub cluster: Supervisor,
    /// Rules beyond those that the history is judged by.
    pub verdict: Verdict,
    pub(super) crowd: Crowd,
    pub(super) log: Log,
    pub(super) random: SmallRng,
    /// What is wrong with the network: the kind, and between whom.
    pub(super) lasting: BTreeSet<(&'static str, String)>,
    /// Nodes that have left the cluster.
    pub(super) retired: BTreeSet<usize>,
    begun: Since,
    until: Instant,
}

/// What is left of a run when it is over.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) setup: Setup,
    pub(super) verdict: Verdict,
    pub(super) history: PathBuf,
    pub(super) folder: Folder,
    pub(super) lifetimes: Vec<Lifetime>,
    /// What processes noted from then on is of their end: they are killed one after the other.
    pub(super) ended: Nanos,
    pub(super) spans: Vec<Duration>,
    pub(super) faults: u64,
}

impl Arena {
    /// Starts the cluster, connects everybody, and waits until the load has run for a while.
    pub(super) async fn open(setup: Setup) -> Result<Self, HarnessError> {
        let _ = std::fs::remove_dir_all(&setup.directory);
        let (folder, supervisor) = Folder::create(&setup.directory.join("history"), setup.head())?;
        let mut cluster = Supervisor::start(setup.cluster())?;
        let log = Log::new(supervisor);
        cluster.nodes().iter().for_each(|node| log.spawned(node));
        let nodes = setup.nodes;
        let has_all = |map: &ClusterMap| map.nodes().count() == nodes && is_settled(map);
        let map = until_map(&mut cluster, "the cluster is founded and at rest", FOUNDED_LIMIT, has_all).await?;
        let crowd = Crowd::gather(&setup, &cluster, folder, map.cluster().to_string()).await?;
        let verdict = Verdict::new(setup.scenario);
        let random = SmallRng::seed_from_u64(setup.seed);
        crowd.workload.go(0);
        tokio::time::sleep(setup.warm).await;
        let (begun, until) = (crowd.workload.clock.now(), Instant::now() + setup.faults_for);
        let (lasting, retired) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { setup, cluster, verdict, crowd, log, random, lasting, retired, begun, until })
    }

    /// Whether there is time for another fault.
    ///
    /// # Errors
    /// When a process has ended that nobody has killed.
    pub fn goes_on(&mut self) -> Result<bool, HarnessError> {
        self.cluster.check()?;
        Ok(Instant::now() < self.until)
    }

    /// A rule that something takes no longer than `limit`, each time; only told where that is not judged.
    pub fn within(&mut self, what: &str, durations: &mut [Duration], limit: Duration) {
        if self.setup.is_timed {
            self.verdict.bound(what, durations, 100, limit);
        } else {
            self.verdict.spread(what, durations);
        }
    }

    /// Lets time pass, under load.
    pub async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Lets some time pass, by chance.
    pub async fn pass_some(&mut self, from: Duration, to: Duration) {
        let time = self.random.random_range(from..=to);
        self.pass(time).await;
    }

    /// A node that runs, by chance.
    pub fn any(&mut self) -> usize {
        let running: Vec<usize> = self.cluster.running().map(|(at, _)| at).collect();
        let at = self.random.random_range(0..running.len().max(1));
        running.get(at).copied().unwrap_or_default()
    }

    /// A number below `end`, by chance.
    pub fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end.max(1))
    }

    /// The newest map.
    ///
    /// # Errors
    /// When no node tells.
    pub async fn map(&self) -> Result<ClusterMap, HarnessError> {
        newest_map(&self.cluster).await
    }

    /// The node that leads most vbuckets.
    ///
    /// # Errors
    /// When no node tells.
    pub async fn busiest(&self) -> Result<usize, HarnessError> {
        let map = self.map().await?;
        let leads = |name: &str| {
            let id = map.nodes().find(|(_, node)| node.name == name).map(|(id, _)| id);
            map.vbuckets().filter(|(_, vb)| vb.leader.is_some_and(|leader| Some(leader.node) == id)).count()
        };
        let most = self.cluster.running().max_by_key(|(_, node)| leads(&node.name));
        Ok(most.map(|(at, _)| at).unwrap_or_default())
    }

    /// The node that leads the raft group, as somebody says; any, if nobody does.
    pub async fn raft_leader(&mut self) -> usize {
        let name = raft_leader(&self.cluster).await;
        let known = self.cluster.running().find(|(_, node)| Some(&node.name) == name.as_ref()).map(|(at, _)| at);
        known.unwrap_or_else(|| self.any())
    }

    /// Waits until every vbucket has all its copies in sync and a leader; gives how long that took.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub async fn until_full(&mut self, limit: Duration) -> Result<Duration, HarnessError> {
        let (since, audits) = (Instant::now(), self.audits()?);
        let is_there = |map: &ClusterMap| has_all(map, &audits) && is_full(map);
        until_map(&mut self.cluster, "every copy is in sync", limit, is_there).await?;
        Ok(since.elapsed())
    }

    /// Waits until every vbucket is held and led where it should be, by all nodes that run; gives how long that took.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub async fn until_settled(&mut self, limit: Duration) -> Result<Duration, HarnessError> {
        let (since, audits) = (Instant::now(), self.audits()?);
        let is_there =
            |map: &ClusterMap| map.nodes().count() == audits.len() && has_all(map, &audits) && is_settled(map);
        until_map(&mut self.cluster, "every vbucket is where it belongs", limit, is_there).await?;
        Ok(since.elapsed())
    }

    /// Where the processes that run note what they are called.
    fn audits(&self) -> Result<Vec<PathBuf>, HarnessError> {
        self.cluster.running().map(|(at, _)| self.cluster.audit(at)).collect()
    }

    /// Waits until every vbucket has acknowledged something that was pushed from now on.
    ///
    /// # Errors
    /// When it takes longer than `limit`.
    pub async fn until_served(&self, limit: Duration) -> Result<(), HarnessError> {
        let (since, deadline) = (self.crowd.workload.clock.now(), Instant::now() + limit);
        loop {
            let served = crate::spans::first_acks(&self.crowd.workload, since);
            if served.len() == self.crowd.workload.vbuckets() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let what = "every vbucket takes pushes".to_owned();
                let map = self.map().await?;
                let seen = describe_except(&map, |vbucket| served.contains_key(&vbucket.0));
                let seen = format!("{} do; {seen}", served.len());
                return Err(HarnessError::Late { what, limit, seen });
            }
            self.pass(Duration::from_millis(50)).await;
        }
    }

    /// The moment, by the clock of whoever pushes.
    pub fn now(&self) -> Since {
        self.crowd.workload.clock.now()
    }

    /// How many messages were on their way to a node when it was killed, and were acknowledged by another, as stored in
    /// the epoch that their vbucket was in before: whoever leads it now had held them as a follower.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn outlived(&self, at: usize, killed: Since, before: &ClusterMap) -> Result<usize, HarnessError> {
        let name = &self.cluster.node(at)?.name;
        let is_of_it = |leader: Member| before.node(leader.node).is_some_and(|node| node.name == *name);
        let mut count = 0;
        self.crowd.workload.for_each(|_, _, attempt| {
            if let Fate::Committed(Some(position)) = attempt.fate
                && attempt.pushed < killed
                && attempt.settled > killed + LAST_WORDS
                && let Some(vbucket) = before.vbucket(position.vbucket)
            {
                count += usize::from(vbucket.leader.is_some_and(is_of_it) && vbucket.epoch == position.epoch);
            }
        });
        Ok(count)
    }

    /// Changes of an ISR that were refused so far, because one that was to be in it was another process by then, or
    /// dead.
    pub fn came_too_late(&self) -> usize {
        super::audits::came_too_late(self.cluster.lifetimes())
    }

    /// Ends all faults, and waits until the cluster is at rest and every push has its outcome.
    pub(super) async fn heal(&mut self) -> Result<(), HarnessError> {
        self.mend_everything()?;
        self.log.journal.note(Event::Heal(Heal {}));
        let until = self.setup.bounds.copies_within.max(REST_LIMIT);
        self.until_full(until).await?;
        // Load goes on while readers catch up, then it ends.
        self.pass(Duration::from_secs(2)).await;
        self.crowd.settle().await
    }

    /// Has everything read, and ends it all.
    pub(super) async fn close(mut self) -> Result<Done, HarnessError> {
        let window = self.begun..self.crowd.workload.clock.now();
        let mut spans: Vec<Duration> = crate::spans::longest(&self.crowd.workload, &window).into_values().collect();
        spans.sort_unstable();
        self.crowd.read_everything(&self.cluster).await?;
        self.crowd.disperse().await;
        self.cluster.check()?;
        let ended = now();
        self.log.journal.note_at(ended, Event::End(End {}));
        self.log.journal.flush();
        let folder = self.crowd.folder().clone();
        let (history, lifetimes) = (folder.path().to_owned(), self.cluster.lifetimes().to_vec());
        let faults = self.log.installed();
        // They pass for clients, and no cut between nodes concerns them.
        let strangers = self.cluster.proxy().map_or(0, |proxy| proxy.strangers().connections);
        if strangers > 0 {
            self.verdict.figure("connections of nobody known", strangers);
        }
        Ok(Done { setup: self.setup, verdict: self.verdict, history, folder, lifetimes, ended, spans, faults })
    }
}

/// Whether the map knows each of these processes, and not one that was there before in its place.
pub(super) fn has_all(map: &ClusterMap, audits: &[PathBuf]) -> bool {
    audits.iter().all(|audit| registered(audit).is_some_and(|member| map.is_alive(member)))
}
