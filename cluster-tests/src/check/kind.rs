//! The invariants, and the ways in which each can be broken.

use std::fmt;

/// What holds in every history of a broker that keeps its promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Invariant {
    /// Acknowledged is never lost while one who holds it lives.
    I1Kept,
    /// Messages of one key_partition keep their order.
    I2Ordered,
    /// What is delivered was pushed, as it was pushed.
    I3Authentic,
    /// Offsets are dense, and never used twice.
    I4Offsets,
    /// Nothing uncommitted is seen.
    I5Committed,
    /// Whatever a reader misses, it is told.
    I6Signalled,
    /// One leader acknowledges per epoch.
    I8Leaders,
    /// After the faults the cluster becomes whole again.
    I9Converged,
    /// Replicas agree.
    I10Agreed,
    /// Interruptions are short.
    I11Available,
    /// After the faults readers catch up.
    I12CaughtUp,
    /// What a reader sees of the cluster never goes back.
    I13Monotonic,
    /// The run did what it was meant to do.
    I14Covered,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::I1Kept,
        Self::I2Ordered,
        Self::I3Authentic,
        Self::I4Offsets,
        Self::I5Committed,
        Self::I6Signalled,
        Self::I8Leaders,
        Self::I9Converged,
        Self::I10Agreed,
        Self::I11Available,
        Self::I12CaughtUp,
        Self::I13Monotonic,
        Self::I14Covered,
    ];

    /// Its number.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::I1Kept => "I1",
            Self::I2Ordered => "I2",
            Self::I3Authentic => "I3",
            Self::I4Offsets => "I4",
            Self::I5Committed => "I5",
            Self::I6Signalled => "I6",
            Self::I8Leaders => "I8",
            Self::I9Converged => "I9",
            Self::I10Agreed => "I10",
            Self::I11Available => "I11",
            Self::I12CaughtUp => "I12",
            Self::I13Monotonic => "I13",
            Self::I14Covered => "I14",
        }
    }

    /// What it says.
    #[must_use]
    pub fn claim(self) -> &'static str {
        match self {
            Self::I1Kept => "acked is kept while a holder lives",
            Self::I2Ordered => "order per key_partition",
            Self::I3Authentic => "no phantom, no corruption",
            Self::I4Offsets => "offsets dense and never re-used",
            Self::I5Committed => "nothing uncommitted is seen",
            Self::I6Signalled => "every loss is signalled",
            Self::I8Leaders => "one leader acks per epoch",
            Self::I9Converged => "the cluster becomes whole after heal",
            Self::I10Agreed => "replicas agree",
            Self::I11Available => "interruptions are short",
            Self::I12CaughtUp => "readers catch up after heal",
            Self::I13Monotonic => "views never go back",
            Self::I14Covered => "the run did what it was meant to",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One way to break an invariant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// An acknowledged message is gone although somebody lives who held it.
    Lost,
    /// A history was given up although somebody lives who held it.
    UnsignalledLineageChange,
    /// A later message of a key_partition lies, or came, before an earlier one; or it lies elsewhere than it belongs.
    Reorder,
    /// A message that nobody pushed.
    Phantom,
    /// A message that is not as it was pushed.
    Corrupt,
    /// Two messages at one offset.
    InconsistentOffset,
    /// One message at two offsets.
    Duplicate,
    /// An offset below the high watermark at which there is nothing.
    Hole,
    /// A message was delivered that was not committed.
    UncommittedSeen,
    /// A reader passed over something and was not told.
    SilentSkip,
    /// A reader was told that something is lost which others still got.
    FalseGap,
    /// An acknowledgement of an epoch that was over.
    AckAfterFence,
    /// Two processes led in one epoch.
    TwoLeaders,
    /// The control log gave an epoch twice, or went back.
    EpochReused,
    /// Two nodes disagree about an entry of the control log.
    MetaDiverged,
    /// The cluster did not become whole in time.
    NotConverged,
    /// Two copies differ.
    Diverged,
    /// An interruption over the bound.
    Unavailable,
    /// A reader did not catch up in time.
    NotCaughtUp,
    /// Something that only grows went back.
    WentBack,
    /// The run proves nothing.
    InvalidRun,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Lost,
        Self::UnsignalledLineageChange,
        Self::Reorder,
        Self::Phantom,
        Self::Corrupt,
        Self::InconsistentOffset,
        Self::Duplicate,
        Self::Hole,
        Self::UncommittedSeen,
        Self::SilentSkip,
        Self::FalseGap,
        Self::AckAfterFence,
        Self::TwoLeaders,
        Self::EpochReused,
        Self::MetaDiverged,
        Self::NotConverged,
        Self::Diverged,
        Self::Unavailable,
        Self::NotCaughtUp,
        Self::WentBack,
        Self::InvalidRun,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "LOST",
            Self::UnsignalledLineageChange => "UNSIGNALLED-LINEAGE-CHANGE",
            Self::Reorder => "REORDER",
            Self::Phantom => "PHANTOM",
            Self::Corrupt => "CORRUPT",
            Self::InconsistentOffset => "INCONSISTENT-OFFSET",
            Self::Duplicate => "DUPLICATE",
            Self::Hole => "HOLE",
            Self::UncommittedSeen => "UNCOMMITTED-SEEN",
            Self::SilentSkip => "SILENT-SKIP",
            Self::FalseGap => "FALSE-GAP",
            Self::AckAfterFence => "ACK-AFTER-FENCE",
            Self::TwoLeaders => "TWO-LEADERS",
            Self::EpochReused => "EPOCH-REUSED",
            Self::MetaDiverged => "META-DIVERGED",
            Self::NotConverged => "NOT-CONVERGED",
            Self::Diverged => "DIVERGED",
            Self::Unavailable => "UNAVAILABLE",
            Self::NotCaughtUp => "NOT-CAUGHT-UP",
            Self::WentBack => "WENT-BACK",
            Self::InvalidRun => "INVALID-RUN",
        }
    }

    /// What it breaks.
    #[must_use]
    pub fn invariant(self) -> Invariant {
        match self {
            Self::Lost | Self::UnsignalledLineageChange => Invariant::I1Kept,
            Self::Reorder => Invariant::I2Ordered,
            Self::Phantom | Self::Corrupt => Invariant::I3Authentic,
            Self::InconsistentOffset | Self::Duplicate | Self::Hole => Invariant::I4Offsets,
            Self::UncommittedSeen => Invariant::I5Committed,
            Self::SilentSkip | Self::FalseGap => Invariant::I6Signalled,
            Self::AckAfterFence | Self::TwoLeaders | Self::EpochReused | Self::MetaDiverged => Invariant::I8Leaders,
            Self::NotConverged => Invariant::I9Converged,
            Self::Diverged => Invariant::I10Agreed,
            Self::Unavailable => Invariant::I11Available,
            Self::NotCaughtUp => Invariant::I12CaughtUp,
            Self::WentBack => Invariant::I13Monotonic,
            Self::InvalidRun => Invariant::I14Covered,
        }
    }

    /// What a run with it comes to.
    #[must_use]
    pub fn weight(self) -> Weight {
        match self {
            Self::FalseGap => Weight::Warning,
            Self::InvalidRun => Weight::Invalid,
            Self::Lost
            | Self::UnsignalledLineageChange
            | Self::Reorder
            | Self::Phantom
            | Self::Corrupt
            | Self::InconsistentOffset
            | Self::Duplicate
            | Self::Hole
            | Self::UncommittedSeen
            | Self::SilentSkip
            | Self::AckAfterFence
            | Self::TwoLeaders
            | Self::EpochReused
            | Self::MetaDiverged
            | Self::NotConverged
            | Self::Diverged
            | Self::Unavailable
            | Self::NotCaughtUp
            | Self::WentBack => Weight::Violation,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a run with a finding comes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Weight {
    /// It passes, and somebody should look.
    Warning,
    /// It neither passes nor fails: it proves nothing.
    Invalid,
    /// It fails.
    Violation,
}
