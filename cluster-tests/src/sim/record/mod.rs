//! The history of a run: what its clients, nodes, supervisor and nemesis would have written down ([`crate::history`]).
//!
//! Clients write down what they are told and nothing else ([`clients`]). What nodes do is seen from outside: after each
//! event their logs and roles are compared with what they were ([`nodes`]). So recording changes nothing, and costs
//! nothing where nobody wants it.
//!
//! Everything is written by one process, the simulator, with virtual time; so what happens at one moment stays in the
//! order in which it happened.

mod clients;
mod nodes;

use std::cmp::Reverse;
use std::hash::Hasher as _;
use std::path::Path;

use broky_proto::time::Timestamp;
use broky_shard::ShardConfig;
use rustc_hash::FxHasher;

use self::clients::Clients;
use self::nodes::Nodes;
pub(super) use self::nodes::metas;
use super::options::Options;
use super::world::{Failure, World};
use crate::check::{CheckOptions, Verdict, check_records};
use crate::history::{
    End, Event, Expectations, Fault, FaultOutcome, FaultPhase, Hash64, Heal, HistoryError, HistoryWriter, Nanos,
    Record, Run,
};

/// What the one cluster of a run is called.
const CLUSTER: &str = "sim";
/// The file of a history.
const FILE: &str = "sim.jsonl";
/// What a message costs in memory beside its payload, at most.
const MESSAGE_OVERHEAD: u64 = 512;
/// Time in which things are pushed, beside that in which faults happen: until the cluster is placed.
const PLACED_SECONDS: u64 = 30;

/// See the module.
pub(super) struct Recorder {
    records: Vec<Record<'static>>,
    clients: Clients,
    nodes: Nodes,
}

impl Recorder {
    pub(super) fn new(options: &Options, start: Timestamp) -> Self {
        let mut recorder = Self { records: Vec::new(), clients: Clients::default(), nodes: Nodes::default() };
        recorder.add(start, Event::Run(head(options)));
        recorder
    }

    fn add(&mut self, now: Timestamp, event: Event<'static>) {
        self.records.push(Record { t_ns: Nanos(now.0), event });
    }
}

/// What may be expected of a run. A seed says how often faults come on average, not that any does, and a run may be
/// short: so no fault is planned, and nothing has to be acknowledged meanwhile.
fn head(options: &Options) -> Run {
    let expect = Expectations {
        leader_change: false,
        total_loss: options.total_every_ms > 0 || options.kill_every_ms > 0 || options.churn_every_ms > 0,
        evictions: may_evict(options),
    };
    Run {
        run: format!("sim-{}", options.seed),
        scenario: "sim".to_owned(),
        seed: options.seed,
        options: options.to_string(),
        vbuckets: u32::try_from(options.vbuckets).unwrap(),
        replicas: Some(u8::try_from(options.replicas).unwrap()),
        faults: Vec::new(),
        expect,
        min_acked_during_faults: 0,
    }
}

/// Whether all that can be pushed may be more than half of a node's memory.
fn may_evict(options: &Options) -> bool {
    let turns = (options.seconds + PLACED_SECONDS) * 1_000 / options.push_every_ms.max(1);
    let messages = turns * options.producers * options.batch_max;
    messages * (options.payload_bytes + MESSAGE_OVERHEAD) > ShardConfig::MEMORY_BYTES_MIN as u64 / 2
}

/// Whether more is pushed than the transports to readers carry: then they lag, which says nothing.
fn is_slow_to_read(options: &Options) -> bool {
    let frames_per_second = options.window * 1_000_000 / (2 * options.delay_mean_us).max(1);
    let pushed_per_second = 1_000 * options.producers * options.batch_max / options.push_every_ms.max(1);
    frames_per_second < pushed_per_second
}

impl World {
    fn record(&mut self, event: impl FnOnce() -> Event<'static>) {
        let now = self.now();
        if let Some(recorder) = &mut self.recorder {
            recorder.add(now, event());
        }
    }

    /// The nemesis does something to somebody.
    pub(super) fn record_fault(&mut self, kind: &'static str, target: impl FnOnce() -> String, phase: FaultPhase) {
        self.record(|| {
            let outcome = FaultOutcome::Installed;
            Event::Fault(Fault { kind: kind.to_owned(), target: target(), phase, outcome })
        });
    }

    /// All faults are over.
    pub(super) fn record_heal(&mut self) {
        self.record(|| Event::Heal(Heal {}));
    }

    /// The run is over.
    pub(super) fn record_end(&mut self) {
        if self.recorder.is_some() {
            self.record_last_hashes();
            self.record_last_positions();
            self.record(|| Event::End(End {}));
        }
    }

    pub(super) fn take_history(&mut self) -> Vec<Record<'static>> {
        self.recorder.take().map(|recorder| recorder.records).unwrap_or_default()
    }
}

fn hash_of(bytes: &[u8]) -> Hash64 {
    let mut hasher = FxHasher::default();
    hasher.write(bytes);
    Hash64(hasher.finish())
}

/// What the history of a run shows to be broken, in the checker's words.
#[must_use]
pub fn judge(history: &[Record<'_>]) -> Option<Failure> {
    let options = CheckOptions { findings_max: 1, ..CheckOptions::default() };
    let report = match check_records(history, options) {
        Ok(report) => report,
        Err(error) => return Some(Failure { rule: "history", words: error.to_string() }),
    };
    if report.verdict == Verdict::Passed {
        return None;
    }
    let kinds = report.kinds();
    // Warnings are no reason. Of equal weight, the lower invariant comes first.
    let kind = kinds.iter().min_by_key(|kind| Reverse(kind.weight()))?;
    let first = report.found(*kind).and_then(|found| found.kept.first());
    let all = kinds.iter().map(|kind| format!("{kind} {}", report.count(*kind))).collect::<Vec<_>>().join(", ");
    Some(Failure { rule: kind.name(), words: format!("{}; in all {all}", first.map_or("", |it| &it.what)) })
}

/// Writes a history to a folder, which must not have one, for `check` to judge.
///
/// # Errors
/// When it cannot be written.
pub fn write(history: &[Record<'_>], folder: &Path) -> Result<(), HistoryError> {
    std::fs::create_dir_all(folder).map_err(|error| HistoryError::Io { path: folder.to_owned(), error })?;
    let [head, records @ ..] = history else { return Ok(()) };
    let mut writer = HistoryWriter::create(folder.join(FILE), head.t_ns, head.event.clone())?;
    records.iter().try_for_each(|record| writer.write(record))?;
    writer.flush()
}
