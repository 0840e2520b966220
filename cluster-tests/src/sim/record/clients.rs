//! What producers and readers do, and what they are told.

use std::collections::{BTreeMap, BTreeSet};

use broky_proto::id::{Epoch, Lineage, MapVersion, Offset, ProducerId, Sequence, VBucketId};
use broky_proto::v1;
use broky_ring::lineage::STRETCH_BITS;

use super::{CLUSTER, hash_of, is_slow_to_read};
use crate::history::{
    Advance, Close, CloseReason, Confirmed, Cursor, Deliver, Event, Gap, GapReason, Heartbeat, HexBytes, Position,
    PushFail, PushInvoke, PushOk, PushUnknown, ReaderRole, SessionNumber, Start, Subscribe,
};
use crate::sim::checks::Place;
use crate::sim::message::MessageId;
use crate::sim::world::World;

/// What is known of every reader, by number.
#[derive(Default)]
pub(super) struct Clients {
    readers: BTreeMap<usize, Session>,
}

/// A reader's latest session.
#[derive(Default)]
struct Session {
    number: SessionNumber,
    is_open: bool,
    /// It began with the oldest there is.
    is_earliest: bool,
    /// Vbuckets of which it is known where it stands.
    stood: BTreeSet<u16>,
}

/// A key as text: a character for each byte, so that different ones stay different.
fn text_of(key: &[u8]) -> String {
    key.iter().copied().map(char::from).collect()
}

fn checksum(parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize()
}

fn name_of(reader: usize) -> String {
    format!("reader-{reader}")
}

/// Which history an offset belongs to: messages do not say it, and a reader need not have been told yet.
fn lineage_of(offset: u64) -> Lineage {
    Lineage(offset >> STRETCH_BITS)
}

fn cursor_of(cursor: &v1::Cursor) -> Cursor {
    let (lineage, epoch, offset) = (Lineage(cursor.lineage), Epoch(cursor.epoch), Offset(cursor.offset));
    Cursor { vbucket: VBucketId(u16::try_from(cursor.vbucket).unwrap()), lineage, epoch, offset }
}

impl World {
    /// A producer is given a message to push.
    pub(in crate::sim) fn record_push(&mut self, id: MessageId, key: &[u8]) {
        let padding = usize::try_from(self.options.payload_bytes).unwrap();
        self.record(|| {
            let payload = id.payload(padding);
            Event::PushInvoke(PushInvoke {
                producer: ProducerId(id.producer),
                sequence: Sequence(id.sequence),
                key: text_of(key).into(),
                key_partition: HexBytes(key.to_vec()),
                len: u32::try_from(payload.len()).unwrap(),
                crc32: checksum(&[key, &payload]),
                hash64: hash_of(&payload),
                plain: false,
            })
        });
    }

    pub(in crate::sim) fn record_acknowledged(&mut self, id: MessageId, place: Option<Place>) {
        let (producer, sequence) = (ProducerId(id.producer), Sequence(id.sequence));
        let position = place.map(|Place { vbucket, lineage, epoch, offset }| Position {
            cluster: CLUSTER.into(),
            vbucket,
            lineage: Lineage(lineage),
            epoch: Epoch(epoch),
            offset: Offset(offset),
        });
        // Whoever is asked may have asked another.
        self.record(|| Event::PushOk(PushOk { producer, sequence, position, leader: None }));
    }

    /// A producer gives a message up. Unless it is in doubt, it was never stored.
    pub(in crate::sim) fn record_given_up(&mut self, id: MessageId, is_in_doubt: bool) {
        let (producer, sequence) = (ProducerId(id.producer), Sequence(id.sequence));
        self.record(|| match is_in_doubt {
            true => Event::PushUnknown(PushUnknown { producer, sequence, code: "TIMEOUT".into() }),
            false => Event::PushFail(PushFail { producer, sequence, code: "TIMEOUT".into() }),
        });
    }

    /// A reader subscribes at a node.
    pub(in crate::sim) fn record_subscribe(&mut self, at: usize, node: usize, open: &v1::Open, role: ReaderRole) {
        let Some(recorder) = &mut self.recorder else { return };
        let is_slow = role == ReaderRole::Plain && is_slow_to_read(&self.options);
        let role = if is_slow { ReaderRole::Slow } else { role };
        let start = match open.start.as_ref().and_then(|start| start.start.as_ref()) {
            None | Some(v1::start::Start::Live(_)) => Start::Live,
            Some(v1::start::Start::Earliest(_)) => Start::Earliest,
            Some(v1::start::Start::Resume(resume)) => {
                let cursors = resume.cursors.iter().map(cursor_of).collect();
                Start::Resume { cluster: CLUSTER.to_owned(), cursors }
            }
        };
        let number = recorder.clients.readers.get(&at).map_or(1, |session| session.number.0 + 1);
        let (session, is_earliest) = (SessionNumber(number), start == Start::Earliest);
        let fresh = Session { number: session, is_open: true, is_earliest, stood: BTreeSet::new() };
        recorder.clients.readers.insert(at, fresh);
        let patterns = open.patterns.iter().map(|pattern| text_of(pattern)).collect();
        let (reader, node) = (name_of(at), Some(self.nodes[node].name.clone()));
        let key_partitions = Vec::new();
        self.record(|| Event::Subscribe(Subscribe { reader, session, node, patterns, key_partitions, start, role }));
    }

