//! A deterministic simulator: a whole cluster, its clients, its network and everything that goes wrong, in virtual
//! time.
//!
//! The real shards, routers and cluster state run in it, and their frames pass through the real codecs; what is left
//! out is sockets, threads, and raft itself ([`metadata`]). One seed is one run, bit for bit: all chance comes from it,
//! through one stream per concern, and nothing else decides anything. So a failure is a number that anybody can run
//! again.
//!
//! A run has two phases. In the first things go wrong; what must never happen is looked for after every event
//! ([`checks`]). In the second nothing goes wrong any more; then everything has to come to rest within a bound. Faults
//! that always end by themselves would hide what never recovers, and faults that never end would hide what recovers
//! wrongly.
//!
//! A run can write down what its clients, nodes, supervisor and nemesis did ([`record`]), so that [`crate::check`]
//! judges it too, from outside; also one whose rules are broken ([`How::is_ruled`]).
//!
//! The ideas are those of FoundationDB's simulation and of TigerBeetle's VOPR.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what cannot be so ends the run, and is a finding")]

mod checks;
mod control;
mod faults;
mod frames;
mod glue;
mod links;
mod message;
mod metadata;
mod network;
mod node;
mod options;
mod producer;
mod reader;
mod record;
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
pub use self::record::{judge, write};
pub use self::world::Failure;
use self::world::World;
use crate::history::Record;

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
    /// What it wrote down, if that was wanted.
    pub history: Vec<Record<'static>>,
}

/// How a run is done. None of it changes what happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct How {
    /// Events whose words are kept, the last ones.
    pub words: usize,
    /// A history is written.
    pub is_recorded: bool,
    /// A broken rule ends the run. Otherwise it goes on to its end, so that its history is whole; but what the product
    /// asserts about itself ends it in any case.
    pub is_ruled: bool,
}

impl Default for How {
    fn default() -> Self {
        Self { words: 0, is_recorded: false, is_ruled: true }
    }
}

/// Does one run. One that fails is done again, to tell its last events.
#[must_use]
pub fn run(options: &Options, how: How) -> Report {
    let report = run_once(options, how);
    let is_told = how.words > 0 || report.failure.is_none();
    if is_told { report } else { run_once(options, How { words: KEPT, ..how }) }
}

/// Does one run once.
#[must_use]
pub fn run_once(options: &Options, how: How) -> Report {
    SEED.set(Some(options.seed));
    let mut world = World::new(options, how);
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
    let history = world.take_history();
    Report {
        options: options.clone(),
        hash,
        events,
        passed,
        rest,
        coverage,
        failure: world.failure.take(),
        last,
        history,
    }
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
        self.rest("");
        if self.failure.is_some() {
            return;
        }
        self.add_final_reader();
        self.rest("the last reader: ");
        if self.failure.is_none() {
            self.look_at_the_end();
            self.record_end();
        }
    }

    /// Waits until nothing is left to do. Fails when nothing comes of it for a while.
    fn rest(&mut self, what: &str) {
        for _ in 0..REST_MAX {
            let before = self.progress();
            if self.run_while(REST, |world| world.unrest().is_some()) || self.failure.is_some() {
                return;
            }
            if self.progress() == before {
                break;
            }
        }
        let unrest = self.unrest().unwrap_or_default();
        self.fail("progress", format!("{what}nothing moves for {REST:?} without faults: {unrest}"));
    }

    /// What can only grow while clients get somewhere.
    fn progress(&self) -> (u64, u64) {
        (self.checks.coverage.acked, self.readers.iter().map(|reader| reader.received + reader.missed).sum())
    }
}
