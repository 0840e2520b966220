//! A set of message numbers: a bit for each.

/// Numbers below a bound.
pub(super) struct Numbers(Vec<u64>);

impl Numbers {
    /// None of the numbers below `end`.
    pub(super) fn new(end: u64) -> Self {
        Self(vec![0; usize::try_from(end.div_ceil(64)).unwrap_or(0)])
    }

    /// Adds a number. False when it was there already, or lies beyond the bound.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let (at, bit) = place(number);
        let Some(word) = self.0.get_mut(at) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        let (at, bit) = place(number);
        self.0.get(at).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn len(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

fn place(number: u64) -> (usize, u64) {
    (usize::try_from(number / 64).unwrap_or(usize::MAX), 1 << (number % 64))
}
