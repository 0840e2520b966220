//! The scenarios, and what they share: the plan of a run, and interruptions by what a node was for a vbucket.

pub mod grow;
pub mod kill;
pub mod pause;
pub mod quorum;
pub mod stage;
pub mod total;
pub mod touch;

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use broky_client::VBucketId;
use broky_ring::map::ClusterMap;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use self::total::Left;
use crate::error::HarnessError;
use crate::spans::{longest, percentile};
use crate::supervisor::{ClusterOptions, Host, Network, Supervisor};
use crate::verdict::{Verdict, show};
use crate::workload::{Since, Workload, WorkloadOptions, key_of};

/// How a scenario is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenario's name.
    pub scenario: String,
    /// The `broky` binary.
    pub binary: PathBuf,
    /// Where logs and data go.
    pub directory: PathBuf,
    /// Runs; `None` for the scenario's own number.
    pub runs: Option<u32>,
    /// What chance is drawn from.
    pub seed: u64,
    /// Vbuckets of the clusters.
    pub vbuckets: u32,
    /// Messages per second.
    pub rate_per_second: u32,
}

/// A scenario that is under way.
pub type Running = Pin<Box<dyn Future<Output = Result<Verdict, HarnessError>>>>;

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it does and demands.
    pub about: &'static str,
    /// Carries it out.
    pub run: fn(Plan) -> Running,
}

/// Every scenario.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "kill",
        about: "three nodes: kill -9 of any one under load, 20 times",
        run: |plan| Box::pin(kill::run(plan, 3)),
    },
    Scenario {
        name: "kill-five",
        about: "five nodes, three copies: kill -9 of any one under load, 20 times",
        run: |plan| Box::pin(kill::run(plan, 5)),
    },
    Scenario {
        name: "pause",
        about: "three nodes: SIGSTOP of a leader for 30 s under load, 3 times",
        run: |plan| Box::pin(pause::run(plan)),
    },
    Scenario {
        name: "quorum",
        about: "kill two of three and restart both at once, without disks, 3 times",
        run: |plan| Box::pin(quorum::run(plan, false)),
    },
    Scenario {
        name: "quorum-disk",
        about: "kill two of three and restart both at once, with --data-dir, 3 times",
        run: |plan| Box::pin(quorum::run(plan, true)),
    },
    Scenario {
        name: "total",
        about: "kill all three and restart them, without disks, 3 times",
        run: |plan| Box::pin(total::run(plan, Left::Nothing)),
    },
    Scenario {
        name: "total-disk",
        about: "kill all three and restart them, with --data-dir, 3 times",
        run: |plan| Box::pin(total::run(plan, Left::Disks)),
    },
    Scenario {
        name: "slept",
        about: "one of three is stopped, the others go on and are killed; it continues and they restart, 3 times",
        run: |plan| Box::pin(total::run(plan, Left::Sleeper)),
    },
    Scenario {
        name: "grow",
        about: "3 -> 5 -> 3 nodes under load: two join, then two are drained and stopped",
        run: |plan| Box::pin(grow::run(plan)),
    },
    Scenario {
        name: "touch",
        about: "five nodes, three copies: a push touches its owner and two followers only",
        run: |plan| Box::pin(touch::run(plan)),
    },
];

impl Plan {
    /// How often, if not told otherwise.
    #[must_use]
    pub fn runs(&self, own: u32) -> u32 {
        self.runs.unwrap_or(own)
    }

    /// A cluster of so many nodes.
    #[must_use]
    pub fn cluster(&self, nodes: usize) -> ClusterOptions {
        ClusterOptions {
            host: Host::Processes { binary: self.binary.clone(), network: Network::Direct },
            directory: self.directory.clone(),
            nodes,
            is_durable: false,
            vbuckets: self.vbuckets,
            memory: "1GiB".to_owned(),
            is_audited: false,
        }
    }

    /// The usual load.
    #[must_use]
    pub fn load(&self) -> WorkloadOptions {
        WorkloadOptions {
            producers: 4,
            rate_per_second: self.rate_per_second,
            payload_bytes: 64,
            delivery_timeout: Duration::from_secs(30),
            vbuckets: self.vbuckets,
            only: None,
            key: |round, _| key_of(round),
            journal: None,
        }
    }

    /// The time between two pushes to one vbucket.
    #[must_use]
    pub fn push_interval(&self) -> Duration {
        Duration::from_secs(1) * self.vbuckets / self.rate_per_second.max(1)
    }

    /// Chance.
    #[must_use]
    pub fn random(&self) -> Random {
        Random(SmallRng::seed_from_u64(self.seed))
    }

    /// Says how it goes.
    pub fn say(&self, words: impl std::fmt::Display) {
        eprintln!("{}: {words}", self.scenario);
    }
}

/// Chance, from a seed.
#[derive(Debug)]
pub struct Random(SmallRng);

