//! Parts of blocks: what is left of one when some of its messages go elsewhere.
//!
//! A block is written for vbuckets with the same copies, so in steady state it commits, and goes, as a whole. While ISRs
//! differ, or when a follower's tail is cut off, a part of it goes another way. Parts are copies with a buffer of their
//! own: that is rare, and costs nothing where it does not happen.

use broky_delivery::{ArenaId, Block, Entry, Run, is_system_key};
use broky_proto::frame::{PREFIX_LEN, prefix};
use broky_proto::id::{Offset, Token, VBucketId};
use broky_proto::wire::{Fields, stored_messages};
use bytes::{BufMut, BytesMut};
use rustc_hash::FxHashMap;

/// The arena of blocks that have a buffer of their own.
pub(crate) const APART: ArenaId = ArenaId(0);

/// Where each message of a block stands.
pub(crate) fn entries_of(block: &Block) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(block.messages as usize);
    let mut start = PREFIX_LEN;
    for (span, message) in stored_messages(block.encoded()).flatten() {
        let end = PREFIX_LEN + (span.start + span.len) as usize;
        if let Ok(fields) = Fields::scan(message) {
            entries.push(entry(start, end, &fields, message));
        }
        start = end;
    }
    entries
}

#[expect(clippy::cast_possible_truncation, reason = "positions inside a block")]
fn entry(start: usize, end: usize, fields: &Fields, message: &[u8]) -> Entry {
    let body = end - message.len();
    let partition = if fields.key_partition.len > 0 { fields.key_partition } else { fields.key };
    Entry {
        start: start as u32,
        len: (end - start) as u32,
        key_start: body as u32 + fields.key.start,
        key_len: fields.key.len,
        token: Token(crc32fast::hash(partition.of(message))),
    }
}

/// The messages of a block for which `keep` holds, in a buffer of their own; `None` when that is none.
pub(crate) fn part_of(block: &Block, keep: impl Fn(VBucketId, Offset) -> bool) -> Option<Block> {
    let mut part = PartBuilder::default();
    let mut start = PREFIX_LEN;
    for (span, message) in stored_messages(block.encoded()).flatten() {
        let end = PREFIX_LEN + (span.start + span.len) as usize;
        let stored = block.framed.get(start..end).unwrap_or_default();
        start = end;
        let Ok(fields) = Fields::scan(message) else { continue };
        let Ok(vbucket) = u16::try_from(fields.vbucket).map(VBucketId) else { continue };
        if keep(vbucket, Offset(fields.offset)) {
            part.add(stored, vbucket, Offset(fields.offset), is_system_key(fields.key.of(message)));
        }
    }
    part.finish()
}

/// Puts a block together from stored messages.
#[derive(Default)]
pub(crate) struct PartBuilder {
    buffer: BytesMut,
    runs: Vec<Run>,
    run_of: FxHashMap<VBucketId, usize>,
    messages: u32,
    has_system: bool,
}

impl PartBuilder {
    pub(crate) fn add(&mut self, stored: &[u8], vbucket: VBucketId, offset: Offset, is_system: bool) {
        if self.buffer.is_empty() {
            self.buffer.put_slice(&[0; PREFIX_LEN]);
        }
        self.buffer.put_slice(stored);
        self.messages += 1;
        self.has_system |= is_system;
        let at = *self.run_of.entry(vbucket).or_insert(self.runs.len());
        match self.runs.get_mut(at) {
            Some(run) => run.count += 1,
            None => self.runs.push(Run { vbucket, count: 1, first: offset }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn finish(mut self) -> Option<Block> {
        if self.messages == 0 {
            return None;
        }
        let header = prefix(self.buffer.len() - PREFIX_LEN);
        if let Some(place) = self.buffer.first_chunk_mut::<PREFIX_LEN>() {
            *place = header;
        }
        Some(Block {
            framed: self.buffer.freeze(),
            runs: self.runs.into(),
            messages: self.messages,
            has_system: self.has_system,
            arena: APART,
        })
    }
}
