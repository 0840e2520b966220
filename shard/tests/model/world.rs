//! A node without its sockets: shards, what travels between them, requests that wait, and readers.

use std::collections::{BTreeMap, VecDeque};

use broky_delivery::{BlockSeq, FeedId, Poll, SubscriptionId};
use broky_proto::id::{ClusterId, VBucketCount, VBucketId};
use broky_proto::v1::{self, Acks, ErrorCode, OutcomeKind};
use broky_proto::wire::{Push, scan_push};
use broky_shard::{Collector, Mirror, Outbox, Shard, ShardConfig, ShardId, Ticket, shards_of};
use bytes::Bytes;
use prost::Message as _;

use crate::cluster::Cluster;
use crate::log::{BASE, EPOCH, Expected, LINEAGE, Logs, Place};
use crate::reader::{Bounds, Reader, State};

pub(crate) const CLUSTER: ClusterId = ClusterId([5; 16]);
pub(crate) const MEMORY_BYTES: usize = ShardConfig::MEMORY_BYTES_MIN;
/// Messages longer than this are rejected.
pub(crate) const MESSAGE_BYTES_MAX: usize = 400 << 10;
/// Of the budget, what a reader may at least be behind without missing anything: arenas are not filled to the last
/// byte.
const HISTORY_BYTES_MIN: usize = MEMORY_BYTES / 3;

/// What one shard tells another.
#[derive(Clone)]
struct Mirrored {
    from: usize,
    news: Vec<Mirror>,
    cut: Option<BlockSeq>,
}

/// A request that was pushed.
pub(crate) struct Pushed {
    pub(crate) bytes: Bytes,
    request: v1::PushRequest,
    scanned: Push,
    expected: Vec<Expected>,
    collector: Option<Collector>,
    pub(crate) response: Option<v1::PushResponse>,
}

impl Pushed {
    pub(crate) fn request(&self) -> &v1::PushRequest {
        &self.request
    }
}

pub(crate) struct World {
    pub(crate) shards: Vec<Shard>,
    vbuckets: VBucketCount,
    /// Per shard: parts of requests it has not handled.
    parts: Vec<VecDeque<u64>>,
    /// Per shard: what it has not heard from the others.
    mirrored: Vec<VecDeque<Mirrored>>,
    pub(crate) logs: Logs,
    pub(crate) readers: Vec<Reader>,
    pub(crate) pushed: BTreeMap<u64, Pushed>,
    /// Shards hear from one another at once.
    pub(crate) is_lockstep: bool,
    /// Frames that transports hold, each with its reader.
    pub(crate) held: Vec<(usize, Bytes)>,
    /// Readers that were cut off, in that order.
    pub(crate) cut: Vec<usize>,
    now: i64,
    request_bytes_max: usize,
}

impl World {
    pub(crate) fn new(shards: u16, vbuckets: u32, block_bytes_max: usize) -> Self {
        let vbuckets = VBucketCount::new(vbuckets).unwrap();
        let mut cluster = Cluster::new(vbuckets, 1, 1);
        let me = cluster.register("alone");
        cluster.place(EPOCH, vbuckets.iter(), &[me.node]);
        let shard = |shard| {
            let (shard, cluster) = (ShardId(shard), CLUSTER);
            let memory_bytes = MEMORY_BYTES;
            Shard::new(ShardConfig { shard, shards, me, cluster, vbuckets, memory_bytes, block_bytes_max }).unwrap()
        };
        let mut world = Self {
            shards: (0..shards).map(shard).collect(),
            vbuckets,
            parts: vec![VecDeque::new(); usize::from(shards)],
            mirrored: vec![VecDeque::new(); usize::from(shards)],
            logs: Logs::new(vbuckets),
            readers: Vec::new(),
            pushed: BTreeMap::new(),
            is_lockstep: true,
            held: Vec::new(),
            cut: Vec::new(),
            now: 1_000,
            request_bytes_max: 0,
        };
        for shard in 0..world.shards.len() {
            let mut out = Outbox::default();
            world.shards[shard].handle_map(cluster.map(), &mut out);
            world.carry_out(shard, out);
        }
        (0..world.shards.len()).for_each(|shard| world.hear(shard, usize::MAX));
        world
    }

