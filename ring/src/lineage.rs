//! Lineages: which stretch of the offset axis belongs to which history of a vbucket.
//!
//! When every copy of a vbucket is gone, its log starts again. Were it to start at 0, an old resume token (offset 5000)
//! would point at unrelated messages (KIP-320). So each history gets its own stretch of offsets, above all that the one
//! before can have shown. Nobody who survives knows how far that was, and the control log must not carry an entry per
//! message to know; so stretches are reserved in advance, as a sequence generator reserves ids.
//!
//! A lineage's number *is* its place: lineage `n` starts at offset `n << 40`. A vbucket is founded with lineage 0 and
//! one stretch. A leader whose log nears the end of what is reserved asks for one more (`Command::ExtendLineage`), long
//! before it is needed: a stretch is 2^40 messages, twelve days of a million messages a second into a single vbucket.
//! The next lineage is the first number not reserved.
//!
//! **Invariant:** a leader assigns offsets below `lineage_base(lineage_end)` only, hence a new lineage starts above
//! everything its predecessors showed. A plain `log index << 40` was rejected: it overflows after 16 million control
//! entries, and without a reservation it promises nothing about logs longer than a stretch.

use broky_proto::id::{Lineage, Offset};

/// log2 of the offsets in one stretch.
pub const STRETCH_BITS: u32 = 40;

/// Lineage numbers at or above this one do not exist: their offsets would exceed 64 bits. A vbucket reaches it after 16
/// million total losses, and then stays without a leader.
pub const LINEAGE_END: Lineage = Lineage(1 << (u64::BITS - STRETCH_BITS));

/// The offset at which a lineage's log starts, and before which the one before has to end.
///
/// Saturates at the last offset for numbers from [`LINEAGE_END`] on.
#[must_use]
pub const fn lineage_base(lineage: Lineage) -> Offset {
    if lineage.0 < LINEAGE_END.0 { Offset(lineage.0 << STRETCH_BITS) } else { Offset(u64::MAX) }
}

/// The end for which a leader should ask, once its log has come to `log_end` in a lineage reserved up to `reserved`.
///
/// `None` while more than half a stretch is left.
#[must_use]
pub fn extension_due(reserved: Lineage, log_end: Offset) -> Option<Lineage> {
    let left = lineage_base(reserved).since(log_end);
    (left <= 1 << (STRETCH_BITS - 1) && reserved < LINEAGE_END).then(|| Lineage(reserved.0 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lineage_starts_at_zero_and_each_above_the_one_before() {
        assert_eq!(lineage_base(Lineage(0)), Offset::ZERO);
        assert_eq!(lineage_base(Lineage(1)), Offset(1 << 40));
        assert_eq!(lineage_base(Lineage(LINEAGE_END.0 - 1)), Offset(u64::MAX - ((1 << 40) - 1)));
        assert_eq!(lineage_base(LINEAGE_END), Offset(u64::MAX));
        assert_eq!(lineage_base(Lineage(u64::MAX)), Offset(u64::MAX));
    }

    #[test]
    fn extension_is_due_in_the_last_half_stretch() {
        assert_eq!(extension_due(Lineage(1), Offset(0)), None);
        assert_eq!(extension_due(Lineage(1), Offset((1 << 39) - 1)), None);
        assert_eq!(extension_due(Lineage(1), Offset(1 << 39)), Some(Lineage(2)));
        assert_eq!(extension_due(Lineage(1), Offset(1 << 41)), Some(Lineage(2)));
        assert_eq!(extension_due(LINEAGE_END, Offset(u64::MAX)), None);
    }
}