    /// A reader is sent something. Written down in the order in which it is to be taken.
    pub(in crate::sim) fn record_delivery(&mut self, at: usize, delivery: &v1::Delivery) {
        let Some(session) = self.session_of(at) else { return };
        if let Some(confirmed) = &delivery.confirmed {
            self.record_confirmed(at, session, confirmed, &delivery.cursors);
        }
        for gap in &delivery.gaps {
            self.record_gap(at, session, gap);
        }
        for message in &delivery.messages {
            self.record_message(at, session, message);
        }
        if delivery.confirmed.is_none() {
            for cursor in &delivery.cursors {
                self.record_cursor(at, session, cursor_of(cursor));
            }
        }
        if let Some(heartbeat) = &delivery.heartbeat {
            let map_version = MapVersion(heartbeat.map_version);
            self.record(|| Event::Heartbeat(Heartbeat { reader: name_of(at).into(), session, map_version }));
        }
    }

    fn session_of(&self, at: usize) -> Option<SessionNumber> {
        let session = self.recorder.as_ref()?.clients.readers.get(&at)?;
        session.is_open.then_some(session.number)
    }

    /// Notes that it is known by now where a reader stands.
    fn note_stood(&mut self, at: usize, vbucket: u32) {
        let session = self.recorder.as_mut().and_then(|recorder| recorder.clients.readers.get_mut(&at));
        if let Some(session) = session {
            session.stood.insert(u16::try_from(vbucket).unwrap());
        }
    }

    /// A session that began with the oldest message learns with that where it is: the node need not hold it itself.
    fn record_confirmed(
        &mut self,
        at: usize,
        session: SessionNumber,
        confirmed: &v1::Confirmed,
        cursors: &[v1::Cursor],
    ) {
        let known = self.recorder.as_ref().and_then(|recorder| recorder.clients.readers.get(&at));
        let is_known = known.is_some_and(|known| !known.is_earliest);
        let cursors: Vec<Cursor> = cursors.iter().filter(|_| is_known).map(cursor_of).collect();
        cursors.iter().for_each(|cursor| self.note_stood(at, u32::from(cursor.vbucket.0)));
        let (cluster, map_version) = (CLUSTER.to_owned(), Some(MapVersion(confirmed.map_version)));
        self.record(|| Event::Confirmed(Confirmed { reader: name_of(at), session, cluster, map_version, cursors }));
    }

    fn record_gap(&mut self, at: usize, session: SessionNumber, gap: &v1::Gap) {
        self.note_stood(at, gap.vbucket);
        let (reader, vbucket) = (name_of(at).into(), VBucketId(u16::try_from(gap.vbucket).unwrap()));
        let (lineage, from, to) = (Lineage(gap.lineage), Offset(gap.from), Offset(gap.to));
        let reason = match gap.reason() {
            v1::GapReason::Lost => GapReason::Lost,
            v1::GapReason::Evicted => GapReason::Evicted,
            v1::GapReason::Slow | v1::GapReason::Unspecified => GapReason::Slow,
        };
        self.record(|| Event::Gap(Gap { reader, session, vbucket, lineage, from, to, reason }));
    }

    fn record_message(&mut self, at: usize, session: SessionNumber, message: &v1::Message) {
        self.note_stood(at, message.vbucket);
        let id = MessageId::of(&message.payload);
        let partition = if message.key_partition.is_empty() { &message.key } else { &message.key_partition };
        let key: &[u8] = if message.key_partition.is_empty() { &[] } else { &message.key };
        self.record(|| {
            Event::Deliver(Deliver {
                reader: name_of(at).into(),
                session,
                vbucket: VBucketId(u16::try_from(message.vbucket).unwrap()),
                lineage: lineage_of(message.offset),
                epoch: Epoch(message.epoch),
                offset: Offset(message.offset),
                hw: None,
                producer: id.map(|id| ProducerId(id.producer)),
                sequence: id.map(|id| Sequence(id.sequence)),
                crc32: checksum(&[partition, key, &message.payload]),
                hash64: hash_of(&message.payload),
            })
        });
    }

    fn record_cursor(&mut self, at: usize, session: SessionNumber, cursor: Cursor) {
        self.note_stood(at, u32::from(cursor.vbucket.0));
        let Cursor { vbucket, lineage, epoch, offset } = cursor;
        let reader = name_of(at).into();
        self.record(|| Event::Advance(Advance { reader, session, vbucket, lineage, epoch, offset }));
    }

    /// A reader's session ends.
    pub(in crate::sim) fn record_close(&mut self, at: usize, reason: CloseReason) {
        let Some(session) = self.session_of(at) else { return };
        if let Some(known) = self.recorder.as_mut().and_then(|recorder| recorder.clients.readers.get_mut(&at)) {
            known.is_open = false;
        }
        self.record(|| Event::Close(Close { reader: name_of(at), session, reason }));
    }

    /// In the end every reader has waited until nothing more came, or has not come so far.
    pub(super) fn record_last_positions(&mut self) {
        for at in 0..self.readers.len() {
            let Some(session) = self.session_of(at) else { continue };
            let known = self.recorder.as_ref().and_then(|recorder| recorder.clients.readers.get(&at));
            let stood = known.map(|known| known.stood.clone()).unwrap_or_default();
            let silent = self.readers[at].cursors.iter().filter(|(vbucket, _)| !stood.contains(vbucket));
            let silent = silent.map(|(vbucket, cursor)| Cursor {
                vbucket: VBucketId(*vbucket),
                lineage: Lineage(cursor.lineage),
                epoch: Epoch(cursor.epoch),
                offset: Offset(cursor.next),
            });
            for cursor in silent.collect::<Vec<_>>() {
                self.record_cursor(at, session, cursor);
            }
            let is_done = self.has_read_everything(at);
            self.record_close(at, if is_done { CloseReason::Done } else { CloseReason::Stopped });
        }
    }
}
