//! The globs with one literal prefix and one literal suffix: what the index cannot tell apart by those.
//!
//! Mostly there are a few, and they are tried in turn. Where there are many (`*.0007.*`, `*.0008.*`), each further one
//! is filed under one *gram*, four literal bytes that stand in a row in it, and a lookup tries those whose gram occurs
//! in the text. Of its grams a glob takes the one with the fewest globs so far, so that `.*.` does not attract them
//! all.
//!
//! **Invariant:** a glob is in one place. Which one depends on what was there when it came, so whoever looks for it
//! looks in all places it could be: among the few and under each of its grams.
//!
//! What is left to try is rejected by a 64-bit filter first: a glob sets a bit for each two literal bytes that stand
//! side by side in it, and a text must have them all.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::text_map::Slot;
use super::values::{Hits, Values};
use crate::pattern::{Token, tokens_match};

/// Globs that are tried in turn before more are filed by gram.
const FEW_GLOBS_MAX: usize = 16;
/// Globs up to which the filter of the text costs more than it saves.
const UNFILTERED_GLOBS_MAX: usize = 3;
/// Bytes of text beyond which nearly every bit of its filter would be set.
const FILTERED_BYTES_MAX: usize = 256;
/// Grams of one text that can have globs before gathering them allocates.
const GRAMS_INLINE: usize = 32;

/// Four literal bytes in a row.
type Gram = [u8; 4];

/// Globs that differ only between their literal ends.
#[derive(Debug)]
pub(super) struct Bucket<V> {
    /// The first that came, and all that have no gram.
    few: Globs<V>,
    /// The others. Never iterated but by `check_invariants`, whose outcome does not depend on the order.
    by_gram: FxHashMap<Gram, Globs<V>>,
}

/// Globs that are tried in turn, ascending by their middle.
#[derive(Debug)]
struct Globs<V>(Vec<Glob<V>>);

#[derive(Debug)]
struct Glob<V> {
    /// The filter bits a text must have.
    pairs: u64,
    middle: Box<[Token]>,
    values: Values<V>,
}

impl<V: Copy + Ord> Bucket<V> {
    /// Adds to `hits` the values of each glob that matches, given what the key has between the literal ends.
    pub(super) fn matches(&self, text: &[u8], hits: &mut Hits<'_, V>) {
        let is_crowded = self.few.0.len() > UNFILTERED_GLOBS_MAX || !self.by_gram.is_empty();
        let pairs = if is_crowded && text.len() <= FILTERED_BYTES_MAX { pairs_of_text(text) } else { u64::MAX };
        self.few.matches(text, pairs, hits);
        if self.by_gram.is_empty() {
            return;
        }
        // Gathered first, because a gram that occurs a thousand times must not cost a thousand matches.
        let grams = text.array_windows::<4>().filter_map(|gram| self.by_gram.get_key_value(gram));
        let mut grams = grams.collect::<SmallVec<[_; GRAMS_INLINE]>>();
        grams.sort_unstable_by_key(|(gram, _)| **gram);
        grams.dedup_by_key(|(gram, _)| **gram);
        for (_, globs) in grams {
            globs.matches(text, pairs, hits);
        }
    }

    /// Files a value under the glob with this middle; false when it was there.
    pub(super) fn insert(&mut self, middle: &[Token], value: V) -> bool {
        if let Some(gram) = grams_of(middle).find(|gram| self.gram_has(*gram, middle)) {
            return self.by_gram.entry(gram).or_default().insert(middle, value);
        }
        let is_few = self.few.0.len() < FEW_GLOBS_MAX || self.few.position(middle).is_ok();
        let rarest = grams_of(middle).min_by_key(|gram| self.by_gram.get(gram).map_or(0, |globs| globs.0.len()));
        match rarest {
            Some(gram) if !is_few => self.by_gram.entry(gram).or_default().insert(middle, value),
            Some(_) | None => self.few.insert(middle, value),
        }
    }

    /// Takes a value from the glob with this middle; false when it was not there.
    pub(super) fn remove(&mut self, middle: &[Token], value: V) -> bool {
        let Some(gram) = grams_of(middle).find(|gram| self.gram_has(*gram, middle)) else {
            return self.few.remove(middle, value);
        };
        let Some(globs) = self.by_gram.get_mut(&gram) else { return false };
        let is_removed = globs.remove(middle, value);
        if globs.0.is_empty() {
            self.by_gram.remove(&gram);
            if self.by_gram.len() < self.by_gram.capacity() / 8 {
                self.by_gram.shrink_to(self.by_gram.len() * 2);
            }
        }
        is_removed
    }

