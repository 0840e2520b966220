//! Readers: each may only move up, over what it is sent or told.

use std::collections::BTreeMap;

use broky_delivery::{Poll, SubscriptionId};
use broky_proto::frame::Deframer;
use broky_proto::v1::{self, Delivery, Live, OnSlow, Open, Resume, Start, start};
use broky_shard::Shard;
use bytes::Bytes;
use prost::Message as _;

use crate::ledger::Ledger;

/// A reader of everything.
pub(crate) struct Reader {
    pub(crate) node: usize,
    pub(crate) subscription: Option<SubscriptionId>,
    /// Per vbucket: lineage, epoch, the next offset.
    cursors: BTreeMap<u32, (u64, u64, u64)>,
    pub(crate) received: usize,
    pub(crate) missed: u64,
}

fn subscribe(start: start::Start) -> Open {
    Open {
        patterns: vec![Bytes::from_static(b"*")],
        start: Some(Start { start: Some(start) }),
        on_slow: OnSlow::DropOldest.into(),
        ..Open::default()
    }
}

impl Reader {
    /// Opens at a node; `None` while that is not in sync.
    pub(crate) fn open(node: usize, shard: &mut Shard, start: Option<start::Start>) -> Option<Self> {
        let start = start.unwrap_or(start::Start::Live(Live {}));
        let id = shard.delivery_mut().open(&subscribe(start)).ok()?;
        Some(Self { node, subscription: Some(id), cursors: BTreeMap::new(), received: 0, missed: 0 })
    }

    /// Goes on at another node. False while that cannot serve it.
    pub(crate) fn resume(&mut self, node: usize, shard: &mut Shard, cluster: &[u8]) -> bool {
        let cursors = self.cursors.iter().map(|(vbucket, (lineage, epoch, offset))| v1::Cursor {
            vbucket: *vbucket,
            lineage: *lineage,
            epoch: *epoch,
            offset: *offset,
        });
        let resume = Resume { cluster_id: cluster.to_vec().into(), cursors: cursors.collect() };
        match shard.delivery_mut().open(&subscribe(start::Start::Resume(resume))) {
            Ok(id) => {
                (self.node, self.subscription) = (node, Some(id));
                true
            }
            Err(_) => false,
        }
    }

    /// Reads whatever there is.
    pub(crate) fn read(&mut self, shard: &mut Shard, ledger: &mut Ledger) {
        let Some(id) = self.subscription else { return };
        loop {
            match shard.delivery_mut().poll(id) {
                Poll::Frame(frame) => self.take(frame, ledger),
                Poll::Yield => {}
                Poll::Pending => return,
                Poll::Ended(_) => {
                    shard.delivery_mut().close(id);
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
            assert!(gap.from <= cursor.2, "gap from {} leaves out what lies before, from {}", gap.from, cursor.2);
            self.missed += gap.to.saturating_sub(cursor.2);
            cursor.2 = cursor.2.max(gap.to);
        }
        for cursor in &delivery.cursors {
            let next = self.cursors.entry(cursor.vbucket).or_insert((cursor.lineage, cursor.epoch, cursor.offset));
            if delivery.confirmed.is_some() {
                assert!(cursor.offset >= next.2 || cursor.lineage >= next.0, "went back: {cursor:?} after {next:?}");
            }
            *next = (cursor.lineage, cursor.epoch, next.2.max(cursor.offset));
        }
        for message in &delivery.messages {
            let next = &mut self.cursors.get_mut(&message.vbucket).unwrap().2;
            assert_eq!(*next, message.offset, "vbucket {} of a reader at node {}", message.vbucket, self.node);
            *next += 1;
            ledger.note(
                u64::from_be_bytes(message.payload.as_ref().try_into().unwrap()),
                message.vbucket,
                message.offset,
            );
            ledger.shown += 1;
            self.received += 1;
        }
    }

    pub(crate) fn next(&self, vbucket: u32) -> u64 {
        self.cursors.get(&vbucket).map_or(0, |cursor| cursor.2)
    }
}
