//! The frames of relayed deliveries: from the node that leads a vbucket to one whose clients subscribe there.
//!
//! As in replication, a block travels as it stands in memory behind a header ([`encode_relayed`]), and what arrives is
//! checked here once.

use bytes::Bytes;
use prost::Message as _;

use crate::data_v1::{History, RelayedBlock, Spans, ToOwner, ToRelay, to_owner, to_relay};
use crate::id::{Offset, VBucketCount, VBucketId};
use crate::replicate::{PeerError, vbucket as vbucket_of};

/// Limit of a frame to an owner: an interest of the largest subscription, or every vbucket.
pub const TO_OWNER_BYTES_MAX: usize = 8 << 20;

const TAG_BLOCK: u8 = 1 << 3 | 2;
const TAG_MESSAGES: u8 = 15 << 3 | 2;

/// A framed message to an owner.
#[must_use]
pub fn encode_to_owner(frame: to_owner::Frame) -> Bytes {
    crate::frame::encode(&ToOwner { frame: Some(frame) })
}

/// A framed message to a relay.
#[must_use]
pub fn encode_to_relay(frame: to_relay::Frame) -> Bytes {
    crate::frame::encode(&ToRelay { frame: Some(frame) })
}

/// What goes in front of a block's `messages` bytes, gRPC prefix included. `meta` has no messages itself.
#[must_use]
pub fn encode_relayed(meta: &RelayedBlock, messages_len: usize) -> Bytes {
    debug_assert!(meta.messages.is_empty(), "the messages are sent behind");
    crate::frame::encode_head(TAG_BLOCK, meta, TAG_MESSAGES, messages_len)
}

/// An owner's view of what has arrived.
///
/// # Errors
/// See [`PeerError`].
pub fn decode_to_owner(bytes: Bytes) -> Result<to_owner::Frame, PeerError> {
    let decoded = ToOwner::decode(bytes).map_err(|error| PeerError::Malformed(error.to_string()))?;
    decoded.frame.ok_or_else(|| PeerError::Malformed("an empty frame".to_owned()))
}

/// A relay's view of what has arrived.
///
/// # Errors
/// See [`PeerError`].
pub fn decode_to_relay(bytes: Bytes) -> Result<to_relay::Frame, PeerError> {
    let decoded = ToRelay::decode(bytes).map_err(|error| PeerError::Malformed(error.to_string()))?;
    decoded.frame.ok_or_else(|| PeerError::Malformed("an empty frame".to_owned()))
}

/// What a relay asks for one subscription.
///
/// # Errors
/// See [`PeerError`].
pub fn decode_history(bytes: Bytes) -> Result<History, PeerError> {
    History::decode(bytes).map_err(|error| PeerError::Malformed(error.to_string()))
}

/// Offsets of a vbucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The vbucket.
    pub vbucket: VBucketId,
    /// The first offset.
    pub first: Offset,
    /// The offset behind the last.
    pub end: Offset,
}

impl Spans {
    /// Adds a span.
    pub fn push(&mut self, span: Span) {
        self.vbuckets.push(u32::from(span.vbucket.0));
        self.firsts.push(span.first.0);
        self.ends.push(span.end.0);
    }

    /// The spans.
    ///
    /// # Errors
    /// Lists of different lengths, a vbucket that does not exist, or an end before its beginning.
    pub fn all(&self, vbuckets: VBucketCount) -> Result<Vec<Span>, PeerError> {
        if [self.firsts.len(), self.ends.len()] != [self.vbuckets.len(); 2] {
            return Err(PeerError::Lengths);
        }
        let bounds = self.firsts.iter().zip(&self.ends);
        self.vbuckets
            .iter()
            .zip(bounds)
            .map(|(number, (first, end))| {
                if first > end {
                    return Err(PeerError::Malformed(format!("a span from {first} to {end}")));
                }
                Ok(Span { vbucket: vbucket_of(*number, vbuckets)?, first: Offset(*first), end: Offset(*end) })
            })
            .collect()
    }
}

impl RelayedBlock {
    /// Fails when the messages are not those that were sent.
    ///
    /// # Errors
    /// [`PeerError::Checksum`].
    pub fn check(&self) -> Result<(), PeerError> {
        let (found, announced) = (crc32fast::hash(&self.messages), self.crc32);
        if found == announced { Ok(()) } else { Err(PeerError::Checksum { found, announced }) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Deframer;
    use crate::replicate::FRAME_BYTES_MAX;

    fn block(spans: u16, messages: &[u8]) -> RelayedBlock {
        let mut of = Spans::default();
        let span =
            |number: u16| Span { vbucket: VBucketId(number), first: Offset(u64::from(number)), end: Offset(1 << 40) };
        (0..spans).for_each(|number| of.push(span(number)));
        let crc32 = crc32fast::hash(messages);
        RelayedBlock { spans: Some(of), count: 3, has_system: true, crc32, messages: Bytes::new() }
    }

    proptest! {
        #[test]
        fn block_behind_its_header_is_the_encoded_frame(spans in 0_u16..40, messages in prop::collection::vec(any::<u8>(), 0..5_000)) {
            let meta = block(spans, &messages);
            let mut sent = encode_relayed(&meta, messages.len()).to_vec();
            sent.extend_from_slice(&messages);
            let mut deframer = Deframer::new(FRAME_BYTES_MAX);
            deframer.push(sent.into());
            let received = deframer.next_message().unwrap().unwrap();
            let to_relay::Frame::Block(block) = decode_to_relay(received).unwrap() else { panic!("no block") };
            block.check().unwrap();
            prop_assert_eq!(&block, &RelayedBlock { messages: messages.into(), ..meta.clone() });
            prop_assert_eq!(block.spans.unwrap().all(VBucketCount::DEFAULT).unwrap().len(), usize::from(spans));
        }

        #[test]
        fn garbage_is_an_error_or_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (decode_to_owner(bytes.clone().into()), decode_history(bytes.clone().into()));
            if let Ok(to_relay::Frame::Block(block)) = decode_to_relay(bytes.into()) {
                let _ = (block.check(), block.spans.unwrap_or_default().all(VBucketCount::DEFAULT));
            }
        }
    }

    #[test]
    fn spans_that_make_no_sense_are_refused() {
        let mut spans = block(2, b"").spans.unwrap();
        spans.firsts[1] = 1 << 41;
        assert!(matches!(spans.all(VBucketCount::DEFAULT), Err(PeerError::Malformed(_))));
        spans.vbuckets[0] = 1024;
        assert_eq!(spans.all(VBucketCount::DEFAULT), Err(PeerError::VBucket(1024)));
        spans.ends.pop();
        assert_eq!(spans.all(VBucketCount::DEFAULT), Err(PeerError::Lengths));
    }
}
