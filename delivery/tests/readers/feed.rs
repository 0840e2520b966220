//! A feed of one vbucket, written by hand.

use broky_delivery::{
    ArenaId, Block, Delivery, DeliveryConfig, Entry, FeedId, History, Kind, Poll, RelayId, Relayed, Run,
    SubscriptionId, Want, WantId,
};
use broky_proto::frame::{PREFIX_LEN, prefix};
use broky_proto::id::{ClusterId, Epoch, Incarnation, Lineage, Offset, Token, VBucketCount, VBucketId};
use broky_proto::v1::{self, GapReason, start::Start};
use broky_proto::wire::{Fields, Stored, append_stored, scan_push, stored_messages};
use bytes::{Bytes, BytesMut};
use prost::Message as _;

pub(crate) const CLUSTER: ClusterId = ClusterId([1; 16]);
const FEED: FeedId = FeedId(0);
pub(crate) const VBUCKET: VBucketId = VBucketId(0);

pub(crate) struct Feed {
    pub(crate) delivery: Delivery,
    next: u64,
}

/// What a reader is told of offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Message(u64),
    Gap(u64, u64),
}

impl Feed {
    pub(crate) fn new(base: u64) -> Self {
        let mut delivery = Delivery::new(DeliveryConfig {
            cluster: CLUSTER,
            incarnation: Incarnation(1),
            vbuckets: VBucketCount::new(1).unwrap(),
            feeds: 1,
            cursor_interval_bytes: 1 << 20,
        });
        delivery.set_view(VBUCKET, (Lineage(2), Epoch(1)), Offset(base), &mut Vec::new());
        delivery.set_in_sync(VBUCKET, true, &mut Vec::new());
        Self { delivery, next: base }
    }

    /// Appends a block with a message for each key; returns the readers to wake.
    pub(crate) fn block(&mut self, keys: &[&str]) -> Vec<SubscriptionId> {
        self.block_as(Kind::Log, keys)
    }

    /// Appends a block that is this to readers.
    pub(crate) fn block_as(&mut self, kind: Kind, keys: &[&str]) -> Vec<SubscriptionId> {
        let mut buffer = BytesMut::from(&[0; PREFIX_LEN][..]);
        let first = Offset(self.next);
        let entries: Vec<Entry> = keys.iter().map(|key| self.append(&mut buffer, key)).collect();
        let len = buffer.len() - PREFIX_LEN;
        buffer[..PREFIX_LEN].copy_from_slice(&prefix(len));
        let count = u32::try_from(keys.len()).unwrap();
        let block = Block {
            framed: buffer.freeze(),
            runs: [Run { vbucket: VBUCKET, count, first }].into(),
            messages: count,
            has_system: keys.iter().any(|key| key.starts_with("!system")),
            arena: ArenaId::default(),
        };
        let mut wake = Vec::new();
        self.delivery.handle_block(FEED, kind, block, &entries, &mut wake);
        wake
    }

    /// The node does not hold all there is any more; returns the readers to wake.
    pub(crate) fn fall_behind(&mut self) -> Vec<SubscriptionId> {
        let mut wake = Vec::new();
        self.delivery.set_in_sync(VBUCKET, false, &mut wake);
        wake
    }

    /// Another node gives what this one does not hold, from `next` on.
    pub(crate) fn begin_relayed(&mut self, next: u64) {
        let history = History { lineage: Lineage(2), epoch: Epoch(1), base: Offset(0) };
        self.delivery.begin_relayed(VBUCKET, history, Offset(next), Vec::new(), &mut Vec::new());
    }

    /// What comes next is at `next`; readers are told of what lies between.
    pub(crate) fn lose_until(&mut self, next: u64) {
        self.delivery.lose_until(VBUCKET, Offset(next), GapReason::Evicted, &mut Vec::new());
        self.next = next;
    }

    /// The next block is at `next`.
    pub(crate) fn go_on_at(&mut self, next: u64) {
        self.next = next;
    }

    /// The log begins anew at `next`; returns the readers to wake.
    pub(crate) fn skip_to(&mut self, next: u64) -> Vec<SubscriptionId> {
        let mut wake = Vec::new();
        self.delivery.skip_to(FEED, VBUCKET, Offset(next), &mut wake);
        self.next = next;
        wake
    }

    /// Takes what the owner has for its relay.
    pub(crate) fn take_relayed(&mut self, relay: RelayId, owner: &mut Self) -> Vec<SubscriptionId> {
        let mut wake = Vec::new();
        while let Some(next) = owner.delivery.poll_relay(relay) {
            match next {
                Relayed::Block { framed, messages, has_system, spans } => {
                    let span = spans[0];
                    let count = u32::try_from(span.end.0 - span.first.0).unwrap();
                    let runs = [Run { vbucket: VBUCKET, count, first: span.first }].into();
                    let block = Block { framed, runs, messages, has_system, arena: ArenaId::default() };
                    let entries = entries_of(&block);
                    self.delivery.handle_block(FEED, Kind::Relayed, block, &entries, &mut wake);
                }
                Relayed::Watching { vbucket, history, next, gaps, .. } => {
                    self.delivery.begin_relayed(vbucket, history, next, gaps, &mut wake);
                }
                Relayed::Wanted(name, spans) => {
                    spans.iter().for_each(|span| self.delivery.pass_relayed_to(span.vbucket, span.end));
                    self.delivery.set_covered(WantId(name), FEED, &mut wake);
                }
                Relayed::Passed(spans) => {
                    spans.iter().for_each(|span| self.delivery.pass_relayed_to(span.vbucket, span.end));
                }
                Relayed::Left(vbucket, _) => self.delivery.pause_relayed(vbucket),
            }
        }
        wake
    }

