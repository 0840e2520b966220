//! What a scenario measured, which rules it had to keep, and whether it did.

use std::fmt::Write as _;
use std::time::Duration;

use crate::audit::Audit;
use crate::reader::Faults;
use crate::spans::percentile;

/// What came of one scenario.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The scenario.
    pub scenario: String,
    rules: Vec<Rule>,
    figures: Vec<(String, String)>,
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Rule {
    what: String,
    measured: String,
    is_kept: bool,
}

impl Verdict {
    /// Of nothing yet.
    #[must_use]
    pub fn new(scenario: impl Into<String>) -> Self {
        Self { scenario: scenario.into(), rules: Vec::new(), figures: Vec::new(), notes: Vec::new() }
    }

    /// A rule, and what was measured about it.
    pub fn rule(&mut self, what: impl Into<String>, measured: impl ToString, is_kept: bool) {
        self.rules.push(Rule { what: what.into(), measured: measured.to_string(), is_kept });
    }

    /// A rule that something never happens.
    pub fn never(&mut self, what: &str, faults: &Faults) {
        self.rule(format!("no {what}"), faults.count, faults.count == 0);
        self.notes.extend(faults.examples.iter().map(|words| format!("{what}: {words}")));
    }

    /// A rule that a share of durations stays below a bound. With nothing measured it is broken.
    pub fn bound(&mut self, what: &str, durations: &mut [Duration], percent: usize, limit: Duration) {
        durations.sort_unstable();
        let value = percentile(durations, percent);
        let measured = format!("{} of {}", show(value), durations.len());
        let what = format!("{what}: p{percent} <= {}", show(limit));
        self.rule(what, measured, value <= limit && !durations.is_empty());
    }

    /// What was measured and is bound by no rule.
    pub fn figure(&mut self, what: impl Into<String>, measured: impl ToString) {
        self.figures.push((what.into(), measured.to_string()));
    }

    /// The distribution of durations, as a figure.
    pub fn spread(&mut self, what: &str, durations: &mut [Duration]) {
        durations.sort_unstable();
        let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| show(percentile(durations, percent)));
        self.figure(what, format!("p50 {p50}, p90 {p90}, p99 {p99}, max {max} of {}", durations.len()));
    }

    /// Something to be known beside the figures.
    pub fn note(&mut self, words: impl Into<String>) {
        self.notes.push(words.into());
    }

    /// The rules that hold in every scenario in which something of every vbucket survives, and what was counted.
    pub fn integrity(&mut self, audit: &Audit) {
        self.never("acked message lost", &audit.lost);
        self.never("gap told", &audit.gaps);
        self.consistency(audit);
    }

    /// The rules that hold in every scenario.
    pub fn consistency(&mut self, audit: &Audit) {
        self.never("node that cannot be read", &audit.unread);
        self.never("duplicate", &audit.duplicates);
        self.never("message out of order", &audit.disorder);
        self.never("message of unknown outcome stored behind a later one", &audit.late);
        self.never("refused message seen", &audit.phantoms);
        self.never("message elsewhere than acked", &audit.misplaced);
        self.never("offset skipped without a gap", &audit.skipped);
        self.never("ack of an epoch that was over", &audit.fenced);
        self.never("offset acked twice", &audit.reused);
        self.figure(
            "pushes",
            format!("{} acked, {} unknown, {:?} refused", audit.acked, audit.unknown, audit.rejected),
        );
    }

    /// Whether every rule was kept, and there was one.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        !self.rules.is_empty() && self.rules.iter().all(|rule| rule.is_kept)
    }

    /// The verdict as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}: {}", self.scenario, if self.is_passed() { "passed" } else { "FAILED" });
        for Rule { what, measured, is_kept } in &self.rules {
            let _ = writeln!(text, "  {} {what:58} {measured}", if *is_kept { "ok  " } else { "FAIL" });
        }
        for (what, measured) in &self.figures {
            let _ = writeln!(text, "       {what:58} {measured}");
        }
        for words in &self.notes {
            let _ = writeln!(text, "       note: {words}");
        }
        text
    }

    /// The verdict for a program.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let rule =
            |rule: &Rule| serde_json::json!({ "rule": rule.what, "measured": rule.measured, "kept": rule.is_kept });
        let figure = |(what, measured): &(String, String)| serde_json::json!({ "figure": what, "measured": measured });
        serde_json::json!({
            "scenario": self.scenario,
            "passed": self.is_passed(),
            "rules": self.rules.iter().map(rule).collect::<Vec<_>>(),
            "figures": self.figures.iter().map(figure).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

/// A duration in milliseconds, as it is read most easily.
#[must_use]
pub fn show(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_without_a_rule_is_not_passed() {
        let mut verdict = Verdict::new("nothing");
        assert!(!verdict.is_passed());
        verdict.rule("one is one", 1, true);
        assert!(verdict.is_passed());
        verdict.never("fault", &Faults { count: 1, examples: vec!["this".to_owned()] });
        assert!(!verdict.is_passed());
    }

    #[test]
    fn bound_over_nothing_is_broken() {
        let mut verdict = Verdict::new("nothing");
        verdict.bound("of nothing", &mut [], 50, Duration::from_secs(1));
        assert!(!verdict.is_passed());
    }
}
