//! What the demo shows at its end.

use std::io::Write;
use std::time::Duration;

use super::SUBSCRIBERS;
use super::acks::Interruption;
use super::pusher::Pushed;
use super::tally::Verdict;
use super::teller::show_time;
use crate::exit::{IO_ERROR, OrExit as _};

/// What came of the demo.
pub(super) struct Report {
    /// The name of the node that was killed.
    pub(super) victim: String,
    pub(super) pushed: Pushed,
    /// By subscriber.
    pub(super) verdicts: Vec<Verdict>,
    /// From the death to the return.
    pub(super) interruption: Interruption,
    /// From the start of the node to its holding everything.
    pub(super) returned: Duration,
}

impl Report {
    /// Whether everything is as it must be.
    pub(super) fn is_good(&self) -> bool {
        self.pushed.acked == self.pushed.pushed && self.verdicts.iter().all(Verdict::is_good)
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        self.write(&mut out).and_then(|()| out.flush()).or_exit(IO_ERROR)
    }

    fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Pushed { pushed, acked, failure, .. } = &self.pushed;
        let mut all = Verdict::default();
        writeln!(
            out,
            "\n{:12} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "pattern", "expected", "delivered", "lost", "duplicated", "reordered"
        )?;
        for ((pattern, _), verdict) in SUBSCRIBERS.iter().zip(&self.verdicts) {
            let Verdict { expected, delivered, lost, duplicated, reordered, .. } = verdict;
            writeln!(out, "{pattern:12} {expected:>10} {delivered:>10} {lost:>10} {duplicated:>10} {reordered:>10}")?;
            all.add(*verdict);
        }
        let Verdict { delivered, lost, duplicated, reordered, wrong, .. } = all;
        writeln!(
            out,
            "\npushed {pushed}, acked {acked}, delivered {delivered}; lost {lost}, duplicated {duplicated}, reordered \
             {reordered}"
        )?;
        if wrong > 0 {
            writeln!(out, "{wrong} messages were not what was pushed or asked for")?;
        }
        if let Some(failure) = failure {
            writeln!(out, "{} pushes failed, the first: {failure}", pushed - acked)?;
        }
        let victim = &self.victim;
        writeln!(
            out,
            "interruption {}: the longest span in which no push to what {victim} led was acked (one key_partition: {})",
            show_time(self.interruption.all),
            show_time(self.interruption.slowest)
        )?;
        writeln!(
            out,
            "full ISR {} after {victim} was started again; meanwhile the longest such span was {} (one: {})",
            show_time(self.returned),
            show_time(self.pushed.interruption.all),
            show_time(self.pushed.interruption.slowest)
        )?;
        let verdict = if self.is_good() { "nothing lost, nothing repeated, order kept" } else { "FAILED" };
        writeln!(out, "verdict: {verdict}")
    }
}