impl Random {
    /// A duration up to this one.
    pub fn up_to(&mut self, limit: Duration) -> Duration {
        self.0.random_range(Duration::ZERO..=limit)
    }
}

/// What a node was for a vbucket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// It led.
    Led,
    /// It followed.
    Followed,
    /// It held no copy.
    Absent,
}

/// What a node is for a vbucket by this map.
#[must_use]
pub fn role_of(map: &ClusterMap, name: &str, vbucket: VBucketId) -> Role {
    let node = map.nodes().find(|(_, node)| node.name == name).map(|(id, _)| id);
    let (Some(node), Some(vb)) = (node, map.vbucket(vbucket)) else { return Role::Absent };
    match vb.leader {
        Some(leader) if leader.node == node => Role::Led,
        Some(_) | None if vb.replicas.contains(&node) => Role::Followed,
        Some(_) | None => Role::Absent,
    }
}

/// A node's name.
///
/// # Errors
/// When there is no such node.
pub fn name_of(cluster: &Supervisor, at: usize) -> Result<String, HarnessError> {
    Ok(cluster.node(at)?.name.clone())
}

/// Interruptions, by role.
#[derive(Default, Debug)]
pub struct Spans {
    by_role: BTreeMap<Role, Vec<Duration>>,
    /// The medians of each kill: what the victim led, and what it followed. One that was the raft leader is replaced
    /// later, so a median over all kills would fall on either side of a gap.
    medians: Vec<(Duration, Duration)>,
    of_return: Vec<Duration>,
    last: String,
}

impl Spans {
    /// Adds the longest interruption of every vbucket within a window.
    pub fn add(&mut self, workload: &Workload, window: &Range<Since>, role: impl Fn(VBucketId) -> Role) {
        let mut now: BTreeMap<Role, Vec<Duration>> = BTreeMap::new();
        for (vbucket, span) in longest(workload, window) {
            now.entry(role(VBucketId(vbucket))).or_default().push(span);
        }
        let show_role = |(role, spans): (&Role, &mut Vec<Duration>)| {
            spans.sort_unstable();
            let [p50, p99, max] = [50, 99, 100].map(|percent| show(percentile(spans, percent)));
            format!("{role:?} p50 {p50} p99 {p99} max {max} of {}", spans.len())
        };
        self.last = now.iter_mut().map(show_role).collect::<Vec<_>>().join("; ");
        let median = |role| now.get(&role).map(|spans| percentile(spans, 50));
        self.medians.extend(median(Role::Led).zip(median(Role::Followed)));
        for (role, spans) in now {
            self.by_role.entry(role).or_default().extend(spans);
        }
    }

    /// Adds the longest interruption of every vbucket while a node returned.
    pub fn add_return(&mut self, workload: &Workload, window: &Range<Since>) {
        self.of_return.extend(longest(workload, window).into_values());
    }

    /// What was added last, in words.
    #[must_use]
    pub fn last(&self) -> &str {
        &self.last
    }

    /// All of a role.
    pub fn of(&mut self, role: Role) -> &mut Vec<Duration> {
        self.by_role.entry(role).or_default()
    }

    /// The rules for a kill. What is measured is as fine as the time between two pushes to a vbucket, so two
    /// percentiles that differ by less count as equal.
    pub fn judge_kill(&mut self, verdict: &mut Verdict, quiet: &mut Self, has_absent: bool, grain: Duration) {
        verdict.spread("interruption while nothing happens", quiet.of(Role::Led));
        let noise = percentile(quiet.of(Role::Led), 99);
        let led = self.of(Role::Led);
        verdict.spread("interruption, led by the victim", led);
        verdict.bound("interruption, led", led, 50, Duration::from_millis(300));
        verdict.bound("interruption, led", led, 99, Duration::from_millis(1_500));
        let led_p99 = percentile(led, 99);
        let followed = self.of(Role::Followed);
        verdict.spread("interruption, followed by the victim", followed);
        let p99 = percentile(followed, 99);
        let shorter = self.medians.iter().filter(|(led, followed)| followed < led).count();
        let measured = format!("p50 in {shorter} of {} kills, p99 {}", self.medians.len(), show(p99));
        let is_shorter = 10 * shorter >= 9 * self.medians.len() && shorter > 0;
        verdict.rule("shorter where it followed", measured, is_shorter && p99 <= led_p99 + grain);
        if has_absent {
            let absent = self.of(Role::Absent);
            verdict.spread("interruption, no copy at the victim", absent);
            let p99 = percentile(absent, 99);
            let what = format!("none without a copy there: p99 <= twice the noise of {}", show(noise));
            verdict.rule(what, show(p99), p99 <= noise * 2 && !absent.is_empty());
        }
        verdict.spread("interruption while the victim returns", &mut self.of_return);
    }
}
