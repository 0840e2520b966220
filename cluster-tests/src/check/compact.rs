//! What is kept of the many records: just what has to be judged, in numbers.
//!
//! Three streams. [`Trace`]s go by message: invocation, outcomes and sightings of one message come together, wherever
//! they were recorded. [`Step`]s go by vbucket and reader: what one reader went through in one vbucket, in order.
//! [`Act`]s go by vbucket: what audited nodes did. Judging the first yields a fourth, [`Entry`], by vbucket: what
//! became of each message.

use broky_proto::id::{Epoch, Lineage, Member, Offset, ProducerId, Sequence, Token, VBucketId};
use serde::{Deserialize, Serialize};

use super::finding::Origin;
use super::names::{ClusterNo, KeyNo, ReaderNo};
use crate::history::{GapReason, Hash64, Nanos, Role, SessionNumber};

/// A message: who pushed it, and as which one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub(crate) struct MessageId {
    pub(crate) producer: ProducerId,
    pub(crate) sequence: Sequence,
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.producer, self.sequence)
    }
}

/// Tells key_partitions apart, and where they belong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub(crate) struct PartitionNo {
    pub(crate) token: Token,
    pub(crate) hash: u64,
}

/// Where a message is, in a run that may have several clusters. In the order of a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Spot {
    pub(crate) cluster: ClusterNo,
    pub(crate) vbucket: VBucketId,
    pub(crate) lineage: Lineage,
    pub(crate) offset: Offset,
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "offset {} of lineage {} of vbucket {}", self.offset, self.lineage, self.vbucket)
    }
}

/// Something about one message.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Trace {
    pub(crate) message: MessageId,
    pub(crate) at: Nanos,
    pub(crate) origin: Origin,
    pub(crate) what: TraceKind,
}

/// What about it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum TraceKind {
    Invoke(Invocation),
    Ok { spot: Option<(Spot, Epoch)>, leader: Option<Member> },
    Fail,
    Unknown,
    Seen(Sighting),
}

/// What was pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Invocation {
    /// `None` when there are too many keys to tell them apart.
    pub(crate) key: Option<KeyNo>,
    pub(crate) partition: PartitionNo,
    pub(crate) len: u32,
    pub(crate) crc32: u32,
    pub(crate) hash64: Hash64,
    pub(crate) is_plain: bool,
}

/// What was delivered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sighting {
    pub(crate) spot: Spot,
    pub(crate) epoch: Epoch,
    pub(crate) crc32: u32,
    pub(crate) hash64: Hash64,
    pub(crate) is_final: bool,
    pub(crate) is_dump: bool,
    /// When the session began to which it was delivered.
    pub(crate) since: Nanos,
}

/// Something that happened to one session in one vbucket.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) vbucket: VBucketId,
    pub(crate) reader: ReaderNo,
    pub(crate) session: SessionNumber,
    pub(crate) cluster: ClusterNo,
    pub(crate) origin: Origin,
    pub(crate) at: Nanos,
    pub(crate) lineage: Lineage,
    pub(crate) what: StepKind,
}

/// What happened.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum StepKind {
    /// It asks to go on here.
    Resume(Offset),
    /// It is told that it begins here.
    Confirmed(Offset),
    Deliver {
        offset: Offset,
        epoch: Epoch,
        hw: Option<Offset>,
    },
    Advance(Offset),
    Gap {
        from: Offset,
        to: Offset,
        reason: GapReason,
    },
}

/// Something an audited node did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Act {
    pub(crate) cluster: ClusterNo,
    pub(crate) vbucket: VBucketId,
    pub(crate) member: Member,
    pub(crate) at: Nanos,
    pub(crate) origin: Origin,
    pub(crate) what: ActKind,
}

/// What it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ActKind {
    Append { lineage: Lineage, epoch: Epoch, from: Offset, to: Offset },
    Hw { lineage: Lineage, hw: Offset },
    Truncate { lineage: Lineage, from: Offset },
    Ack { epoch: Epoch, offset: Offset },
    Role { epoch: Epoch, role: Role },
    Chain { lineage: Lineage, offset: Offset, hash: Hash64 },
}

/// What came of pushing a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Acked,
    Failed,
    Unknown,
}

/// What became of a message: one for each place where it was acknowledged or seen, or one without a place.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) message: MessageId,
    pub(crate) vbucket: VBucketId,
    /// `None` for a message that nobody pushed.
    pub(crate) invoked: Option<Nanos>,
    /// When its outcome was known: the first acknowledgement, or else the last word on it.
    pub(crate) settled: Option<Nanos>,
    pub(crate) outcome: Outcome,
    pub(crate) key: Option<KeyNo>,
    pub(crate) partition: PartitionNo,
    pub(crate) is_plain: bool,
    /// Exactly one entry of each message is its first.
    pub(crate) is_first: bool,
    /// A reader got the message, here or elsewhere.
    pub(crate) is_present: bool,
    /// So did a final reader.
    pub(crate) is_final: bool,
    pub(crate) place: Option<Place>,
    /// The acknowledgement, or else the invocation, or else the first sighting.
    pub(crate) origin: Origin,
}

/// One place of a message.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) cluster: ClusterNo,
    pub(crate) lineage: Lineage,
    pub(crate) offset: Offset,
    /// The epoch of the acknowledgement that names this place.
    pub(crate) acked: Option<Epoch>,
    pub(crate) leader: Option<Member>,
    /// By readers.
    pub(crate) seen: Option<Seen>,
    /// In nodes' own copies.
    pub(crate) dumped: Option<Seen>,
}

/// How a message was seen in one place.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) first: Nanos,
    pub(crate) last: Nanos,
    pub(crate) epoch_min: Epoch,
    pub(crate) epoch_max: Epoch,
    /// When the latest of the sessions began that got it.
    pub(crate) since: Nanos,
    pub(crate) origin: Origin,
}

impl Seen {
    pub(crate) fn once(at: Nanos, origin: Origin, sighting: &Sighting) -> Self {
        let Sighting { epoch, since, .. } = *sighting;
        Self { first: at, last: at, epoch_min: epoch, epoch_max: epoch, since, origin }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if (other.first, other.origin) < (self.first, self.origin) {
            (self.first, self.origin) = (other.first, other.origin);
        }
        self.last = self.last.max(other.last);
        self.epoch_min = self.epoch_min.min(other.epoch_min);
        self.epoch_max = self.epoch_max.max(other.epoch_max);
        self.since = self.since.max(other.since);
    }
}

impl Entry {
    pub(crate) fn is_acked(&self) -> bool {
        self.outcome == Outcome::Acked
    }

    pub(crate) fn spot(&self) -> Option<Spot> {
        let Place { cluster, lineage, offset, .. } = self.place?;
        Some(Spot { cluster, vbucket: self.vbucket, lineage, offset })
    }
}
