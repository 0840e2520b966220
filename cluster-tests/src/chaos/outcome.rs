//! What came of a run, in words and as JSON.

use std::time::Duration;

use crate::check::{Report, Verdict as Judged};
use crate::verdict::Verdict;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The scenario's rules.
    pub verdict: Verdict,
    /// What the checker says.
    pub report: Report,
    /// Faults done.
    pub faults: u64,
    /// The longest interruption of any vbucket.
    pub longest: Duration,
    /// Of 99 of 100 vbuckets.
    pub p99: Duration,
}

impl Outcome {
    /// Whether everything held, and the run did what it was meant to.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        self.verdict.is_passed()
    }

    /// In words.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = self.verdict.text();
        if self.report.verdict != Judged::Passed {
            text.push_str(&self.report.text());
        }
        text
    }

    /// For a script.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let counts = &self.report.counts;
        serde_json::json!({
            "scenario": self.verdict.scenario,
            "passed": self.is_passed(),
            "history": self.report.verdict.name(),
            "faults": self.faults,
            "pushes": counts.pushes,
            "acked": counts.acks,
            "deliveries": counts.deliveries,
            "gaps": counts.gaps,
            "longest_interruption_ms": u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX),
            "interruption_p99_ms": u64::try_from(self.p99.as_millis()).unwrap_or(u64::MAX),
        })
    }
}
