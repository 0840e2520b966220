//! Arenas: the memory that blocks are cut from.
//!
//! Blocks are written one behind the other into a large buffer and shared as slices of it, so that a block costs no
//! allocation. A buffer is used again once its last block was evicted and no transport holds a slice of it any more,
//! so that the process's memory stays where it is. The first byte of each buffer is never part of a block: the handle
//! to it tells whether anybody else still refers to the buffer.

use std::collections::VecDeque;

use broky_delivery::{ArenaId, BlockSeq};
use bytes::{Bytes, BytesMut};

/// A buffer that holds blocks.
#[derive(Debug)]
struct Arena {
    id: ArenaId,
    sentinel: Bytes,
    capacity: usize,
    /// Blocks cut from it that are in memory still.
    blocks: usize,
    /// Whether more will be cut from it.
    is_open: bool,
    /// The last block of it that readers were given.
    last: Option<BlockSeq>,
}

/// All buffers of a shard.
#[derive(Debug)]
pub(crate) struct Arenas {
    standard_bytes: usize,
    next: ArenaId,
    /// Oldest first.
    in_use: VecDeque<Arena>,
    /// Evicted, but a transport may still hold a part. Oldest first.
    pinned: VecDeque<Arena>,
    spare: Vec<BytesMut>,
    bytes: usize,
    pinned_bytes: usize,
}

impl Arenas {
    pub(crate) fn new(standard_bytes: usize) -> Self {
        Self {
            standard_bytes,
            // Zero stands for no arena.
            next: ArenaId(1),
            in_use: VecDeque::new(),
            pinned: VecDeque::new(),
            spare: Vec::new(),
            bytes: 0,
            pinned_bytes: 0,
        }
    }

    /// Bytes of all buffers, spare ones included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of buffers that hold only evicted blocks.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// The last block of the oldest pinned buffer.
    pub(crate) fn oldest_pinned(&self) -> Option<BlockSeq> {
        self.pinned.front().and_then(|arena| arena.last)
    }

    /// Bytes that opening a buffer with room for `need` would add.
    pub(crate) fn growth_for(&self, need: usize) -> usize {
        let capacity = self.capacity_for(need);
        if capacity == self.standard_bytes && !self.spare.is_empty() { 0 } else { capacity }
    }

    /// A buffer with room for `need` bytes, to cut blocks from until [`Arenas::close`].
    pub(crate) fn open(&mut self, need: usize) -> (ArenaId, BytesMut) {
        let capacity = self.capacity_for(need);
        let mut buffer = match self.spare.pop() {
            Some(buffer) if buffer.capacity() >= capacity => buffer,
            spare => {
                self.spare.extend(spare);
                self.bytes += capacity;
                BytesMut::with_capacity(capacity)
            }
        };
        buffer.clear();
        buffer.extend_from_slice(&[0]);
        let sentinel = buffer.split_to(1).freeze();
        let id = self.next;
        self.next = ArenaId(id.0 + 1);
        self.in_use.push_back(Arena { id, sentinel, capacity, blocks: 0, is_open: true, last: None });
        (id, buffer)
    }

    fn capacity_for(&self, need: usize) -> usize {
        self.standard_bytes.max(need + 1)
    }

    /// Whether evicting blocks can free a buffer: whether there is another one than those being written to.
    pub(crate) fn has_closed(&self) -> bool {
        self.in_use.iter().any(|arena| !arena.is_open)
    }

    fn find(&mut self, id: ArenaId) -> Option<&mut Arena> {
        let at = self.in_use.binary_search_by_key(&id, |arena| arena.id).ok()?;
        self.in_use.get_mut(at)
    }

    /// Notes that nothing more is cut from a buffer.
    pub(crate) fn close(&mut self, id: ArenaId) {
        if let Some(arena) = self.find(id) {
            arena.is_open = false;
        }
        self.retire(id);
    }

    /// Notes that a block was cut from a buffer.
    pub(crate) fn note_cut(&mut self, id: ArenaId) {
        if let Some(arena) = self.find(id) {
            arena.blocks += 1;
        }
    }

