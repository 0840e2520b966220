//! What is stored, according to the model.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use broky_proto::id::{Token, VBucketCount};
use broky_proto::v1;
use bytes::Bytes;

/// The only epoch, lineage and first offset of every vbucket here.
pub(crate) const EPOCH: u64 = 7;
pub(crate) const LINEAGE: u64 = 0;
pub(crate) const BASE: u64 = 0;

/// What the model expects of one pushed message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    /// Its part of the request has not been handled.
    Waiting,
    Rejected(v1::ErrorCode),
    Stored(Place),
    /// An earlier attempt stored it there.
    Duplicate(Place),
}

/// Where a message is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) vbucket: usize,
    pub(crate) offset: u64,
}

/// Every message ever stored.
pub(crate) struct Logs {
    vbuckets: VBucketCount,
    /// Per vbucket, as a reader must see them; the first one is at [`BASE`].
    messages: Vec<Vec<v1::Message>>,
    stored: BTreeMap<(u64, u64), Place>,
}

impl Logs {
    pub(crate) fn new(vbuckets: VBucketCount) -> Self {
        Self { vbuckets, messages: vec![Vec::new(); vbuckets.len()], stored: BTreeMap::new() }
    }

    pub(crate) fn vbucket_of(&self, message: &v1::Message) -> usize {
        usize::from(self.vbuckets.vbucket_of(Token::of(&message.key_partition, &message.key)).0)
    }

    /// Offers a message to the log, as a leader does.
    pub(crate) fn offer(&mut self, producer: Option<(u64, u64)>, message: &v1::Message, ts_broker: i64) -> Expected {
        if let Some(place) = producer.and_then(|producer| self.stored.get(&producer)) {
            return Expected::Duplicate(*place);
        }
        let vbucket = self.vbucket_of(message);
        let place = Place { vbucket, offset: self.end(vbucket) };
        let content = [&message.key_partition[..], &message.key[..], &message.payload[..]].concat();
        self.messages[vbucket].push(v1::Message {
            crc32: crc32fast::hash(&content),
            ts_broker,
            epoch: EPOCH,
            vbucket: u32::try_from(vbucket).unwrap(),
            offset: place.offset,
            ..message.clone()
        });
        if let Some(producer) = producer {
            self.stored.insert(producer, place);
        }
        Expected::Stored(place)
    }

    pub(crate) fn end(&self, vbucket: usize) -> u64 {
        BASE + self.messages[vbucket].len() as u64
    }

    pub(crate) fn at(&self, vbucket: usize, offset: u64) -> Option<&v1::Message> {
        self.messages[vbucket].get(usize::try_from(offset.checked_sub(BASE)?).unwrap())
    }

    /// The messages of `[from, to)`.
    pub(crate) fn range(&self, vbucket: usize, from: u64, to: u64) -> &[v1::Message] {
        let at = |offset: u64| usize::try_from(offset - BASE).unwrap();
        &self.messages[vbucket][at(from)..at(to).max(at(from))]
    }
}

/// A payload of `len` bytes, different for each `number`; a slice of one buffer, so that keeping it costs nothing.
pub(crate) fn payload(number: u64, len: usize) -> Bytes {
    static POOL: LazyLock<Bytes> = LazyLock::new(|| {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..5 << 20).map(|_| next()).collect()
    });
    let start = usize::try_from(number % 10_007).unwrap();
    POOL.slice(start..start + len)
}

/// Whether a subscription to these patterns and key_partitions asks for a message: the definition, without regard to
/// cost.
pub(crate) fn is_wanted(patterns: &[Bytes], key_partitions: &[Bytes], message: &v1::Message) -> bool {
    let partition = if message.key_partition.is_empty() { &message.key } else { &message.key_partition };
    let is_system = message.key.starts_with(b"!system");
    (key_partitions.is_empty() || key_partitions.contains(partition))
        && patterns.iter().any(|pattern| (!is_system || pattern.starts_with(b"!system")) && glob(pattern, &message.key))
}

fn glob(pattern: &[u8], key: &[u8]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=key.len()).any(|skipped| glob(rest, &key[skipped..])),
        ([b'?', rest @ ..], [_, key @ ..]) => glob(rest, key),
        ([b'\\', literal, rest @ ..], [byte, key @ ..]) | ([literal, rest @ ..], [byte, key @ ..]) => {
            literal == byte && glob(rest, key)
        }
        _ => false,
    }
}
