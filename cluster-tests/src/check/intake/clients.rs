//! What clients recorded: pushes by message, what readers went through by vbucket and reader.

use std::hash::Hasher as _;

use broky_proto::id::{Lineage, ProducerId, Sequence, Token, VBucketId};
use rustc_hash::FxHasher;

use super::{Intake, Refusal, check_range};
use crate::check::compact::{Invocation, MessageId, PartitionNo, Sighting, Spot, Step, StepKind, Trace, TraceKind};
use crate::check::error::Fault;
use crate::check::filter::Filter;
use crate::check::finding::{Finding, Origin};
use crate::check::kind::Kind;
use crate::check::names::{ClusterNo, KeyNo};
use crate::check::sessions::{Begin, Session};
use crate::history::{
    Advance, Close, Confirmed, Deliver, Gap, Heartbeat, HexBytes, Nanos, Position, PushFail, PushInvoke, PushOk,
    PushUnknown, ReaderRole, SessionNumber, Start, Subscribe,
};

/// Most keys that are told apart.
const KEYS_MAX: usize = 1 << 16;

/// Whose step it is, and where.
type Walker<'a> = (&'a str, SessionNumber, VBucketId, Lineage);

/// What a step's session is.
struct Of {
    cluster: ClusterNo,
    role: ReaderRole,
    since: Nanos,
}

impl Intake {
    pub(super) fn take_invoke(&mut self, origin: Origin, at: Nanos, invoke: &PushInvoke<'_>) -> Result<(), Refusal> {
        self.counts.pushes += 1;
        let key = self.keys.number(&invoke.key, KEYS_MAX).map(KeyNo);
        self.counts.unnamed_keys += u64::from(key.is_none());
        let what = TraceKind::Invoke(Invocation {
            key,
            partition: partition_of(&invoke.key_partition),
            len: invoke.len,
            crc32: invoke.crc32,
            hash64: invoke.hash64,
            is_plain: invoke.plain,
        });
        self.trace(origin, at, (invoke.producer, invoke.sequence), what)
    }

    pub(super) fn take_ok(&mut self, origin: Origin, at: Nanos, ok: &PushOk<'_>) -> Result<(), Refusal> {
        self.counts.acks += 1;
        let spot = match &ok.position {
            Some(Position { cluster, vbucket, lineage, epoch, offset }) => {
                let (lineage, offset) = (*lineage, *offset);
                let cluster = self.cluster(cluster, at, origin)?;
                Some((Spot { cluster, vbucket: self.vbucket(*vbucket, origin), lineage, offset }, *epoch))
            }
            None => None,
        };
        self.trace(origin, at, (ok.producer, ok.sequence), TraceKind::Ok { spot, leader: ok.leader })
    }

    pub(super) fn take_fail(&mut self, origin: Origin, at: Nanos, fail: &PushFail<'_>) -> Result<(), Refusal> {
        self.trace(origin, at, (fail.producer, fail.sequence), TraceKind::Fail)
    }

    pub(super) fn take_unknown(&mut self, origin: Origin, at: Nanos, it: &PushUnknown<'_>) -> Result<(), Refusal> {
        self.trace(origin, at, (it.producer, it.sequence), TraceKind::Unknown)
    }

    pub(super) fn take_subscribe(&mut self, origin: Origin, at: Nanos, subscribe: &Subscribe) -> Result<(), Refusal> {
        let (begin, cluster, cursors) = match &subscribe.start {
            Start::Live | Start::Earliest => (Begin::Anew, None, &[][..]),
            Start::Resume { cluster, cursors } => {
                (Begin::Resume, Some(self.cluster(cluster, at, origin)?), &cursors[..])
            }
        };
        let partitions = subscribe.key_partitions.iter().map(partition_of).collect();
        let filter = Filter { patterns: subscribe.patterns.clone(), partitions };
        let (role, node) = (subscribe.role, subscribe.node.clone());
        self.sessions.begin(&subscribe.reader, subscribe.session, filter, |filter| {
            let (subscribed, closed, map_version) = (at, None, None);
            Session { filter, role, begin, node, cluster, subscribed, closed, origin, map_version }
        })?;
        for cursor in cursors {
            let of = (&*subscribe.reader, subscribe.session, cursor.vbucket, cursor.lineage);
            self.step(origin, at, of, StepKind::Resume(cursor.offset))?;
        }
        Ok(())
    }

