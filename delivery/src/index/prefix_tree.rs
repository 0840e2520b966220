//! A radix tree from byte strings, asked for all entries that are a prefix of a given text.
//!
//! One walk down finds them all and ends where the text leaves the tree: at the first byte, for most keys that match
//! nothing. Whatever is filed, a walk takes no more steps than the text has bytes.
//!
//! **Invariant:** every knot but the root holds a slot that is not empty, or branches. So the tree has less than two
//! knots for each entry, and the path to an entry is not longer than its text.

use super::text_map::Slot;

/// Slots by text.
#[derive(Debug)]
pub(super) struct PrefixTree<T> {
    root: Knot<T>,
}

#[derive(Debug)]
struct Knot<T> {
    /// The text from the knot above to here; empty for the root only.
    label: Box<[u8]>,
    slot: Option<T>,
    /// Ascending by the first byte of their labels, which stands beside them.
    below: Vec<(u8, Box<Knot<T>>)>,
}

impl<T: Slot> PrefixTree<T> {
    /// Shows `visit` the slots of every prefix of `text`, shortest first, each with the text behind it.
    pub(super) fn visit_prefixes_of<'a>(&self, mut text: &'a [u8], mut visit: impl FnMut(&T, &'a [u8])) {
        let mut knot = &self.root;
        loop {
            if let Some(slot) = &knot.slot {
                visit(slot, text);
            }
            let Some(below) = text.first().and_then(|first| knot.get(*first)) else { return };
            let Some(rest) = text.strip_prefix(&*below.label) else { return };
            (knot, text) = (below, rest);
        }
    }

    /// Whether there is no entry.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_hollow()
    }

    /// The slot of this text, an empty one if there was none. The caller files something in it.
    pub(super) fn get_or_default(&mut self, mut text: &[u8]) -> &mut T {
        let mut knot = &mut self.root;
        while let Some(first) = text.first() {
            let below = knot.get_or_insert(*first, text);
            let shared = below.label.iter().zip(text).take_while(|(left, right)| left == right).count();
            if shared < below.label.len() {
                below.split(shared);
            }
            text = text.get(shared..).unwrap_or_default();
            knot = below;
        }
        knot.slot.get_or_insert_default()
    }

    /// Lets `remove` take something out of the slot of this text, if there is one, and drops the slot once it is
    /// empty. Says what `remove` said, or false when there is no slot.
    pub(super) fn edit(&mut self, text: &[u8], remove: impl FnOnce(&mut T) -> bool) -> bool {
        self.root.edit(text, remove)
    }

    /// Panics when an invariant is broken; shows each slot to `check`.
    pub(super) fn check_invariants(&self, mut check: impl FnMut(&T)) {
        let mut knots = vec![&self.root];
        while let Some(knot) = knots.pop() {
            assert!(knot.below.is_sorted_by(|left, right| left.0 < right.0), "knots out of order");
            if let Some(slot) = &knot.slot {
                assert!(!slot.is_empty(), "an empty slot is kept");
                check(slot);
            }
            for (first, below) in &knot.below {
                assert_eq!(below.label.first(), Some(first), "a knot is under another byte");
                assert!(below.slot.is_some() || below.below.len() > 1, "a knot without a slot does not branch");
                knots.push(below);
            }
        }
    }
}

impl<T> Default for PrefixTree<T> {
    fn default() -> Self {
        Self { root: Knot::new(&[]) }
    }
}

impl<T> Knot<T> {
    fn new(label: &[u8]) -> Self {
        Self { label: label.into(), slot: None, below: Vec::new() }
    }

    fn get(&self, first: u8) -> Option<&Self> {
        let at = self.position(first).ok()?;
        self.below.get(at).map(|(_, below)| &**below)
    }

    /// The knot below whose label begins with `first`; a new one with this label if there is none.
    #[expect(clippy::indexing_slicing, reason = "there is a knot at the position where one was found or inserted")]
    fn get_or_insert(&mut self, first: u8, label: &[u8]) -> &mut Self {
        let at = self.position(first).unwrap_or_else(|at| {
            self.below.insert(at, (first, Box::new(Self::new(label))));
            at
        });
        &mut self.below[at].1
    }

    /// Puts a knot in the middle of the way to this one, `at` bytes down; at least one is left below it.
    fn split(&mut self, at: usize) {
        let (upper, lower) = self.label.split_at(at);
        let Some(&first) = lower.first() else { return };
        let lower = Self { label: lower.into(), slot: self.slot.take(), below: std::mem::take(&mut self.below) };
        self.label = upper.into();
        self.below = vec![(first, Box::new(lower))];
    }

    /// Makes one knot of this one and the only one below it, if there is no reason for two.
    fn join(&mut self) {
        if self.slot.is_some() || self.below.len() != 1 {
            return;
        }
        let Some((_, lower)) = self.below.pop() else { return };
        let label = [&*self.label, &lower.label].concat();
        *self = Self { label: label.into(), ..*lower };
    }

    fn is_hollow(&self) -> bool {
        self.slot.is_none() && self.below.is_empty()
    }

    fn position(&self, first: u8) -> Result<usize, usize> {
        self.below.binary_search_by_key(&first, |(first, _)| *first)
    }
}

impl<T: Slot> Knot<T> {
    /// See [`PrefixTree::edit`]. Recurses as deep as the path, which no pattern makes deeper than its length, and on
    /// the way back leaves each knot passed in order.
    fn edit(&mut self, text: &[u8], remove: impl FnOnce(&mut T) -> bool) -> bool {
        let Some(first) = text.first() else {
            let is_removed = self.slot.as_mut().is_some_and(remove);
            self.slot.take_if(|slot| slot.is_empty());
            return is_removed;
        };
        let Ok(at) = self.position(*first) else { return false };
        let Some((_, below)) = self.below.get_mut(at) else { return false };
        let Some(rest) = text.strip_prefix(&*below.label) else { return false };
        let is_removed = below.edit(rest, remove);
        if below.is_hollow() {
            self.below.remove(at);
            if self.below.len() < self.below.capacity() / 4 {
                self.below.shrink_to(self.below.len() * 2);
            }
        } else {
            below.join();
        }
        is_removed
    }
}
