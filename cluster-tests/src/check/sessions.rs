//! Who reads, and what of it is known at once: which cluster a session belongs to, what it asks for, how it ended.
//!
//! Sessions are few beside what is delivered to them, and stay in memory. Each is recorded by one process, in order;
//! that is checked here, since everything that is decided from what a reader saw relies on it.

use std::collections::BTreeMap;

use broky_proto::id::MapVersion;

use super::error::Fault;
use super::filter::{Filter, Filters};
use super::finding::{Finding, Findings, Origin};
use super::kind::Kind;
use super::names::{ClusterNo, FilterNo, Names, ReaderNo};
use crate::history::{CloseReason, Nanos, ReaderRole, SessionNumber};

/// Most readers of a run.
pub(crate) const READERS_MAX: usize = 1 << 24;

/// Where a session begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begin {
    /// Live, or with the oldest message.
    Anew,
    /// Where its reader was.
    Resume,
}

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) filter: FilterNo,
    pub(crate) role: ReaderRole,
    pub(crate) begin: Begin,
    /// The node whose copy a dump reads.
    pub(crate) node: Option<String>,
    /// From the position it resumes, or else from its confirmation.
    pub(crate) cluster: Option<ClusterNo>,
    pub(crate) subscribed: Nanos,
    pub(crate) closed: Option<(Nanos, CloseReason)>,
    pub(crate) origin: Origin,
    pub(crate) map_version: Option<MapVersion>,
}

/// Every session of a run.
#[derive(Default, Debug)]
pub(crate) struct Sessions {
    pub(crate) readers: Names,
    pub(crate) filters: Filters,
    by_reader: BTreeMap<(ReaderNo, SessionNumber), Session>,
}

impl Sessions {
    pub(crate) fn begin(
        &mut self,
        reader: &str,
        number: SessionNumber,
        filter: Filter,
        session: impl FnOnce(FilterNo) -> Session,
    ) -> Result<(), Fault> {
        let no = self.readers.number(reader, READERS_MAX).ok_or(Fault::TooManyNames(READERS_MAX))?;
        let session = session(self.filters.number(filter));
        match self.by_reader.insert((ReaderNo(no), number), session) {
            None => Ok(()),
            Some(_) => Err(Fault::SecondSubscribe { reader: reader.to_owned(), session: number.0 }),
        }
    }

    /// The session that a record is about.
    pub(crate) fn of_record(
        &mut self,
        reader: &str,
        number: SessionNumber,
        origin: Origin,
    ) -> Result<(ReaderNo, &mut Session), Fault> {
        let missing = || Fault::NoSubscribe { reader: reader.to_owned(), session: number.0 };
        let no = self.readers.find(reader).map(ReaderNo).ok_or_else(missing)?;
        let session = self.by_reader.get_mut(&(no, number)).ok_or_else(missing)?;
        if session.origin.source != origin.source {
            return Err(missing());
        }
        Ok((no, session))
    }

    pub(crate) fn session(&self, reader: ReaderNo, number: SessionNumber) -> Option<&Session> {
        self.by_reader.get(&(reader, number))
    }

    pub(crate) fn name(&self, reader: ReaderNo, number: SessionNumber) -> String {
        format!("session {number} of reader {}", self.readers.name(reader.0))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (ReaderNo, SessionNumber, &Session)> {
        self.by_reader.iter().map(|((reader, number), session)| (*reader, *number, session))
    }

    /// How the last of the sessions ended that go on where this one was. `None` while it reads on.
    pub(crate) fn end_of_stretch(&self, reader: ReaderNo, number: SessionNumber) -> Option<(Nanos, CloseReason)> {
        let mut sessions = self.by_reader.range((reader, number)..=(reader, SessionNumber(u32::MAX)));
        let (_, first) = sessions.next()?;
        let resumed = sessions.map(|(_, session)| session).take_while(|session| session.begin == Begin::Resume);
        resumed.last().unwrap_or(first).closed
    }

    /// The final readers of everything that came to the end.
    pub(crate) fn finals(&self) -> Vec<DoneFinal> {
        let finals = self.by_reader.iter().filter(|(_, session)| session.role == ReaderRole::Final);
        let everything = finals.filter(|(_, session)| {
            session.begin == Begin::Anew && self.filters.filter(session.filter).is_some_and(Filter::is_everything)
        });
        let done = everything.filter_map(|((reader, number), session)| {
            let (_, reason) = self.end_of_stretch(*reader, *number)?;
            let (cluster, origin) = (session.cluster?, session.origin);
            let final_reader = DoneFinal { cluster, subscribed: session.subscribed, origin };
            (reason == CloseReason::Done).then_some(final_reader)
        });
        done.collect()
    }
}

/// A final reader of everything that came to the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DoneFinal {
    pub(crate) cluster: ClusterNo,
    pub(crate) subscribed: Nanos,
    pub(crate) origin: Origin,
}

impl Session {
    /// Notes the node's version of the map, which never goes back.
    pub(crate) fn see_map(&mut self, name: &str, version: MapVersion, at: Nanos, origin: Origin, all: &mut Findings) {
        if let Some(before) = self.map_version.filter(|before| *before > version) {
            let words = || format!("{name}: map version {version} after {before}");
            all.add(Kind::WentBack, at, || Finding::new(Kind::WentBack, at, words()).with("older", origin));
        }
        self.map_version = self.map_version.max(Some(version));
    }
}
