//! A deterministic simulator: a whole cluster, its clients, its network and everything that goes wrong, in virtual time.
//!
//! The real shards, routers and cluster state run in it, and their frames pass through the real codecs; what is left out is
//! sockets, threads, and raft itself ([`metadata`]). One seed is one run, bit for bit: all chance comes from it, through one
//! stream per concern, and nothing else decides anything. So a failure is a number that anybody can run again.
//!
//! A run has two phases. In the first things go wrong; what must never happen is looked for after every event
//! ([`checks`]). In the second nothing goes wrong any more; then everything has to come to rest within a bound. Faults that
//! always end by themselves would hide what never recovers, and faults that never end would hide what recovers wrongly.
//!
//! The ideas are those of FoundationDB's simulation and of TigerBeetle's VOPR.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what cannot be so ends the run, and is a finding")]

mod checks;
mod control;
mod faults;
mod glue;
mod links;
mod message;
mod metadata;
mod network;
mod node;
mod options;
mod producer;
mod reader;
mod rng;
mod schedule;
mod streams;
mod trace;
mod world;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub use self::checks::Coverage;
pub use self::options::Options;
pub use self::world::Failure;
use self::world::World;

/// Time for a new cluster to be placed.
const PLACED: Duration = Duration::from_secs(30);
/// Time without any progress, once nothing goes wrong any more, after which nothing more is expected.
const REST: Duration = Duration::from_secs(60);
/// Readers that are far behind take their time; this is the end of it.
const REST_MAX: u32 = 60;
/// Events whose words are kept of a run that has failed.
const KEPT: usize = 400;

/// What a run was like.
#[derive(Clone, Debug)]
pub struct Report {
    /// What it was.
    pub options: Options,
    /// Of every event, in order.
    pub hash: u64,
    /// How many there were.
    pub events: u64,
    /// Time that has passed in it.
    pub passed: Duration,
    /// Time until everything had come to rest after the last fault.
    pub rest: Duration,
    /// What has happened.
    pub coverage: Coverage,
    /// The rule that was broken, if one was.
    pub failure: Option<Failure>,
    /// The last events of a run that has failed.
    pub last: Vec<String>,
}

/// Does one run. One that fails is done again, to tell its last events.
#[must_use]
pub fn run(options: &Options) -> Report {
    let report = run_once(options, 0);
    if report.failure.is_some() { run_once(options, KEPT) } else { report }
}

/// Does one run and keeps the words of its last events, so many of them.
#[must_use]
pub fn run_once(options: &Options, kept: usize) -> Report {
    SEED.set(Some(options.seed));
    let mut world = World::new(options, kept);
    let begin = world.now();
    // What a shard asserts about itself is a rule like any other.
    let rest = catch_unwind(AssertUnwindSafe(|| world.live())).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        world.fail("assertions", words);
        Duration::ZERO
    });
    SEED.set(None);
    let (hash, events, coverage) = (world.trace.hash(), world.trace.events(), world.checks.coverage);
    let (passed, last) = (world.now().since(begin), world.trace.take_last());
    Report { options: options.clone(), hash, events, passed, rest, coverage, failure: world.failure.take(), last }
}

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The seed of the run that this thread is at: for a panic hook, where a panic ends the process.
#[must_use]
pub fn current_seed() -> Option<u64> {
    SEED.get()
}

impl World {
    /// The phases of a run. Gives the time that it took to come to rest.
    fn live(&mut self) -> Duration {
        let is_placed = self.run_while(PLACED, |world| world.unrest_of_nodes().is_some());
        if !is_placed && self.failure.is_none() {
            let unrest = self.unrest_of_nodes().unwrap_or_default();
            self.fail("progress", format!("the cluster does not come to be: {unrest}"));
        }
        self.begin_faults();
        let until = self.now().plus(self.options.faults_for());
        self.run_until(until);
        let healed = self.now();
        if self.failure.is_none() {
            self.heal();
            self.come_to_rest();
        }
        self.now().since(healed)
    }

    /// Waits until nothing is left to do, then has somebody read everything from the beginning.
    fn come_to_rest(&mut self) {
        if !self.rests("") {
            return;
        }
        self.add_final_reader();
        if self.rests("the last reader: ") {
            self.look_at_the_end();
        }
    }

    /// Whether nothing is left to do in the end. Fails when nothing comes of it for a while.
    fn rests(&mut self, what: &str) -> bool {
        for _ in 0..REST_MAX {
            let before = self.progress();
            if self.run_while(REST, |world| world.unrest().is_some()) {
                return self.failure.is_none();
            }
            if self.failure.is_some() || self.progress() == before {
                break;
            }
        }
        if self.failure.is_none() {
            let unrest = self.unrest().unwrap_or_default();
            self.fail("progress", format!("{what}nothing moves for {REST:?} without faults: {unrest}"));
        }
        false
    }

    /// What can only grow while clients get somewhere.
    fn progress(&self) -> (u64, u64) {
        (self.checks.coverage.acked, self.readers.iter().map(|reader| reader.received + reader.missed).sum())
    }
}
