//! The block being written.

use broky_delivery::{ArenaId, Block, Entry, Run};
use broky_proto::frame::{PREFIX_LEN, prefix};
use broky_proto::id::{Epoch, Offset, ProducerId, Sequence, VBucketCount, VBucketId};
use broky_proto::wire::{self, Stored, append_stored};
use bytes::{BufMut, BytesMut};

use crate::block::add_origin;
use crate::outbox::SessionId;
use crate::replies::ReplyKey;

/// Messages of one request that follow one another in a block, and did so in the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    /// Number of the first in the block.
    pub(crate) first: u32,
    /// Number of the first in the request.
    pub(crate) index: u32,
    pub(crate) count: u32,
    pub(crate) producer: ProducerId,
    /// Of the first.
    pub(crate) sequence: Sequence,
    /// Who waits for them to be committed.
    pub(crate) reply: Option<ReplyKey>,
}

/// Where messages come from; index and sequence are those of the first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) producer: ProducerId,
    pub(crate) sequence: Sequence,
    pub(crate) index: u32,
    pub(crate) reply: Option<ReplyKey>,
}

/// Where messages are stored that follow one another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) ts_broker: i64,
    pub(crate) epoch: Epoch,
    pub(crate) vbucket: VBucketId,
    /// Of the first.
    pub(crate) offset: Offset,
}

/// A reply that waits for a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waiter {
    pub(crate) reply: ReplyKey,
    /// The message in the request that an earlier attempt had stored; its fate is the block's. `None` when the block
    /// holds messages of the request itself, which their origins tell.
    pub(crate) duplicate: Option<u32>,
}

/// A sealed block, until it is committed.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) block: Block,
    /// Empty for blocks that came from another node: they are looked through when somebody wants to know.
    pub(crate) entries: Vec<Entry>,
    pub(crate) origins: Vec<Origin>,
    /// Replies that wait for it.
    pub(crate) waiting: Vec<Waiter>,
    /// Which followers were sent it, and under which number.
    pub(crate) sent: Vec<(SessionId, u64)>,
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
    arena: ArenaId,
    /// Kept only where others hold copies.
    origins: Option<Vec<Origin>>,
    pub(crate) waiting: Vec<Waiter>,
}

impl OpenBlock {
    /// A block that nothing is written to yet. Where its messages come from is kept if `has_followers`.
    pub(crate) fn new(vbuckets: VBucketCount, has_followers: bool) -> Self {
        Self {
            arena: ArenaId::default(),
            origins: has_followers.then(Vec::new),
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
    pub(crate) fn set_buffer(&mut self, arena: ArenaId, buffer: BytesMut) {
        assert!(self.is_empty(), "the open block has {} messages", self.entries.len());
        (self.arena, self.buffer) = (arena, buffer);
    }

    /// Gives up the buffer, so that its arena is not pinned by it. Returns the arena, if there was one.
    ///
    /// # Panics
    /// As [`OpenBlock::set_buffer`].
    pub(crate) fn close_buffer(&mut self) -> Option<ArenaId> {
        assert!(self.is_empty(), "the open block has {} messages", self.entries.len());
        let arena = std::mem::take(&mut self.arena);
        self.buffer = BytesMut::new();
        (arena != ArenaId::default()).then_some(arena)
    }

    /// Whether it holds messages of a vbucket.
    pub(crate) fn has(&self, vbucket: VBucketId) -> bool {
        self.run_of.get(usize::from(vbucket.0)).is_some_and(|run| *run > 0)
    }

    /// Writes messages of a request that follow one another, and are stored one behind the other from `place` on.
    #[inline]
    pub(crate) fn append(&mut self, request: &[u8], run: &[wire::Entry], place: Place, source: Source) {
        // A block holds far fewer messages than u32::MAX.
        let count = u32::try_from(run.len()).unwrap_or(u32::MAX);
        if let Some(origins) = &mut self.origins {
            note_origin(origins, self.entries.len(), count, source);
        }
        if self.buffer.is_empty() {
            // The prefix, filled in when the length is known.
            self.buffer.put_slice(&[0; PREFIX_LEN]);
        }
        self.count(place.vbucket, place.offset, count);
        let Place { ts_broker, epoch, vbucket, mut offset } = place;
        for entry in run {
            let message = entry.message.of(request);
            let start = self.buffer.len();
            let stored = Stored { crc32: entry.crc32, ts_broker, epoch, vbucket, offset };
            let span = append_stored(&mut self.buffer, message, &stored);
            self.has_system |= broky_delivery::is_system_key(entry.key.of(message));
            #[expect(clippy::cast_possible_truncation, reason = "a block is far below u32::MAX bytes")]
            self.entries.push(Entry {
                start: start as u32,
                len: (self.buffer.len() - start) as u32,
                key_start: span.start + entry.key.start,
                key_len: entry.key.len,
                token: entry.token,
            });
            offset = offset.plus(1);
        }
    }

    #[inline]
    fn count(&mut self, vbucket: VBucketId, first: Offset, count: u32) {
        let Some(run_of) = self.run_of.get_mut(usize::from(vbucket.0)) else { return };
        match (*run_of as usize).checked_sub(1).and_then(|at| self.runs.get_mut(at)) {
            Some(run) => run.count += count,
            None => {
                self.runs.push(Run { vbucket, count, first });
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
            arena: self.arena,
        };
        self.runs.clear();
        Some(Sealed {
            block,
            entries: std::mem::take(&mut self.entries),
            origins: self.origins.as_mut().map(std::mem::take).unwrap_or_default(),
            waiting: std::mem::take(&mut self.waiting),
            sent: Vec::new(),
        })
    }

    /// Gives back the list of a sealed block, so that the next block needs no new one.
    pub(crate) fn recycle(&mut self, mut entries: Vec<Entry>) {
        entries.clear();
        if self.entries.capacity() < entries.capacity() && self.entries.is_empty() {
            self.entries = entries;
        }
    }
}

fn note_origin(origins: &mut Vec<Origin>, at: usize, count: u32, source: Source) {
    let Source { producer, sequence, index, reply } = source;
    if producer.0 == 0 && reply.is_none() {
        return;
    }
    let first = u32::try_from(at).unwrap_or(u32::MAX);
    add_origin(origins, Origin { first, index, count, producer, sequence, reply });
}
