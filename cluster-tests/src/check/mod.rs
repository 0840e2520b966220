//! Judges histories: records in, a verdict per invariant out, with the records that show it.
//!
//! The invariants ([`Invariant`]), one file each: `kept` I1, `order` I2, `authentic` I3, `offsets` I4, `committed` I5,
//! `signalled` I6, `leaders` I8, `converged` I9, `agreed` I10, `available` I11, `caught_up` I12, `monotonic` I13,
//! `coverage` I14. I7 is about groups, which the broker refuses as unimplemented: it is not judged.
//!
//! Two passes. The first (`intake`) looks at each record once, keeps what is small (`facts`) and makes the rest compact
//! (`compact`) and partitioned (`spool`), on disk when it is much. The second takes one partition at a time: first by
//! message (`messages`), which yields what became of each message; then by vbucket (`vbucket`), where that meets what
//! readers went through (`walk`) and what nodes did.
//!
//! **Memory**: what is gathered before it goes to disk ([`CheckOptions::gathered_bytes_max`]), and the largest
//! partition, loaded: about 300 bytes for each message in a 32nd of the vbuckets, and 100 for each delivery to a
//! quarter of the readers in them. A vbucket is never split, so that a run with a few of them takes more than one with
//! many. Sessions, faults, the control log and the processes are kept whole.
//!
//! **Invariant**: the verdict depends on the records only: not on the order of files, nor on partitions.
//!
//! A checker is believed because it can fail: each kind of finding has a fixture that shows it and nothing else.
//!
//! Sources: Jepsen's checker for Kafka (`tests/kafka.clj`), from which come the three outcomes, the final reader, and
//! that nobody is blamed for what was not read; KIP-101, KIP-903 and KIP-966 for what a copy in memory is worth.

mod agreed;
mod authentic;
mod available;
mod basis;
mod caught_up;
mod committed;
mod compact;
mod control;
mod converged;
mod coverage;
mod error;
mod facts;
mod files;
mod filter;
mod finding;
mod intake;
mod kept;
mod kind;
mod leaders;
mod lives;
mod messages;
mod monotonic;
mod names;
mod nemesis;
mod offsets;
mod options;
mod order;
mod report;
mod sessions;
mod signalled;
mod spool;
mod told;
mod vbucket;
mod walk;

pub mod generate;

use std::collections::BTreeMap;

pub use self::error::{CheckError, Fault};
pub use self::facts::Counts;
pub use self::files::check_files;
pub use self::finding::{Evidence, Finding, Found, Origin};
use self::intake::Intake;
pub use self::kind::{Invariant, Kind, Weight};
pub use self::options::CheckOptions;
pub use self::report::{Judgement, Report, Status, Verdict};
use crate::history::Record;

/// Takes the records of one run, in any order of sources, and judges them.
#[derive(Debug)]
pub struct Checker {
    intake: Intake,
    /// Records taken from each source.
    lines: Vec<u64>,
}

/// Where records come from: one process, whose records come in the order in which it wrote them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source(u16);

impl Checker {
    /// Of no records yet.
    #[must_use]
    pub fn new(options: CheckOptions) -> Self {
        Self { intake: Intake::new(options), lines: Vec::new() }
    }

    /// Adds a source.
    ///
    /// # Errors
    /// When there are 65,535 already.
    pub fn add_source(&mut self, name: impl Into<String>) -> Result<Source, CheckError> {
        let count_max = usize::from(u16::MAX);
        let next = u16::try_from(self.lines.len()).ok().filter(|next| usize::from(*next) < count_max);
        let next = next.ok_or(CheckError::TooManyFiles { count: self.lines.len() + 1, count_max })?;
        self.lines.push(0);
        self.intake.sources.push(name.into());
        Ok(Source(next))
    }

    /// Takes the next record of a source.
    ///
    /// # Errors
    /// When it contradicts what came before of its recorder, or there is no room to put it aside. What was taken so far
    /// is of no use then.
    pub fn add(&mut self, source: Source, record: &Record<'_>) -> Result<(), CheckError> {
        let mut line = 0;
        if let Some(count) = self.lines.get_mut(usize::from(source.0)) {
            *count += 1;
            line = *count;
        }
        self.intake.add(Origin { source: source.0, line }, record)
    }

    /// A source ended in a record that was cut short.
    pub fn note_cut(&mut self) {
        self.intake.counts.cut_files += 1;
    }

    /// Judges. The findings say in which record of which source they are, and not what those say.
    ///
    /// # Errors
    /// When the records do not say what the run is, or contradict one another; or when what was put aside cannot be
    /// read.
    pub fn finish(self) -> Result<Report, CheckError> {
        let (facts, mut spools, mut findings) = self.intake.finish()?;
        for partition in 0..facts::MESSAGE_PARTITIONS {
            messages::judge(spools.traces.take(partition)?, &facts, &mut spools, &mut findings)?;
        }
        let coverage = vbucket::judge(&facts, &mut spools, &mut findings)?;
        kept::judge_changes(&facts, &mut findings);
        leaders::judge_control(&facts, &mut findings);
        let converged = converged::judge(&facts, &mut findings);
        coverage.judge(&facts, &mut findings);
        let mut found = findings.into_kinds();
        let judgements = Invariant::ALL.map(|invariant| {
            let own = found.extract_if(.., |kind, _| kind.invariant() == invariant).collect();
            Judgement::new(invariant, basis::of(invariant, &facts, &coverage, converged), own)
        });
        Ok(facts.report(judgements.into()))
    }
}

/// Judges records that are at hand, all of one source.
///
/// # Errors
/// When they cannot be judged.
pub fn check_records(records: &[Record<'_>], options: CheckOptions) -> Result<Report, CheckError> {
    let mut checker = Checker::new(options);
    let source = checker.add_source("records")?;
    records.iter().try_for_each(|record| checker.add(source, record))?;
    let mut report = checker.finish()?;
    let mut texts = BTreeMap::new();
    for evidence in report.evidence() {
        let at = usize::try_from(evidence.origin.line).unwrap_or_default().checked_sub(1);
        let text = at.and_then(|at| records.get(at)).and_then(|record| serde_json::to_string(record).ok());
        texts.insert(evidence.origin, text.unwrap_or_default());
    }
    report.attach(&["records".to_owned()], &texts);
    Ok(report)
}
