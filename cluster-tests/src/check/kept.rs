//! I1: what was acknowledged is not lost while one process lives that holds it.
//!
//! A message is missing if no reader got it, or, where a final reader came to the end, if that one did not; and no dump
//! of a node's copy shows it. That alone proves nothing: nobody may have come so far. It is *lost* if there is evidence
//! that it is not there any more: a reader passed over it, was told that it is lost, or read to the end of the log and
//! did not get it; or the log, or even the cluster, begins after it.
//!
//! A loss is *excused* from the first moment on at which every holder of then was dead ([`ControlLog::voids`]), for
//! what was pushed before. Without a record of the control log nothing is known of holders, and nothing is excused but
//! what a run announced: that everything may be lost, where a later lineage or cluster followed and every reader was
//! told.
//!
//! A message that left the memory is not lost if the run announced evictions.
//!
//! That a lineage ended although one of its holders lived is a fault of its own, whatever it held.
//!
//! [`ControlLog::voids`]: super::control::ControlLog::voids

use std::collections::{BTreeMap, BTreeSet};

use broky_proto::id::{Lineage, ProducerId, Sequence};

use super::compact::{Entry, Place};
use super::coverage::Coverage;
use super::facts::Facts;
use super::filter::is_of_system;
use super::finding::{Finding, Findings, Origin};
use super::kind::Kind;
use super::names::ClusterNo;
use super::told::{FinalSpan, Told, ToldOf};
use super::vbucket::Log;
use crate::history::Nanos;

/// What became of an acknowledged message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Somebody got it.
    Kept,
    /// It left the memory, as it may.
    Trimmed,
    /// It is gone with all who held it.
    Excused,
    /// It is gone.
    Lost(Sign),
    /// Nobody came so far.
    Unread,
}

/// How it is known that a message is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sign {
    /// A final reader shows it.
    Final(&'static str, Origin),
    /// A reader passed over it.
    Passed,
    /// A reader was told that it is lost.
    ToldLost,
    /// A reader was told that it left the memory.
    ToldTrimmed,
    /// Another cluster took the place of its own.
    Replaced,
}

impl Sign {
    fn words(self) -> &'static str {
        match self {
            Self::Final(words, _) => words,
            Self::Passed => "a reader passed over it",
            Self::ToldLost => "a reader was told that it is lost",
            Self::ToldTrimmed => "it left the memory, and no reader had got it",
            Self::Replaced => "another cluster took its place",
        }
    }
}

pub(super) fn judge_log(log: &Log<'_>, told: &Told, facts: &Facts, coverage: &mut Coverage, findings: &mut Findings) {
    let nothing = ToldOf::default();
    for (cluster, entries) in log.clusters() {
        let told = told.by_cluster.get(&cluster).unwrap_or(&nothing);
        let mut judge = Judge::new(log, cluster, entries, told, facts);
        judge.judge(coverage, findings);
    }
    judge_unplaced(log, facts, coverage, findings);
    judge_changes_of_clients(log, told, facts, findings);
}

/// Of one cluster.
struct Judge<'a> {
    log: &'a Log<'a>,
    cluster: ClusterNo,
    entries: &'a [Entry],
    told: &'a ToldOf,
    facts: &'a Facts,
    /// The newest lineage that anybody saw.
    newest: Lineage,
    /// When each lineage was void, as far as it was asked.
    voids: BTreeMap<Lineage, Vec<Nanos>>,
}

impl<'a> Judge<'a> {
    fn new(log: &'a Log<'a>, cluster: ClusterNo, entries: &'a [Entry], told: &'a ToldOf, facts: &'a Facts) -> Self {
        let newest = entries.iter().filter_map(|entry| entry.place).map(|place| place.lineage).max();
        let newest = newest.max(told.lineages.map(|(_, newest)| newest)).unwrap_or_default();
        Self { log, cluster, entries, told, facts, newest, voids: BTreeMap::new() }
    }

