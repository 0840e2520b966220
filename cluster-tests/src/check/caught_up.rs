//! I12: once the faults are over, readers catch up.
//!
//! A message that was acknowledged has to be behind every reader who wants it a bounded time later, or that time after
//! the faults were over: given to it, or told as a gap. Time counts through the breaks between a reader's sessions. Who
//! reads slowly on purpose is left out, and so is what a reader stopped reading before it was due. A final reader has
//! to come to the end.

use broky_proto::id::{Lineage, Offset};

use super::compact::{Entry, Step};
use super::facts::Facts;
use super::filter::Matches;
use super::finding::{Finding, Findings, Origin};
use super::kind::Kind;
use super::names::ReaderNo;
use super::offsets::offset_of;
use super::sessions::Session;
use crate::history::{CloseReason, Nanos, ReaderRole, SessionNumber};

/// What a reader went through in a vbucket from where it began anew, over all sessions that resumed.
pub(super) struct Stretch<'a> {
    reader: ReaderNo,
    /// The first session.
    pub(super) session: &'a Session,
    number: SessionNumber,
    pub(super) start: Offset,
    pub(super) lineage: Lineage,
    /// What moved it last.
    pub(super) origin: Origin,
    /// From which moment on it had come how far. Both rise.
    progress: Vec<(Offset, Nanos)>,
}

impl<'a> Stretch<'a> {
    pub(super) fn new(session: &'a Session, step: &Step, start: Offset) -> Self {
        let (reader, number, lineage, origin) = (step.reader, step.session, step.lineage, step.origin);
        Self { reader, session, number, start, lineage, origin, progress: Vec::new() }
    }

    pub(super) fn reach(&mut self, next: Offset, step: &Step) {
        self.origin = step.origin;
        // How far somebody came by when matters for lags only.
        let is_lag = self.session.role == ReaderRole::Plain;
        if is_lag && self.progress.last().is_none_or(|(known, _)| *known < next) {
            self.progress.push((next, step.at));
        }
    }

    /// Whether the reader waited at the end until nothing more came.
    pub(super) fn is_done(&self, facts: &Facts) -> bool {
        self.closed(facts).is_some_and(|(_, reason)| reason == CloseReason::Done)
    }

    /// How the last session of it ended.
    fn closed(&self, facts: &Facts) -> Option<(Nanos, CloseReason)> {
        facts.sessions.end_of_stretch(self.reader, self.number)
    }
}

/// A reader has what was acknowledged in time. `next` is where it stood at last.
pub(super) fn judge(
    stretch: &Stretch<'_>,
    next: Offset,
    entries: &[Entry],
    facts: &Facts,
    matches: &mut Matches,
    findings: &mut Findings,
) {
    match stretch.session.role {
        ReaderRole::Plain => judge_lag(stretch, entries, facts, matches, findings),
        ReaderRole::Final => judge_final(stretch, next, entries, facts, findings),
        ReaderRole::Slow | ReaderRole::Dump => {}
    }
}

fn judge_lag(stretch: &Stretch<'_>, entries: &[Entry], facts: &Facts, matches: &mut Matches, findings: &mut Findings) {
    let end = stretch.closed(facts).map_or(facts.end, |(at, _)| at);
    let mut progress = stretch.progress.iter().peekable();
    let first = entries.partition_point(|entry| offset_of(entry) < Some(stretch.start));
    for entry in entries.get(first..).unwrap_or_default() {
        let (Some(offset), Some(settled)) = (offset_of(entry), entry.settled) else { continue };
        let (filters, keys) = (&facts.sessions.filters, &facts.keys);
        if !entry.is_acked() || !matches.wants(filters, keys, stretch.session.filter, entry) {
            continue;
        }
        while progress.next_if(|(next, _)| *next <= offset).is_some() {}
        let passed = progress.peek().map(|(_, at)| *at);
        let since = settled.max(facts.healed());
        if passed.unwrap_or(end) <= since.plus(facts.options.caught_up_within) {
            continue;
        }
        let at = passed.unwrap_or(end);
        findings.add(Kind::NotCaughtUp, at, || {
            let name = facts.sessions.name(stretch.reader, stretch.number);
            let lag = at.since(since);
            let words = if passed.is_some() { "came to it" } else { "had not come to it" };
            let what = format!("{name} {words} {lag:.1?} later: message {} at {}", entry.message, spot(entry));
            Finding::new(Kind::NotCaughtUp, at, what).with("acked", entry.origin).with("reader", stretch.origin)
        });
        return;
    }
}

fn judge_final(stretch: &Stretch<'_>, next: Offset, entries: &[Entry], facts: &Facts, findings: &mut Findings) {
    if stretch.is_done(facts) {
        return;
    }
    let Some(entry) = entries.iter().rev().find(|entry| entry.is_acked()).filter(|it| offset_of(it) >= Some(next))
    else {
        return;
    };
    findings.add(Kind::NotCaughtUp, facts.end, || {
        let name = facts.sessions.name(stretch.reader, stretch.number);
        let what = format!("{name} stopped at offset {next}: message {} at {}", entry.message, spot(entry));
        Finding::new(Kind::NotCaughtUp, facts.end, what).with("acked", entry.origin).with("reader", stretch.origin)
    });
}

fn spot(entry: &Entry) -> String {
    entry.spot().map(|spot| spot.to_string()).unwrap_or_default()
}
