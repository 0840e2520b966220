//! Parts of blocks: what is left of one when some of its messages go elsewhere.
//!
//! A block is written for vbuckets with the same copies, so in steady state it commits, and goes, as a whole. While
//! ISRs differ, or when a follower's tail is cut off, a part of it goes another way. Parts are copies with a buffer of
//! their own: that is rare, and costs nothing where it does not happen.

use broky_delivery::{ArenaId, Block, Entry, Run, is_system_key};
use broky_proto::frame::{PREFIX_LEN, prefix};
use broky_proto::id::{Epoch, Offset, Token, VBucketId};
use broky_proto::wire::{Fields, stored_messages};
use bytes::{BufMut, BytesMut};
use rustc_hash::FxHashMap;

use crate::open_block::Origin;

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

/// A part of a block, and which of the block's messages it holds.
pub(crate) struct Part {
    pub(crate) block: Block,
    /// Numbers in the whole block, ascending.
    pub(crate) numbers: Vec<u32>,
}

/// The messages of a block for which `keep` holds, in a buffer of their own; `None` when that is none.
pub(crate) fn part_of(block: &Block, keep: impl Fn(VBucketId, Offset) -> bool) -> Option<Part> {
    let mut part = PartBuilder::default();
    let mut numbers = Vec::new();
    for (number, stored) in (0..).zip(stored_of(block.encoded())) {
        if keep(stored.vbucket, stored.offset) {
            part.add(&stored);
            numbers.push(number);
        }
    }
    part.finish().map(|block| Part { block, numbers })
}

/// One message of a block.
pub(crate) struct StoredMessage<'a> {
    /// With its tag and length.
    pub(crate) bytes: &'a [u8],
    pub(crate) vbucket: VBucketId,
    pub(crate) offset: Offset,
    pub(crate) epoch: Epoch,
    pub(crate) is_system: bool,
}

/// The messages of a block, in order.
pub(crate) fn stored_of(encoded: &[u8]) -> impl Iterator<Item = StoredMessage<'_>> {
    let mut start = 0;
    stored_messages(encoded).flatten().filter_map(move |(span, message)| {
        let end = (span.start + span.len) as usize;
        let bytes = encoded.get(start..end).unwrap_or_default();
        start = end;
        // Blocks hold what was validated when it was pushed.
        let fields = Fields::scan(message).ok()?;
        let vbucket = u16::try_from(fields.vbucket).map(VBucketId).ok()?;
        let is_system = is_system_key(fields.key.of(message));
        Some(StoredMessage { bytes, vbucket, offset: Offset(fields.offset), epoch: Epoch(fields.epoch), is_system })
    })
}

/// Where the messages with these numbers, ascending, come from, numbered anew.
pub(crate) fn origins_of(origins: &[Origin], numbers: &[u32]) -> Vec<Origin> {
    let mut kept = Vec::new();
    let mut at = 0;
    for (first, number) in (0..).zip(numbers.iter().copied()) {
        while origins.get(at).is_some_and(|origin| origin.first + origin.count <= number) {
            at += 1;
        }
        let Some(origin) = origins.get(at).filter(|origin| origin.first <= number) else { continue };
        let into = number - origin.first;
        let (index, sequence) = (origin.index + into, origin.sequence.plus(u64::from(into)));
        add_origin(&mut kept, Origin { first, index, count: 1, sequence, ..*origin });
    }
    kept
}

/// Adds an origin behind the others, as part of the last one where it continues that.
pub(crate) fn add_origin(origins: &mut Vec<Origin>, next: Origin) {
    match origins.last_mut() {
        Some(last)
            if last.reply == next.reply
                && last.producer == next.producer
                && last.first + last.count == next.first
                && last.index + last.count == next.index
                && last.sequence.plus(u64::from(last.count)) == next.sequence =>
        {
            last.count += next.count;
        }
        _ => origins.push(next),
    }
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
    pub(crate) fn add(&mut self, stored: &StoredMessage<'_>) {
        if self.buffer.is_empty() {
            self.buffer.put_slice(&[0; PREFIX_LEN]);
        }
        self.buffer.put_slice(stored.bytes);
        self.messages += 1;
        self.has_system |= stored.is_system;
        let at = *self.run_of.entry(stored.vbucket).or_insert(self.runs.len());
        match self.runs.get_mut(at) {
            Some(run) => run.count += 1,
            None => self.runs.push(Run { vbucket: stored.vbucket, count: 1, first: stored.offset }),
        }
    }

    pub(crate) fn messages(&self) -> u32 {
        self.messages
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
