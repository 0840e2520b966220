//! The first pass: each record is looked at once, and goes where it will be judged.
//!
//! What is small is kept ([`Facts`]); what is many becomes compact and is partitioned ([`Spools`]). What one record
//! shows by itself, or together with the one before it of the same session, is judged here already.

mod clients;
mod nodes;

use broky_proto::id::{VBucketCount, VBucketId};

use super::control::ControlLog;
use super::error::{CheckError, Fault};
use super::facts::{Counts, Facts, Spools};
use super::finding::{Findings, Origin};
use super::lives::Lives;
use super::names::{ClusterNo, Names};
use super::nemesis::Nemesis;
use super::options::CheckOptions;
use super::sessions::Sessions;
use crate::history::{Event, Nanos, Record, Run};

/// Most clusters of a run.
const CLUSTERS_MAX: usize = 1 << 15;

/// Takes records in.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(super) options: CheckOptions,
    pub(super) sources: Vec<String>,
    run: Option<Run>,
    /// The runs that files say they belong to.
    heads: Vec<(String, Origin)>,
    clusters: Names,
    clusters_since: Vec<(Nanos, Origin)>,
    keys: Names,
    sessions: Sessions,
    lives: Lives,
    control: ControlLog,
    nemesis: Nemesis,
    last: Nanos,
    /// The highest vbucket that was named.
    vbucket_max: Option<(VBucketId, Origin)>,
    pub(super) counts: Counts,
    findings: Findings,
    spools: Spools,
}

/// Why a record was not taken in.
enum Refusal {
    Fault(Fault),
    Check(CheckError),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<CheckError> for Refusal {
    fn from(error: CheckError) -> Self {
        Self::Check(error)
    }
}

impl Intake {
    pub(crate) fn new(options: CheckOptions) -> Self {
        Self {
            sources: Vec::new(),
            run: None,
            heads: Vec::new(),
            clusters: Names::default(),
            clusters_since: Vec::new(),
            keys: Names::default(),
            sessions: Sessions::default(),
            lives: Lives::default(),
            control: ControlLog::default(),
            nemesis: Nemesis::default(),
            last: Nanos::default(),
            vbucket_max: None,
            counts: Counts::default(),
            findings: Findings::new(options.findings_max),
            spools: Spools::new(&options),
            options,
        }
    }

    /// Takes a record in.
    pub(crate) fn add(&mut self, origin: Origin, record: &Record<'_>) -> Result<(), CheckError> {
        self.counts.records += 1;
        self.last = self.last.max(record.t_ns);
        self.take(origin, record.t_ns, &record.event).map_err(|refusal| match refusal {
            Refusal::Fault(fault) => CheckError::unusable(&self.sources, origin, fault),
            Refusal::Check(error) => error,
        })
    }

    /// Everything was taken in.
    pub(crate) fn finish(mut self) -> Result<(Facts, Spools, Findings), CheckError> {
        let run = self.run.ok_or(CheckError::NoRun)?;
        let foreign = self.heads.iter().find(|(head, _)| *head != run.run);
        if let Some((theirs, origin)) = foreign {
            let fault = Fault::ForeignRun { ours: run.run, theirs: theirs.clone() };
            return Err(CheckError::unusable(&self.sources, *origin, fault));
        }
        let Some(vbuckets) = VBucketCount::new(run.vbuckets) else {
            let origin = self.heads.first().map(|(_, origin)| *origin).unwrap_or(Origin { source: 0, line: 1 });
            return Err(CheckError::unusable(&self.sources, origin, Fault::VBuckets(run.vbuckets)));
        };
        if let Some((vbucket, origin)) = self.vbucket_max.filter(|(vbucket, _)| vbucket.0 >= vbuckets.get()) {
            let fault = Fault::NoSuchVBucket { vbucket: vbucket.0, vbuckets: vbuckets.get() };
            return Err(CheckError::unusable(&self.sources, origin, fault));
        }
        self.control.settle();
        let facts = Facts {
            run,
            vbuckets,
            options: self.options,
            sources: self.sources,
            clusters_since: self.clusters_since,
            keys: self.keys,
            finals: self.sessions.finals(),
            sessions: self.sessions,
            lives: self.lives,
            control: self.control,
            end: self.nemesis.ended().unwrap_or(self.last),
            nemesis: self.nemesis,
            counts: self.counts,
        };
        Ok((facts, self.spools, self.findings))
    }

