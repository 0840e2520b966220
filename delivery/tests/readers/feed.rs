//! A feed of one vbucket, written by hand.

use broky_delivery::{ArenaId, Block, Delivery, DeliveryConfig, Entry, FeedId, Poll, Run, SubscriptionId};
use broky_proto::frame::{PREFIX_LEN, prefix};
use broky_proto::id::{ClusterId, Epoch, Incarnation, Lineage, Offset, Token, VBucketCount, VBucketId};
use broky_proto::v1::{self, start::Start};
use broky_proto::wire::{Stored, append_stored, scan_push};
use bytes::{Bytes, BytesMut};
use prost::Message as _;

pub(crate) const CLUSTER: ClusterId = ClusterId([1; 16]);
const FEED: FeedId = FeedId(0);
const VBUCKET: VBucketId = VBucketId(0);

pub(crate) struct Feed {
    pub(crate) delivery: Delivery,
    next: u64,
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
        delivery.set_view(VBUCKET, Lineage(2), Epoch(1), Offset(base));
        delivery.set_ready(VBUCKET, true, &mut Vec::new());
        Self { delivery, next: base }
    }

    /// Appends a block with a message for each key; returns the readers to wake.
    pub(crate) fn block(&mut self, keys: &[&str]) -> Vec<SubscriptionId> {
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
        self.delivery.handle_block(FEED, block, &entries, &mut wake);
        wake
    }

    /// The node does not hold all there is any more; returns the readers to wake.
    pub(crate) fn fall_behind(&mut self) -> Vec<SubscriptionId> {
        let mut wake = Vec::new();
        self.delivery.set_ready(VBUCKET, false, &mut wake);
        wake
    }

    /// Evicts the oldest blocks.
    pub(crate) fn evict(&mut self, blocks: usize) {
        for _ in 0..blocks {
            assert!(self.delivery.evict_oldest(FEED, |_| {}));
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
