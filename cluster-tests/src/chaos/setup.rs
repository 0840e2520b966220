//! What a run is made of: the cluster, the load, and what may be expected of it.

use std::path::PathBuf;
use std::time::Duration;

use super::{Conditions, Scenario};
use crate::check::CheckOptions;
use crate::history::{Expectations, Run};
use crate::supervisor::{ClusterOptions, Host};

/// See the module. A scenario changes what it needs otherwise.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Nodes that found the cluster. Default 3, with three copies of which two must hold a message.
    pub nodes: usize,
    /// Whether the control log is kept on disk. Default: no.
    pub is_durable: bool,
    /// Vbuckets. Default 64.
    pub vbuckets: u32,
    /// `--memory` of a node. Default: so much that nothing is evicted at the default load.
    pub memory: String,
    /// Producers. Default 8.
    pub producers: u32,
    /// Messages per second, of all together. Default 5,000.
    pub rate_per_second: u32,
    /// Bytes of a payload. Default 1,024.
    pub payload_bytes: usize,
    /// Subscribers to everything, at each node in turn. Default 4.
    pub readers: usize,
    /// Subscribers to a part. Default 2.
    pub filtered: usize,
    /// Subscribers that read slower than is pushed. Default 0.
    pub slow: usize,
    /// Subscribers to a hundredth each, all of which begin at the first node. Default 0.
    pub herd: usize,
    /// Time under load before the first fault. Default 5 s.
    pub warm: Duration,
    /// Time in which faults are done.
    pub faults_for: Duration,
    /// What may and what must happen.
    pub expect: Expectations,
    /// The kinds of faults that have to be installed.
    pub faults: Vec<String>,
    /// Pushes that have to be acknowledged during the faults. Default 1,000.
    pub min_acked_during_faults: u64,
    /// By what bounds it is judged. Without a bound on interruptions these are told only.
    pub bounds: CheckOptions,
    /// How long an interruption of a vbucket's pushes may be for 99 of 100 vbuckets. Default: as long as it takes.
    pub interruption_p99_max: Option<Duration>,
    /// Whether it is judged how long something took.
    pub(super) is_timed: bool,
    pub(super) scenario: &'static str,
    pub(super) seed: u64,
    pub(super) host: Host,
    pub(super) directory: PathBuf,
}

impl Setup {
    pub(super) fn new(scenario: &Scenario, conditions: &Conditions) -> Self {
        Self {
            nodes: 3,
            is_durable: false,
            vbuckets: 64,
            memory: roomy(conditions.faults_for),
            producers: 8,
            rate_per_second: 5_000,
            payload_bytes: 1_024,
            readers: 4,
            filtered: 2,
            slow: 0,
            herd: 0,
            warm: Duration::from_secs(5),
            faults_for: conditions.faults_for,
            expect: Expectations::default(),
            faults: Vec::new(),
            min_acked_during_faults: 1_000,
            bounds: if conditions.is_timed { CheckOptions::default() } else { patient() },
            interruption_p99_max: None,
            is_timed: conditions.is_timed,
            scenario: scenario.name,
            seed: conditions.seed,
            host: conditions.host.clone(),
            directory: conditions.directory.join(scenario.name),
        }
    }

    /// Says which kinds of faults have to be installed.
    pub fn plan(&mut self, faults: &[&str]) {
        self.faults = faults.iter().map(ToString::to_string).collect();
    }

    pub(super) fn cluster(&self) -> ClusterOptions {
        ClusterOptions {
            host: self.host.clone(),
            directory: self.directory.join("nodes"),
            nodes: self.nodes,
            is_durable: self.is_durable,
            vbuckets: self.vbuckets,
            memory: self.memory.clone(),
            is_audited: true,
        }
    }

    /// What the nodes are.
    pub(super) fn host_words(&self) -> &'static str {
        match self.host {
            Host::Processes { .. } => "processes behind the proxy",
            Host::Containers { .. } => "containers of docker-compose.yml",
        }
    }

    pub(super) fn head(&self) -> Run {
        Run {
            run: format!("{}-{}-{}", self.scenario, self.seed, std::process::id()),
            scenario: self.scenario.to_owned(),
            seed: self.seed,
            options: self.host_words().to_owned(),
            vbuckets: self.vbuckets,
            replicas: Some(3),
            faults: self.faults.clone(),
            expect: self.expect,
            min_acked_during_faults: self.min_acked_during_faults,
        }
    }
}

/// Room for all that the default load pushes in this time, and while the cluster comes to rest. What a node relays
/// counts beside what it holds.
fn roomy(faults_for: Duration) -> String {
    let mib_per_second = 6;
    format!("{}MiB", 512 + mib_per_second * faults_for.as_secs().saturating_add(30))
}

/// That something comes to be is judged, and not how soon.
fn patient() -> CheckOptions {
    let minute = Duration::from_secs(60);
    CheckOptions { leaders_within: minute, copies_within: minute, caught_up_within: minute, ..CheckOptions::default() }
}
