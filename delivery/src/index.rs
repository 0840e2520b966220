//! Finds, for the key of one message, every value whose patterns match it.
//!
//! A pattern is filed by the literal bytes a matching key must have, so that a lookup touches what can match and little
//! else: exact patterns in a hash table; the others in a radix tree by their literal prefix, and globs below that by
//! their literal suffix. A `*.suffix` is a glob with the empty prefix and needs no structure of its own. What is left,
//! globs with the same prefix and suffix, is told apart by what they have between: see `index/bucket.rs`.
//!
//! System keys are kept from other patterns by passing over, for them, the prefixes shorter than `!system`: those that
//! are as long spell it out, or the walk would not have come to them.
//!
//! **Invariant:** nothing empty is kept: a prefix, suffix or glob is there exactly as long as a value is filed under
//! it. The tables are hashed and never iterated, so no answer depends on hash order.
//!
//! Rejected: a hash table for prefixes too, asked once for each length in use. Over the same 8,000 prefixes it took
//! 81 to 105 ns for keys that match where the tree takes 31 to 58, and 74 ns instead of 5 for those that do not; with
//! prefixes of a thousand lengths, a long key cost 25 us.

mod bucket;
mod prefix_tree;
mod text_map;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::pattern::{Pattern, PatternKind, SYSTEM_PREFIX, is_system_key};
use bucket::Bucket;
use prefix_tree::PrefixTree;
use text_map::{Slot, TextMap};
use values::{Hits, Values};

/// A multiset of (pattern, value) pairs that is asked which values match a key.
///
/// Insert and remove cost a walk along the literal prefix or a hash operation, and a shift in the sorted list of values
/// filed under the same pattern: the number of other patterns hardly matters. Memory is proportional to what is filed
/// now, not to what once was.
#[derive(Debug)]
pub struct PatternIndex<V> {
    exact: TextMap<Values<V>>,
    /// Patterns with a wildcard, by literal prefix.
    branches: PrefixTree<Branch<V>>,
    /// How often a pair is filed beyond once. Apart, so that the lists a match reads hold each value once.
    repeats: BTreeMap<Pattern, BTreeMap<V, usize>>,
    len: usize,
}

/// The patterns with one literal prefix.
#[derive(Debug)]
struct Branch<V> {
    /// Of the prefix followed by `*`.
    values: Values<V>,
    /// The others, by literal suffix.
    globs: TextMap<Bucket<V>>,
}

impl<V: Copy + Ord> PatternIndex<V> {
    /// An index of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { exact: TextMap::default(), branches: PrefixTree::default(), repeats: BTreeMap::new(), len: 0 }
    }

    /// Files `value` under `pattern`, once more if it is there already.
    pub fn insert(&mut self, pattern: &Pattern, value: V) {
        self.len += 1;
        let prefix = pattern.literal_prefix();
        let is_new = match pattern.kind() {
            PatternKind::Exact => self.exact.get_or_default(prefix).insert(value),
            PatternKind::Prefix | PatternKind::MatchAll => self.branches.get_or_default(prefix).values.insert(value),
            PatternKind::Glob => {
                let globs = &mut self.branches.get_or_default(prefix).globs;
                globs.get_or_default(pattern.literal_suffix()).insert(pattern.middle(), value)
            }
        };
        if !is_new {
            *self.repeats.entry(pattern.clone()).or_default().entry(value).or_default() += 1;
        }
    }

    /// Takes one filing of `value` under `pattern` away; false, and nothing changed, when there is none.
    pub fn remove(&mut self, pattern: &Pattern, value: V) -> bool {
        let prefix = pattern.literal_prefix();
        let is_removed = self.remove_repeat(pattern, value)
            || match pattern.kind() {
                PatternKind::Exact => self.exact.edit(prefix, |values| values.remove(value)),
                PatternKind::Prefix | PatternKind::MatchAll => {
                    self.branches.edit(prefix, |branch| branch.values.remove(value))
                }
                PatternKind::Glob => self.branches.edit(prefix, |branch| {
                    branch.globs.edit(pattern.literal_suffix(), |bucket| bucket.remove(pattern.middle(), value))
                }),
            };
        self.len -= usize::from(is_removed);
        is_removed
    }

    /// Appends to `out` each value of which a pattern matches `key`, once, however many of its patterns do.
    ///
    /// What `out` held before stays as it is. The order of what is appended depends on nothing but what is filed, and
    /// is ascending when all values come from one pattern. Allocates only when `out` has to grow.
    pub fn matches(&self, key: &[u8], out: &mut Vec<V>) {
        let mut hits = Hits::new(out);
        if let Some(values) = self.exact.get(key) {
            hits.add(values);
        }
        let prefix_bytes_min = if is_system_key(key) { SYSTEM_PREFIX.len() } else { 0 };
        self.branches.visit_prefixes_of(key, |branch, rest| {
            if key.len() - rest.len() < prefix_bytes_min {
                return;
            }
            hits.add(&branch.values);
            for (bucket, text) in branch.globs.suffixes_of(rest) {
                bucket.matches(text, &mut hits);
            }
        });
        hits.finish();
    }

    /// Pairs filed, each as often as it was.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is filed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Checks what must hold of the index's own state. For tests and the simulator: takes time in proportion to it.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn check_invariants(&self) {
        let mut len = 0;
        self.exact.check_invariants(|values| len += values.check_invariants());
        self.branches.check_invariants(|branch| {
            len += branch.values.check_invariants();
            branch.globs.check_invariants(|bucket| len += bucket.check_invariants());
        });
        for values in self.repeats.values() {
            assert!(!values.is_empty(), "a pattern without repeats is kept");
            assert!(values.values().all(|count| *count > 0), "a repeat that is none is kept");
            len += values.values().sum::<usize>();
        }
        assert_eq!(len, self.len, "pairs counted against pairs filed");
    }

    /// Takes a filing beyond the first away, if there is one.
    fn remove_repeat(&mut self, pattern: &Pattern, value: V) -> bool {
        let Some(values) = self.repeats.get_mut(pattern) else { return false };
        let Some(count) = values.get_mut(&value) else { return false };
        *count -= 1;
        if *count == 0 {
            values.remove(&value);
        }
        if values.is_empty() {
            self.repeats.remove(pattern);
        }
        true
    }
}

impl<V: Copy + Ord> Default for PatternIndex<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Copy + Ord> Default for Branch<V> {
    fn default() -> Self {
        Self { values: Values::default(), globs: TextMap::default() }
    }
}

impl<V: Copy + Ord> Slot for Branch<V> {
    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.globs.is_empty()
    }
}
