//! Encoding of pushed messages, straight into the batch they travel in.
//!
//! In protobuf a `PushRequest` is the concatenation of its fields, so a batch is built by appending one `messages`
//! field after the other ([`Encoder::append`]) and, when it is sent, the request's options behind them
//! ([`append_options`]). Nothing is allocated per message. `encode::tests` holds it against prost.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

use broky_proto::id::{ProducerEpoch, ProducerId, Sequence, Token};
use broky_proto::v1::Acks;

use crate::message::{MessageRef, UID_BYTES};

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const FIXED32: u8 = 5;
const LEN: u8 = 2;

const TAG_MESSAGES: u8 = 1 << 3 | LEN;
const TAG_KEY_PARTITION: u8 = 1 << 3 | LEN;
const TAG_KEY: u8 = 2 << 3 | LEN;
const TAG_PAYLOAD: u8 = 3 << 3 | LEN;
const TAG_TS_PRODUCER: u8 = 4 << 3 | FIXED64;
const TAG_UID: u8 = 5 << 3 | LEN;
const TAG_HEADERS: u8 = 6 << 3 | LEN;
const TAG_RETAIN: u8 = 7 << 3 | VARINT;
const TAG_TTL_MS: u8 = 8 << 3 | VARINT;
const TAG_HEADER_NAME: u8 = 1 << 3 | LEN;
const TAG_HEADER_VALUE: u8 = 2 << 3 | LEN;

const TAG_ACKS: u8 = 2 << 3 | VARINT;
const TAG_PRODUCER_ID: u8 = 3 << 3 | FIXED64;
const TAG_SEQUENCE: u8 = 4 << 3 | VARINT;
const TAG_WANT_POSITIONS: u8 = 5 << 3 | VARINT;
const TAG_PRODUCER_EPOCH: u8 = 6 << 3 | FIXED32;

/// Most bytes [`append_options`] writes.
pub(crate) const OPTIONS_BYTES_MAX: usize = 2 + 9 + 11 + 2 + 5;

/// A message whose encoded length is known.
#[derive(Clone, Copy)]
pub(crate) struct Encoder<'a> {
    message: MessageRef<'a>,
    len: usize,
}

impl<'a> Encoder<'a> {
    #[inline]
    pub(crate) fn new(message: MessageRef<'a>) -> Self {
        let mut len = delimited_len(message.key_partition.len())
            + delimited_len(message.key.len())
            + delimited_len(message.payload.len());
        if message.ts_producer != 0 {
            len += 9;
        }
        if message.uid.is_some() {
            len += 2 + UID_BYTES;
        }
        for (name, value) in message.headers {
            let entry = header_len(name, value);
            len += 1 + varint_len(entry) + entry;
        }
        if message.retain {
            len += 2;
        }
        if message.ttl_ms != 0 {
            len += 1 + varint_len(message.ttl_ms as usize);
        }
        Self { message, len }
    }

    /// The message's token: what decides its vbucket.
    #[inline]
    pub(crate) fn token(&self) -> Token {
        Token::of(self.message.key_partition, self.message.key)
    }

    /// Bytes of the encoded message: what the node's message limit is about.
    #[inline]
    pub(crate) fn message_len(&self) -> usize {
        self.len
    }

    /// Bytes that [`Encoder::append`] writes.
    #[inline]
    pub(crate) fn field_len(&self) -> usize {
        1 + varint_len(self.len) + self.len
    }

    /// Appends the message as one `messages` field of a `PushRequest`.
    #[inline]
    pub(crate) fn append(&self, out: &mut Vec<u8>) {
        let message = &self.message;
        out.reserve(self.field_len());
        out.push(TAG_MESSAGES);
        put_varint(out, self.len as u64);
        put_bytes(out, TAG_KEY_PARTITION, message.key_partition);
        put_bytes(out, TAG_KEY, message.key);
        put_bytes(out, TAG_PAYLOAD, message.payload);
        self.append_rare(out);
    }

    #[inline]
    fn append_rare(&self, out: &mut Vec<u8>) {
        let message = &self.message;
        if message.ts_producer != 0 {
            out.push(TAG_TS_PRODUCER);
            out.extend_from_slice(&message.ts_producer.to_le_bytes());
        }
        if let Some(uid) = message.uid {
            put_bytes(out, TAG_UID, uid);
        }
        for (name, value) in message.headers {
            out.push(TAG_HEADERS);
            put_varint(out, header_len(name, value) as u64);
            put_bytes(out, TAG_HEADER_NAME, name.as_bytes());
            put_bytes(out, TAG_HEADER_VALUE, value);
        }
        if message.retain {
            out.extend_from_slice(&[TAG_RETAIN, 1]);
        }
        if message.ttl_ms != 0 {
            out.push(TAG_TTL_MS);
            put_varint(out, u64::from(message.ttl_ms));
        }
    }
}

/// The options of a `PushRequest`, behind its messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) acks: Acks,
    pub(crate) producer: ProducerId,
    pub(crate) sequence: Sequence,
    pub(crate) want_positions: bool,
    pub(crate) epoch: ProducerEpoch,
}

