//! Messages that can be told apart: a payload that says whose it is, and shows when it was touched.

use broky_proto::id::{Token, VBucketCount, VBucketId};
use bytes::Bytes;

/// A message's name: its producer and its sequence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct MessageId {
    pub(super) producer: u64,
    pub(super) sequence: u64,
}

/// Bytes that name a message in its payload.
const NAME_BYTES: usize = 16;

impl MessageId {
    /// The payload of this message.
    pub(super) fn payload(self, padding: usize) -> Bytes {
        let mut payload = Vec::with_capacity(NAME_BYTES + padding);
        payload.extend_from_slice(&self.producer.to_be_bytes());
        payload.extend_from_slice(&self.sequence.to_be_bytes());
        payload.resize(NAME_BYTES + padding, self.fill());
        payload.into()
    }

    /// Whose payload this is; `None` when it is nobody's, or not as it was.
    pub(super) fn of(payload: &[u8]) -> Option<Self> {
        let word = |at: usize| payload.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let id = Self { producer: word(0)?, sequence: word(8)? };
        payload.get(NAME_BYTES..)?.iter().all(|byte| *byte == id.fill()).then_some(id)
    }

    #[expect(clippy::cast_possible_truncation, reason = "one byte is wanted")]
    fn fill(self) -> u8 {
        (self.producer.wrapping_mul(31) ^ self.sequence) as u8
    }

    /// What a message's key begins with, by which readers choose.
    pub(super) fn tag(self) -> u8 {
        if self.sequence.is_multiple_of(3) { b'a' } else { b'b' }
    }

    /// A key that begins with the tag and belongs to a vbucket. There are several, so that one vbucket has several
    /// keys.
    pub(super) fn key(self, vbuckets: VBucketCount, vbucket: VBucketId, which: u64) -> Bytes {
        let key = |number: u16| [&[self.tag()], number.to_be_bytes().as_slice()].concat();
        let is_of = |number: &u16| vbuckets.vbucket_of(Token::of(b"", &key(*number))) == vbucket;
        let which = usize::try_from(which).unwrap_or_default();
        (0..u16::MAX).filter(is_of).nth(which).map(key).unwrap_or_default().into()
    }
}
