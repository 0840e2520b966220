//! What is known of a run as a whole once every record was taken in: small beside the records, and kept in memory.

use std::hash::{Hash as _, Hasher as _};

use broky_proto::id::{VBucketCount, VBucketId};
use rustc_hash::FxHasher;

use super::compact::{Act, Entry, Step, Trace};
use super::control::ControlLog;
use super::error::{CheckError, Fault};
use super::finding::Origin;
use super::kind::Weight;
use super::lives::Lives;
use super::names::{ClusterNo, Names};
use super::nemesis::Nemesis;
use super::options::CheckOptions;
use super::report::{Judgement, Report, Verdict};
use super::sessions::{DoneFinal, Sessions};
use super::spool::{Scratch, Spool};
use crate::history::{Nanos, Run};

/// Messages are spread over these many partitions by their hash.
pub(crate) const MESSAGE_PARTITIONS: usize = 64;
/// Vbuckets are dealt out to these many.
pub(crate) const VBUCKET_PARTITIONS: usize = 32;
/// What readers went through in the vbuckets of one such partition is spread over these many, by reader.
pub(crate) const READER_PARTITIONS: usize = 4;

/// What is known of a run as a whole.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) run: Run,
    pub(crate) vbuckets: VBucketCount,
    pub(crate) options: CheckOptions,
    /// Names of the sources of records.
    pub(crate) sources: Vec<String>,
    /// When each cluster was first heard of, and where.
    pub(crate) clusters_since: Vec<(Nanos, Origin)>,
    pub(crate) keys: Names,
    pub(crate) sessions: Sessions,
    pub(crate) finals: Vec<DoneFinal>,
    pub(crate) lives: Lives,
    pub(crate) control: ControlLog,
    pub(crate) nemesis: Nemesis,
    /// The moment of the last record, or of the end if that was told.
    pub(crate) end: Nanos,
    pub(crate) counts: Counts,
}

/// How much there was.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Records.
    pub records: u64,
    /// Invocations of pushes.
    pub pushes: u64,
    /// Acknowledgements.
    pub acks: u64,
    /// Deliveries.
    pub deliveries: u64,
    /// Gaps.
    pub gaps: u64,
    /// Files whose last line was cut short.
    pub cut_files: u64,
    /// Acts of nodes that were audited.
    pub acts: u64,
    /// Those of them that took messages into a log.
    pub appends: u64,
    /// Those of them that told a log's hash.
    pub chains: u64,
    /// Messages whose keys are too many to tell them apart: whether filtered readers ought to have got them is not
    /// known.
    pub unnamed_keys: u64,
}

impl Facts {
    fn since(&self, cluster: ClusterNo) -> Nanos {
        self.clusters_since.get(usize::from(cluster.0)).map_or(Nanos(u64::MAX), |(since, _)| *since)
    }

    /// Whether another cluster was heard of after this one.
    pub(crate) fn is_replaced(&self, cluster: ClusterNo) -> bool {
        let since = self.since(cluster);
        self.clusters_since.iter().any(|(other, _)| *other > since)
    }

    /// Says that a record is not usable.
    pub(crate) fn unusable(&self, origin: Origin, fault: Fault) -> CheckError {
        CheckError::unusable(&self.sources, origin, fault)
    }

    /// The report on this run.
    pub(crate) fn report(&self, judgements: Vec<Judgement>) -> Report {
        let weight = judgements.iter().flat_map(|it| it.found.keys()).map(|kind| kind.weight()).max();
        let verdict = match weight {
            None | Some(Weight::Warning) => Verdict::Passed,
            Some(Weight::Invalid) => Verdict::Invalid,
            Some(Weight::Violation) => Verdict::Violated,
        };
        let run = format!("run {}, scenario {}, seed {}", self.run.run, self.run.scenario, self.run.seed);
        Report { run, verdict, judgements, counts: self.counts }
    }

    /// When the faults were over; the beginning where there were none.
    pub(crate) fn healed(&self) -> Nanos {
        self.nemesis.healed().unwrap_or_default()
    }
}

/// The many records, partitioned.
#[derive(Debug)]
pub(crate) struct Spools {
    pub(crate) traces: Spool<Trace>,
    pub(crate) steps: Spool<Step>,
    pub(crate) acts: Spool<Act>,
    pub(crate) entries: Spool<Entry>,
}

impl Spools {
    pub(crate) fn new(options: &CheckOptions) -> Self {
        let partitions = MESSAGE_PARTITIONS + VBUCKET_PARTITIONS * (READER_PARTITIONS + 2);
        let gathered = options.gathered_bytes_max / partitions;
        let scratch = Scratch::new(options.scratch.as_deref());
        Self {
            traces: Spool::new(&scratch, "traces", MESSAGE_PARTITIONS, gathered),
            steps: Spool::new(&scratch, "steps", VBUCKET_PARTITIONS * READER_PARTITIONS, gathered),
            acts: Spool::new(&scratch, "acts", VBUCKET_PARTITIONS, gathered),
            entries: Spool::new(&scratch, "entries", VBUCKET_PARTITIONS, gathered),
        }
    }

    pub(crate) fn push_trace(&mut self, trace: &Trace) -> Result<(), CheckError> {
        let mut hasher = FxHasher::default();
        trace.message.hash(&mut hasher);
        // The upper half is the better mixed one.
        self.traces.push(usize::try_from(hasher.finish() >> 32).unwrap_or_default(), trace)
    }

    pub(crate) fn push_step(&mut self, step: &Step) -> Result<(), CheckError> {
        let reader = usize::try_from(step.reader.0).unwrap_or_default() % READER_PARTITIONS;
        self.steps.push(of_vbucket(step.vbucket) * READER_PARTITIONS + reader, step)
    }

    pub(crate) fn push_act(&mut self, act: &Act) -> Result<(), CheckError> {
        self.acts.push(of_vbucket(act.vbucket), act)
    }

    pub(crate) fn push_entry(&mut self, entry: &Entry) -> Result<(), CheckError> {
        self.entries.push(of_vbucket(entry.vbucket), entry)
    }
}

fn of_vbucket(vbucket: VBucketId) -> usize {
    usize::from(vbucket.0) % VBUCKET_PARTITIONS
}
