//! Seeded chance: one stream per concern, so that one more draw for one concern changes nothing for another.

use std::time::Duration;

/// A stream of random numbers. The same seed and name give the same numbers.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    /// The stream of a concern.
    pub(super) fn stream(seed: u64, concern: &str) -> Self {
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let mut rng = Self(concern.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, hash));
        // Seeds that differ in one bit begin far from one another.
        rng.next();
        rng
    }

    /// SplitMix64, by Sebastiano Vigna.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// A number from `from` to `to`, both included.
    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to.saturating_sub(from) + 1)
    }

    /// True `per_mille` times in a thousand.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of these.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len() as u64);
        from.get(usize::try_from(at).unwrap_or_default()).copied()
    }

    /// A time around `mean`: short ones are frequent, ones of many times the mean are rare and never come. Integers
    /// only, as floats are not the same everywhere: the number of coin tosses until the first head is spread like that.
    pub(super) fn around(&mut self, mean: Duration) -> Duration {
        let nanos = u64::try_from(mean.as_nanos()).unwrap_or(u64::MAX);
        let tosses = u64::from((self.next() | 1 << 5).trailing_zeros());
        Duration::from_nanos(nanos.saturating_mul(tosses) / 2 + self.below(nanos + 1))
    }

    /// A duration between two.
    pub(super) fn within(&mut self, from: Duration, to: Duration) -> Duration {
        let nanos = |it: Duration| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.between(nanos(from), nanos(to)))
    }
}