    fn take(&mut self, origin: Origin, at: Nanos, event: &Event<'_>) -> Result<(), Refusal> {
        match event {
            Event::Run(run) => self.take_run(origin, run)?,
            Event::File(head) => self.heads.push((head.run.clone(), origin)),
            Event::PushInvoke(invoke) => self.take_invoke(origin, at, invoke)?,
            Event::PushOk(ok) => self.take_ok(origin, at, ok)?,
            Event::PushFail(fail) => self.take_fail(origin, at, fail)?,
            Event::PushUnknown(unknown) => self.take_unknown(origin, at, unknown)?,
            Event::Subscribe(subscribe) => self.take_subscribe(origin, at, subscribe)?,
            Event::Confirmed(confirmed) => self.take_confirmed(origin, at, confirmed)?,
            Event::Deliver(deliver) => self.take_deliver(origin, at, deliver)?,
            Event::Advance(advance) => self.take_advance(origin, at, advance)?,
            Event::Gap(gap) => self.take_gap(origin, at, gap)?,
            Event::Heartbeat(heartbeat) => self.take_heartbeat(origin, at, heartbeat)?,
            Event::Close(close) => self.take_close(origin, at, close)?,
            Event::IncarnationStart(start) => self.take_incarnation(origin, at, start)?,
            Event::Meta(meta) => self.take_meta(origin, at, meta)?,
            Event::Append(append) => self.take_append(origin, at, append)?,
            Event::HwAdvance(advance) => self.take_hw(origin, at, advance)?,
            Event::Truncate(truncate) => self.take_truncate(origin, at, truncate)?,
            Event::AckSent(ack) => self.take_ack(origin, at, ack)?,
            Event::RoleChange(change) => self.take_role(origin, at, change)?,
            Event::ChainHash(chain) => self.take_chain(origin, at, chain)?,
            Event::Spawn(spawn) => self.take_spawn(at, spawn),
            Event::Exit(exit) => self.take_exit(at, exit),
            Event::Stop(stop) => self.take_stop(at, stop),
            Event::Continue(it) => self.take_continue(at, it),
            Event::Fault(fault) => self.take_fault(at, fault),
            Event::Heal(_) => self.take_heal(at),
            Event::End(_) => self.take_end(at),
        }
        Ok(())
    }

    fn take_run(&mut self, origin: Origin, run: &Run) -> Result<(), Refusal> {
        if self.run.is_some() {
            return Err(Fault::SecondRun.into());
        }
        self.run = Some(run.clone());
        // Its place tells which record to blame for what the header says.
        self.heads.insert(0, (run.run.clone(), origin));
        Ok(())
    }

    fn cluster(&mut self, name: &str, at: Nanos, origin: Origin) -> Result<ClusterNo, Refusal> {
        let number = self.clusters.number(name, CLUSTERS_MAX).and_then(|number| u16::try_from(number).ok());
        let number = number.ok_or(Fault::TooManyNames(CLUSTERS_MAX))?;
        match self.clusters_since.get_mut(usize::from(number)) {
            Some(since) => *since = (at, origin).min(*since),
            None => self.clusters_since.push((at, origin)),
        }
        Ok(ClusterNo(number))
    }

    /// Notes that a vbucket was named: how many there are may be told later.
    fn vbucket(&mut self, vbucket: VBucketId, origin: Origin) -> VBucketId {
        if self.vbucket_max.is_none_or(|(highest, _)| highest < vbucket) {
            self.vbucket_max = Some((vbucket, origin));
        }
        vbucket
    }
}

/// A range of offsets does not end before it begins.
fn check_range(from: u64, to: u64) -> Result<(), Refusal> {
    if from > to { Err(Fault::Range { from, to }.into()) } else { Ok(()) }
}