    pub(super) fn take_confirmed(&mut self, origin: Origin, at: Nanos, confirmed: &Confirmed) -> Result<(), Refusal> {
        let cluster = self.cluster(&confirmed.cluster, at, origin)?;
        let name = name_of(&confirmed.reader, confirmed.session);
        let (_, session) = self.sessions.of_record(&confirmed.reader, confirmed.session, origin)?;
        if let Some(other) = session.cluster.filter(|other| *other != cluster) {
            let theirs = self.clusters.name(u32::from(other.0));
            self.findings.add(Kind::SilentSkip, at, || {
                let what = format!("{name} asked to go on in cluster {theirs} and is let in by {}", confirmed.cluster);
                Finding::new(Kind::SilentSkip, at, what).with("let in", origin)
            });
        }
        session.cluster = Some(cluster);
        if let Some(version) = confirmed.map_version {
            session.see_map(&name, version, at, origin, &mut self.findings);
        }
        for cursor in &confirmed.cursors {
            let of = (&*confirmed.reader, confirmed.session, cursor.vbucket, cursor.lineage);
            self.step(origin, at, of, StepKind::Confirmed(cursor.offset))?;
        }
        Ok(())
    }

    pub(super) fn take_deliver(&mut self, origin: Origin, at: Nanos, deliver: &Deliver<'_>) -> Result<(), Refusal> {
        self.counts.deliveries += 1;
        let Deliver { vbucket, lineage, epoch, offset, hw, crc32, hash64, .. } = *deliver;
        let of = (&*deliver.reader, deliver.session, vbucket, lineage);
        let Of { cluster, role, since } = self.step(origin, at, of, StepKind::Deliver { offset, epoch, hw })?;
        let spot = Spot { cluster, vbucket, lineage, offset };
        let message = match (deliver.producer, deliver.sequence) {
            (Some(producer), Some(sequence)) => (producer, sequence),
            (None, None) => {
                self.findings.add(Kind::Phantom, at, || {
                    let what = format!("a message without a stamp at {spot}");
                    Finding::new(Kind::Phantom, at, what).with("delivered", origin)
                });
                return Ok(());
            }
            (Some(_), None) | (None, Some(_)) => return Err(Fault::HalfStamp.into()),
        };
        let (is_final, is_dump) = (role == ReaderRole::Final, role == ReaderRole::Dump);
        let sighting = Sighting { spot, epoch, crc32, hash64, is_final, is_dump, since };
        self.trace(origin, at, message, TraceKind::Seen(sighting))
    }

    pub(super) fn take_advance(&mut self, origin: Origin, at: Nanos, advance: &Advance<'_>) -> Result<(), Refusal> {
        let of = (&*advance.reader, advance.session, advance.vbucket, advance.lineage);
        self.step(origin, at, of, StepKind::Advance(advance.offset)).map(|_| ())
    }

    pub(super) fn take_gap(&mut self, origin: Origin, at: Nanos, gap: &Gap<'_>) -> Result<(), Refusal> {
        self.counts.gaps += 1;
        check_range(gap.from.0, gap.to.0)?;
        let of = (&*gap.reader, gap.session, gap.vbucket, gap.lineage);
        self.step(origin, at, of, StepKind::Gap { from: gap.from, to: gap.to, reason: gap.reason }).map(|_| ())
    }

    pub(super) fn take_heartbeat(&mut self, origin: Origin, at: Nanos, beat: &Heartbeat<'_>) -> Result<(), Refusal> {
        let (_, session) = self.sessions.of_record(&beat.reader, beat.session, origin)?;
        let name = name_of(&beat.reader, beat.session);
        session.see_map(&name, beat.map_version, at, origin, &mut self.findings);
        Ok(())
    }

    pub(super) fn take_close(&mut self, origin: Origin, at: Nanos, close: &Close) -> Result<(), Refusal> {
        let (_, session) = self.sessions.of_record(&close.reader, close.session, origin)?;
        session.closed = Some((at, close.reason));
        Ok(())
    }

    fn trace(
        &mut self,
        origin: Origin,
        at: Nanos,
        (producer, sequence): (ProducerId, Sequence),
        what: TraceKind,
    ) -> Result<(), Refusal> {
        let message = MessageId { producer, sequence };
        self.spools.push_trace(&Trace { message, at, origin, what })?;
        Ok(())
    }

    fn step(&mut self, origin: Origin, at: Nanos, of: Walker<'_>, what: StepKind) -> Result<Of, Refusal> {
        let (name, number, vbucket, lineage) = of;
        let (reader, session) = self.sessions.of_record(name, number, origin)?;
        let missing = || Fault::NotConfirmed { reader: name.to_owned(), session: number.0 };
        let cluster = session.cluster.ok_or_else(missing)?;
        let of = Of { cluster, role: session.role, since: session.subscribed };
        self.vbucket(vbucket, origin);
        self.spools.push_step(&Step { vbucket, reader, session: number, cluster, origin, at, lineage, what })?;
        Ok(of)
    }
}

fn name_of(reader: &str, session: SessionNumber) -> String {
    format!("session {session} of reader {reader}")
}

fn partition_of(bytes: &HexBytes) -> PartitionNo {
    let mut hasher = FxHasher::default();
    hasher.write(&bytes.0);
    PartitionNo { token: Token::of(&bytes.0, b""), hash: hasher.finish() }
}
