//! Readers: each may only move up, over what it is sent or told.

use std::collections::{BTreeMap, BTreeSet};

use broky_delivery::{Poll, SubscriptionId};
use broky_proto::frame::Deframer;
use broky_proto::v1::{self, Delivery, Live, OnSlow, Open, Resume, Start, start};
use broky_shard::{Outbox, Shard};
use bytes::Bytes;
use prost::Message as _;

use crate::ledger::{Id, Ledger};
use crate::producers::tag_of;

/// A reader of everything, or of all messages with one tag.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) node: usize,
    pub(crate) subscription: Option<SubscriptionId>,
    start: start::Start,
    tag: Option<u8>,
    /// Per vbucket: lineage, epoch, the next offset.
    cursors: BTreeMap<u32, (u64, u64, u64)>,
    /// What it passed over without being told: vbucket, first offset, the one behind the last.
    passed: Vec<(u32, u64, u64)>,
    /// Vbuckets of which it has got something.
    begun: BTreeSet<u32>,
    pub(crate) received: usize,
    pub(crate) missed: u64,
}

fn pass(passed: &mut Vec<(u32, u64, u64)>, vbucket: u32, from: u64, to: u64) {
    if from < to {
        passed.push((vbucket, from, to));
    }
}

impl Reader {
    pub(crate) fn open(
        node: usize,
        shard: &mut Shard,
        start: Option<start::Start>,
        tag: Option<u8>,
        out: &mut Outbox,
    ) -> Self {
        let start = start.unwrap_or(start::Start::Live(Live {}));
        let mut reader = Self {
            node,
            subscription: None,
            start,
            tag,
            cursors: BTreeMap::new(),
            passed: Vec::new(),
            begun: BTreeSet::new(),
            received: 0,
            missed: 0,
        };
        reader.resume(node, shard, &[], out);
        reader
    }

    /// Goes on at another node, or begins there.
    pub(crate) fn resume(&mut self, node: usize, shard: &mut Shard, cluster: &[u8], out: &mut Outbox) {
        let cursors = self.cursors.iter().map(|(vbucket, (lineage, epoch, offset))| v1::Cursor {
            vbucket: *vbucket,
            lineage: *lineage,
            epoch: *epoch,
            offset: *offset,
        });
        let resume = Resume { cluster_id: cluster.to_vec().into(), cursors: cursors.collect() };
        let start = if self.cursors.is_empty() { self.start.clone() } else { start::Start::Resume(resume) };
        let pattern = self.tag.map_or(vec![b'*'], |tag| vec![tag, b'*']);
        let open = Open {
            patterns: vec![pattern.into()],
            start: Some(Start { start: Some(start) }),
            on_slow: OnSlow::DropOldest.into(),
            ..Open::default()
        };
        self.node = node;
        self.subscription = shard.open_subscription(&open, out).ok();
    }

    /// Reads whatever there is.
    pub(crate) fn read(&mut self, shard: &mut Shard, ledger: &mut Ledger, out: &mut Outbox) {
        let Some(id) = self.subscription else { return };
        loop {
            match shard.delivery_mut().poll(id) {
                Poll::Frame(frame) => self.take(frame, ledger),
                Poll::Yield => {}
                Poll::Pending => return,
                Poll::Done => panic!("a subscription has no end"),
                Poll::Ended(_) => {
                    shard.close_subscription(id, out);
                    self.subscription = None;
                    return;
                }
            }
        }
    }

    fn take(&mut self, frame: Bytes, ledger: &mut Ledger) {
        let mut deframer = Deframer::new(usize::MAX);
        deframer.push(frame);
        let delivery = Delivery::decode(deframer.next_message().unwrap().unwrap()).unwrap();
        for gap in &delivery.gaps {
            let cursor = self.cursors.entry(gap.vbucket).or_insert((gap.lineage, 0, gap.from));
            pass(&mut self.passed, gap.vbucket, cursor.2, gap.from);
            self.missed += gap.to.saturating_sub(cursor.2);
            cursor.2 = cursor.2.max(gap.to);
        }
        for cursor in &delivery.cursors {
            let next = self.cursors.entry(cursor.vbucket).or_insert((cursor.lineage, cursor.epoch, cursor.offset));
            if delivery.confirmed.is_some() {
                assert!(cursor.offset >= next.2 || cursor.lineage >= next.0, "went back: {cursor:?} after {next:?}");
            }
            // Whoever wants the oldest there is learns later where that is.
            if self.begun.contains(&cursor.vbucket) || !matches!(self.start, start::Start::Earliest(_)) {
                pass(&mut self.passed, cursor.vbucket, next.2, cursor.offset);
            }
            *next = (cursor.lineage, cursor.epoch, next.2.max(cursor.offset));
        }
        for message in &delivery.messages {
            let id = Id::from_be_bytes(message.payload[..8].try_into().unwrap());
            assert!(self.wants(id), "message {id} was not asked for");
            let next = &mut self.cursors.get_mut(&message.vbucket).unwrap().2;
            assert!(
                *next <= message.offset && (self.tag.is_some() || *next == message.offset),
                "vbucket {} of a reader at node {}: {} after {next}",
                message.vbucket,
                self.node,
                message.offset
            );
            pass(&mut self.passed, message.vbucket, *next, message.offset);
            self.begun.insert(message.vbucket);
            *next = message.offset + 1;
            ledger.note(id, message.vbucket, message.offset);
            ledger.shown += 1;
            self.received += 1;
        }
    }

    fn wants(&self, id: Id) -> bool {
        self.tag.is_none_or(|tag| tag_of(id) == tag)
    }

    /// Whether there is nothing behind its position that it wants.
    pub(crate) fn has_all(&self, vbucket: u32, end: u64, ledger: &Ledger) -> bool {
        self.cursors.get(&vbucket).is_some_and(|cursor| {
            ledger.find(vbucket, cursor.2, end, |id| self.wants(id)).is_none()
                && (self.tag.is_some() || cursor.2 == end)
        })
    }

    /// Fails when it has passed over something that it wanted.
    pub(crate) fn check(&self, ledger: &Ledger) {
        for (vbucket, from, to) in &self.passed {
            if let Some(offset) = ledger.find(*vbucket, *from, *to, |id| self.wants(id)) {
                panic!("a reader at node {} passed over offset {offset} of vbucket {vbucket} in silence", self.node);
            }
        }
    }
}
