//! A queue that grows without moving what it holds.
//!
//! At a hundred thousand small blocks a second a feed holds millions of entries. A `VecDeque` of them doubles now and
//! then, and copying a hundred megabytes stalls every reader for as many milliseconds. Here the entries stand in
//! chunks, and only the list of chunks moves.

use std::collections::VecDeque;

/// Entries per chunk.
const CHUNK: usize = 512;

/// A queue of `T` with access by place.
#[derive(Clone, Debug)]
pub(crate) struct Chunked<T> {
    /// All full but for the last; of the first, `skipped` entries are gone.
    chunks: VecDeque<VecDeque<T>>,
    skipped: usize,
    len: usize,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: VecDeque::new(), skipped: 0, len: 0 }
    }
}

impl<T> Chunked<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push_back(&mut self, value: T) {
        let is_full = (self.skipped + self.len).is_multiple_of(CHUNK);
        if is_full {
            // The first chunk of a short queue grows by itself: most vbuckets hold a few entries.
            let capacity = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push_back(VecDeque::with_capacity(capacity));
        }
        if let Some(last) = self.chunks.back_mut() {
            last.push_back(value);
            self.len += 1;
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let value = self.chunks.front_mut()?.pop_front()?;
        self.len -= 1;
        self.skipped += 1;
        if self.skipped == CHUNK || self.len == 0 {
            self.chunks.pop_front();
            self.skipped = 0;
        }
        Some(value)
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        let (chunk, place) = self.place(at);
        self.chunks.get(chunk)?.get(place)
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        let (chunk, place) = self.place(at);
        self.chunks.get_mut(chunk)?.get_mut(place)
    }

    /// How many of the first entries `is_before` holds for; it must hold for a beginning of the queue.
    pub(crate) fn partition_point(&self, is_before: impl Fn(&T) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle).is_some_and(&is_before) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The chunk of an entry and its place there. The first chunk's front is what is left of it.
    fn place(&self, at: usize) -> (usize, usize) {
        let absolute = self.skipped + at;
        match absolute / CHUNK {
            0 => (0, at),
            chunk => (chunk, absolute % CHUNK),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_deque(steps in proptest::collection::vec((0_usize..3, 1_usize..900), 1..60)) {
            let (mut chunked, mut model, mut next) = (Chunked::default(), VecDeque::new(), 0);
            for (kind, times) in steps {
                for _ in 0..times {
                    if kind == 0 {
                        prop_assert_eq!(chunked.pop_front(), model.pop_front());
                    } else {
                        chunked.push_back(next);
                        model.push_back(next);
                        next += 1;
                    }
                }
                prop_assert_eq!((chunked.len(), chunked.is_empty()), (model.len(), model.is_empty()));
                for at in [0, 1, 510, 511, 512, 513, model.len().saturating_sub(1), model.len()] {
                    prop_assert_eq!(chunked.get(at), model.get(at));
                    prop_assert_eq!(chunked.get_mut(at), model.get_mut(at));
                }
                let middle = next / 2;
                prop_assert_eq!(chunked.partition_point(|value| *value < middle), model.partition_point(|value| *value < middle));
            }
        }
    }
}