    /// Scans a request and hands its parts to the shards; says under which number.
    pub(crate) fn push(&mut self, request: v1::PushRequest) -> u64 {
        let bytes = Bytes::from(request.encode_to_vec());
        let scanned = scan_push(&bytes, MESSAGE_BYTES_MAX).unwrap();
        let owners = shards_of(&scanned, self.vbuckets, self.shards());
        let mut expected = vec![Expected::Waiting; request.messages.len()];
        for rejected in &scanned.rejected {
            expected[rejected.index as usize] = Expected::Rejected(rejected.code);
        }
        let collector = Collector::new(&scanned);
        let ticket = self.pushed.len() as u64;
        self.request_bytes_max = self.request_bytes_max.max(bytes.len());
        let collector = Some(collector);
        self.pushed.insert(ticket, Pushed { bytes, request, scanned, expected, collector, response: None });
        for owner in &owners {
            self.parts[usize::from(owner.0)].push_back(ticket);
        }
        if owners.is_empty() {
            self.answer(ticket);
        }
        ticket
    }

    /// Lets a shard handle the parts of requests that wait for it.
    pub(crate) fn store(&mut self, shard: usize) {
        while let Some(ticket) = self.parts[shard].pop_front() {
            self.now += 1;
            let Some(pushed) = self.pushed.get_mut(&ticket) else { panic!("{ticket} was never pushed") };
            for entry in &pushed.scanned.entries {
                if usize::from(self.vbuckets.vbucket_of(entry.token).0) % self.shards.len() != shard {
                    continue;
                }
                let producer = pushed.request.producer_id;
                let producer = (producer != 0).then(|| (producer, pushed.request.sequence + u64::from(entry.index)));
                let message = &pushed.request.messages[entry.index as usize];
                pushed.expected[entry.index as usize] = self.logs.offer(producer, message, self.now);
            }
            let mut out = Outbox::default();
            self.shards[shard].push(self.now, &pushed.bytes, &pushed.scanned, Ticket(ticket), &mut out);
            self.carry_out(shard, out);
        }
    }

    /// Flushes a shard and checks what it says of its memory.
    pub(crate) fn flush(&mut self, shard: usize) {
        let mut out = Outbox::default();
        self.shards[shard].flush(&mut out);
        self.carry_out(shard, out);
        assert!(!self.shards[shard].needs_flush());
        for vbucket in (shard..self.vbuckets.len()).step_by(self.shards.len()) {
            assert_eq!(self.bounds(shard, vbucket).1, self.logs.end(vbucket), "a flush commits vbucket {vbucket}");
        }
        if self.shards.len() == 1 || (self.is_lockstep && self.held.is_empty()) {
            // Not every byte of an arena is used, and one request may need an arena of its own.
            let batch = (2 * self.request_bytes_max).max(MEMORY_BYTES / 64);
            let used = self.shards[shard].memory_used();
            assert!(used <= MEMORY_BYTES + batch, "{used} bytes used of {MEMORY_BYTES} and {batch}");
        }
        self.read_on();
    }

    /// Fails when a shard keeps much less than its memory would hold.
    pub(crate) fn check_history(&self, shard: usize) {
        let mut kept = 0;
        let mut total = 0;
        for vbucket in (shard..self.vbuckets.len()).step_by(self.shards.len()) {
            let (start, end) = self.bounds(shard, vbucket);
            let bytes =
                |from, to| self.logs.range(vbucket, from, to).iter().map(v1::Message::encoded_len).sum::<usize>();
            kept += bytes(start, end);
            total += bytes(BASE, end);
        }
        assert!(kept >= total.min(HISTORY_BYTES_MIN), "{kept} bytes kept of {total}");
    }

    /// Lets a shard hear `count` things from the others.
    pub(crate) fn hear(&mut self, shard: usize, count: usize) {
        for _ in 0..count {
            let Some(Mirrored { from, news, cut }) = self.mirrored[shard].pop_front() else { return };
            let feed = FeedId(u16::try_from(from).unwrap());
            let mut out = Outbox::default();
            for mirror in news {
                self.shards[shard].handle_mirror(feed, mirror, &mut out);
            }
            if let Some(through) = cut {
                self.shards[shard].handle_mirror_cut(feed, through, &mut out);
            }
            self.carry_out(shard, out);
        }
    }

    /// Opens a subscription.
    pub(crate) fn open(&mut self, shard: usize, open: v1::Open) -> usize {
        let id = self.shards[shard].delivery_mut().open(&open).unwrap();
        let opened = self.all_bounds(shard);
        self.readers.push(Reader::new(open, shard, id, opened));
        self.readers.len() - 1
    }

    /// Closes a reader's subscription; it may resume.
    pub(crate) fn close(&mut self, reader: usize) {
        let reader = &mut self.readers[reader];
        if let Some(id) = reader.id.take() {
            self.shards[reader.shard].delivery_mut().close(id);
            reader.state = State::Closed;
        }
    }

