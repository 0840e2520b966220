//! Subscribers: each goes on wherever it can be served, from where it stood, and may only move up.

use std::collections::BTreeMap;
use std::time::Duration;

use broky_proto::id::{MapVersion, VBucketId};
use broky_proto::time::Timestamp;
use broky_proto::v1::{self, Delivery, Earliest, Live, OnSlow, Open, Resume, Start, start};
use bytes::Bytes;
use prost::Message as _;

use super::checks::{Broken, Place as Position, Sight};
use super::metadata::CLUSTER;
use super::network::Place;
use super::streams::{Item, Kind, Side, StreamId};
use super::world::{Event, World};
use crate::history::{CloseReason, ReaderRole};

/// Clients that read are numbered from here.
const FIRST_CLIENT: usize = 500;
/// How often one looks whether it is connected.
const PERIOD: Duration = Duration::from_millis(100);
/// Silence after which one goes elsewhere.
const SILENCE: Duration = Duration::from_secs(4);

/// Where a reader stands in a vbucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cursor {
    pub(super) lineage: u64,
    pub(super) epoch: u64,
    pub(super) next: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reader {
    stream: Option<StreamId>,
    /// The node that it is at.
    pub(super) node: usize,
    start: start::Start,
    /// It wants keys that begin like this only.
    pub(super) tag: Option<u8>,
    on_slow: OnSlow,
    pub(super) cursors: BTreeMap<u16, Cursor>,
    role: ReaderRole,
    /// It takes nothing before.
    pub(super) busy_until: Timestamp,
    heard: Timestamp,
    version: MapVersion,
    pub(super) received: u64,
    pub(super) missed: u64,
}

impl World {
    pub(super) fn add_reader(&mut self) -> usize {
        let is_earliest = self.work.chance(500);
        let start = if is_earliest { start::Start::Earliest(Earliest {}) } else { start::Start::Live(Live {}) };
        let tag = self.work.chance(300).then_some(b'a');
        let is_slow = self.work.chance(self.options.slow_per_mille);
        let on_slow = if self.work.chance(800) { OnSlow::DropOldest } else { OnSlow::Disconnect };
        self.open_reader(start, tag, if is_slow { ReaderRole::Slow } else { ReaderRole::Plain }, on_slow)
    }

    /// Whoever reads everything that there is, from the earliest message on.
    pub(super) fn add_final_reader(&mut self) -> usize {
        self.open_reader(start::Start::Earliest(Earliest {}), None, ReaderRole::Final, OnSlow::DropOldest)
    }

    fn open_reader(&mut self, start: start::Start, tag: Option<u8>, role: ReaderRole, on_slow: OnSlow) -> usize {
        let at = self.readers.len();
        let now = self.now();
        self.readers.push(Reader {
            stream: None,
            node: usize::MAX,
            start,
            tag,
            on_slow,
            cursors: BTreeMap::new(),
            role,
            busy_until: now,
            heard: now,
            version: MapVersion(0),
            received: 0,
            missed: 0,
        });
        self.schedule.after(Duration::ZERO, Event::Reader(at));
        at
    }

    /// A reader's turn: it looks whether it is served.
    pub(super) fn read(&mut self, at: usize) {
        let now = self.now();
        let wait = self.work.around(PERIOD);
        self.schedule.after(wait, Event::Reader(at));
        let is_restless = !self.is_calm && self.work.chance(5);
        let this = &self.readers[at];
        let is_deaf = now.since(this.heard.max(this.busy_until)) > SILENCE;
        if let Some(stream) = this.stream.filter(|_| is_restless || is_deaf) {
            self.record_close(at, CloseReason::Stopped);
            self.close(stream, Side::Dialler, false);
        }
        if self.readers[at].stream.is_none() {
            self.subscribe(at);
        }
    }

