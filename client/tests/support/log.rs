//! What the fake broker holds.

use std::collections::{BTreeSet, HashMap};

use broky_proto::id::{Epoch, Offset, Token, VBucketCount, VBucketId};
use broky_proto::wire::{self, Entry};
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
    /// Refused sequences by producer and vbucket.
    refused: HashMap<(u64, u16), BTreeSet<u64>>,
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

    pub(crate) fn refuse(&mut self, producer: u64, vbucket: u16, sequence: u64) {
        self.refused.entry((producer, vbucket)).or_default().insert(sequence);
    }

    /// Nothing below comes again of this producer and vbucket.
    pub(crate) fn settle_below(&mut self, producer: u64, vbucket: u16, sequence: u64) {
        if let Some(refused) = self.refused.get_mut(&(producer, vbucket)) {
            refused.retain(|refused| *refused >= sequence);
        }
    }

    /// Whether an earlier message of this producer and vbucket was refused and did not come again.
    pub(crate) fn is_ahead(&self, producer: u64, vbucket: u16, sequence: u64) -> bool {
        self.refused.get(&(producer, vbucket)).and_then(BTreeSet::first).is_some_and(|first| *first < sequence)
    }

    pub(crate) fn store(&mut self, entry: &Entry, request: &[u8], producer: u64, sequence: u64) -> Stored {
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
        if let Some(refused) = self.refused.get_mut(&(producer, vbucket)) {
            refused.remove(&sequence);
        }
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
