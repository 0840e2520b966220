//! What is read in place and extended in place, against what prost makes of it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail")]

mod differential;

use broky_proto::id::{ClusterId, Epoch, Offset, VBucketId};
use broky_proto::resume::{decode_token, encode_token};
use broky_proto::v1;
use broky_proto::wire::{Fields, Stored, append_stored, scan_push};
use bytes::{Bytes, BytesMut};
use differential::{check_delivery, check_message, check_request};
use proptest::collection::{hash_map, vec};
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

const MESSAGE_BYTES_MAX: usize = 1 << 20;

fn bytes(len_max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..len_max).prop_map(Bytes::from)
}

/// A message as a client may send it, forged broker-assigned fields and bad uids included.
fn message() -> impl Strategy<Value = v1::Message> {
    let uid = prop_oneof![3 => Just(Bytes::new()), 3 => Just(Bytes::from_static(&[7; 20])), 1 => bytes(24)];
    let content = (bytes(12), bytes(12), bytes(40), uid, hash_map(".{0,4}", bytes(4), 0..3));
    let options = (any::<i64>(), any::<bool>(), any::<u32>());
    let forged = (any::<u32>(), any::<i64>(), any::<u64>(), any::<u32>(), any::<u64>());
    (content, options, option::of(forged)).prop_map(|(content, options, forged)| {
        let (key_partition, key, payload, uid, headers) = content;
        let (ts_producer, retain, ttl_ms) = options;
        let (crc32, ts_broker, epoch, vbucket, offset) = forged.unwrap_or_default();
        v1::Message {
            key_partition,
            key,
            payload,
            ts_producer,
            uid,
            headers,
            retain,
            ttl_ms,
            crc32,
            ts_broker,
            epoch,
            vbucket,
            offset,
        }
    })
}

fn request() -> impl Strategy<Value = v1::PushRequest> {
    (vec(message(), 0..4), -1..4_i32, any::<u64>(), any::<u64>(), any::<bool>(), any::<u32>()).prop_map(
        |(messages, acks, producer_id, sequence, want_positions, producer_epoch)| v1::PushRequest {
            messages,
            acks,
            producer_id,
            sequence,
            want_positions,
            producer_epoch,
        },
    )
}

fn stored() -> impl Strategy<Value = Stored> {
    (any::<u32>(), any::<i64>(), any::<u64>(), any::<u16>(), any::<u64>()).prop_map(
        |(crc32, ts_broker, epoch, vbucket, offset)| Stored {
            crc32,
            ts_broker,
            epoch: Epoch(epoch),
            vbucket: VBucketId(vbucket),
            offset: Offset(offset),
        },
    )
}