    /// Ends a reader's subscription and opens it again where it stands, which may be ahead of what the shard has heard.
    pub(crate) fn resume(&mut self, reader: usize, shard: usize) {
        self.close(reader);
        let opened = self.all_bounds(shard);
        let reader = &mut self.readers[reader];
        let resume = v1::Resume { cluster_id: CLUSTER.0.to_vec().into(), cursors: reader.cursors() };
        let start = Some(v1::Start { start: Some(v1::start::Start::Resume(resume)) });
        let open = v1::Open { start, ..reader.open.clone() };
        let id = self.shards[shard].delivery_mut().open(&open).unwrap();
        reader.resumed(open, shard, id, opened);
    }

    /// Gives a reader credit, if it was opened with some.
    pub(crate) fn give_credit(&mut self, reader: usize, messages: u64) {
        let reader = &mut self.readers[reader];
        if let (Some(id), Some(credit)) = (reader.id, &mut reader.credit) {
            *credit += messages;
            assert!(self.shards[reader.shard].delivery_mut().add_credit(id, messages));
            reader.is_asleep = false;
        }
    }

    /// Reads up to `times` frames; returns whether there may be more.
    pub(crate) fn poll(&mut self, reader: usize, times: usize) -> bool {
        (0..times).all(|_| self.poll_once(reader).is_some())
    }

    /// Reads one frame and keeps hold of it.
    pub(crate) fn hold(&mut self, reader: usize) {
        if let Some(Some(frame)) = self.poll_once(reader) {
            self.held.push((reader, frame));
        }
    }

    /// Marks heartbeats as due, of all readers of a shard.
    pub(crate) fn heartbeat(&mut self, shard: usize) {
        for _ in 0..broky_delivery::HEARTBEAT_SLOTS {
            let mut out = Outbox::default();
            self.shards[shard].delivery_mut().handle_heartbeat(&mut out.wake);
            self.carry_out(shard, out);
        }
    }

    /// Lets everything under way arrive, and every reader read to the end.
    pub(crate) fn settle(&mut self) {
        for shard in 0..self.shards.len() {
            self.store(shard);
            self.flush(shard);
        }
        for shard in 0..self.shards.len() {
            self.hear(shard, usize::MAX);
        }
        assert!(self.pushed.values().all(|pushed| pushed.response.is_some()), "every request is answered");
        for reader in 0..self.readers.len() {
            self.check_woken(reader);
            self.give_credit(reader, u64::MAX / 2);
            while self.poll(reader, 1) {}
            let Reader { shard, id, .. } = self.readers[reader];
            if id.is_some() {
                self.readers[reader].check_drained(&self.logs, |vbucket| self.bounds(shard, vbucket));
            }
        }
    }

    pub(crate) fn check_invariants(&self) {
        self.shards.iter().for_each(Shard::check_invariants);
    }

    /// What the readers of a shard can see of a vbucket.
    pub(crate) fn bounds(&self, shard: usize, vbucket: usize) -> Bounds {
        bounds(&self.shards[shard], vbucket)
    }

    fn all_bounds(&self, shard: usize) -> Vec<Bounds> {
        (0..self.vbuckets.len()).map(|vbucket| self.bounds(shard, vbucket)).collect()
    }

    fn shards(&self) -> u16 {
        u16::try_from(self.shards.len()).unwrap()
    }

    /// Carries out what a shard wants done, as a worker does.
    fn carry_out(&mut self, shard: usize, mut out: Outbox) {
        let cut = out.mirror_cut.take();
        if !out.mirror.is_empty() || cut.is_some() {
            let news = Mirrored { from: shard, news: std::mem::take(&mut out.mirror), cut };
            for other in (0..self.shards.len()).filter(|other| *other != shard) {
                self.mirrored[other].push_back(news.clone());
            }
        }
        for id in out.wake {
            let reader = self.readers.iter_mut().find(|reader| (reader.shard, reader.id) == (shard, Some(id)));
            reader.expect("only open subscriptions are woken").is_asleep = false;
        }
        for id in out.cut {
            self.cut_off(shard, id);
        }
        for reply in out.replies {
            let ticket = reply.ticket.0;
            self.check_committed(shard, ticket);
            let collector = self.pushed.get_mut(&ticket).and_then(|pushed| pushed.collector.as_mut());
            if collector.expect("one answer for each part").take(reply.outcome) {
                self.answer(ticket);
            }
        }
        self.check_invariants();
        if self.is_lockstep {
            for other in (0..self.shards.len()).filter(|other| *other != shard) {
                self.hear(other, usize::MAX);
            }
        }
    }

    /// Drops a reader's connection, with all that waits in it.
    fn cut_off(&mut self, shard: usize, id: SubscriptionId) {
        // A shard cannot tell what a transport holds from what a shard that lags behind has not dropped.
        let may_pin = !self.held.is_empty() || !self.is_lockstep;
        assert!(may_pin, "a reader is cut off although no frame is held");
        let reader = self.readers.iter().position(|reader| (reader.shard, reader.id) == (shard, Some(id)));
        let reader = reader.expect("only open subscriptions are cut, and once");
        self.held.retain(|(holder, _)| *holder != reader);
        self.close(reader);
        self.cut.push(reader);
    }