    fn subscribe(&mut self, at: usize) {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].process.is_some()).collect();
        let Some(node) = self.work.pick(&running) else { return };
        let now = self.now();
        let this = &mut self.readers[at];
        let cursors = this.cursors.iter().map(|(vbucket, cursor)| v1::Cursor {
            vbucket: u32::from(*vbucket),
            lineage: cursor.lineage,
            epoch: cursor.epoch,
            offset: cursor.next,
        });
        let resume = Resume { cluster_id: CLUSTER.0.to_vec().into(), cursors: cursors.collect() };
        let start = if this.cursors.is_empty() { this.start.clone() } else { start::Start::Resume(resume) };
        let open = Open {
            patterns: vec![this.tag.map_or(vec![b'*'], |tag| vec![tag, b'*']).into()],
            start: Some(Start { start: Some(start) }),
            on_slow: this.on_slow.into(),
            ..Open::default()
        };
        (this.node, this.heard, this.version) = (node, now, MapVersion(0));
        let role = this.role;
        self.record_subscribe(at, node, &open, role);
        let kind = Kind::Subscribe { reader: at, open: open.encode_to_vec().into(), subscription: None };
        let id = self.dial(kind, Place::Client(FIRST_CLIENT + at), Place::Node(node));
        self.readers[at].stream = Some(id);
    }

    pub(super) fn unsubscribed(&mut self, at: usize, id: StreamId) {
        let this = &mut self.readers[at];
        if this.stream == Some(id) {
            this.stream = None;
            self.record_close(at, CloseReason::Broken);
        }
    }

    /// Takes a delivery.
    pub(super) fn take_delivery(&mut self, at: usize, id: StreamId, bytes: Bytes) {
        let now = self.now();
        if self.readers[at].stream != Some(id) {
            return;
        }
        self.send(id, Side::Listener, Item::Room);
        let pause = if self.readers[at].role == ReaderRole::Slow && !self.is_calm {
            self.work.around(Duration::from_millis(300))
        } else {
            Duration::ZERO
        };
        let this = &mut self.readers[at];
        (this.heard, this.busy_until) = (now, now.plus(pause));
        let delivery = Delivery::decode(super::frames::deframed(bytes)).unwrap();
        self.say(|| format!("reader {at} is sent {}", show(&delivery)));
        self.record_delivery(at, &delivery);
        if let Err((rule, words)) = self.follow(at, &delivery) {
            let words = format!("reader {at} at node {}: {words}", self.readers[at].node);
            self.fail(rule, words);
        }
    }

    /// Moves a reader as a delivery says. Gives the first rule that it breaks; the reader goes on in any case.
    fn follow(&mut self, at: usize, delivery: &Delivery) -> Result<(), Broken> {
        let mut sound = self.see_version(at, delivery);
        delivery.gaps.iter().for_each(|gap| self.take_gap(at, gap));
        // Cursors are applied behind the messages, but tell of vbuckets that were not known before.
        if delivery.confirmed.is_some() {
            for cursor in &delivery.cursors {
                let vbucket = u16::try_from(cursor.vbucket).unwrap();
                let fresh = Cursor { lineage: cursor.lineage, epoch: cursor.epoch, next: cursor.offset };
                self.readers[at].cursors.entry(vbucket).or_insert(fresh);
            }
        }
        for message in &delivery.messages {
            sound = sound.and(self.take_message(at, message));
        }
        for cursor in &delivery.cursors {
            sound = sound.and(self.take_cursor(at, cursor));
        }
        sound
    }

    fn see_version(&mut self, at: usize, delivery: &Delivery) -> Result<(), Broken> {
        let this = &mut self.readers[at];
        let version = delivery.heartbeat.as_ref().map(|it| MapVersion(it.map_version)).unwrap_or(this.version);
        let before = std::mem::replace(&mut this.version, version);
        if version < before {
            return Err(("monotonic views", format!("map {version} after {before}")));
        }
        Ok(())
    }

    fn take_gap(&mut self, at: usize, gap: &v1::Gap) {
        let this = &mut self.readers[at];
        let vbucket = u16::try_from(gap.vbucket).unwrap();
        let fresh = Cursor { lineage: gap.lineage, epoch: 0, next: gap.from };
        let cursor = this.cursors.entry(vbucket).or_insert(fresh);
        let sight = Sight { reader: at, tag: this.tag, vbucket: VBucketId(vbucket) };
        self.checks.note_passed(sight, cursor.next, gap.from);
        this.missed += gap.to.saturating_sub(cursor.next);
        cursor.next = cursor.next.max(gap.to);
        self.checks.coverage.gaps += 1;
    }

    fn take_message(&mut self, at: usize, message: &v1::Message) -> Result<(), Broken> {
        let this = &mut self.readers[at];
        let vbucket = u16::try_from(message.vbucket).unwrap();
        let Some(cursor) = this.cursors.get_mut(&vbucket) else {
            return Err(("no silent skip", format!("a message of vbucket {vbucket}, of which nothing was said")));
        };
        let sight = Sight { reader: at, tag: this.tag, vbucket: VBucketId(vbucket) };
        let (next, lineage) = (cursor.next, cursor.lineage);
        (cursor.next, cursor.epoch) = (next.max(message.offset + 1), cursor.epoch.max(message.epoch));
        this.received += 1;
        if message.offset < next {
            return Err(("order", format!("vbucket {vbucket}: offset {} after {next}", message.offset)));
        }
        if this.tag.is_none() && message.offset > next {
            let words = format!("vbucket {vbucket}: offset {} after {next}", message.offset);
            return Err(("no silent skip", words));
        }
        self.checks.note_passed(sight, next, message.offset);
        let place = Position { vbucket: VBucketId(vbucket), lineage, epoch: message.epoch, offset: message.offset };
        self.checks.show(sight, place, &message.key, &message.payload)
    }

    fn take_cursor(&mut self, at: usize, cursor: &v1::Cursor) -> Result<(), Broken> {
        let this = &mut self.readers[at];
        let vbucket = u16::try_from(cursor.vbucket).unwrap();
        let fresh = Cursor { lineage: cursor.lineage, epoch: cursor.epoch, next: cursor.offset };
        let known = this.cursors.entry(vbucket).or_insert(fresh);
        if (cursor.lineage, cursor.offset) < (known.lineage, known.next) {
            return Err(("monotonic views", format!("vbucket {vbucket} went back: {cursor:?} after {known:?}")));
        }
        let sight = Sight { reader: at, tag: this.tag, vbucket: VBucketId(vbucket) };
        self.checks.note_passed(sight, known.next, cursor.offset);
        *known = Cursor { epoch: cursor.epoch.max(known.epoch), ..fresh };
        Ok(())
    }

    /// Whether a reader has come to the end of a vbucket.
    pub(super) fn has_read_all(&self, at: usize, vbucket: VBucketId, end: u64) -> bool {
        let this = &self.readers[at];
        this.cursors.get(&vbucket.0).is_some_and(|cursor| {
            let sight = Sight { reader: at, tag: this.tag, vbucket };
            cursor.next >= end || this.tag.is_some() && !self.checks.has_wanted(sight, cursor.next, end)
        })
    }
}

fn show(delivery: &Delivery) -> String {
    let messages: Vec<_> = delivery.messages.iter().map(|it| format!("{}:{}", it.vbucket, it.offset)).collect();
    let gap = |it: &v1::Gap| format!("{}:{}..{} {}", it.vbucket, it.from, it.to, it.reason().as_str_name());
    let gaps: Vec<_> = delivery.gaps.iter().map(gap).collect();
    let cursors: Vec<_> = delivery.cursors.iter().map(|it| format!("{}:{}", it.vbucket, it.offset)).collect();
    let confirmed = if delivery.confirmed.is_some() { "confirmed, " } else { "" };
    format!("{confirmed}messages {messages:?}, gaps {gaps:?}, cursors {cursors:?}")
}