    /// Asks the owner for what has come to be wanted here.
    pub(crate) fn ask(&mut self, relay: RelayId, owner: &mut Self) {
        for want in self.delivery.take_wants() {
            match want {
                Want::Begun(WantId(name), key) => owner.delivery.add_relay_interest(relay, name, key),
                Want::Ended(WantId(name)) => owner.delivery.remove_relay_interest(relay, name),
            }
        }
    }

    /// Evicts the oldest blocks.
    pub(crate) fn evict(&mut self, blocks: usize) {
        for _ in 0..blocks {
            assert!(self.delivery.evict_oldest(FEED, |_, _| {}));
        }
    }

    pub(crate) fn open(&mut self, patterns: &[&str], start: Start, credit: u64) -> SubscriptionId {
        let patterns = patterns.iter().map(|pattern| Bytes::copy_from_slice(pattern.as_bytes())).collect();
        let start = Some(v1::Start { start: Some(start) });
        let id = self.delivery.open(&v1::Open { patterns, start, credit, ..v1::Open::default() }).unwrap();
        assert!(self.read(id).confirmed.is_some());
        id
    }

    /// The next delivery.
    pub(crate) fn read(&mut self, id: SubscriptionId) -> v1::Delivery {
        let Poll::Frame(frame) = self.delivery.poll(id) else { panic!("nothing to read") };
        v1::Delivery::decode(&frame[PREFIX_LEN..]).unwrap()
    }

    /// Whatever is there to read, in order.
    pub(crate) fn read_all_told(&mut self, id: SubscriptionId) -> Vec<Told> {
        let mut all = Vec::new();
        while let Poll::Frame(frame) = self.delivery.poll(id) {
            let told = v1::Delivery::decode(&frame[PREFIX_LEN..]).unwrap();
            all.extend(told.gaps.iter().map(|gap| Told::Gap(gap.from, gap.to)));
            all.extend(told.messages.iter().map(|message| Told::Message(message.offset)));
        }
        all
    }

    /// The offsets of all that is there to read.
    pub(crate) fn read_all(&mut self, id: SubscriptionId) -> Vec<u64> {
        let mut offsets = Vec::new();
        while let Poll::Frame(frame) = self.delivery.poll(id) {
            let delivery = v1::Delivery::decode(&frame[PREFIX_LEN..]).unwrap();
            offsets.extend(delivery.messages.iter().map(|message| message.offset));
        }
        offsets
    }

    fn append(&mut self, buffer: &mut BytesMut, key: &str) -> Entry {
        let message = v1::Message { key: Bytes::copy_from_slice(key.as_bytes()), ..v1::Message::default() };
        let request = v1::PushRequest { messages: vec![message], ..v1::PushRequest::default() }.encode_to_vec();
        let scanned = scan_push(&request, usize::MAX).unwrap().entries[0];
        let offset = Offset(self.next);
        self.next += 1;
        let stored = Stored { crc32: scanned.crc32, ts_broker: 1, epoch: Epoch(1), vbucket: VBUCKET, offset };
        let start = buffer.len();
        let span = append_stored(buffer, scanned.message.of(&request), &stored);
        Entry {
            start: u32::try_from(start).unwrap(),
            len: u32::try_from(buffer.len() - start).unwrap(),
            key_start: span.start + scanned.key.start,
            key_len: scanned.key.len,
            token: Token::of(b"", key.as_bytes()),
        }
    }
}

fn entries_of(block: &Block) -> Vec<Entry> {
    let mut start = PREFIX_LEN;
    let stored = stored_messages(&block.framed[PREFIX_LEN..]).map(Result::unwrap);
    let entry = |(span, message): (broky_proto::wire::Span, &[u8])| {
        let fields = Fields::scan(message).unwrap();
        let end = PREFIX_LEN + (span.start + span.len) as usize;
        let begin = std::mem::replace(&mut start, end);
        Entry {
            start: u32::try_from(begin).unwrap(),
            len: u32::try_from(end - begin).unwrap(),
            key_start: u32::try_from(end - message.len()).unwrap() + fields.key.start,
            key_len: fields.key.len,
            token: Token::of(b"", fields.key.of(message)),
        }
    };
    stored.map(entry).collect()
}

pub(crate) fn live() -> Start {
    Start::Live(v1::Live {})
}

pub(crate) fn earliest() -> Start {
    Start::Earliest(v1::Earliest {})
}

pub(crate) fn resume(cluster: ClusterId, lineage: u64, offset: u64) -> Start {
    let cursors = vec![v1::Cursor { vbucket: 0, lineage, epoch: 1, offset }];
    Start::Resume(v1::Resume { cluster_id: cluster.0.to_vec().into(), cursors })
}
