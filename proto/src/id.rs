//! Ids, positions and sizes. One newtype per meaning, so that no two of them can be confused in a signature.
//!
//! The words are those of Kafka, Couchbase and Cassandra: see the glossary in ARCHITECTURE.md.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Position on the hash circle: the CRC-32 (IEEE) of a `key_partition`.
    Token(u32)
}
number! {
    /// A fixed slot of the token ring: the top bits of the token. Unit of placement, leadership and replication.
    VBucketId(u16)
}
number! {
    /// Position in a vbucket's log. Dense; never re-used with other content within a lineage.
    Offset(u64)
}
number! {
    /// Leader epoch of a vbucket: higher at each leader change, fences the older.
    Epoch(u64)
}
number! {
    /// One unbroken history of a vbucket; changes only when everything it held was lost.
    Lineage(u64)
}
number! {
    /// One process lifetime of one node, given by the control plane at registration; never re-used.
    Incarnation(u64)
}
number! {
    /// A node's number in the cluster, given at its first registration under a name; outlives restarts.
    NodeId(u32)
}
number! {
    /// Version of the cluster map; monotonic everywhere.
    MapVersion(u64)
}
number! {
    /// Compare-and-set number for changes of a vbucket's ISR.
    IsrVersion(u64)
}
number! {
    /// Names a producer for deduplication. Zero is no producer.
    ProducerId(u64)
}
number! {
    /// Sequence of a message within its producer. The first is 1.
    Sequence(u64)
}
number! {
    /// Rises whenever a producer goes back to what it has no outcome of, or goes on by way of another node.
    ProducerEpoch(u32)
}

/// How a message is named for deduplication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbered {
    /// Who pushed it.
    pub producer: ProducerId,
    /// In which of its epochs.
    pub epoch: ProducerEpoch,
    /// Which of its messages it is.
    pub sequence: Sequence,
}

/// One process lifetime of one node: the only thing that can hold a copy of anything, since every crash of an in-memory
/// node is amnesia. A node's number alone only says where a copy should be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Which of its lifetimes.
    pub incarnation: Incarnation,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, self.incarnation)
    }
}

impl Offset {
    /// The first offset of a log.
    pub const ZERO: Self = Self(0);

    /// The offset `count` messages further on.
    ///
    /// # Panics
    /// When the result exceeds `u64::MAX`: at a billion messages a second that takes 584 years.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// Messages from `earlier` up to `self`; zero when `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Sequence {
    /// The sequence `count` messages further on, saturating.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl Token {
    /// The token of a message with this `key_partition`, or, when that is empty, with this `key`.
    #[must_use]
    pub fn of(key_partition: &[u8], key: &[u8]) -> Self {
        Self(crc32fast::hash(if key_partition.is_empty() { key } else { key_partition }))
    }
}

/// How many vbuckets the cluster has: a power of two from 1 to 32,768, fixed at the cluster's birth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VBucketCount(u16);

impl VBucketCount {
    /// 1024.
    pub const DEFAULT: Self = Self(1024);

    /// `count` as a vbucket count, or `None` when it is not a power of two from 1 to 32,768.
    #[must_use]
    pub fn new(count: u32) -> Option<Self> {
        let count = u16::try_from(count).ok()?;
        count.is_power_of_two().then_some(Self(count))
    }

    /// The count as a number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// The count as a length.
    #[must_use]
    pub fn len(self) -> usize {
        usize::from(self.0)
    }

    /// Always false: there is at least one vbucket.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }

    /// The vbucket a token falls into: its top bits.
    #[must_use]
    pub fn vbucket_of(self, token: Token) -> VBucketId {
        let bits = self.0.trailing_zeros();
        let top = u64::from(token.0) << bits >> 32;
        // `top` has `bits` bits and `bits` is at most 15.
        VBucketId(u16::try_from(top).unwrap_or(u16::MAX))
    }

    /// Every vbucket, ascending.
    pub fn iter(self) -> impl Iterator<Item = VBucketId> {
        (0..self.0).map(VBucketId)
    }
}

/// The cluster's 128-bit name, random at its founding. In every peer message and every resume token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// A cluster id from the wire, or `None` unless it has 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vbucket_is_the_top_bits_of_the_token() {
        let count = VBucketCount::DEFAULT;
        assert_eq!(count.vbucket_of(Token(0)), VBucketId(0));
        assert_eq!(count.vbucket_of(Token(u32::MAX)), VBucketId(1023));
        assert_eq!(count.vbucket_of(Token(1 << 22)), VBucketId(1));
        assert_eq!(VBucketCount::new(1).unwrap().vbucket_of(Token(u32::MAX)), VBucketId(0));
        assert_eq!(VBucketCount::new(32_768).unwrap().vbucket_of(Token(u32::MAX)), VBucketId(32_767));
    }

    #[test]
    fn vbucket_count_is_a_power_of_two() {
        for bad in [0, 3, 1000, 65_536, u32::MAX] {
            assert!(VBucketCount::new(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn token_falls_back_to_the_key() {
        assert_eq!(Token::of(b"", b"k"), Token::of(b"k", b"other"));
    }
}
