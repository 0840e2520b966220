//! The frames of replication between a leading shard and a follower.
//!
//! A block travels as it stands in memory: [`encode_block`] gives what goes in front of the block's own bytes, so that
//! they are neither copied nor encoded again. What arrives is checked here once: lists of one length, ids in range, the
//! checksum. Whether it fits the logs is decided by whoever holds them.

use bytes::Bytes;
use prost::Message as _;
use thiserror::Error;

use crate::data_v1::{Replicated, ToFollower, ToLeader, to_follower, to_leader};
use crate::id::{Epoch, Offset, ProducerId, Sequence, VBucketCount, VBucketId};

/// Limit of one frame: a block of the largest request with all its runs, and what catches up of it.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Why a peer's frame is not taken. The link is closed: a peer that sends such is broken or not one of ours.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PeerError {
    /// It is not protobuf, or holds nothing.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Lists that belong together have different lengths.
    #[error("lists of different lengths")]
    Lengths,
    /// There is no such vbucket.
    #[error("vbucket {0} does not exist")]
    VBucket(u32),
    /// The messages' checksum is another one than announced.
    #[error("checksum {found:08x}, announced {announced:08x}")]
    Checksum {
        /// Of the bytes that arrived.
        found: u32,
        /// What the sender says.
        announced: u32,
    },
}

/// Messages of one vbucket and one epoch in a replicated block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicatedRun {
    /// The vbucket.
    pub vbucket: VBucketId,
    /// The epoch of the leader that sends it.
    pub leader_epoch: Epoch,
    /// The epoch in which the messages were stored.
    pub epoch: Epoch,
    /// Offset of the first.
    pub first: Offset,
    /// How many.
    pub count: u32,
}

/// Messages of one request that follow one another in a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplicatedOrigin {
    /// Number of the first in the block.
    pub first: u32,
    /// How many.
    pub count: u32,
    /// Who pushed them.
    pub producer: ProducerId,
    /// Sequence of the first.
    pub sequence: Sequence,
}

const TAG_BLOCK: u8 = 3 << 3 | 2;
const TAG_MESSAGES: u8 = 15 << 3 | 2;

/// A framed message to a follower.
#[must_use]
pub fn encode_to_follower(frame: to_follower::Frame) -> Bytes {
    crate::frame::encode(&ToFollower { frame: Some(frame) })
}

/// A framed message to a leader.
#[must_use]
pub fn encode_to_leader(frame: to_leader::Frame) -> Bytes {
    crate::frame::encode(&ToLeader { frame: Some(frame) })
}

/// What goes in front of a block's `messages` bytes, gRPC prefix included. `meta` has no messages itself.
#[must_use]
pub fn encode_block(meta: &Replicated, messages_len: usize) -> Bytes {
    debug_assert!(meta.messages.is_empty(), "the messages are sent behind");
    crate::frame::encode_head(TAG_BLOCK, meta, TAG_MESSAGES, messages_len)
}

/// A follower's view of what has arrived.
///
/// # Errors
/// See [`PeerError`].
pub fn decode_to_follower(bytes: Bytes) -> Result<to_follower::Frame, PeerError> {
    let decoded = ToFollower::decode(bytes).map_err(|error| PeerError::Malformed(error.to_string()))?;
    decoded.frame.ok_or_else(|| PeerError::Malformed("an empty frame".to_owned()))
}

/// A leader's view of what has arrived.
///
/// # Errors
/// See [`PeerError`].
pub fn decode_to_leader(bytes: Bytes) -> Result<to_leader::Frame, PeerError> {
    let decoded = ToLeader::decode(bytes).map_err(|error| PeerError::Malformed(error.to_string()))?;
    decoded.frame.ok_or_else(|| PeerError::Malformed("an empty frame".to_owned()))
}

/// A vbucket from the wire.
///
/// # Errors
/// [`PeerError::VBucket`].
pub fn vbucket(number: u32, vbuckets: VBucketCount) -> Result<VBucketId, PeerError> {
    let known = u16::try_from(number).ok().map(VBucketId).filter(|vbucket| vbucket.0 < vbuckets.get());
    known.ok_or(PeerError::VBucket(number))
}

impl Replicated {
    /// Adds a run.
    pub fn push_run(&mut self, run: ReplicatedRun) {
        self.vbuckets.push(u32::from(run.vbucket.0));
        self.leader_epochs.push(run.leader_epoch.0);
        self.epochs.push(run.epoch.0);
        self.firsts.push(run.first.0);
        self.counts.push(run.count);
    }

    /// Adds an origin.
    pub fn push_origin(&mut self, origin: ReplicatedOrigin) {
        self.origin_firsts.push(origin.first);
        self.origin_counts.push(origin.count);
        self.origin_producers.push(origin.producer.0);
        self.origin_sequences.push(origin.sequence.0);
    }

