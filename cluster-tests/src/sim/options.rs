//! What a run is like: drawn from its seed, so that each seed tries another mixture.
//!
//! Most faults are off in most runs. With all of them on all the time, a cluster never gets far enough to be in the
//! states in which bugs hide ("swarm testing", Groce et al., 2012).

use std::fmt;
use std::time::Duration;

use super::rng::Rng;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// What chance is drawn from.
    pub seed: u64,
    /// Nodes at the beginning, 1 to 6.
    pub nodes: u64,
    /// Vbuckets, 1 to 16: few, so that all that happens meets.
    pub vbuckets: u64,
    /// Copies, 1 to 3.
    pub replicas: u64,
    /// Copies in sync that a commit needs.
    pub min_isr: u64,
    /// Time in which faults happen, in seconds.
    pub seconds: u64,
    /// Producers.
    pub producers: u64,
    /// Subscribers at the beginning.
    pub readers: u64,
    /// Time between two batches of a producer, in milliseconds.
    pub push_every_ms: u64,
    /// Messages of a batch, at most.
    pub batch_max: u64,
    /// Bytes of a payload. Large ones push the oldest out of memory.
    pub payload_bytes: u64,
    /// Of a frame on a link: at least, and around, in microseconds.
    pub delay_min_us: u64,
    /// See there.
    pub delay_mean_us: u64,
    /// Frames that are lost and come again after 200 ms or more, as TCP has it, in a thousand.
    pub stalls_per_mille: u64,
    /// Proposals, heartbeats and news of the control plane that are lost, in a thousand.
    pub lost_per_mille: u64,
    /// Those that come twice.
    pub twice_per_mille: u64,
    /// Clocks that go wrong by up to this, in millionths.
    pub drift_ppm: u64,
    /// Subscribers that read slowly, in a thousand.
    pub slow_per_mille: u64,
    /// Frames that a transport to a subscriber or a relay holds.
    pub window: u64,
    /// Mean time between two faults of a kind, in milliseconds; 0 for never.
    pub kill_every_ms: u64,
    /// Likewise: SIGSTOP.
    pub pause_every_ms: u64,
    /// Likewise: nothing passes from one party to another.
    pub cut_every_ms: u64,
    /// Likewise: a node is cut off, in both directions, from all or from some.
    pub isolate_every_ms: u64,
    /// Likewise: what passes from one party to another takes up to 5 s.
    pub clog_every_ms: u64,
    /// Likewise: a connection breaks.
    pub reset_every_ms: u64,
    /// Likewise: all nodes die at once.
    pub total_every_ms: u64,
    /// Likewise: the control plane decides nothing for a while.
    pub leaderless_every_ms: u64,
    /// Likewise: a node is drained, or joins, or is forgotten.
    pub churn_every_ms: u64,
}

