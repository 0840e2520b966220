//! The directed links between parties: how long what is sent takes, and whether it passes at all.
//!
//! Connections are TCP: within one nothing is lost, doubled or out of order. What the network loses comes late, what it
//! cuts off waits, and whoever waits too long gives the connection up. Doubling and disorder come from above: requests
//! that are repeated on another connection, proposals and news of the control plane that are lost or come twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use broky_proto::time::Timestamp;

use super::options::Options;
use super::rng::Rng;

/// A party.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Place {
    /// A node, by number.
    Node(usize),
    /// A client.
    Client(usize),
    /// Whoever leads the raft group.
    Control,
}

impl Place {
    pub(super) fn code(self) -> u64 {
        match self {
            Self::Node(at) => at as u64,
            Self::Client(at) => 1_000 + at as u64,
            Self::Control => 999,
        }
    }
}

/// TCP sends a segment again after this, at first.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct Network {
    rng: Rng,
    min: Duration,
    mean: Duration,
    stalls_per_mille: u64,
    cut: BTreeSet<(Place, Place)>,
    /// How much longer everything takes.
    clogged: BTreeMap<(Place, Place), Duration>,
}

impl Network {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            rng: Rng::stream(options.seed, "network"),
            min: Duration::from_micros(options.delay_min_us),
            mean: Duration::from_micros(options.delay_mean_us),
            stalls_per_mille: options.stalls_per_mille,
            cut: BTreeSet::new(),
            clogged: BTreeMap::new(),
        }
    }

    /// How long something takes that is sent now.
    pub(super) fn delay(&mut self, from: Place, to: Place) -> Duration {
        let mut delay = self.min + self.rng.around(self.mean - self.min.min(self.mean));
        if self.rng.chance(self.stalls_per_mille) {
            delay += RETRANSMISSION * (1 << self.rng.below(4));
        }
        match self.clogged.get(&(from, to)) {
            Some(longer) => delay + self.rng.within(Duration::ZERO, *longer),
            None => delay,
        }
    }

    /// Whether what is sent arrives at all.
    pub(super) fn passes(&self, from: Place, to: Place) -> bool {
        !self.cut.contains(&(from, to))
    }

    pub(super) fn cut(&mut self, from: Place, to: Place) {
        self.cut.insert((from, to));
    }

    pub(super) fn mend(&mut self, from: Place, to: Place) {
        self.cut.remove(&(from, to));
    }

    pub(super) fn clog(&mut self, from: Place, to: Place, longer: Duration) {
        self.clogged.insert((from, to), longer);
    }

    pub(super) fn unclog(&mut self, from: Place, to: Place) {
        self.clogged.remove(&(from, to));
    }

    /// Ends all faults.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.clogged.clear();
        self.stalls_per_mille = 0;
    }
}

/// A clock that is wrong by so many millionths. It never goes back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) ppm: i64,
    pub(super) origin: Timestamp,
}

impl Clock {
    /// What it shows at a moment.
    pub(super) fn shows(self, now: Timestamp) -> Timestamp {
        let passed = i128::try_from(now.since(self.origin).as_nanos()).unwrap();
        let shown = passed + passed * i128::from(self.ppm) / 1_000_000;
        Timestamp(self.origin.0 + u64::try_from(shown).unwrap_or_default())
    }

    /// How long it takes until it shows `wait` more.
    pub(super) fn takes(self, wait: Duration) -> Duration {
        let nanos = i128::try_from(wait.as_nanos()).unwrap_or(i128::MAX) * 1_000_000 / i128::from(1_000_000 + self.ppm);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
    }
}
