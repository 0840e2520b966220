//! One delivery, checked and ready to be given out: [`Batch`], and the views of its messages.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use broky_proto::id::{Epoch, Offset, VBucketId};
use broky_proto::v1;
use broky_proto::wire::{Fields, Span};
use bytes::Bytes;
use prost::Message as _;

use super::cursors::{Gap, Slot};
use crate::message::UID_BYTES;

/// A message of a delivery: where it lies and what was found in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) message: Span,
    pub(super) fields: Fields,
}

/// Lists of entries to be used again, so that a delivery allocates none.
#[derive(Default, Debug)]
pub(super) struct Spare(Mutex<Vec<Vec<Entry>>>);

/// One for the batch in hand, one for the next.
const SPARE_MAX: usize = 2;

impl Spare {
    pub(super) fn take(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, mut entries: Vec<Entry>) {
        entries.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX {
            spare.push(entries);
        }
    }
}

/// What one delivery holds: gaps, then messages. Every message's checksum was checked, and none was given out before.
#[derive(Debug)]
pub struct Batch {
    pub(super) bytes: Bytes,
    pub(super) entries: Vec<Entry>,
    /// Each with the slot before it.
    pub(super) gaps: Vec<(Gap, Slot)>,
    pub(super) spare: Arc<Spare>,
}

impl Batch {
    /// What will not be delivered. These come before the messages.
    pub fn gaps(&self) -> impl ExactSizeIterator<Item = &Gap> {
        self.gaps.iter().map(|(gap, _)| gap)
    }

    /// The messages, in order per vbucket.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = MessageView<'_>> + DoubleEndedIterator {
        self.entries.iter().map(|entry| self.view(entry))
    }

    /// How many messages there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no message. There is a gap then.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A message that outlives the batch, without copying it. It keeps the memory of the whole batch.
    pub(super) fn received(&self, at: usize) -> Option<Received> {
        let entry = self.entries.get(at)?;
        let start = entry.message.start as usize;
        Some(Received { message: self.bytes.slice(start..start + entry.message.len as usize), fields: entry.fields })
    }

    #[inline]
    fn view<'a>(&'a self, entry: &'a Entry) -> MessageView<'a> {
        MessageView { message: entry.message.of(&self.bytes), fields: &entry.fields }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.spare.give(std::mem::take(&mut self.entries));
    }
}

/// A delivered message, borrowed from its batch.
#[derive(Clone, Copy)]
pub struct MessageView<'a> {
    message: &'a [u8],
    fields: &'a Fields,
}

impl<'a> MessageView<'a> {
    /// What decided the vbucket; empty if the key did.
    #[inline]
    #[must_use]
    pub fn key_partition(&self) -> &'a [u8] {
        self.fields.key_partition.of(self.message)
    }

    /// The key.
    #[inline]
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        self.fields.key.of(self.message)
    }

    /// The content.
    #[inline]
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.fields.payload.of(self.message)
    }

    /// The producer's timestamp, in nanoseconds since the Unix epoch; zero for none.
    #[must_use]
    pub fn ts_producer(&self) -> i64 {
        self.fields.ts_producer
    }

    /// When the leader stored it, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn ts_broker(&self) -> i64 {
        self.fields.ts_broker
    }

    /// The KSUID.
    #[must_use]
    pub fn uid(&self) -> Option<[u8; UID_BYTES]> {
        self.fields.uid.of(self.message).try_into().ok()
    }

    /// The headers. They are decoded at each call.
    #[must_use]
    pub fn headers(&self) -> HashMap<String, Bytes> {
        if self.fields.headers == 0 {
            return HashMap::new();
        }
        // The scan accepts only what decodes.
        v1::Message::decode(self.message).map(|message| message.headers).unwrap_or_default()
    }

    /// The `retain` flag, as the producer gave it.
    #[must_use]
    pub fn retain(&self) -> bool {
        self.fields.retain
    }

    /// The `ttl_ms` field, in milliseconds, as the producer gave it.
    #[must_use]
    pub fn ttl_ms(&self) -> u32 {
        self.fields.ttl_ms
    }

    /// CRC-32 over key_partition, key and payload. It was checked.
    #[must_use]
    pub fn crc32(&self) -> u32 {
        self.fields.crc32
    }

    /// Its vbucket.
    #[inline]
    #[must_use]
    pub fn vbucket(&self) -> VBucketId {
        // Admission bounds it.
        VBucketId(u16::try_from(self.fields.vbucket).unwrap_or(u16::MAX))
    }

    /// Its offset in the vbucket's log.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> Offset {
        Offset(self.fields.offset)
    }

    /// The leader epoch it was stored under.
    #[inline]
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.fields.epoch)
    }
}

impl fmt::Debug for MessageView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("vbucket", &self.vbucket().0)
            .field("offset", &self.offset().0)
            .field("epoch", &self.epoch().0)
            .field("key", &self.key().escape_ascii().to_string())
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

/// A delivered message that stands on its own. It shares the memory of its delivery; copy what is kept for long.
#[derive(Clone)]
pub struct Received {
    message: Bytes,
    fields: Fields,
}

impl Received {
    /// Every field, borrowed.
    #[inline]
    #[must_use]
    pub fn view(&self) -> MessageView<'_> {
        MessageView { message: &self.message, fields: &self.fields }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.view().key()
    }

    /// The content.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.view().payload()
    }

    /// The content, without a copy.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.message.slice_ref(self.payload())
    }

    /// Its vbucket.
    #[must_use]
    pub fn vbucket(&self) -> VBucketId {
        self.view().vbucket()
    }

    /// Its offset in the vbucket's log.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.view().offset()
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

/// What a subscription gives, one at a time.
#[derive(Clone, Debug)]
pub enum Event {
    /// A message.
    Message(Received),
    /// Something that will not be delivered.
    Gap(Gap),
}
