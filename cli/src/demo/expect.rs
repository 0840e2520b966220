//! What a subscriber must get, and what it got, in a form that can be compared: per key_partition, how many messages
//! and a digest of their keys and contents in order.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};

use super::input::Input;

/// Messages per key_partition, with a digest that depends on their order.
#[derive(Default, Debug)]
pub(super) struct Tally {
    partitions: BTreeMap<Vec<u8>, (u64, DefaultHasher)>,
    messages: u64,
    missed: u64,
}

impl Tally {
    pub(super) fn add(&mut self, partition: &[u8], key: &[u8], payload: &[u8]) {
        self.messages += 1;
        if let Some(digest) = self.partitions.get_mut(partition) {
            digest.add(key, payload);
        } else {
            let mut digest = (0, DefaultHasher::new());
            digest.add(key, payload);
            self.partitions.insert(partition.to_vec(), digest);
        }
    }

    pub(super) fn add_missed(&mut self, messages: u64) {
        self.missed += messages;
    }

    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Messages that gaps said were missed.
    pub(super) fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether the same messages came in the same order, key_partition by key_partition.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let digests = |tally: &Self| -> Vec<(Vec<u8>, u64, u64)> {
            let digest = |(partition, (count, hash)): (&Vec<u8>, &(u64, DefaultHasher))| {
                (partition.clone(), *count, hash.finish())
            };
            tally.partitions.iter().map(digest).collect()
        };
        digests(self) == digests(other)
    }
}

/// A running digest.
trait Digest {
    fn add(&mut self, key: &[u8], payload: &[u8]);
}

impl Digest for (u64, DefaultHasher) {
    fn add(&mut self, key: &[u8], payload: &[u8]) {
        self.0 += 1;
        self.1.write(key);
        self.1.write_u64(payload.len() as u64);
        self.1.write(payload);
    }
}

/// What a subscriber that wants these keys must get.
pub(super) fn expected(input: &Input, wants: fn(&[u8]) -> bool) -> Tally {
    let mut tally = Tally::default();
    for number in 0..input.total() {
        let line = input.line(number);
        if wants(line.key) {
            tally.add(line.partition, line.key, line.payload);
        }
    }
    tally
}
