//! Numbers in the payload, and the proof that each message came once and in order.
//!
//! The first 16 bytes of a payload are its [`Stamp`]: publisher, key, sequence within both, and the time at which it
//! was meant to be sent. A subscriber knows the next sequence of every (publisher, key); what is equal to it costs one
//! comparison, and only what is not goes on to find out whether something was skipped, repeated or overtaken.

use super::units::{narrow, wide};

/// Bytes of an encoded [`Stamp`].
pub(crate) const STAMP_BYTES: usize = 16;
/// Ranges of skipped messages remembered per subscriber, to tell "late" from "twice". What exceeds it counts as twice.
const HOLES_MAX: usize = 1024;

/// Little endian: u16 publisher, u16 key, u32 sequence, u64 nanoseconds since the run's origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub(crate) publisher: u16,
    pub(crate) key: u16,
    /// Wraps: what is compared are distances.
    pub(crate) sequence: u32,
    pub(crate) intended_ns: u64,
}

impl Stamp {
    #[inline]
    pub(crate) fn encode(self) -> [u8; STAMP_BYTES] {
        let head = u128::from(self.publisher) | u128::from(self.key) << 16 | u128::from(self.sequence) << 32;
        (head | u128::from(self.intended_ns) << 64).to_le_bytes()
    }

    /// `None`: the payload is too short to hold one.
    #[inline]
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        let (head, _) = payload.split_first_chunk::<STAMP_BYTES>()?;
        let [p0, p1, k0, k1, s0, s1, s2, s3, time @ ..] = *head;
        Some(Self {
            publisher: u16::from_le_bytes([p0, p1]),
            key: u16::from_le_bytes([k0, k1]),
            sequence: u32::from_le_bytes([s0, s1, s2, s3]),
            intended_ns: u64::from_le_bytes(time),
        })
    }
}

/// What a subscriber found out about its messages.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Findings {
    /// Messages that came, each counted once.
    pub(crate) delivered: u64,
    /// Came again.
    pub(crate) duplicated: u64,
    /// Came after a later one of the same publisher and key.
    pub(crate) reordered: u64,
    /// Not of this run.
    pub(crate) foreign: u64,
}

/// Messages that were skipped and may still come.
#[derive(Clone, Copy, Debug)]
struct Hole {
    slot: usize,
    from: u32,
    count: u32,
}

/// One subscriber's view: the next sequence of every publisher and key.
pub(crate) struct Checker {
    keys: usize,
    expected: Box<[u32]>,
    holes: Vec<Hole>,
    /// Messages behind this subscriber, whether they came or were skipped.
    passed: u64,
}

impl Checker {
    pub(crate) fn new(publishers: usize, keys: usize) -> Self {
        Self { keys, expected: vec![0; publishers * keys].into(), holes: Vec::new(), passed: 0 }
    }

    /// Messages behind this subscriber: those that came, and those that later ones overtook.
    #[inline]
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// Takes note of a message that carries no stamp.
    #[inline]
    pub(crate) fn count(&mut self, findings: &mut Findings) {
        self.passed += 1;
        findings.delivered += 1;
    }

    /// Takes note of a message.
    #[inline]
    pub(crate) fn check(&mut self, stamp: Stamp, findings: &mut Findings) {
        let (publisher, key) = (usize::from(stamp.publisher), usize::from(stamp.key));
        let slot = publisher * self.keys + key;
        match self.expected.get_mut(slot) {
            Some(expected) if key < self.keys => {
                if *expected == stamp.sequence {
                    *expected = expected.wrapping_add(1);
                    self.passed += 1;
                    findings.delivered += 1;
                } else {
                    self.check_out_of_line(slot, stamp.sequence, findings);
                }
            }
            _ => findings.foreign += 1,
        }
    }

    #[cold]
    fn check_out_of_line(&mut self, slot: usize, sequence: u32, findings: &mut Findings) {
        let Some(expected) = self.expected.get_mut(slot) else { return };
        let ahead = sequence.wrapping_sub(*expected);
        // Half of the number range lies ahead, the other half behind.
        if ahead < u32::MAX / 2 {
            if self.holes.len() < HOLES_MAX {
                self.holes.push(Hole { slot, from: *expected, count: ahead });
            }
            *expected = sequence.wrapping_add(1);
            self.passed += u64::from(ahead) + 1;
            findings.delivered += 1;
        } else if self.fill_hole(slot, sequence) {
            findings.delivered += 1;
            findings.reordered += 1;
        } else {
            findings.duplicated += 1;
        }
    }

