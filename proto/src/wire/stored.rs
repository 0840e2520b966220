//! Stored messages: a client's bytes with the broker-assigned fields behind them, as they stand in blocks, in
//! replication and in deliveries.

use bytes::{BufMut, BytesMut};

use super::message::{Fields, Span};
use super::reader::{LEN, Reader, WireError, expect_type};
use crate::id::{Epoch, Offset, VBucketId};

const TAG_MESSAGES: u8 = 1 << 3 | LEN;
const TAG_CRC32: u8 = 11 << 3 | 5;
const TAG_TS_BROKER: u8 = 12 << 3 | 1;
const TAG_EPOCH: u8 = 13 << 3;
const TAG_VBUCKET: u8 = 14 << 3;
const TAG_OFFSET: u8 = 15 << 3 | 1;

/// Bytes a message's own tag and length take at the most.
const HEAD_MAX: usize = 1 + 10;
/// Bytes the broker-assigned fields take at the most.
const ASSIGNED_MAX: usize = 5 + 9 + 11 + 4 + 9;
/// Both, for a message below 4 GiB.
const OVERHEAD_MAX: usize = 1 + 5 + ASSIGNED_MAX;

/// Bytes of a varint.
fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Bytes put together before they are appended in one go.
struct Scratch<const LEN_MAX: usize> {
    bytes: [u8; LEN_MAX],
    len: usize,
}

impl<const LEN_MAX: usize> Scratch<LEN_MAX> {
    const EMPTY: Self = Self { bytes: [0; LEN_MAX], len: 0 };

    #[inline]
    fn put<const LEN: usize>(&mut self, bytes: [u8; LEN]) {
        if let Some(place) = self.bytes.get_mut(self.len..self.len + LEN) {
            place.copy_from_slice(&bytes);
            self.len += LEN;
        }
    }

    #[inline]
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            #[expect(clippy::cast_possible_truncation, reason = "seven bits and the continuation mark")]
            self.put([value as u8 | 0x80]);
            value >>= 7;
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 0x80")]
        self.put([value as u8]);
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// What the broker assigns to a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Over key_partition, key and payload.
    pub crc32: u32,
    /// Unix nanoseconds.
    pub ts_broker: i64,
    /// Leader epoch under which it is stored.
    pub epoch: Epoch,
    /// Its vbucket.
    pub vbucket: VBucketId,
    /// Its position in the vbucket's log.
    pub offset: Offset,
}

/// Bytes that [`append_stored`] writes for a message of `message_len` bytes, tag and length included.
#[must_use]
pub fn stored_len(message_len: usize, stored: &Stored) -> usize {
    let body = message_len + assigned_len(stored);
    1 + varint_len(body as u64) + body
}

/// The most bytes [`append_stored`] can write for a message of `message_len` bytes.
#[must_use]
pub fn stored_len_max(message_len: usize) -> usize {
    message_len + OVERHEAD_MAX
}

fn assigned_len(stored: &Stored) -> usize {
    5 + 9 + 1 + varint_len(stored.epoch.0) + 1 + varint_len(u64::from(stored.vbucket.0)) + 9
}

/// Appends a client's encoded message to a block, with the broker-assigned fields behind its own.
///
/// Returns where the message (without its tag and length) stands in `block`.
#[inline]
pub fn append_stored(block: &mut BytesMut, message: &[u8], stored: &Stored) -> Span {
    let mut assigned = Scratch::<ASSIGNED_MAX>::EMPTY;
    assigned.put([TAG_CRC32]);
    assigned.put(stored.crc32.to_le_bytes());
    assigned.put([TAG_TS_BROKER]);
    assigned.put(stored.ts_broker.to_le_bytes());
    assigned.put([TAG_EPOCH]);
    assigned.put_varint(stored.epoch.0);
    assigned.put([TAG_VBUCKET]);
    assigned.put_varint(u64::from(stored.vbucket.0));
    assigned.put([TAG_OFFSET]);
    assigned.put(stored.offset.0.to_le_bytes());
    let body = message.len() + assigned.len;
    let mut head = Scratch::<HEAD_MAX>::EMPTY;
    head.put([TAG_MESSAGES]);
    head.put_varint(body as u64);
    block.put_slice(head.as_slice());
    let start = block.len();
    block.put_slice(message);
    block.put_slice(assigned.as_slice());
    #[expect(clippy::cast_possible_truncation, reason = "a block holds one batch and is far below u32::MAX bytes")]
    Span { start: start as u32, len: body as u32 }
}

/// Walks the messages of a block or of a delivery's `messages`: for each, where it stands in `block`, and its bytes.
///
/// Ends at the first byte that is not a `messages` field: with an error, unless it is the end.
pub fn stored_messages(block: &[u8]) -> impl Iterator<Item = Result<(Span, &[u8]), WireError>> {
    let mut reader = Reader::new(block);
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || reader.is_done() {
            return None;
        }
        let next = next_message(&mut reader);
        failed = next.is_err();
        Some(next)
    })
}

#[inline]
fn next_message<'a>(reader: &mut Reader<'a>) -> Result<(Span, &'a [u8]), WireError> {
    let (field, wire_type) = reader.tag()?;
    if field != 1 {
        return Err(WireError::FieldNumber(u64::from(field)));
    }
    expect_type(field, wire_type, LEN)?;
    let message = reader.delimited()?;
    let start = reader.position() - message.len();
    let span = |value: usize| u32::try_from(value).map_err(|_| WireError::TooLong(value));
    Ok((Span { start: span(start)?, len: span(message.len())? }, message))
}

/// Scans an encoded `Delivery`: hands each message's place, bytes and fields to `on_message`, and returns the rest of
/// the delivery, which is small, as bytes to decode.
///
/// # Errors
/// The first violation found in the delivery or in one of its messages.
pub fn scan_delivery<'a>(
    delivery: &'a [u8],
    mut on_message: impl FnMut(Span, &'a [u8], Fields),
) -> Result<Vec<u8>, WireError> {
    let mut rest = Vec::new();
    let mut reader = Reader::new(delivery);
    while !reader.is_done() {
        let before = reader.position();
        let (field, wire_type) = reader.tag()?;
        if field == 1 {
            expect_type(field, wire_type, LEN)?;
            let message = reader.delimited()?;
            let start = reader.position() - message.len();
            let span = |value: usize| u32::try_from(value).map_err(|_| WireError::TooLong(value));
            on_message(Span { start: span(start)?, len: span(message.len())? }, message, Fields::scan(message)?);
        } else {
            reader.skip(field, wire_type)?;
            rest.extend_from_slice(delivery.get(before..reader.position()).unwrap_or_default());
        }
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_len_is_what_is_appended() {
        for (epoch, vbucket, len) in [(1, 0, 0), (127, 127, 90), (128, 128, 100), (u64::MAX, u16::MAX, 20_000)] {
            let message = vec![0_u8; len];
            let stored = Stored {
                crc32: 1,
                ts_broker: -1,
                epoch: Epoch(epoch),
                vbucket: VBucketId(vbucket),
                offset: Offset(u64::MAX),
            };
            let mut block = BytesMut::new();
            let span = append_stored(&mut block, &message, &stored);
            assert_eq!(block.len(), stored_len(len, &stored));
            assert!(block.len() <= stored_len_max(len));
            assert_eq!(span.start as usize + span.len as usize, block.len());
        }
    }
}