    /// What is answered as committed can be read.
    fn check_committed(&self, shard: usize, ticket: u64) {
        let pushed = &self.pushed[&ticket];
        if pushed.scanned.acks != Acks::Committed {
            return;
        }
        for expected in &pushed.expected {
            if let Expected::Stored(Place { vbucket, offset }) | Expected::Duplicate(Place { vbucket, offset }) =
                expected
                && vbucket % self.shards.len() == shard
            {
                assert!(*offset < self.bounds(shard, *vbucket).1, "{vbucket}/{offset} was answered before its time");
            }
        }
    }

    /// Takes the response to a request, and checks that it says of each message what became of it.
    fn answer(&mut self, ticket: u64) {
        let pushed = self.pushed.get_mut(&ticket).unwrap();
        let response = pushed.collector.take().unwrap().into_response();
        let mut told = Vec::new();
        for outcome in &response.outcomes {
            assert_eq!(outcome.first as usize, told.len(), "outcomes are dense");
            assert!(outcome.count > 0);
            told.extend((0..outcome.count).map(|_| (outcome.kind(), outcome.code(), outcome.duplicate)));
        }
        let expected = pushed.expected.iter().map(|expected| match expected {
            Expected::Waiting => panic!("answered before every part was handled"),
            Expected::Rejected(code) => (OutcomeKind::Rejected, *code, false),
            Expected::Stored(_) => (OutcomeKind::Committed, ErrorCode::Unspecified, false),
            Expected::Duplicate(_) => (OutcomeKind::Committed, ErrorCode::Unspecified, true),
        });
        assert_eq!(told, expected.collect::<Vec<_>>());
        check_positions(pushed, &response);
        pushed.response = Some(response);
    }

    fn poll_once(&mut self, reader: usize) -> Option<Option<Bytes>> {
        let reader = &mut self.readers[reader];
        let shard = &mut self.shards[reader.shard];
        let id = reader.id?;
        match shard.delivery_mut().poll(id) {
            Poll::Frame(frame) => {
                reader.take(&frame, &self.logs, |vbucket| bounds(shard, vbucket));
                Some(Some(frame))
            }
            Poll::Yield => Some(None),
            Poll::Pending => {
                reader.is_asleep = true;
                None
            }
            Poll::Done => panic!("a subscription has no end"),
            Poll::Ended(refusal) => {
                reader.end(&refusal);
                shard.delivery_mut().close(id);
                (reader.id, reader.state) = (None, State::Closed);
                None
            }
        }
    }

    /// Lets the readers that keep up read.
    fn read_on(&mut self) {
        for reader in 0..self.readers.len() {
            if self.readers[reader].keeps_up {
                while self.poll(reader, 1) {}
            }
        }
    }

    /// A reader that waits to be woken has nothing to read.
    fn check_woken(&self, reader: usize) {
        let reader = &self.readers[reader];
        if reader.id.is_some() && reader.is_asleep && reader.credit != Some(0) {
            reader.check_drained(&self.logs, |vbucket| self.bounds(reader.shard, vbucket));
        }
    }
}

/// Positions are told for all that was stored, where it was stored; of a duplicate the place may be forgotten.
fn check_positions(pushed: &Pushed, response: &v1::PushResponse) {
    let mut told: BTreeMap<u32, Place> = BTreeMap::new();
    for position in &response.positions {
        assert_eq!((position.lineage, position.epoch), (LINEAGE, EPOCH));
        for at in 0..position.count {
            let place = Place { vbucket: position.vbucket as usize, offset: position.offset + u64::from(at) };
            assert_eq!(told.insert(position.first + at, place), None, "one position for each message");
        }
    }
    for (index, expected) in (0..).zip(&pushed.expected) {
        let told = told.remove(&index);
        match expected {
            Expected::Stored(place) if pushed.request.want_positions => assert_eq!(told, Some(*place)),
            Expected::Duplicate(place) if pushed.request.want_positions => {
                assert!(told.is_none_or(|told| told == *place))
            }
            Expected::Stored(_) | Expected::Duplicate(_) | Expected::Rejected(_) | Expected::Waiting => {
                assert_eq!(told, None, "a position nobody asked for");
            }
        }
    }
    assert!(told.is_empty(), "positions of messages that are not in the request");
}

fn bounds(shard: &Shard, vbucket: usize) -> Bounds {
    let (start, end) = shard.delivery().bounds(VBucketId(u16::try_from(vbucket).unwrap())).unwrap();
    (start.0, end.0)
}
