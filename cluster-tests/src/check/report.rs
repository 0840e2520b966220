//! The verdict, invariant by invariant.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::facts::Counts;
use super::finding::{Evidence, Found, Origin};
use super::kind::{Invariant, Kind, Weight};

/// Columns of a record that are shown as text; in JSON all of it is.
const RECORD_COLUMNS_MAX: usize = 240;

/// What came of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Every invariant held, as far as it could be judged.
    Passed,
    /// One was broken.
    Violated,
    /// None was broken, and the run did not do what it was meant to, so that this says nothing.
    Invalid,
}

impl Verdict {
    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Violated => "violated",
            Self::Invalid => "invalid",
        }
    }
}

/// What came of one invariant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It held.
    Held,
    /// It held, and something should be looked at.
    Warned,
    /// It was broken; for coverage, the run is invalid.
    Broken,
    /// Nothing was recorded by which it could be judged.
    NotJudged,
}

/// One invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// Which.
    pub invariant: Invariant,
    /// What came of it.
    pub status: Status,
    /// By what it was judged, and figures.
    pub notes: Vec<String>,
    /// What was found.
    pub found: BTreeMap<Kind, Found>,
}

/// The verdict on a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The run, its scenario and its seed.
    pub run: String,
    /// What came of it.
    pub verdict: Verdict,
    /// By invariant.
    pub judgements: Vec<Judgement>,
    /// How much there was.
    pub counts: Counts,
}

impl Report {
    /// How often something was found.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.found(kind).map_or(0, |found| found.count)
    }

    /// What was found of a kind.
    #[must_use]
    pub fn found(&self, kind: Kind) -> Option<&Found> {
        self.judgements.iter().find_map(|judgement| judgement.found.get(&kind))
    }

    /// The kinds of which something was found.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        self.judgements.iter().flat_map(|judgement| judgement.found.keys().copied()).collect()
    }

    /// Where the records are that show what was found.
    pub(super) fn evidence(&mut self) -> impl Iterator<Item = &mut Evidence> {
        let found = self.judgements.iter_mut().flat_map(|judgement| judgement.found.values_mut());
        found.flat_map(|found| &mut found.kept).flat_map(|finding| &mut finding.evidence)
    }

    /// Puts names and records to what shows what was found.
    pub(super) fn attach(&mut self, sources: &[String], records: &BTreeMap<Origin, String>) {
        for evidence in self.evidence() {
            let source = sources.get(usize::from(evidence.origin.source));
            evidence.source = source.cloned().unwrap_or_default();
            evidence.record = records.get(&evidence.origin).cloned().unwrap_or_default();
        }
    }

    /// As text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let Counts { records, pushes, acks, deliveries, gaps, cut_files, acts, .. } = self.counts;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}: {}", self.run, self.verdict.name().to_uppercase());
        let _ = writeln!(
            text,
            "{records} records: {pushes} pushes, {acks} acks, {deliveries} deliveries, {gaps} gaps, {acts} acts of \
             nodes; {cut_files} files cut short"
        );
        for judgement in &self.judgements {
            judgement.write(&mut text);
        }
        text
    }

    /// For a program.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let Counts { records, pushes, acks, deliveries, gaps, cut_files, acts, appends, chains, unnamed_keys } =
            self.counts;
        serde_json::json!({
            "run": self.run,
            "verdict": self.verdict.name(),
            "invariants": self.judgements.iter().map(Judgement::json).collect::<Vec<_>>(),
            "counts": {
                "records": records, "pushes": pushes, "acks": acks, "deliveries": deliveries, "gaps": gaps,
                "cut_files": cut_files, "acts": acts, "appends": appends, "chains": chains,
                "unnamed_keys": unnamed_keys,
            },
        })
    }
}

impl Judgement {
    pub(super) fn new(invariant: Invariant, basis: Result<Vec<String>, String>, found: BTreeMap<Kind, Found>) -> Self {
        let heaviest = found.keys().map(|kind| kind.weight()).max();
        let status = match (heaviest, &basis) {
            (Some(Weight::Violation | Weight::Invalid), _) => Status::Broken,
            (Some(Weight::Warning), _) => Status::Warned,
            (None, Ok(_)) => Status::Held,
            (None, Err(_)) => Status::NotJudged,
        };
        let notes = basis.unwrap_or_else(|reason| vec![reason]);
        Self { invariant, status, notes, found }
    }

    fn write(&self, text: &mut String) {
        let status = match self.status {
            Status::Held => "ok  ",
            Status::Warned => "warn",
            Status::Broken => "FAIL",
            Status::NotJudged => "--  ",
        };
        let (name, claim) = (self.invariant.name(), self.invariant.claim());
        let _ = writeln!(text, "  {status} {name:4}{claim:38}{}", self.notes.first().map_or("", String::as_str));
        for note in self.notes.iter().skip(1) {
            let _ = writeln!(text, "  {:47}{note}", "");
        }
        for (kind, found) in &self.found {
            let _ = writeln!(text, "       {kind}: {}", found.count);
            for finding in &found.kept {
                let _ = writeln!(text, "         {} {}", finding.at, finding.what);
                for Evidence { role, origin, source, record } in &finding.evidence {
                    let record: String = record.chars().take(RECORD_COLUMNS_MAX).collect();
                    let _ = writeln!(text, "           {role}: {source}:{} {record}", origin.line);
                }
                for words in &finding.isr_history {
                    let _ = writeln!(text, "           | {words}");
                }
            }
            let more = found.count - found.kept.len() as u64;
            if more > 0 {
                let _ = writeln!(text, "         and {more} more");
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        let evidence = |it: &Evidence| {
            let line = it.origin.line;
            serde_json::json!({ "role": it.role, "source": it.source, "line": line, "record": it.record })
        };
        let found = self.found.iter().map(|(kind, found)| {
            let findings = found.kept.iter().map(|finding| {
                serde_json::json!({
                    "t_ns": finding.at, "what": finding.what, "isr_history": finding.isr_history,
                    "evidence": finding.evidence.iter().map(evidence).collect::<Vec<_>>(),
                })
            });
            serde_json::json!({ "kind": kind.name(), "count": found.count, "findings": findings.collect::<Vec<_>>() })
        });
        let status = match self.status {
            Status::Held => "held",
            Status::Warned => "warned",
            Status::Broken => "broken",
            Status::NotJudged => "not judged",
        };
        serde_json::json!({
            "invariant": self.invariant.name(), "claim": self.invariant.claim(), "status": status,
            "notes": self.notes, "found": found.collect::<Vec<_>>(),
        })
    }
}