impl Options {
    /// The options that a seed stands for.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::stream(seed, "options");
        let nodes = [1, 2, 3, 3, 3, 4, 5, 6][usize::try_from(rng.below(8)).unwrap_or_default()];
        let replicas = rng.between(1, 3).max(if rng.chance(600) { 3 } else { 1 });
        let is_large = rng.chance(60);
        let delay_min_us = [20, 100, 1_000, 10_000][usize::try_from(rng.below(4)).unwrap_or_default()];
        let mut often = |per_mille: u64, from: u64, to: u64| {
            let is_on = rng.chance(per_mille);
            let every = rng.between(from, to);
            if is_on { every } else { 0 }
        };
        Self {
            seed,
            kill_every_ms: often(500, 1_500, 15_000),
            pause_every_ms: often(400, 2_000, 15_000),
            cut_every_ms: often(400, 1_000, 10_000),
            isolate_every_ms: often(350, 3_000, 20_000),
            clog_every_ms: often(300, 1_000, 10_000),
            reset_every_ms: often(400, 200, 5_000),
            total_every_ms: often(120, 8_000, 20_000),
            leaderless_every_ms: often(300, 3_000, 15_000),
            churn_every_ms: often(250, 2_000, 10_000),
            nodes,
            vbuckets: 1 << rng.below(5),
            replicas,
            min_isr: rng.between(1, 2).min(replicas),
            seconds: rng.between(8, 40),
            producers: rng.between(1, 4),
            readers: rng.between(1, 5),
            push_every_ms: if is_large { rng.between(50, 200) } else { rng.between(5, 150) },
            batch_max: if is_large { 3 } else { rng.between(1, 12) },
            payload_bytes: if is_large { rng.between(100_000, 400_000) } else { rng.below(100) },
            delay_min_us,
            delay_mean_us: delay_min_us * rng.between(1, 4),
            stalls_per_mille: if rng.chance(300) { rng.between(1, 20) } else { 0 },
            lost_per_mille: if rng.chance(400) { rng.between(1, 300) } else { 0 },
            twice_per_mille: if rng.chance(400) { rng.between(1, 300) } else { 0 },
            drift_ppm: if rng.chance(300) { rng.between(1, 20_000) } else { 0 },
            slow_per_mille: if rng.chance(300) { rng.between(1, 500) } else { 0 },
            window: rng.between(1, 8),
        }
    }

    /// Time in which faults happen.
    #[must_use]
    pub fn faults_for(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn fields(&mut self) -> [(&'static str, &mut u64); 27] {
        [
            ("nodes", &mut self.nodes),
            ("vbuckets", &mut self.vbuckets),
            ("replicas", &mut self.replicas),
            ("min_isr", &mut self.min_isr),
            ("seconds", &mut self.seconds),
            ("producers", &mut self.producers),
            ("readers", &mut self.readers),
            ("push_every_ms", &mut self.push_every_ms),
            ("batch_max", &mut self.batch_max),
            ("payload_bytes", &mut self.payload_bytes),
            ("delay_min_us", &mut self.delay_min_us),
            ("delay_mean_us", &mut self.delay_mean_us),
            ("stalls_per_mille", &mut self.stalls_per_mille),
            ("lost_per_mille", &mut self.lost_per_mille),
            ("twice_per_mille", &mut self.twice_per_mille),
            ("drift_ppm", &mut self.drift_ppm),
            ("slow_per_mille", &mut self.slow_per_mille),
            ("window", &mut self.window),
            ("kill_every_ms", &mut self.kill_every_ms),
            ("pause_every_ms", &mut self.pause_every_ms),
            ("cut_every_ms", &mut self.cut_every_ms),
            ("isolate_every_ms", &mut self.isolate_every_ms),
            ("clog_every_ms", &mut self.clog_every_ms),
            ("reset_every_ms", &mut self.reset_every_ms),
            ("total_every_ms", &mut self.total_every_ms),
            ("leaderless_every_ms", &mut self.leaderless_every_ms),
            ("churn_every_ms", &mut self.churn_every_ms),
        ]
    }

    /// Sets one of them, as in `kill_every_ms=0`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set(&mut self, assignment: &str) -> Result<(), String> {
        let (name, value) = assignment.split_once('=').ok_or_else(|| format!("{assignment:?} is not NAME=NUMBER"))?;
        let value = value.parse().map_err(|_| format!("{value:?} is not a number"))?;
        let fields = self.fields();
        let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
        let field = fields.into_iter().find(|(known, _)| *known == name);
        let (_, field) = field.ok_or_else(|| format!("there is no option {name:?}; there are {}", names.join(", ")))?;
        *field = value;
        Ok(())
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed={}", self.seed)?;
        self.clone().fields().into_iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_shown_in_full_and_can_be_set_one_by_one() {
        let options = Options::of(7);
        assert_eq!(options, Options::of(7));
        let mut again = Options { seed: 7, ..Options::of(8) };
        options.to_string().split(' ').skip(1).for_each(|assignment| again.set(assignment).unwrap());
        assert_eq!(again, options);
        assert_eq!(options.to_string().split(' ').count(), 28);
        assert!(again.set("nodes").is_err() && again.set("nodes=x").is_err() && again.set("node=1").is_err());
    }
}