    fn fill_hole(&mut self, slot: usize, sequence: u32) -> bool {
        let within = |hole: &Hole| hole.slot == slot && sequence.wrapping_sub(hole.from) < hole.count;
        let Some(index) = self.holes.iter().position(within) else { return false };
        let hole = self.holes.swap_remove(index);
        let before = sequence.wrapping_sub(hole.from);
        let after = hole.count - before - 1;
        if before > 0 {
            self.holes.push(Hole { count: before, ..hole });
        }
        if after > 0 && self.holes.len() < HOLES_MAX {
            self.holes.push(Hole { from: sequence.wrapping_add(1), count: after, ..hole });
        }
        true
    }
}

/// A publisher's side: numbers its messages, taking the keys in turn.
pub(crate) struct Numbering {
    publisher: u16,
    key: u16,
    next: Box<[u32]>,
}

impl Numbering {
    /// `keys` fits in 16 bits: the flag's range sees to it.
    pub(crate) fn new(publisher: u16, keys: usize) -> Self {
        Self { publisher, key: 0, next: vec![0; keys].into() }
    }

    #[inline]
    pub(crate) fn stamp(&mut self, intended_ns: u64) -> Stamp {
        let key = self.key;
        let sequence = match self.next.get_mut(usize::from(key)) {
            Some(next) => {
                let sequence = *next;
                *next = next.wrapping_add(1);
                sequence
            }
            None => 0,
        };
        self.key = if usize::from(key) + 1 < self.next.len() { key + 1 } else { 0 };
        Stamp { publisher: self.publisher, key, sequence, intended_ns }
    }
}

/// Verdict over all subscribers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Losses {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) foreign: u64,
}

impl Losses {
    /// Compares what came with `sent` messages to each of `subscribers`.
    pub(crate) fn judge(sent: u64, subscribers: usize, found: Findings) -> Self {
        let due = narrow(sent).saturating_mul(subscribers);
        Self {
            lost: wide(due).saturating_sub(found.delivered),
            duplicated: found.duplicated,
            reordered: found.reordered,
            foreign: found.foreign,
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sequences: &[u32]) -> (Findings, u64) {
        let (mut checker, mut findings) = (Checker::new(2, 3), Findings::default());
        for &sequence in sequences {
            checker.check(Stamp { publisher: 1, key: 2, sequence, intended_ns: 0 }, &mut findings);
        }
        (findings, checker.passed())
    }

    #[test]
    fn a_stamp_survives_encoding() {
        let stamp = Stamp { publisher: 7, key: 999, sequence: u32::MAX, intended_ns: u64::MAX - 1 };
        assert_eq!(Stamp::decode(&stamp.encode()), Some(stamp));
        assert_eq!(Stamp::decode(&[0; 15]), None);
    }

    #[test]
    fn messages_in_order_are_delivered() {
        assert_eq!(found(&[0, 1, 2]), (Findings { delivered: 3, ..Findings::default() }, 3));
    }

    #[test]
    fn a_skipped_message_is_lost_and_passed() {
        let (findings, passed) = found(&[0, 3]);
        assert_eq!((findings, passed), (Findings { delivered: 2, ..Findings::default() }, 4));
        assert_eq!(Losses::judge(4, 1, findings), Losses { lost: 2, ..Losses::default() });
    }

    #[test]
    fn a_message_that_comes_late_is_reordered_and_not_lost() {
        let (findings, passed) = found(&[0, 4, 2, 1, 3]);
        assert_eq!((findings, passed), (Findings { delivered: 5, reordered: 3, ..Findings::default() }, 5));
    }

    #[test]
    fn a_message_that_comes_twice_is_a_duplicate() {
        assert_eq!(found(&[0, 1, 1, 0]).0, Findings { delivered: 2, duplicated: 2, ..Findings::default() });
        assert_eq!(
            found(&[0, 2, 1, 1]).0,
            Findings { delivered: 3, duplicated: 1, reordered: 1, ..Findings::default() }
        );
    }

    #[test]
    fn another_runs_message_is_foreign() {
        let (mut checker, mut findings) = (Checker::new(1, 1), Findings::default());
        checker.check(Stamp { publisher: 1, key: 0, sequence: 0, intended_ns: 0 }, &mut findings);
        checker.check(Stamp { publisher: 0, key: 1, sequence: 0, intended_ns: 0 }, &mut findings);
        assert_eq!(findings, Findings { foreign: 2, ..Findings::default() });
    }

    #[test]
    fn keys_are_taken_in_turn_and_numbered_each() {
        let mut numbering = Numbering::new(3, 2);
        let seen: Vec<_> = (0..5).map(|_| numbering.stamp(0)).map(|stamp| (stamp.key, stamp.sequence)).collect();
        assert_eq!(seen, [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]);
    }
}
