//! The verdict on a run: the checker's on its history, and the scenario's own rules.

use super::arena::Done;
use super::audits;
use super::outcome::Outcome;
use crate::check::{Verdict as Judged, check_files};
use crate::error::HarnessError;
use crate::spans::percentile;
use crate::verdict::show;

pub(super) fn judge(done: Done) -> Result<Outcome, HarnessError> {
    let Done { setup, mut verdict, history, folder, lifetimes, ended, spans, faults } = done;
    let audits = audits::add(&lifetimes, ended, &folder)?;
    let report = check_files(std::slice::from_ref(&history), setup.bounds.clone());
    let report = report.map_err(|error| HarnessError::answer(format!("judge {}", history.display()), error))?;
    verdict.rule("the history's invariants", report.verdict.name(), report.verdict == Judged::Passed);
    let [p50, p99, max] = [50, 99, 100].map(|percent| percentile(&spans, percent));
    if let Some(limit) = setup.interruption_p99_max.filter(|_| setup.is_timed) {
        verdict.rule(format!("interruption by vbucket: p99 <= {}", show(limit)), show(p99), p99 <= limit);
    }
    let longest = format!("p50 {}, p99 {}, max {}", show(p50), show(p99), show(max));
    verdict.figure("longest interruption by vbucket", longest);
    verdict.figure("nodes", setup.host_words());
    verdict.figure("pushes acknowledged", format!("{} of {}", report.counts.acks, report.counts.pushes));
    verdict.figure("faults", faults);
    verdict.figure("processes", audits);
    verdict.figure("history", history.display());
    Ok(Outcome { verdict, report, faults, longest: max, p99 })
}
