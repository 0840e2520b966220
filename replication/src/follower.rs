//! A follower's side of its vbucket: what it takes from whom, and where its log and the leader's agree.
//!
//! A follower takes messages from the leader of the newest epoch it knows, one behind the other: the first one must
//! stand where its own log ends (raft's consistency check). Before that the two compare epochs, and the follower cuts
//! off what the leader does not have. It never cuts at its high watermark, which may be stale, and never below it.
//!
//! Sources: KIP-101 and KIP-279 (Kafka); the log matching property of raft.

use broky_proto::id::{Epoch, Lineage, Member, Offset};
use thiserror::Error;

use crate::epoch::EpochHistory;

/// Whom a follower takes messages from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Following {
    /// The leader's epoch.
    pub epoch: Epoch,
    /// Who leads.
    pub leader: Member,
    /// Whether the logs were compared in this epoch.
    pub is_attached: bool,
}

/// What a leader needs to know of another replica's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSummary {
    /// Its history.
    pub lineage: Lineage,
    /// The oldest offset held.
    pub start: Offset,
    /// The offset behind the last one held.
    pub end: Offset,
    /// Its epochs.
    pub epochs: EpochHistory,
}

/// Where a follower goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// Both agree up to here; what the follower has beyond is not the leader's.
    Keep {
        /// The offset that the leader sends next.
        to: Offset,
    },
    /// They have nothing in common that still matters: the follower begins where the leader's log starts.
    Restart {
        /// The offset that the leader sends next.
        start: Offset,
    },
}

impl Attachment {
    /// The offset that the leader sends next.
    #[must_use]
    pub fn next(self) -> Offset {
        match self {
            Self::Keep { to: next } | Self::Restart { start: next } => next,
        }
    }
}

/// Why a follower does not go on as its leader says. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AttachError {
    /// The leader's epoch is not the one this replica follows. Wait for the newer map, on whichever side it is missing.
    #[error("epoch {asked} where {known} is followed")]
    OtherEpoch {
        /// What the leader says.
        asked: Epoch,
        /// What is followed here; 0 when nothing is.
        known: Epoch,
    },
    /// The lineage is not the one this replica is of. As above.
    #[error("lineage {asked} where {known} is held")]
    OtherLineage {
        /// What the leader says.
        asked: Lineage,
        /// What is held here.
        known: Lineage,
    },
    /// The log ends before that: it is another copy than the one the leader asked about. Let it ask anew.
    #[error("the leader goes on at {next}, beyond the end {end}")]
    Short {
        /// Where the leader would go on.
        next: Offset,
        /// Where the log ends.
        end: Offset,
    },
    /// It would have to take back committed messages. A bug: it must stay out of the ISR, and be looked into.
    #[error("the leader goes on at {next}, below the high watermark {high_watermark}")]
    Diverged {
        /// Where the leader would go on.
        next: Offset,
        /// Up to where messages are committed here.
        high_watermark: Offset,
    },
}

/// Why a follower does not take messages. Nothing changed; the sender has to attach again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AcceptError {
    /// This replica is not attached to that leader's epoch.
    #[error("epoch {asked} is not attached")]
    NotAttached {
        /// The sender's epoch.
        asked: Epoch,
    },
    /// The messages do not begin where the log ends.
    #[error("messages from {first} on, where the log ends at {end}")]
    Hole {
        /// Offset of the first message offered.
        first: Offset,
        /// Where the log ends.
        end: Offset,
    },
    /// A message's epoch is older than the one before it, or newer than its sender's.
    #[error("a message of epoch {epoch} behind one of {last}, from a leader of {leader}")]
    EpochOrder {
        /// The message's epoch.
        epoch: Epoch,
        /// The epoch of the log's last message.
        last: Epoch,
        /// The sender's epoch.
        leader: Epoch,
    },
}
