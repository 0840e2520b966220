//! A map from byte strings, asked for those entries that are a suffix of a given text.
//!
//! It knows the lengths of its entries, and asks its hash table once for each of them. The number of lengths in use is
//! small where people name things, and where they do not, it is bounded by the longest pattern and each key pays only
//! for those it is long enough for.
//!
//! **Invariant:** `lengths` counts the entries of each length, ascending; an entry whose slot is empty is not kept.

use rustc_hash::FxHashMap;

/// What is kept under one text by [`TextMap`] and [`PrefixTree`](super::prefix_tree::PrefixTree), which drop it once
/// it is empty.
pub(super) trait Slot: Default {
    /// Whether nothing is filed here.
    fn is_empty(&self) -> bool;
}

/// Slots by text.
#[derive(Debug)]
pub(super) struct TextMap<T> {
    /// Never iterated but by `check_invariants`, whose outcome does not depend on the order.
    slots: FxHashMap<Box<[u8]>, T>,
    lengths: Vec<LengthCount>,
}

/// How many entries have one length.
#[derive(Debug)]
struct LengthCount {
    length: usize,
    count: usize,
}

impl<T: Slot> TextMap<T> {
    /// The slot of exactly this text.
    pub(super) fn get(&self, text: &[u8]) -> Option<&T> {
        self.slots.get(text)
    }

    /// The slots of every suffix of `text`, shortest first, each with the text before it.
    pub(super) fn suffixes_of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = (&'a T, &'a [u8])> {
        self.lengths_within(text).filter_map(|length| {
            let (rest, suffix) = text.split_at_checked(text.len() - length)?;
            Some((self.slots.get(suffix)?, rest))
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The slot of this text, an empty one if there was none. The caller files something in it.
    pub(super) fn get_or_default(&mut self, text: &[u8]) -> &mut T {
        if !self.slots.contains_key(text) {
            self.count_length(text.len());
        }
        self.slots.entry(text.into()).or_default()
    }

    /// Lets `remove` take something out of the slot of this text, if there is one, and drops the slot once it is
    /// empty. Says what `remove` said, or false when there is no slot.
    pub(super) fn edit(&mut self, text: &[u8], remove: impl FnOnce(&mut T) -> bool) -> bool {
        let Some(slot) = self.slots.get_mut(text) else { return false };
        let is_removed = remove(slot);
        if slot.is_empty() {
            self.slots.remove(text);
            self.discount_length(text.len());
            self.shrink();
        }
        is_removed
    }

    /// Entries there is room for.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Panics when an invariant is broken; shows each slot to `check`.
    pub(super) fn check_invariants(&self, mut check: impl FnMut(&T)) {
        assert!(self.lengths.is_sorted_by(|left, right| left.length < right.length), "lengths out of order");
        let mut counts = std::collections::BTreeMap::<usize, usize>::new();
        for (text, slot) in &self.slots {
            assert!(!slot.is_empty(), "an empty slot is kept");
            *counts.entry(text.len()).or_default() += 1;
            check(slot);
        }
        assert!(
            counts.into_iter().eq(self.lengths.iter().map(|entry| (entry.length, entry.count))),
            "lengths do not count the entries"
        );
    }

    /// The lengths in use that do not exceed that of `text`, ascending.
    fn lengths_within(&self, text: &[u8]) -> impl Iterator<Item = usize> {
        let length_max = text.len();
        self.lengths.iter().map(|entry| entry.length).take_while(move |length| *length <= length_max)
    }

    fn count_length(&mut self, length: usize) {
        let at = self.lengths.partition_point(|entry| entry.length < length);
        match self.lengths.get_mut(at) {
            Some(entry) if entry.length == length => entry.count += 1,
            Some(_) | None => self.lengths.insert(at, LengthCount { length, count: 1 }),
        }
    }

    fn discount_length(&mut self, length: usize) {
        let at = self.lengths.partition_point(|entry| entry.length < length);
        let Some(entry) = self.lengths.get_mut(at) else { return };
        debug_assert_eq!(entry.length, length);
        entry.count -= 1;
        if entry.count == 0 {
            self.lengths.remove(at);
        }
    }

    /// Gives memory back when an eighth of it would do. Leaves room to double, so that the next insert does not grow.
    fn shrink(&mut self) {
        if self.slots.len() < self.slots.capacity() / 8 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }
}

impl<T> Default for TextMap<T> {
    fn default() -> Self {
        Self { slots: FxHashMap::default(), lengths: Vec::new() }
    }
}