    /// Panics when an invariant is broken; says how many values there are.
    pub(super) fn check_invariants(&self) -> usize {
        let mut len = self.few.check_invariants();
        for (gram, globs) in &self.by_gram {
            assert!(!globs.0.is_empty(), "a gram without globs is kept");
            for glob in &globs.0 {
                assert!(self.few.position(&glob.middle).is_err(), "a glob is in two places");
                let places = grams_of(&glob.middle).filter(|gram| self.gram_has(*gram, &glob.middle));
                assert!(places.clone().count() > 0, "a glob is under a gram it does not have");
                assert!(places.into_iter().all(|place| place == *gram), "a glob is under two grams");
            }
            len += globs.check_invariants();
        }
        len
    }

    fn gram_has(&self, gram: Gram, middle: &[Token]) -> bool {
        self.by_gram.get(&gram).is_some_and(|globs| globs.position(middle).is_ok())
    }
}

impl<V> Default for Bucket<V> {
    fn default() -> Self {
        Self { few: Globs::default(), by_gram: FxHashMap::default() }
    }
}

impl<V: Copy + Ord> Slot for Bucket<V> {
    fn is_empty(&self) -> bool {
        self.few.0.is_empty() && self.by_gram.is_empty()
    }
}

impl<V: Copy + Ord> Globs<V> {
    fn matches(&self, text: &[u8], pairs: u64, hits: &mut Hits<'_, V>) {
        for glob in &self.0 {
            if glob.pairs & !pairs == 0 && tokens_match(&glob.middle, text) {
                hits.add(&glob.values);
            }
        }
    }

    fn insert(&mut self, middle: &[Token], value: V) -> bool {
        let at = self.position(middle).unwrap_or_else(|at| {
            let glob = Glob { pairs: pairs_of_tokens(middle), middle: middle.into(), values: Values::default() };
            self.0.insert(at, glob);
            at
        });
        self.0.get_mut(at).is_some_and(|glob| glob.values.insert(value))
    }

    fn remove(&mut self, middle: &[Token], value: V) -> bool {
        let Ok(at) = self.position(middle) else { return false };
        let Some(glob) = self.0.get_mut(at) else { return false };
        let is_removed = glob.values.remove(value);
        if glob.values.is_empty() {
            self.0.remove(at);
            if self.0.len() < self.0.capacity() / 4 {
                self.0.shrink_to(self.0.len() * 2);
            }
        }
        is_removed
    }

    fn check_invariants(&self) -> usize {
        assert!(self.0.is_sorted_by(|left, right| left.middle < right.middle), "globs out of order");
        assert!(self.0.iter().all(|glob| !glob.values.is_empty()), "a glob without values is kept");
        self.0.iter().map(|glob| glob.values.check_invariants()).sum()
    }

    /// Where the glob with this middle is, or else belongs.
    fn position(&self, middle: &[Token]) -> Result<usize, usize> {
        self.0.binary_search_by(|glob| (*glob.middle).cmp(middle))
    }
}

impl<V> Default for Globs<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Every four literal bytes in a row of the middle of a pattern.
fn grams_of(middle: &[Token]) -> impl Iterator<Item = Gram> + Clone {
    middle.array_windows::<4>().filter_map(|tokens| match *tokens {
        [Token::Literal(a), Token::Literal(b), Token::Literal(c), Token::Literal(d)] => Some([a, b, c, d]),
        _ => None,
    })
}

/// The filter bits a text has.
fn pairs_of_text(text: &[u8]) -> u64 {
    text.array_windows().fold(0, |bits, [left, right]| bits | pair(*left, *right))
}

/// The filter bits a text must have to match.
fn pairs_of_tokens(middle: &[Token]) -> u64 {
    middle.array_windows().fold(0, |bits, tokens| match *tokens {
        [Token::Literal(left), Token::Literal(right)] => bits | pair(left, right),
        _ => bits,
    })
}

/// The filter bit of two neighbouring bytes: the top six bits of a multiplicative hash.
fn pair(left: u8, right: u8) -> u64 {
    1 << (u32::from(u16::from_be_bytes([left, right])).wrapping_mul(0x9E37_79B1) >> 26)
}
