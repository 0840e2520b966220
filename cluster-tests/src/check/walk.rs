//! One reader's way through one vbucket, session by session: where it stood, and what it passed over.
//!
//! A reader has a position, the next offset that it has not been given. Messages, gaps and cursors move it; whatever
//! moves it over offsets without a word is a *pass*, and what lay there decides whether it is a fault. A session that
//! resumes goes on at the reader's position, so that nothing can get lost between two sessions either; one that begins
//! anew has none.
//!
//! The hard case is the confirmation of a resumed session: its cursors may lie ahead of where the reader was, and the
//! gaps that explain this may be recorded before it or after. So what a confirmation claims is settled by what comes
//! next that is no gap.

use broky_proto::id::{Epoch, Lineage, Offset};
use broky_ring::lineage::lineage_base;

use super::caught_up::{self, Stretch};
use super::compact::{Entry, Step, StepKind};
use super::facts::Facts;
use super::filter::{Filter, Matches};
use super::finding::{Finding, Findings};
use super::kind::Kind;
use super::offsets::offset_of;
use super::sessions::{Begin, Session};
use super::told::{FinalSpan, Pass, Ranges, Told, ToldOf};
use super::vbucket::Log;
use crate::history::{GapReason, ReaderRole};

/// Walks one reader's steps in one vbucket, in their order.
pub(super) fn walk(
    steps: &[Step],
    log: Log<'_>,
    facts: &Facts,
    matches: &mut Matches,
    told: &mut Told,
    findings: &mut Findings,
) {
    for of_cluster in steps.chunk_by(|one, other| one.cluster == other.cluster) {
        let Some(first) = of_cluster.first() else { continue };
        let entries = log.of_cluster(first.cluster);
        let told = told.by_cluster.entry(first.cluster).or_default();
        let mut walk =
            Walk { entries, facts, matches, told, findings, stand: None, claim: None, views: Views::default() };
        for of_session in of_cluster.chunk_by(|one, other| one.session == other.session) {
            walk.session(of_session);
        }
        walk.end();
    }
}

struct Walk<'a> {
    /// Of the cluster, by offset.
    entries: &'a [Entry],
    facts: &'a Facts,
    matches: &'a mut Matches,
    told: &'a mut ToldOf,
    findings: &'a mut Findings,
    /// Where the reader stands; `None` while nobody knows.
    stand: Option<Stand<'a>>,
    /// A confirmation ahead of that.
    claim: Option<(Step, Offset)>,
    views: Views,
}

struct Stand<'a> {
    next: Offset,
    /// What it went through since it began anew.
    stretch: Stretch<'a>,
}

/// What a session was last shown.
#[derive(Default)]
struct Views {
    epoch: Option<(Lineage, Epoch)>,
    hw: Option<(Lineage, Offset)>,
}

impl<'a> Walk<'a> {
    fn session(&mut self, steps: &[Step]) {
        let Some(first) = steps.first() else { return };
        let Some(session) = self.facts.sessions.session(first.reader, first.session) else { return };
        self.settle_claim();
        self.views = Views::default();
        if session.begin == Begin::Anew {
            self.end();
        }
        for step in steps {
            self.told.see(step.lineage);
            self.step(session, step);
        }
    }

    fn step(&mut self, session: &'a Session, step: &Step) {
        match step.what {
            StepKind::Resume(offset) => {
                self.move_to(session, step, offset);
                // Going back is a reader's right: it may have lost what it was given.
                if let Some(stand) = &mut self.stand {
                    stand.next = offset;
                }
            }
            StepKind::Confirmed(offset) => match &self.stand {
                Some(stand) if offset > stand.next => self.claim = Some((*step, offset)),
                Some(_) => {}
                None => self.move_to(session, step, offset),
            },
            StepKind::Advance(offset) => {
                self.settle_claim();
                self.move_to(session, step, offset);
            }
            StepKind::Gap { from, to, reason } => self.gap(session, step, (from, to), reason),
            StepKind::Deliver { offset, epoch, hw } => {
                self.settle_claim();
                self.deliver(session, step, offset);
                self.view(step, offset, epoch, hw);
            }
        }
    }

    fn settle_claim(&mut self) {
        let Some((step, offset)) = self.claim.take() else { return };
        if let Some(session) = self.facts.sessions.session(step.reader, step.session) {
            self.move_to(session, &step, offset);
        }
    }

    fn deliver(&mut self, session: &'a Session, step: &Step, offset: Offset) {
        if let Some(stand) = self.stand.as_ref().filter(|stand| offset < stand.next) {
            let next = stand.next;
            let name = || self.facts.sessions.name(step.reader, step.session);
            self.findings.add(Kind::Reorder, step.at, || {
                let what = format!("{}: offset {offset} of vbucket {} after {next}", name(), step.vbucket);
                Finding::new(Kind::Reorder, step.at, what).with("delivered", step.origin)
            });
            return;
        }
        self.move_to(session, step, offset);
        self.reach(step, offset.plus(1));
    }