    fn judge(&mut self, coverage: &mut Coverage, findings: &mut Findings) {
        let mut lost = Vec::new();
        for entry in self.entries {
            let Some(place) = entry.place.filter(|_| entry.is_acked() && entry.is_first) else { continue };
            let fate = self.fate(entry, &place);
            match fate {
                Fate::Lost(sign) => lost.push((entry, place, sign)),
                Fate::Kept | Fate::Unread if self.is_final_expected(entry, &place) => coverage.expect(entry.is_final),
                Fate::Kept | Fate::Unread | Fate::Trimmed | Fate::Excused => {}
            }
        }
        if lost.is_empty() {
            return;
        }
        let kept = self.kept_spans();
        for (entry, place, sign) in lost {
            let at = entry.settled.unwrap_or_default();
            findings.add(Kind::Lost, at, || self.lost(entry, &place, sign, &kept));
        }
    }

    /// Whether a final reader can be expected to get what is at this place.
    fn is_final_expected(&self, entry: &Entry, place: &Place) -> bool {
        let is_trimmed = self.facts.run.expect.evictions
            && (self.told.trimmed.contains(place.offset)
                || self.told.finals.iter().all(|span| span.start > place.offset) && !self.told.finals.is_empty());
        let is_over = place.lineage < self.newest || self.facts.is_replaced(self.cluster);
        !is_over && !is_trimmed && !is_of_system(&self.facts.keys, entry)
    }

    fn fate(&mut self, entry: &Entry, place: &Place) -> Fate {
        // A copy that is there after the faults holds it, whatever readers got.
        let is_dumped = place.dumped.is_some_and(|dumped| dumped.since >= self.facts.healed());
        if entry.is_final || is_dumped {
            return Fate::Kept;
        }
        let sign = self.sign(entry, place);
        let Some(sign) = sign else { return if entry.is_present { Fate::Kept } else { Fate::Unread } };
        if self.is_excused(entry, place.lineage) {
            return Fate::Excused;
        }
        let is_trimmed = place.lineage == self.newest && self.facts.run.expect.evictions && self.is_trimmed(place);
        if is_trimmed { Fate::Trimmed } else { Fate::Lost(sign) }
    }

    /// Whether readers were told that it left the memory, or the log begins above it.
    fn is_trimmed(&self, place: &Place) -> bool {
        self.told.trimmed.contains(place.offset) || self.told.finals.iter().any(|span| span.start > place.offset)
    }

    /// What shows that a message is not there any more.
    fn sign(&self, entry: &Entry, place: &Place) -> Option<Sign> {
        if entry.is_present {
            // Somebody got it, so that what others missed is theirs to tell; but it may be gone since.
            return self.sign_of_finals(entry, place);
        }
        if self.told.passed.contains(place.offset) {
            return Some(Sign::Passed);
        }
        if self.told.is_told_lost(place.offset) {
            return Some(Sign::ToldLost);
        }
        if self.told.trimmed.contains(place.offset) {
            return Some(Sign::ToldTrimmed);
        }
        self.sign_of_finals(entry, place)
    }

    /// What final readers that came to the end show of a message that none of them got.
    fn sign_of_finals(&self, entry: &Entry, place: &Place) -> Option<Sign> {
        if is_of_system(&self.facts.keys, entry) {
            return None;
        }
        if let Some(sign) = self.told.finals.iter().find_map(|span| sign_of_final(span, entry, place)) {
            return Some(sign);
        }
        let mut later = self.facts.finals.iter().filter(|done| entry.settled <= Some(done.subscribed));
        if let Some(done) = later.clone().find(|done| done.cluster == self.cluster && self.told.finals.is_empty()) {
            return Some(Sign::Final("the final reader got nothing of its vbucket", done.origin));
        }
        let is_of_another = later.any(|done| done.cluster != self.cluster);
        (is_of_another && self.facts.is_replaced(self.cluster)).then_some(Sign::Replaced)
    }

    /// The record that shows it.
    fn origin_of(&self, sign: Sign, place: &Place) -> Option<Origin> {
        let covers = |from, to| from <= place.offset && place.offset < to;
        match sign {
            Sign::Final(_, origin) => Some(origin),
            Sign::Passed => {
                let passes = self.told.passes.iter().filter(|pass| !pass.is_dump && covers(pass.from, pass.to));
                passes.map(|pass| pass.step.origin).min()
            }
            Sign::ToldLost => self.told.lost().find(|gap| covers(gap.from, gap.to)).map(|gap| gap.origin),
            Sign::ToldTrimmed | Sign::Replaced => None,
        }
    }