    /// The runs.
    ///
    /// # Errors
    /// Lists of different lengths, or a vbucket that does not exist.
    pub fn runs(&self, vbuckets: VBucketCount) -> Result<Vec<ReplicatedRun>, PeerError> {
        let len = self.vbuckets.len();
        if [self.leader_epochs.len(), self.epochs.len(), self.firsts.len(), self.counts.len()] != [len; 4] {
            return Err(PeerError::Lengths);
        }
        let epochs = self.leader_epochs.iter().zip(&self.epochs);
        let places = self.vbuckets.iter().zip(&self.firsts).zip(&self.counts);
        places
            .zip(epochs)
            .map(|(((number, first), count), (leader_epoch, epoch))| {
                Ok(ReplicatedRun {
                    vbucket: vbucket(*number, vbuckets)?,
                    leader_epoch: Epoch(*leader_epoch),
                    epoch: Epoch(*epoch),
                    first: Offset(*first),
                    count: *count,
                })
            })
            .collect()
    }

    /// The origins.
    ///
    /// # Errors
    /// Lists of different lengths.
    pub fn origins(&self) -> Result<Vec<ReplicatedOrigin>, PeerError> {
        let len = self.origin_firsts.len();
        if [self.origin_counts.len(), self.origin_producers.len(), self.origin_sequences.len()] != [len; 3] {
            return Err(PeerError::Lengths);
        }
        let places = self.origin_firsts.iter().zip(&self.origin_counts);
        let who = self.origin_producers.iter().zip(&self.origin_sequences);
        let origin = |((first, count), (producer, sequence)): ((&u32, &u32), (&u64, &u64))| ReplicatedOrigin {
            first: *first,
            count: *count,
            producer: ProducerId(*producer),
            sequence: Sequence(*sequence),
        };
        Ok(places.zip(who).map(origin).collect())
    }

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

    fn meta(runs: usize, messages: &[u8]) -> Replicated {
        let mut meta = Replicated { seq: 7, crc32: crc32fast::hash(messages), ..Replicated::default() };
        for number in 0..runs {
            meta.push_run(ReplicatedRun {
                vbucket: VBucketId(u16::try_from(number).unwrap()),
                leader_epoch: Epoch(9),
                epoch: Epoch(8),
                first: Offset(number as u64 * 1_000_000),
                count: 3,
            });
            meta.push_origin(ReplicatedOrigin {
                first: 1,
                count: 2,
                producer: ProducerId(u64::MAX - number as u64),
                sequence: Sequence(5),
            });
        }
        meta
    }

    proptest! {
        #[test]
        fn block_behind_its_header_is_the_encoded_frame(runs in 0_usize..40, messages in prop::collection::vec(any::<u8>(), 0..5_000)) {
            let meta = meta(runs, &messages);
            let mut sent = encode_block(&meta, messages.len()).to_vec();
            sent.extend_from_slice(&messages);
            let mut deframer = Deframer::new(FRAME_BYTES_MAX);
            deframer.push(sent.into());
            let received = deframer.next_message().unwrap().unwrap();
            let to_follower::Frame::Block(block) = decode_to_follower(received).unwrap() else { panic!("no block") };
            block.check().unwrap();
            prop_assert_eq!(&*block, &Replicated { messages: messages.into(), ..meta.clone() });
            prop_assert_eq!(block.runs(VBucketCount::DEFAULT).unwrap().len(), runs);
            prop_assert_eq!(block.origins().unwrap().len(), runs);
        }

        #[test]
        fn garbage_is_an_error_or_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_to_leader(bytes.clone().into());
            if let Ok(to_follower::Frame::Block(block)) = decode_to_follower(bytes.into()) {
                let _ = (block.runs(VBucketCount::DEFAULT), block.origins(), block.check());
            }
        }
    }

    #[test]
    fn flipped_bit_in_the_messages_is_found() {
        let messages = vec![7_u8; 300];
        let mut block = meta(1, &messages);
        for bit in 0..messages.len() * 8 {
            let mut flipped = messages.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            block.messages = flipped.into();
            assert!(matches!(block.check(), Err(PeerError::Checksum { .. })));
        }
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let mut block = meta(2, b"");
        block.counts.pop();
        assert_eq!(block.runs(VBucketCount::DEFAULT), Err(PeerError::Lengths));
        block.origin_counts.push(1);
        assert_eq!(block.origins(), Err(PeerError::Lengths));
        let mut block = meta(1, b"");
        block.vbuckets = vec![1024];
        assert_eq!(block.runs(VBucketCount::DEFAULT), Err(PeerError::VBucket(1024)));
    }
}
