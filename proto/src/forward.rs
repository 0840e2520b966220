//! Forwarded pushes: parts of requests on their way from the node they came in at to the leaders of their vbuckets.
//!
//! The messages' own bytes are copied once, into a request of their own, and scanned again where they arrive: a node
//! believes another no more than a client. Their numbers go along, as sequences are counted from them.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use thiserror::Error;

use crate::data_v1::{Forward, Forwarded};
use crate::error::Refusal;
use crate::id::Epoch;
use crate::v1::{Acks, PushRequest};
use crate::wire::{Push, scan_push};

/// Limit of one frame: the largest request, and the numbers of its messages.
pub const FORWARD_BYTES_MAX: usize = 8 << 20;

/// Why a forwarded part cannot be read. The link is closed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ForwardError {
    /// It is not protobuf.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The request in it is refused as a whole.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There are not as many numbers or epochs as messages, or the numbers do not ascend.
    #[error("numbers that do not fit the messages")]
    Indices,
}

const TAG_MESSAGES: u8 = 1 << 3 | 2;

/// A part of a request, framed. `push` holds the entries of the part only.
#[must_use]
pub fn encode(part: u64, request: &[u8], push: &Push) -> Bytes {
    let options = PushRequest {
        acks: match push.acks {
            Acks::Committed => Acks::Committed.into(),
            Acks::Leader => Acks::Leader.into(),
            Acks::None => Acks::None.into(),
        },
        producer_id: push.producer.0,
        sequence: push.sequence.0,
        want_positions: push.want_positions,
        producer_epoch: push.producer_epoch.0,
        messages: Vec::new(),
    };
    let bytes: usize = push.entries.iter().map(|entry| entry.message.len as usize + 6).sum();
    let mut encoded = BytesMut::with_capacity(bytes + options.encoded_len());
    for entry in &push.entries {
        let message = entry.message.of(request);
        encoded.put_u8(TAG_MESSAGES);
        // Only a buffer without room makes these fail, and a `BytesMut` grows.
        let _ = prost::encode_length_delimiter(message.len(), &mut encoded);
        encoded.put_slice(message);
    }
    let _ = options.encode(&mut encoded);
    let indices = push.entries.iter().map(|entry| entry.index).collect();
    let epochs = push.epochs.iter().map(|epoch| epoch.0).collect();
    crate::frame::encode(&Forward { part, push: encoded.freeze(), indices, epochs })
}

/// A part that has arrived: its name, its request, and the scan of it, numbered as where it comes from.
///
/// # Errors
/// See [`ForwardError`].
pub fn decode(bytes: Bytes) -> Result<(u64, Bytes, Push), ForwardError> {
    let forward = Forward::decode(bytes).map_err(|error| ForwardError::Malformed(error.to_string()))?;
    // Whoever forwarded it has applied its own limit.
    let mut push = scan_push(&forward.push, usize::MAX).map_err(|(code, reason)| Refusal::new(code, reason))?;
    if !push.rejected.is_empty() || forward.indices.len() != push.entries.len() {
        return Err(ForwardError::Indices);
    }
    if !forward.indices.is_sorted_by(|one, next| one < next) {
        return Err(ForwardError::Indices);
    }
    if ![0, push.entries.len()].contains(&forward.epochs.len()) {
        return Err(ForwardError::Indices);
    }
    for (entry, index) in push.entries.iter_mut().zip(&forward.indices) {
        entry.index = *index;
    }
    push.epochs = forward.epochs.into_iter().map(Epoch).collect();
    Ok((forward.part, forward.push, push))
}

/// What became of a part.
///
/// # Errors
/// [`ForwardError::Malformed`].
pub fn decode_outcome(bytes: Bytes) -> Result<Forwarded, ForwardError> {
    Forwarded::decode(bytes).map_err(|error| ForwardError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::Deframer;
    use crate::v1::Message;

    proptest! {
        #[test]
        fn part_arrives_as_it_left(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..40), keep in any::<u64>()) {
            let message = |payload: &Vec<u8>| Message { key: "k".into(), payload: payload.clone().into(), ..Message::default() };
            let request = PushRequest {
                messages: payloads.iter().map(message).collect(),
                producer_id: 7,
                sequence: 100,
                want_positions: true,
                acks: Acks::Leader.into(),
                producer_epoch: 90,
            };
            let request = request.encode_to_vec();
            let mut push = scan_push(&request, usize::MAX).unwrap();
            push.entries.retain(|entry| keep >> (entry.index % 64) & 1 == 1);
            push.epochs = push.entries.iter().map(|entry| Epoch(u64::from(entry.index))).collect();
            let mut deframer = Deframer::new(FORWARD_BYTES_MAX);
            deframer.push(encode(9, &request, &push));
            let (part, bytes, arrived) = decode(deframer.next_message().unwrap().unwrap()).unwrap();
            prop_assert_eq!(part, 9);
            prop_assert_eq!(arrived.entries.len(), push.entries.len());
            for (one, other) in push.entries.iter().zip(&arrived.entries) {
                prop_assert_eq!((one.index, one.token, one.crc32), (other.index, other.token, other.crc32));
                prop_assert_eq!(one.message.of(&request), other.message.of(&bytes));
            }
            prop_assert_eq!(&arrived.epochs, &push.epochs);
            prop_assert_eq!((arrived.producer, arrived.sequence, arrived.acks), (push.producer, push.sequence, push.acks));
            prop_assert_eq!(arrived.producer_epoch, push.producer_epoch);
        }

        #[test]
        fn garbage_is_an_error_or_a_part(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(bytes.clone().into());
            let _ = decode_outcome(bytes.into());
        }
    }

    #[test]
    fn numbers_have_to_fit() {
        let request = PushRequest { messages: vec![Message::default()], ..PushRequest::default() }.encode_to_vec();
        for indices in [vec![], vec![1, 2]] {
            let forward = Forward { part: 1, push: request.clone().into(), indices, epochs: Vec::new() };
            assert_eq!(decode(forward.encode_to_vec().into()), Err(ForwardError::Indices));
        }
    }
}
