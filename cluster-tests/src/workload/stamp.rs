//! What a message says of itself: who pushed it, as which one, and when.

use std::hash::Hasher as _;
use std::time::Duration;

use rustc_hash::FxHasher;

use crate::history::Hash64;

/// The stamp of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Its producer.
    pub producer: u32,
    /// Its number among that producer's messages, from 0 on.
    pub sequence: u64,
    /// When it was pushed.
    pub pushed: Duration,
}

const STAMP_BYTES: usize = 20;

impl Stamp {
    /// A payload of `bytes` that begins with the stamp; longer if that does not fit.
    #[must_use]
    pub fn payload(&self, bytes: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(bytes.max(STAMP_BYTES));
        payload.extend(self.producer.to_be_bytes());
        payload.extend(self.sequence.to_be_bytes());
        payload.extend(u64::try_from(self.pushed.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
        payload.resize(bytes.max(STAMP_BYTES), b'.');
        payload
    }

    /// What a payload says. `None` when no producer of ours has made it.
    #[must_use]
    pub fn of(payload: &[u8]) -> Option<Self> {
        let (producer, rest) = payload.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (pushed, rest) = rest.split_first_chunk()?;
        let pushed = Duration::from_nanos(u64::from_be_bytes(*pushed));
        let stamp = Self { producer: u32::from_be_bytes(*producer), sequence: u64::from_be_bytes(*sequence), pushed };
        rest.iter().all(|byte| *byte == b'.').then_some(stamp)
    }
}

/// The checksum of a message, as the broker computes it: over key_partition, key and payload, one behind the other.
#[must_use]
pub fn checksum(key_partition: &[u8], key: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    [key_partition, key, payload].into_iter().for_each(|part| crc.update(part));
    crc.finalize()
}

/// A hash of a payload that has nothing to do with the checksum.
#[must_use]
pub fn hash64(payload: &[u8]) -> Hash64 {
    let mut hasher = FxHasher::default();
    hasher.write(payload);
    Hash64(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_tells_its_stamp() {
        let stamp = Stamp { producer: 3, sequence: 1 << 40, pushed: Duration::from_nanos(5) };
        for bytes in [0, 20, 64] {
            assert_eq!(Stamp::of(&stamp.payload(bytes)), Some(stamp));
        }
        assert_eq!(Stamp::of(b"too short"), None);
        assert_eq!(Stamp::of(&[b'x'; 64]), None);
    }
}
