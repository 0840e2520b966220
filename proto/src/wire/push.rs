//! Scanning a `PushRequest` in place.

use super::message::{Fields, Span};
use super::reader::{FIXED32, FIXED64, LEN, Reader, VARINT, WireError, expect_type};
use crate::id::{Epoch, Numbered, ProducerEpoch, ProducerId, Sequence, Token};
use crate::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, KEY_BYTES_MAX};
use crate::v1::{Acks, ErrorCode};

/// One valid message of a scanned request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Index of the message in its request.
    pub index: u32,
    /// Where the message's bytes lie in the request.
    pub message: Span,
    /// Where the key lies in the message.
    pub key: Span,
    /// Its position on the token ring.
    pub token: Token,
    /// The checksum the broker assigns.
    pub crc32: u32,
}

/// One message of a scanned request that cannot be stored; its neighbours can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// Index of the message in its request.
    pub index: u32,
    /// Why, as a stable code.
    pub code: ErrorCode,
    /// Why, in words.
    pub reason: String,
}

/// A scanned `PushRequest`: every message is in `entries` or in `rejected`, both ascending by index.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Push {
    /// Messages that can be stored.
    pub entries: Vec<Entry>,
    /// Where the request was routed by: for each entry, the epoch in which its vbucket's leader is to store it. Empty:
    /// any.
    pub epochs: Vec<Epoch>,
    /// Messages that cannot.
    pub rejected: Vec<Rejected>,
    /// When to answer.
    pub acks: Acks,
    /// Zero: no deduplication.
    pub producer: ProducerId,
    /// Sequence of the first message.
    pub sequence: Sequence,
    /// Whether positions are wanted in the answer.
    pub want_positions: bool,
    /// The producer's epoch.
    pub producer_epoch: ProducerEpoch,
}

/// Scans an encoded `PushRequest`. A message that is malformed or longer than `message_bytes_max` is rejected alone; a
/// request whose own framing is broken, that has too many messages or too many bytes is refused whole.
///
/// # Errors
/// The code and the words of the refusal. Nothing of the request may be stored then.
pub fn scan_push(request: &[u8], message_bytes_max: usize) -> Result<Push, (ErrorCode, String)> {
    if request.len() > BATCH_BYTES_MAX {
        let reason = format!("the request has {} bytes; the limit is {BATCH_BYTES_MAX}", request.len());
        return Err((ErrorCode::BatchTooLarge, reason));
    }
    let mut push = Push::default();
    let mut reader = Reader::new(request);
    let mut count = 0_u32;
    while !reader.is_done() {
        let (field, wire_type) = reader.tag().map_err(malformed)?;
        if field == 1 {
            expect_type(field, wire_type, LEN).map_err(malformed)?;
            let message = reader.delimited().map_err(malformed)?;
            if count as usize == BATCH_MESSAGES_MAX {
                let reason = format!("the request has more than {BATCH_MESSAGES_MAX} messages");
                return Err((ErrorCode::BatchTooLarge, reason));
            }
            push.take(count, message, reader.position() - message.len(), message_bytes_max);
            count += 1;
        } else {
            push.read_option(field, wire_type, &mut reader).map_err(malformed)?;
        }
    }
    if push.producer.0 != 0 && push.sequence.0 == 0 {
        return Err((ErrorCode::Malformed, "producer_id without sequence: the first sequence is 1".to_owned()));
    }
    if push.producer.0 != 0 && push.sequence.0.checked_add(u64::from(count)).is_none() {
        let reason = format!("{count} messages from sequence {} on go beyond the last sequence", push.sequence.0);
        return Err((ErrorCode::Malformed, reason));
    }
    Ok(push)
}

fn malformed(error: WireError) -> (ErrorCode, String) {
    (ErrorCode::Malformed, error.to_string())
}

impl Push {
    #[inline]
    fn take(&mut self, index: u32, message: &[u8], start: usize, message_bytes_max: usize) {
        if message.len() > message_bytes_max {
            let reason = format!("the message has {} bytes; the limit is {message_bytes_max}", message.len());
            self.rejected.push(Rejected { index, code: ErrorCode::MessageTooLarge, reason });
            return;
        }
        let fields = match Fields::scan(message) {
            Ok(fields) => fields,
            Err(error) => {
                self.rejected.push(Rejected { index, code: ErrorCode::Malformed, reason: error.to_string() });
                return;
            }
        };
        let key_len = fields.key.len.max(fields.key_partition.len) as usize;
        if key_len > KEY_BYTES_MAX {
            let reason = format!("a key or key_partition has {key_len} bytes; the limit is {KEY_BYTES_MAX}");
            self.rejected.push(Rejected { index, code: ErrorCode::LimitExceeded, reason });
            return;
        }
        let (token, crc32) = fields.token_and_checksum(message);
        #[expect(clippy::cast_possible_truncation, reason = "positions inside a request of at most BATCH_BYTES_MAX")]
        let message = Span { start: start as u32, len: message.len() as u32 };
        self.entries.push(Entry { index, message, key: fields.key, token: Token(token), crc32 });
    }

    fn read_option(&mut self, field: u32, wire_type: u8, reader: &mut Reader<'_>) -> Result<(), WireError> {
        match field {
            2 => {
                expect_type(field, wire_type, VARINT)?;
                // An enum value this version does not know asks for something stronger than it can read: committed.
                let acks = i32::try_from(reader.varint()?).unwrap_or_default();
                self.acks = Acks::try_from(acks).unwrap_or_default();
            }
            3 => {
                expect_type(field, wire_type, FIXED64)?;
                self.producer = ProducerId(reader.fixed64()?);
            }
            4 => {
                expect_type(field, wire_type, VARINT)?;
                self.sequence = Sequence(reader.varint()?);
            }
            5 => {
                expect_type(field, wire_type, VARINT)?;
                self.want_positions = reader.varint()? != 0;
            }
            6 => {
                expect_type(field, wire_type, FIXED32)?;
                self.producer_epoch = ProducerEpoch(reader.fixed32()?);
            }
            _ => reader.skip(field, wire_type)?,
        }
        Ok(())
    }

    /// How a message is named; `None` when it is not to be deduplicated.
    #[inline]
    #[must_use]
    pub fn message_of(&self, index: u32) -> Option<Numbered> {
        let Self { producer, producer_epoch: epoch, .. } = *self;
        let sequence = self.sequence.plus(u64::from(index));
        (producer.0 != 0).then_some(Numbered { producer, epoch, sequence })
    }

    /// How many messages the request holds.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.entries.len() + self.rejected.len()
    }
}
