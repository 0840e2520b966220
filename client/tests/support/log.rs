//! What the fake broker holds.

use std::collections::HashMap;

use broky_proto::id::{Epoch, Offset, ProducerEpoch, Sequence, Token, VBucketCount, VBucketId};
use broky_proto::wire::{self, Entry, Push};
use broky_replication::Row;
use bytes::BytesMut;

/// Vbuckets of the fake broker.
pub(crate) const VBUCKETS: u32 = 4;
pub(crate) const EPOCH: u64 = 5;

#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) vbucket: u16,
    pub(crate) offset: u64,
    pub(crate) message: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) producer: u64,
    pub(crate) sequence: u64,
    pub(crate) crc32: u32,
}

#[derive(Default)]
pub(crate) struct Log {
    all: Vec<Stored>,
    /// Places in `all` by producer and sequence.
    known: HashMap<(u64, u64), usize>,
    next: HashMap<u16, u64>,
    /// By producer and vbucket.
    rows: HashMap<(u64, u16), Row>,
}

impl Log {
    pub(crate) fn all(&self) -> &[Stored] {
        &self.all
    }

    pub(crate) fn next(&self, vbucket: u16) -> u64 {
        self.next.get(&vbucket).copied().unwrap_or(0)
    }

    pub(crate) fn is_stored(&self, producer: u64, sequence: u64) -> Option<&Stored> {
        self.known.get(&(producer, sequence)).map(|at| &self.all[*at])
    }

    pub(crate) fn refuse(&mut self, producer: u64, vbucket: u16, (epoch, sequence): (ProducerEpoch, Sequence)) {
        self.rows.entry((producer, vbucket)).or_default().refuse(epoch, sequence);
    }

    /// Whether nothing was refused before it that has not come again.
    pub(crate) fn admits(&self, producer: u64, vbucket: u16, (epoch, sequence): (ProducerEpoch, Sequence)) -> bool {
        self.rows.get(&(producer, vbucket)).is_none_or(|row| row.admits(epoch, sequence))
    }

    pub(crate) fn store(&mut self, entry: &Entry, request: &[u8], push: &Push) -> Stored {
        let (producer, sequence) = (push.producer.0, push.sequence.0 + u64::from(entry.index));
        let message = entry.message.of(request);
        let fields = wire::Fields::scan(message).unwrap();
        let vbucket = vbucket_of(entry.token);
        let next = self.next.entry(vbucket).or_insert(0);
        let stored = Stored {
            vbucket,
            offset: *next,
            message: message.to_vec(),
            key: fields.key.of(message).to_vec(),
            payload: fields.payload.of(message).to_vec(),
            producer,
            sequence,
            crc32: entry.crc32,
        };
        *next += 1;
        self.rows.entry((producer, vbucket)).or_default().pass(push.producer_epoch, Sequence(sequence));
        self.known.insert((producer, sequence), self.all.len());
        self.all.push(stored.clone());
        stored
    }
}

pub(crate) fn vbucket_of(token: Token) -> u16 {
    VBucketCount::new(VBUCKETS).unwrap().vbucket_of(token).0
}

/// A key_partition that falls into this vbucket.
pub(crate) fn partition_in(vbucket: u16) -> String {
    (0..).map(|n| format!("p{n}")).find(|name| vbucket_of(Token::of(name.as_bytes(), b"")) == vbucket).unwrap()
}

impl Stored {
    pub(crate) fn append(&self, block: &mut BytesMut, is_damaged: bool) {
        let stored = wire::Stored {
            crc32: self.crc32 ^ u32::from(is_damaged),
            ts_broker: 1,
            epoch: Epoch(EPOCH),
            vbucket: VBucketId(self.vbucket),
            offset: Offset(self.offset),
        };
        wire::append_stored(block, &self.message, &stored);
    }
}