/// Appends fields 2 to 6 of a `PushRequest`.
pub(crate) fn append_options(out: &mut Vec<u8>, options: Options) {
    let acks = match options.acks {
        Acks::Committed => 0,
        Acks::Leader => 1,
        Acks::None => 2,
    };
    if acks != 0 {
        out.extend_from_slice(&[TAG_ACKS, acks]);
    }
    if options.producer.0 != 0 {
        out.push(TAG_PRODUCER_ID);
        out.extend_from_slice(&options.producer.0.to_le_bytes());
        out.push(TAG_SEQUENCE);
        put_varint(out, options.sequence.0);
    }
    if options.want_positions {
        out.extend_from_slice(&[TAG_WANT_POSITIONS, 1]);
    }
    // The last field, and as long as any other of its kind: a retry has another.
    if options.epoch.0 != 0 {
        out.push(TAG_PRODUCER_EPOCH);
        out.extend_from_slice(&options.epoch.0.to_le_bytes());
    }
}

/// Replaces the epoch that a request ends with.
pub(crate) fn set_epoch(request: &mut [u8], epoch: ProducerEpoch) {
    debug_assert_eq!(request.iter().nth_back(4), Some(&TAG_PRODUCER_EPOCH), "it has one already");
    if let Some(last) = request.last_chunk_mut() {
        *last = epoch.0.to_le_bytes();
    }
}

/// Bytes of a delimited field with a tag of one byte; nothing when it is empty.
#[inline]
fn delimited_len(len: usize) -> usize {
    if len == 0 { 0 } else { 1 + varint_len(len) + len }
}

fn header_len(name: &str, value: &[u8]) -> usize {
    delimited_len(name.len()) + delimited_len(value.len())
}

#[inline]
fn varint_len(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[inline]
fn put_bytes(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    if value.is_empty() {
        return;
    }
    out.push(tag);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use broky_proto::v1;
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::message::{AsMessage, Message};

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            prop::collection::vec(any::<u8>(), 120..140),
            prop::collection::vec(any::<u8>(), 16_380..16_390),
        ]
    }

    prop_compose! {
        fn message()(
            key_partition in bytes(),
            key in bytes(),
            payload in bytes(),
            ts_producer in prop_oneof![Just(0), any::<i64>()],
            uid in any::<Option<[u8; UID_BYTES]>>(),
            headers in prop::collection::hash_map(".{0,12}", bytes(), 0..3),
            retain in any::<bool>(),
            ttl_ms in prop_oneof![Just(0), any::<u32>()],
        ) -> v1::Message {
            v1::Message {
                key_partition: key_partition.into(),
                key: key.into(),
                payload: payload.into(),
                ts_producer,
                uid: uid.map(|uid| Bytes::copy_from_slice(&uid)).unwrap_or_default(),
                headers: headers.into_iter().map(|(name, value)| (name, value.into())).collect(),
                retain,
                ttl_ms,
                ..v1::Message::default()
            }
        }
    }

    fn ours(message: &v1::Message) -> Message {
        let mut ours = Message::new(message.key.clone(), message.payload.clone())
            .key_partition(message.key_partition.clone())
            .ts_producer(message.ts_producer)
            .retain(message.retain)
            .ttl_ms(message.ttl_ms);
        if let Ok(uid) = message.uid.as_ref().try_into() {
            ours = ours.uid(uid);
        }
        message.headers.iter().fold(ours, |ours, (name, value)| ours.header(name.clone(), value.clone()))
    }

    proptest! {
        #[test]
        fn prost_reads_what_is_encoded(
            messages in prop::collection::vec(message(), 0..4),
            acks in 0..3_i32,
            producer_id in 1..u64::MAX,
            sequence in any::<u64>(),
            want_positions in any::<bool>(),
            (producer_epoch, later) in (any::<u32>(), 1..u32::MAX),
        ) {
            let mut out = Vec::new();
            for message in &messages {
                let owned = ours(message);
                let encoder = Encoder::new(owned.as_message());
                let before = out.len();
                encoder.append(&mut out);
                prop_assert_eq!(out.len() - before, encoder.field_len());
                prop_assert_eq!(encoder.message_len(), message.encoded_len());
            }
            let before = out.len();
            append_options(&mut out, Options {
                acks: Acks::try_from(acks).unwrap(),
                producer: ProducerId(producer_id),
                sequence: Sequence(sequence),
                want_positions,
                epoch: ProducerEpoch(producer_epoch),
            });
            prop_assert!(out.len() - before <= OPTIONS_BYTES_MAX);
            let mut expected = v1::PushRequest { messages, acks, producer_id, sequence, want_positions, producer_epoch };
            prop_assert_eq!(&v1::PushRequest::decode(&out[..]).unwrap(), &expected);
            if producer_epoch != 0 {
                set_epoch(&mut out, ProducerEpoch(later));
                expected.producer_epoch = later;
                prop_assert_eq!(v1::PushRequest::decode(&out[..]).unwrap(), expected);
            }
        }
    }

    #[test]
    fn broker_scan_accepts_what_is_encoded() {
        let message = Message::new("k", "v").key_partition("kp").header("h", "x").with_uid();
        let mut out = Vec::new();
        Encoder::new(message.as_message()).append(&mut out);
        let push = broky_proto::wire::scan_push(&out, 1024).unwrap();
        assert_eq!((push.entries.len(), push.rejected.len()), (1, 0));
    }

    #[test]
    fn header_of_the_same_name_is_replaced() {
        let message = Message::new("k", "v").header("h", "old").header("h", "new");
        let mut out = Vec::new();
        Encoder::new(message.as_message()).append(&mut out);
        let request = v1::PushRequest::decode(&out[..]).unwrap();
        assert_eq!(request.messages[0].headers, HashMap::from([("h".to_owned(), Bytes::from("new"))]));
    }
}
