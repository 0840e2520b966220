//! Sorted lists of values, and their union.
//!
//! One message may match a pattern with ten thousand subscribers and one with a single one. So [`Hits`] does not sort
//! all it found: the largest list, which is sorted and unique already, stays as it is, and only the rest is sorted
//! and looked up in it.

use smallvec::SmallVec;

use super::text_map::Slot;

/// A set of values, ascending. Most patterns have one or two, which need no allocation.
#[derive(Debug)]
pub(super) struct Values<V>(SmallVec<[V; 2]>);

impl<V: Copy + Ord> Values<V> {
    /// Adds `value`; false when it was there.
    pub(super) fn insert(&mut self, value: V) -> bool {
        let Err(at) = self.0.binary_search(&value) else { return false };
        self.0.insert(at, value);
        true
    }

    /// Takes `value` out; false when it was not there.
    pub(super) fn remove(&mut self, value: V) -> bool {
        let Ok(at) = self.0.binary_search(&value) else { return false };
        self.0.remove(at);
        if self.0.len() <= self.0.capacity() / 4 {
            self.0.shrink_to_fit();
        }
        true
    }

    /// Panics when the values are not ascending; says how many there are.
    pub(super) fn check_invariants(&self) -> usize {
        assert!(self.0.is_sorted_by(|left, right| left < right), "values out of order");
        self.0.len()
    }
}

impl<V> Default for Values<V> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

impl<V: Copy + Ord> Slot for Values<V> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The values found so far for one key, appended to a vector that may hold others before them.
pub(super) struct Hits<'a, V> {
    out: &'a mut Vec<V>,
    /// Where the values of this key begin.
    start: usize,
    /// How many of them, from `start` on, are ascending and unique: one of the longest lists added.
    sorted: usize,
}

impl<'a, V: Copy + Ord> Hits<'a, V> {
    pub(super) fn new(out: &'a mut Vec<V>) -> Self {
        let start = out.len();
        Self { out, start, sorted: 0 }
    }

    /// Adds a list of values, of which some may be there already.
    pub(super) fn add(&mut self, values: &Values<V>) {
        let count = values.0.len();
        self.out.extend_from_slice(&values.0);
        // At least twice as long, so that what is moved here is moved a logarithmic number of times.
        if count / 2 >= self.sorted.max(1) || self.sorted == 0 {
            self.sorted = count;
            self.found().rotate_right(count);
        }
    }

    /// Drops what was added more than once.
    pub(super) fn finish(mut self) {
        let sorted = self.sorted;
        let (sorted, rest) = self.found().split_at_mut(sorted);
        if rest.is_empty() {
            return;
        }
        rest.sort_unstable();
        let rest_len = keep_news(sorted, rest);
        self.out.truncate(self.start + self.sorted + rest_len);
    }

    fn found(&mut self) -> &mut [V] {
        self.out.get_mut(self.start..).unwrap_or_default()
    }
}

/// Moves what is not in `sorted` to the front of `rest`, each value once, and says how many those are. Both ascend.
#[expect(clippy::indexing_slicing, reason = "kept <= at < rest.len(), and kept - 1 is looked at only when kept > 0")]
fn keep_news<V: Copy + Ord>(sorted: &[V], rest: &mut [V]) -> usize {
    let mut kept = 0;
    for at in 0..rest.len() {
        let value = rest[at];
        let is_repeated = kept > 0 && rest[kept - 1] == value;
        if !is_repeated && sorted.binary_search(&value).is_err() {
            rest[kept] = value;
            kept += 1;
        }
    }
    kept
}