    fn is_excused(&mut self, entry: &Entry, lineage: Lineage) -> bool {
        let (facts, cluster, vbucket) = (self.facts, self.cluster, self.log.vbucket);
        if facts.control.is_empty() {
            let is_over = lineage < self.newest || facts.is_replaced(cluster);
            return facts.run.expect.total_loss && is_over && !self.told.is_change_untold;
        }
        let voids = self.voids.entry(lineage);
        let voids = voids.or_insert_with(|| facts.control.voids(cluster, vbucket, lineage, &facts.lives));
        voids.iter().any(|void| entry.invoked.is_some_and(|invoked| invoked <= *void))
    }

    /// The first and last sequence of each producer that is not lost, by lineage.
    fn kept_spans(&mut self) -> Spans {
        let mut spans = Spans::new();
        for entry in self.entries {
            let Some(place) = entry.place.filter(|_| entry.is_acked() && entry.is_first) else { continue };
            if self.fate(entry, &place) != Fate::Kept {
                continue;
            }
            let sequence = entry.message.sequence;
            let span = spans.entry((place.lineage, entry.message.producer)).or_insert((sequence, sequence));
            *span = (span.0.min(sequence), span.1.max(sequence));
        }
        spans
    }

    fn lost(&self, entry: &Entry, place: &Place, sign: Sign, kept: &Spans) -> Finding {
        let at = entry.settled.unwrap_or_default();
        let part = match kept.get(&(place.lineage, entry.message.producer)) {
            None => "all",
            Some((first, _)) if entry.message.sequence < *first => "prefix",
            Some((_, last)) if entry.message.sequence > *last => "postfix",
            Some(_) => "middle",
        };
        let (message, offset, vbucket) = (entry.message, place.offset, self.log.vbucket);
        let what = format!(
            "message {message} at offset {offset} of lineage {} of vbucket {vbucket} ({part} of its producer): {}",
            place.lineage,
            sign.words()
        );
        let near = self.facts.control.around(self.cluster, vbucket, at, &self.facts.lives);
        Finding::new(Kind::Lost, at, what)
            .with("acked", entry.origin)
            .maybe_with("gone", self.origin_of(sign, place))
            .near(near)
    }
}

/// First and last kept sequence by lineage and producer.
type Spans = BTreeMap<(Lineage, ProducerId), (Sequence, Sequence)>;

fn sign_of_final(span: &FinalSpan, entry: &Entry, place: &Place) -> Option<Sign> {
    // What was acknowledged after the final reader began may come after it ended.
    if !span.is_done || entry.settled > Some(span.subscribed) {
        return None;
    }
    let words = if place.lineage < span.start_lineage {
        "the final reader began in a later lineage"
    } else if place.offset < span.start {
        "the log began above it when the final reader came"
    } else if place.offset >= span.end {
        "the final reader came to the end and did not get it"
    } else {
        "the final reader passed it and did not get it"
    };
    Some(Sign::Final(words, span.origin))
}

/// Messages that were acknowledged, by a later attempt, without a place, and that nobody got.
fn judge_unplaced(log: &Log<'_>, facts: &Facts, coverage: &mut Coverage, findings: &mut Findings) {
    let unplaced = log.entries.iter().filter(|entry| entry.place.is_none() && entry.is_acked());
    let unplaced: Vec<&Entry> = unplaced.filter(|entry| !is_of_system(&facts.keys, entry)).collect();
    let is_announced = facts.control.is_empty() && facts.run.expect.total_loss;
    if unplaced.is_empty() || is_announced || facts.run.expect.evictions {
        return;
    }
    // They were stored before, so that any loss of the vbucket since they were pushed may have taken them.
    let lineages = facts.control.lineages(log.vbucket);
    let voids =
        lineages.into_iter().flat_map(|(cluster, it)| facts.control.voids(cluster, log.vbucket, it, &facts.lives));
    let last_void = voids.max();
    for entry in unplaced.into_iter().filter(|entry| last_void.is_none() || entry.invoked > last_void) {
        if !facts.finals.iter().any(|done| entry.settled <= Some(done.subscribed)) {
            coverage.expect(false);
            continue;
        }
        let at = entry.settled.unwrap_or_default();
        findings.add(Kind::Lost, at, || {
            let (message, vbucket) = (entry.message, log.vbucket);
            let what = format!("message {message} of vbucket {vbucket}: acked as a duplicate, and no reader got it");
            Finding::new(Kind::Lost, at, what).with("acked", entry.origin)
        });
    }
}

