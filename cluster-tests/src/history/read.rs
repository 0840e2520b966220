//! What readers asked for, saw and were told.
//!
//! A *reader* is who wants the messages; it may live through several *sessions*, one per subscription. A session that
//! resumes continues where its reader was. All records of a session are in one file, in the order in which they
//! happened.

use std::borrow::Cow;

use broky_proto::id::{Epoch, Lineage, MapVersion, Offset, ProducerId, Sequence, VBucketId};
use serde::{Deserialize, Serialize};

use super::unit::{Hash64, HexBytes, SessionNumber};

/// A session begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// Whose.
    pub reader: String,
    /// Which of its sessions; higher than all before.
    pub session: SessionNumber,
    /// The node it is opened at, if known. For a dump: the node whose own copy is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// What keys it wants.
    pub patterns: Vec<String>,
    /// What key_partitions it wants; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_partitions: Vec<HexBytes>,
    /// Where it begins.
    pub start: Start,
    /// What the reader is there for.
    #[serde(default)]
    pub role: ReaderRole,
}

/// Where a session begins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Start {
    /// From now on.
    Live,
    /// From the oldest message there is.
    Earliest,
    /// From positions learnt before.
    Resume {
        /// The cluster they belong to.
        cluster: String,
        /// The positions; a vbucket without one begins live.
        cursors: Vec<Cursor>,
    },
}

/// A position in one vbucket: the next offset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Its history.
    pub lineage: Lineage,
    /// The epoch last heard of.
    pub epoch: Epoch,
    /// The next offset.
    pub offset: Offset,
}

/// What a reader is there for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReaderRole {
    /// It reads all along, as fast as it can.
    #[default]
    Plain,
    /// It reads slower than it could, on purpose: that it lags says nothing.
    Slow,
    /// It reads all that is there, once everything is healed.
    Final,
    /// It reads one node's own copy, past the protocol.
    Dump,
}

/// The session stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmed {
    /// Whose.
    pub reader: String,
    /// Which session.
    pub session: SessionNumber,
    /// The cluster.
    pub cluster: String,
    /// The node's version of the map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map_version: Option<MapVersion>,
    /// Where it begins, in each vbucket that it can want. Gaps of the first delivery may be recorded before this or
    /// right after.
    pub cursors: Vec<Cursor>,
}

/// A message came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deliver<'a> {
    /// Whose.
    #[serde(borrow)]
    pub reader: Cow<'a, str>,
    /// Which session.
    pub session: SessionNumber,
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Its history.
    pub lineage: Lineage,
    /// The epoch in which the message was stored.
    pub epoch: Epoch,
    /// The offset.
    pub offset: Offset,
    /// The high watermark that came with it: the first offset not known to be committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw: Option<Offset>,
    /// Who pushed it, by its stamp. Absent, as the sequence, when it carries no stamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<ProducerId>,
    /// Which of its producer's messages, by its stamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<Sequence>,
    /// CRC-32 over key_partition, key and payload, computed anew from what came.
    pub crc32: u32,
    /// Hash of the payload that came.
    pub hash64: Hash64,
}

/// The reader's position moved without a message that it wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advance<'a> {
    /// Whose.
    #[serde(borrow)]
    pub reader: Cow<'a, str>,
    /// Which session.
    pub session: SessionNumber,
    /// The vbucket.
    pub vbucket: VBucketId,
    /// Its history.
    pub lineage: Lineage,
    /// The epoch.
    pub epoch: Epoch,
    /// The next offset.
    pub offset: Offset,
}

/// The reader is told that it will not get the offsets `[from, to)`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap<'a> {
    /// Whose.
    #[serde(borrow)]
    pub reader: Cow<'a, str>,
    /// Which session.
    pub session: SessionNumber,
    /// The vbucket.
    pub vbucket: VBucketId,
    /// The history named by the gap: the one lost, or the one that follows.
    pub lineage: Lineage,
    /// The first offset missed.
    pub from: Offset,
    /// The offset behind the last one missed.
    pub to: Offset,
    /// Why.
    pub reason: GapReason,
}

/// Why a reader misses something. As `broky.v1.GapReason`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// It was slower than the node's memory.
    Slow,
    /// Its position had been evicted.
    Evicted,
    /// Every replica was lost.
    Lost,
}

/// A sign of life of the node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat<'a> {
    /// Whose.
    #[serde(borrow)]
    pub reader: Cow<'a, str>,
    /// Which session.
    pub session: SessionNumber,
    /// The node's version of the map.
    pub map_version: MapVersion,
}

/// A session ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// Whose.
    pub reader: String,
    /// Which session.
    pub session: SessionNumber,
    /// Why.
    pub reason: CloseReason,
}

/// Why a session ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The reader has waited at the end until nothing more came.
    Done,
    /// The reader was stopped, whatever there still was to read.
    Stopped,
    /// The stream broke.
    Broken,
    /// The node ended it as too slow.
    SlowSubscriber,
    /// The node refused the position as another cluster's: the reader knows that what it had not read is gone.
    ForeignCluster,
    /// The node refused for any other reason, or ended it.
    Refused,
}
