//! The block being written.

use broky_delivery::{Block, Entry, Run};
use broky_proto::frame::{PREFIX_LEN, prefix};
use broky_proto::id::{Offset, VBucketCount, VBucketId};
use broky_proto::wire::{self, Stored, append_stored};
use bytes::{BufMut, BytesMut};

use crate::outbox::Reply;

/// A sealed block and the requests that wait for it to commit.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) block: Block,
    pub(crate) entries: Vec<Entry>,
    pub(crate) waiting: Vec<Reply>,
}

/// The block being written.
#[derive(Debug)]
pub(crate) struct OpenBlock {
    buffer: BytesMut,
    entries: Vec<Entry>,
    runs: Vec<Run>,
    /// Per vbucket: one more than its place in `runs`; 0 when it has none.
    run_of: Vec<u32>,
    has_system: bool,
    pub(crate) waiting: Vec<Reply>,
}

impl OpenBlock {
    pub(crate) fn new(vbuckets: VBucketCount) -> Self {
        Self {
            buffer: BytesMut::new(),
            entries: Vec::new(),
            runs: Vec::new(),
            run_of: vec![0; vbuckets.len()],
            has_system: false,
            waiting: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that can still be written without another buffer.
    pub(crate) fn room(&self) -> usize {
        self.buffer.capacity() - self.buffer.len()
    }

    /// Goes on in another buffer.
    ///
    /// # Panics
    /// When something has been written: it would be lost.
    pub(crate) fn set_buffer(&mut self, buffer: BytesMut) {
        assert!(self.is_empty(), "the open block has {} messages", self.entries.len());
        self.buffer = buffer;
    }

    #[inline]
    pub(crate) fn append(&mut self, entry: &wire::Entry, message: &[u8], stored: &Stored) {
        if self.buffer.is_empty() {
            // The prefix, filled in when the length is known.
            self.buffer.put_slice(&[0; PREFIX_LEN]);
        }
        let start = self.buffer.len();
        let span = append_stored(&mut self.buffer, message, stored);
        self.has_system |= broky_delivery::is_system_key(entry.key.of(message));
        #[expect(clippy::cast_possible_truncation, reason = "a block is far below u32::MAX bytes")]
        self.entries.push(Entry {
            start: start as u32,
            len: (self.buffer.len() - start) as u32,
            key_start: span.start + entry.key.start,
            key_len: entry.key.len,
            token: entry.token,
        });
        self.count(stored.vbucket, stored.offset);
    }

    #[inline]
    fn count(&mut self, vbucket: VBucketId, offset: Offset) {
        let Some(run_of) = self.run_of.get_mut(usize::from(vbucket.0)) else { return };
        match (*run_of as usize).checked_sub(1).and_then(|at| self.runs.get_mut(at)) {
            Some(run) => run.count += 1,
            None => {
                self.runs.push(Run { vbucket, count: 1, first: offset });
                // At most one run per vbucket, and there are at most 32,768.
                *run_of = u32::try_from(self.runs.len()).unwrap_or_default();
            }
        }
    }

    /// Ends the block; what is written next begins another one. `None` when nothing was written.
    pub(crate) fn seal(&mut self) -> Option<Sealed> {
        if self.is_empty() {
            return None;
        }
        let mut framed = self.buffer.split();
        let len = framed.len() - PREFIX_LEN;
        if let Some(place) = framed.first_chunk_mut::<PREFIX_LEN>() {
            *place = prefix(len);
        }
        for run in &self.runs {
            if let Some(run_of) = self.run_of.get_mut(usize::from(run.vbucket.0)) {
                *run_of = 0;
            }
        }
        let block = Block {
            framed: framed.freeze(),
            runs: self.runs.as_slice().into(),
            messages: u32::try_from(self.entries.len()).unwrap_or(u32::MAX),
            has_system: std::mem::take(&mut self.has_system),
        };
        self.runs.clear();
        Some(Sealed { block, entries: std::mem::take(&mut self.entries), waiting: std::mem::take(&mut self.waiting) })
    }

    /// Gives back the list of a sealed block, so that the next block needs no new one.
    pub(crate) fn recycle(&mut self, mut entries: Vec<Entry>) {
        entries.clear();
        if self.entries.capacity() < entries.capacity() && self.entries.is_empty() {
            self.entries = entries;
        }
    }
}