    fn gap(&mut self, session: &'a Session, step: &Step, (from, to): (Offset, Offset), reason: GapReason) {
        self.move_to(session, step, from);
        self.reach(step, to);
        self.told.gap(step, (from, to), reason);
    }

    /// The reader gets to an offset, and was not told about what lies between.
    fn move_to(&mut self, session: &'a Session, step: &Step, to: Offset) {
        match &self.stand {
            Some(stand) if to > stand.next => {
                let from = stand.next;
                self.pass(session, step, from, to);
                self.reach(step, to);
            }
            Some(_) => {}
            None => self.stand = Some(Stand { next: to, stretch: Stretch::new(session, step, to) }),
        }
    }

    fn reach(&mut self, step: &Step, next: Offset) {
        if let Some(stand) = &mut self.stand {
            stand.next = stand.next.max(next);
            stand.stretch.reach(stand.next, step);
        }
    }

    fn pass(&mut self, session: &Session, step: &Step, from: Offset, to: Offset) {
        let is_dump = session.role == ReaderRole::Dump;
        let is_across = from < lineage_base(step.lineage) && lineage_base(step.lineage) <= to;
        let mut pass = Pass { from, to, wanted: 0, is_across, is_dump, step: *step };
        let mut unknown = Unknown { next: from, ranges: Ranges::default() };
        for entry in self.between(from, to) {
            unknown.skip_to(entry);
            // What only a copy of a node shows need not be committed.
            let is_committed = entry.place.is_some_and(|place| place.acked.is_some() || place.seen.is_some());
            let (filters, keys) = (&self.facts.sessions.filters, &self.facts.keys);
            if is_committed && self.matches.wants(filters, keys, session.filter, entry) {
                pass.wanted += 1;
            }
        }
        unknown.ranges.add(unknown.next, to);
        self.told.is_change_untold |= is_across && !is_dump;
        if is_across || pass.wanted > 0 {
            self.told.pass(pass);
        } else if self.is_everything(session) {
            for (from, to) in unknown.ranges.iter() {
                self.told.pass_unknown(Pass { from, to, ..pass });
            }
        }
    }

    fn between(&self, from: Offset, to: Offset) -> &'a [Entry] {
        let first = self.entries.partition_point(|entry| offset_of(entry) < Some(from));
        let end = self.entries.partition_point(|entry| offset_of(entry) < Some(to));
        self.entries.get(first..end).unwrap_or_default()
    }

    /// What a session is shown never goes back, and a message lies below the high watermark that comes with it.
    fn view(&mut self, step: &Step, offset: Offset, epoch: Epoch, hw: Option<Offset>) {
        let name = || self.facts.sessions.name(step.reader, step.session);
        let mut add = |kind: Kind, what: String| {
            self.findings.add(kind, step.at, || {
                let what = format!("{}: {what} in vbucket {}", name(), step.vbucket);
                Finding::new(kind, step.at, what).with("delivered", step.origin)
            });
        };
        if let Some(before) = newest(self.views.epoch, step.lineage).filter(|before| *before > epoch) {
            add(Kind::WentBack, format!("epoch {epoch} after {before}"));
        }
        self.views.epoch = Some((step.lineage, epoch));
        let Some(hw) = hw else { return };
        if offset >= hw {
            add(Kind::UncommittedSeen, format!("offset {offset} with high watermark {hw}"));
        }
        if let Some(before) = newest(self.views.hw, step.lineage).filter(|before| *before > hw) {
            add(Kind::WentBack, format!("high watermark {hw} after {before}"));
        }
        self.views.hw = Some((step.lineage, hw));
    }

    /// The reader begins anew, or there is no more of it.
    fn end(&mut self) {
        self.settle_claim();
        let Some(Stand { next, stretch }) = self.stand.take() else { return };
        caught_up::judge(&stretch, next, self.entries, self.facts, self.matches, self.findings);
        if stretch.session.role == ReaderRole::Final && self.is_everything(stretch.session) {
            self.told.finals.push(FinalSpan {
                start: stretch.start,
                start_lineage: stretch.lineage,
                end: next,
                is_done: stretch.is_done(self.facts),
                subscribed: stretch.session.subscribed,
                origin: stretch.origin,
            });
        }
    }

    fn is_everything(&self, session: &Session) -> bool {
        self.facts.sessions.filters.filter(session.filter).is_some_and(Filter::is_everything)
    }
}

fn newest<T>(known: Option<(Lineage, T)>, lineage: Lineage) -> Option<T> {
    known.filter(|(of, _)| *of == lineage).map(|(_, value)| value)
}

/// Collects the offsets of which nobody knows.
struct Unknown {
    next: Offset,
    ranges: Ranges,
}

impl Unknown {
    fn skip_to(&mut self, entry: &Entry) {
        let Some(offset) = offset_of(entry) else { return };
        self.ranges.add(self.next, offset);
        self.next = self.next.max(offset.plus(1));
    }
}
