//! What clients pushed and what became of it.
//!
//! A message is (producer, sequence), unique in a run. Each invocation has at most one outcome: *ok* is committed,
//! *fail* is provably never stored, *unknown* is everything else. A message with several invocations was tried again by
//! its client under the same producer and sequence: that is one operation, committed if one of them was, and failed
//! only if all were.

use std::borrow::Cow;

use broky_proto::id::{Epoch, Lineage, Member, Offset, ProducerId, Sequence, VBucketId};
use serde::{Deserialize, Serialize};

use super::unit::{Hash64, HexBytes};

/// A message is given to the client library.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushInvoke<'a> {
    /// Who pushes.
    pub producer: ProducerId,
    /// The message's number among its producer's.
    pub sequence: Sequence,
    /// The key, which patterns match.
    #[serde(borrow)]
    pub key: Cow<'a, str>,
    /// The effective key_partition: the key's bytes where the message has none of its own.
    pub key_partition: HexBytes,
    /// Bytes of the payload.
    pub len: u32,
    /// CRC-32 over key_partition, key and payload, as the broker computes it.
    pub crc32: u32,
    /// Hash of the payload, by whatever function the clients of the run agree on.
    pub hash64: Hash64,
    /// Pushed without deduplication: a retry may store it twice, and out of order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
}

/// It is committed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushOk<'a> {
    /// Who pushed.
    pub producer: ProducerId,
    /// Which message.
    pub sequence: Sequence,
    /// Where it is. Absent for a late duplicate, of which the broker no longer knows.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position<'a>>,
    /// The process that led in that epoch and answered, where the client knows that no other node stood between. Absent
    /// for a duplicate, which a leader of before may have stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<Member>,
}

/// It was provably never stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushFail<'a> {
    /// Who pushed.
    pub producer: ProducerId,
    /// Which message.
    pub sequence: Sequence,
    /// The code's name.
    #[serde(borrow)]
    pub code: Cow<'a, str>,
}

/// It was stored or not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushUnknown<'a> {
    /// Who pushed.
    pub producer: ProducerId,
    /// Which message.
    pub sequence: Sequence,
    /// The code's name.
    #[serde(borrow)]
    pub code: Cow<'a, str>,
}

/// Where a message is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position<'a> {
    /// The cluster's id.
    #[serde(borrow)]
    pub cluster: Cow<'a, str>,
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Its history.
    pub lineage: Lineage,
    /// The epoch in which the message was stored.
    pub epoch: Epoch,
    /// The offset.
    pub offset: Offset,
}