    /// Notes under which number readers were given a block of a buffer.
    pub(crate) fn note_delivered(&mut self, id: ArenaId, seq: BlockSeq) {
        if let Some(arena) = self.find(id) {
            arena.last = Some(seq);
        }
    }

    /// Notes that a block is gone from memory.
    pub(crate) fn note_gone(&mut self, id: ArenaId) {
        if let Some(arena) = self.find(id) {
            arena.blocks -= 1;
        }
        self.retire(id);
    }

    /// Takes back a buffer of which every block is gone.
    fn retire(&mut self, id: ArenaId) {
        let Ok(at) = self.in_use.binary_search_by_key(&id, |arena| arena.id) else { return };
        if self.in_use.get(at).is_some_and(|arena| arena.blocks == 0 && !arena.is_open)
            && let Some(arena) = self.in_use.remove(at)
        {
            self.pinned_bytes += arena.capacity;
            self.pinned.push_back(arena);
            self.reclaim();
        }
    }

    /// Gives a spare buffer back to the system, but not the one that a buffer for `need` bytes would be cut from.
    ///
    /// Returns whether there was one.
    pub(crate) fn release_spare(&mut self, need: Option<usize>) -> bool {
        let is_used = need.is_some_and(|need| self.capacity_for(need) == self.standard_bytes);
        if self.spare.len() <= usize::from(is_used) {
            return false;
        }
        self.spare.pop();
        self.bytes -= self.standard_bytes;
        true
    }

    /// Takes back pinned buffers that nobody holds any more.
    pub(crate) fn reclaim(&mut self) {
        for _ in 0..self.pinned.len() {
            let Some(arena) = self.pinned.pop_front() else { break };
            if !arena.sentinel.is_unique() {
                self.pinned.push_back(arena);
                continue;
            }
            self.pinned_bytes -= arena.capacity;
            match arena.sentinel.try_into_mut() {
                Ok(buffer) if arena.capacity == self.standard_bytes && buffer.capacity() >= arena.capacity => {
                    self.spare.push(buffer);
                }
                Ok(_) | Err(_) => self.bytes -= arena.capacity,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(buffer: &mut BytesMut, len: usize) -> Bytes {
        buffer.extend_from_slice(&vec![7; len]);
        buffer.split().freeze()
    }

    #[test]
    fn buffer_is_used_again_once_nobody_holds_it() {
        let mut arenas = Arenas::new(1024);
        let (id, mut first) = arenas.open(10);
        let block = cut(&mut first, 100);
        let address = block.as_ptr();
        arenas.note_cut(id);
        arenas.note_gone(id);
        assert_eq!(arenas.pinned_bytes(), 0, "more is to be cut from it");
        drop(first);
        arenas.close(id);
        let (_, _second) = arenas.open(10);
        assert_eq!((arenas.bytes(), arenas.pinned_bytes()), (2048, 1024), "a reader still holds the block");
        assert_eq!(arenas.growth_for(10), 1024);
        drop(block);
        arenas.reclaim();
        assert_eq!(arenas.growth_for(10), 0);
        let (_, mut third) = arenas.open(10);
        assert_eq!(cut(&mut third, 100).as_ptr(), address);
        assert_eq!((arenas.bytes(), arenas.pinned_bytes()), (2048, 0));
    }

    #[test]
    fn oversized_buffer_is_given_back_to_the_system() {
        let mut arenas = Arenas::new(1024);
        let (id, large) = arenas.open(5000);
        assert!(large.capacity() >= 5000);
        arenas.note_cut(id);
        drop(large);
        let (_, _next) = arenas.open(1);
        arenas.close(id);
        arenas.note_gone(id);
        assert_eq!(arenas.bytes(), 1024);
    }

    #[test]
    fn buffers_go_in_the_order_in_which_their_blocks_do() {
        let mut arenas = Arenas::new(1024);
        let ids: Vec<ArenaId> = (0..3).map(|_| arenas.open(10).0).collect();
        for id in &ids {
            arenas.note_cut(*id);
        }
        arenas.close(ids[1]);
        arenas.note_gone(ids[1]);
        assert_eq!(arenas.growth_for(10), 0, "the second is spare, the others are being written to");
        assert!(!arenas.has_closed());
    }
}