/// A lineage ends only when nobody lives who held it, and so does a cluster: by the control log, vbucket by vbucket.
pub(super) fn judge_changes(facts: &Facts, findings: &mut Findings) {
    for (cluster, vbucket, versions) in facts.control.vbuckets() {
        let is_void = |lineage| {
            let is_held = facts.control.was_held(cluster, vbucket, lineage);
            !is_held || !facts.control.voids(cluster, vbucket, lineage, &facts.lives).is_empty()
        };
        for (before, after) in versions.iter().zip(versions.iter().skip(1)) {
            let (lineage, next) = (before.meta.lineage, after.meta.lineage);
            if next != lineage && !is_void(lineage) {
                findings.add(Kind::UnsignalledLineageChange, after.at, || {
                    let what = format!("vbucket {vbucket} went from lineage {lineage} to {next} while a holder lived");
                    given_up(after.at, what, before.origin, Some(after.origin)).near(facts.control.around(
                        cluster,
                        vbucket,
                        after.at,
                        &facts.lives,
                    ))
                });
            }
        }
        let Some(last) = versions.last().filter(|last| facts.is_replaced(cluster) && !is_void(last.meta.lineage))
        else {
            continue;
        };
        findings.add(Kind::UnsignalledLineageChange, last.at, || {
            let what = format!("vbucket {vbucket} went to another cluster while a holder lived");
            given_up(last.at, what, last.origin, None).near(facts.control.around(
                cluster,
                vbucket,
                last.at,
                &facts.lives,
            ))
        });
    }
    judge_clusters_of_clients(facts, findings);
}

fn given_up(at: Nanos, what: String, before: Origin, after: Option<Origin>) -> Finding {
    Finding::new(Kind::UnsignalledLineageChange, at, what).with("before", before).maybe_with("after", after)
}

/// By what clients saw, where nothing is known of the control log: no cluster takes another's place in a run that
/// announced nothing.
fn judge_clusters_of_clients(facts: &Facts, findings: &mut Findings) {
    if !facts.control.is_empty() || facts.run.expect.total_loss {
        return;
    }
    let mut clusters = facts.clusters_since.clone();
    clusters.sort_unstable();
    for ((_, before), (at, after)) in clusters.iter().zip(clusters.iter().skip(1)) {
        findings.add(Kind::UnsignalledLineageChange, *at, || {
            let what = "another cluster took the place of the one before, and the run announced no loss";
            given_up(*at, what.to_owned(), *before, Some(*after))
        });
    }
}

/// The same of lineages.
fn judge_changes_of_clients(log: &Log<'_>, told: &Told, facts: &Facts, findings: &mut Findings) {
    if !facts.control.is_empty() || facts.run.expect.total_loss {
        return;
    }
    let of_log = log.clusters().map(|(cluster, _)| cluster);
    let clusters: BTreeSet<ClusterNo> = of_log.chain(told.by_cluster.keys().copied()).collect();
    for cluster in clusters {
        let entries = log.of_cluster(cluster);
        let told = told.by_cluster.get(&cluster).and_then(|told| told.lineages);
        let lineage = |entry: &Entry| entry.place.map(|place| place.lineage);
        let known = || entries.iter().filter_map(lineage);
        let oldest = known().chain(told.map(|(oldest, _)| oldest)).min();
        if known().chain(told.map(|(_, newest)| newest)).max() <= oldest {
            continue;
        }
        let later = entries.iter().find(|entry| lineage(entry) > oldest);
        let at = later.and_then(|entry| entry.settled).unwrap_or_default();
        findings.add(Kind::UnsignalledLineageChange, at, || {
            let what = format!("vbucket {} changed its lineage, and the run announced no loss", log.vbucket);
            let before = entries.first().filter(|entry| lineage(entry) == oldest).map(|entry| entry.origin);
            Finding::new(Kind::UnsignalledLineageChange, at, what)
                .maybe_with("before", before)
                .maybe_with("after", later.map(|entry| entry.origin))
        });
    }
}