/// Bytes that look like protobuf: mostly valid tags of the fields in use, values and lengths of any kind.
fn protobuf_like() -> impl Strategy<Value = Vec<u8>> {
    let varint = prop_oneof![
        4 => (0..16_u8).prop_map(|byte| vec![byte]),
        1 => any::<u64>().prop_map(|value| {
            let mut out = Vec::new();
            prost::encoding::encode_varint(value, &mut out);
            out
        }),
        // Longer than it needs to be, and longer than it may be.
        1 => (1..12_usize, 0..4_u8).prop_map(|(len, last)| [vec![0x80; len], vec![last]].concat()),
    ];
    let tag = (0..20_u8, 0..8_u8).prop_map(|(field, wire_type)| {
        let mut out = Vec::new();
        prost::encoding::encode_varint(u64::from(field) << 3 | u64::from(wire_type), &mut out);
        out
    });
    let bytes = vec(any::<u8>(), 0..9);
    vec(prop_oneof![3 => tag, 2 => varint, 2 => bytes], 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn valid_requests_are_scanned_as_prost_decodes_them(request in request()) {
        check_request(&request.encode_to_vec(), MESSAGE_BYTES_MAX);
    }

    #[test]
    fn message_limit_rejects_the_longer_messages_only(request in request(), message_bytes_max in 0..120_usize) {
        let bytes = request.encode_to_vec();
        check_request(&bytes, message_bytes_max);
        if let Ok(push) = scan_push(&bytes, message_bytes_max) {
            let is_long = |index: u32| request.messages[index as usize].encoded_len() > message_bytes_max;
            prop_assert!(!push.entries.iter().any(|entry| is_long(entry.index)));
        }
    }

    #[test]
    fn arbitrary_bytes_are_scanned_as_prost_decodes_them(
        bytes in prop_oneof![protobuf_like(), vec(any::<u8>(), 0..200)],
    ) {
        check_request(&bytes, MESSAGE_BYTES_MAX);
        check_message(&bytes);
        check_delivery(&bytes);
        // The same as the only message of a request.
        let mut request = vec![1 << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut request);
        request.extend(&bytes);
        check_request(&request, MESSAGE_BYTES_MAX);
        check_delivery(&request);
    }

    #[test]
    fn changed_requests_are_scanned_as_prost_decodes_them(
        request in request(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = request.encode_to_vec();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        check_request(&bytes, MESSAGE_BYTES_MAX);
    }

    #[test]
    fn last_value_of_a_field_wins(first in message(), second in message()) {
        let both = [first.encode_to_vec(), second.encode_to_vec()].concat();
        check_message(&both);
        let fields = Fields::scan(&both);
        if !second.key.is_empty() && let Ok(fields) = fields {
            prop_assert_eq!(fields.key.of(&both), second.key);
        }
    }

    #[test]
    fn last_value_of_an_option_wins(first in request(), second in request()) {
        check_request(&[first.encode_to_vec(), second.encode_to_vec()].concat(), MESSAGE_BYTES_MAX);
    }

    #[test]
    fn stored_messages_decode_to_the_clients_fields_and_the_assigned_ones(
        messages in vec((message(), stored()), 0..4),
    ) {
        let mut block = BytesMut::new();
        let mut expected = Vec::new();
        for (message, stored) in messages {
            let encoded = message.encode_to_vec();
            let span = append_stored(&mut block, &encoded, &stored);
            prop_assert_eq!(&span.of(&block)[..encoded.len()], &encoded[..]);
            expected.push(v1::Message {
                crc32: stored.crc32,
                ts_broker: stored.ts_broker,
                epoch: stored.epoch.0,
                vbucket: u32::from(stored.vbucket.0),
                offset: stored.offset.0,
                ..message
            });
        }
        check_delivery(&block);
        prop_assert_eq!(v1::Delivery::decode(block.freeze()).unwrap().messages, expected);
    }

    #[test]
    fn deliveries_are_scanned_as_prost_decodes_them(messages in vec(message(), 0..4), offset in any::<u64>()) {
        let cursor = v1::Cursor { vbucket: 1, lineage: 2, epoch: 3, offset };
        let gap = v1::Gap { to: offset, ..v1::Gap::default() };
        let heartbeat = Some(v1::Heartbeat { map_version: offset });
        let (gaps, cursors) = (vec![gap], vec![cursor]);
        check_delivery(&v1::Delivery { messages, gaps, cursors, heartbeat, confirmed: None }.encode_to_vec());
    }

    #[test]
    fn resume_tokens_round_trip(cluster in any::<[u8; 16]>(), cursors in vec(any::<(u32, u64, u64, u64)>(), 0..6)) {
        let cursor = |(vbucket, lineage, epoch, offset)| v1::Cursor { vbucket, lineage, epoch, offset };
        let cluster_id = ClusterId(cluster).0.to_vec().into();
        let resume = v1::Resume { cluster_id, cursors: cursors.into_iter().map(cursor).collect() };
        prop_assert_eq!(decode_token(&encode_token(&resume)), Ok(resume));
    }

    #[test]
    fn arbitrary_bytes_are_no_token(bytes in vec(any::<u8>(), 0..64)) {
        prop_assert!(decode_token(&bytes).is_err());
        prop_assert!(decode_token(&[&b"BRT\x01"[..], &bytes].concat()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_truncation_and_every_flipped_bit_is_scanned_as_prost_decodes_it(request in request()) {
        let mut bytes = request.encode_to_vec();
        for len in 0..bytes.len() {
            check_request(&bytes[..len], MESSAGE_BYTES_MAX);
        }
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            check_request(&bytes, MESSAGE_BYTES_MAX);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
