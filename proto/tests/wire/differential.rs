//! The in-place scan against prost, which stands for every generated client. The fuzz targets use this file as well.

use broky_proto::id::Token;
use broky_proto::limits::{BATCH_MESSAGES_MAX, KEY_BYTES_MAX, UID_BYTES};
use broky_proto::v1::{self, Acks, ErrorCode};
use broky_proto::wire::{Fields, Push, Rejected, scan_delivery, scan_push, stored_messages};
use prost::Message as _;

/// Fails unless the scan says of a request what prost says. Stricter it is only by the rules of the protocol.
pub(crate) fn check_request(request: &[u8], message_bytes_max: usize) {
    let decoded = v1::PushRequest::decode(request);
    match scan_push(request, message_bytes_max) {
        Ok(push) => check_accepted(request, message_bytes_max, &push, decoded.ok()),
        Err((code, reason)) => {
            let Ok(decoded) = decoded else { return };
            let is_nameless = decoded.producer_id != 0 && decoded.sequence == 0;
            let count = decoded.messages.len() as u64;
            let is_beyond = decoded.producer_id != 0 && decoded.sequence.checked_add(count).is_none();
            let is_too_many = code == ErrorCode::BatchTooLarge && decoded.messages.len() > BATCH_MESSAGES_MAX;
            assert!(
                is_nameless || is_beyond || is_too_many || is_strict(&reason),
                "refused what prost decodes: {reason}"
            );
        }
    }
}

fn check_accepted(request: &[u8], message_bytes_max: usize, push: &Push, decoded: Option<v1::PushRequest>) {
    let mut indices: Vec<u32> = push.entries.iter().map(|entry| entry.index).collect();
    assert!(indices.is_sorted(), "entries ascend");
    indices.extend(push.rejected.iter().map(|rejected| rejected.index));
    indices.sort_unstable();
    assert!(indices.iter().copied().eq((0..).take(push.messages())), "each message is an entry or rejected");
    for entry in &push.entries {
        let bytes = entry.message.of(request);
        let message = v1::Message::decode(bytes).unwrap();
        let content = [&message.key_partition[..], &message.key, &message.payload].concat();
        assert!(bytes.len() <= message_bytes_max);
        assert_eq!(entry.key.of(bytes), message.key);
        assert_eq!(entry.token, Token::of(&message.key_partition, &message.key));
        assert_eq!(entry.crc32, crc32fast::hash(&content));
        check_message(bytes);
    }
    let Some(decoded) = decoded else {
        assert!(!push.rejected.is_empty(), "prost fails although no message is rejected");
        return;
    };
    assert_eq!(decoded.messages.len(), push.messages());
    assert_eq!((decoded.producer_id, decoded.sequence), (push.producer.0, push.sequence.0));
    assert_eq!((decoded.want_positions, decoded.producer_epoch), (push.want_positions, push.producer_epoch.0));
    // Where the two differ, a number outside of an int32 was given: the scan then asks for the most.
    assert!(decoded.acks() == push.acks || push.acks == Acks::Committed);
    for entry in &push.entries {
        let message = v1::Message::decode(entry.message.of(request)).unwrap();
        assert!(decoded.messages[entry.index as usize] == message);
    }
    for Rejected { index, code, reason } in &push.rejected {
        let message = &decoded.messages[*index as usize];
        let is_long = message.key.len().max(message.key_partition.len()) > KEY_BYTES_MAX;
        let is_justified = match code {
            ErrorCode::MessageTooLarge => true,
            ErrorCode::LimitExceeded => is_long,
            ErrorCode::Malformed => ![0, UID_BYTES].contains(&message.uid.len()) || is_strict(reason),
            other => panic!("{other:?} is no reason to reject a message"),
        };
        assert!(is_justified, "rejected what prost decodes: {reason}");
    }
}

/// Fails unless the scan of a message finds what prost finds, or refuses it by a rule of the protocol.
pub(crate) fn check_message(bytes: &[u8]) {
    let decoded = v1::Message::decode(bytes);
    let fields = match Fields::scan(bytes) {
        Ok(fields) => fields,
        Err(error) => {
            let is_uid = |message: &v1::Message| ![0, UID_BYTES].contains(&message.uid.len());
            let is_justified = decoded.as_ref().map_or(true, is_uid) || is_strict(&error.to_string());
            assert!(is_justified, "refused what prost decodes: {error}");
            return;
        }
    };
    let message = decoded.unwrap();
    assert_eq!(fields.key_partition.of(bytes), message.key_partition);
    assert_eq!(fields.key.of(bytes), message.key);
    assert_eq!(fields.payload.of(bytes), message.payload);
    assert_eq!(fields.uid.of(bytes), message.uid);
    assert_eq!((fields.ts_producer, fields.ts_broker), (message.ts_producer, message.ts_broker));
    assert_eq!((fields.retain, fields.ttl_ms), (message.retain, message.ttl_ms));
    assert_eq!((fields.crc32, fields.epoch), (message.crc32, message.epoch));
    assert_eq!((fields.vbucket, fields.offset), (message.vbucket, message.offset));
    // A name that comes twice is one header to prost.
    assert!(fields.headers as usize >= message.headers.len());
    assert_eq!(fields.headers == 0, message.headers.is_empty());
}

/// Fails unless the scan of a delivery finds what prost finds, or refuses it.
pub(crate) fn check_delivery(delivery: &[u8]) {
    let mut messages = Vec::new();
    let on_message = |span: broky_proto::wire::Span, bytes: &[u8], fields: Fields| {
        assert_eq!(span.of(delivery), bytes);
        messages.push((v1::Message::decode(bytes).unwrap(), fields.offset));
    };
    let Ok(rest) = scan_delivery(delivery, on_message) else { return };
    assert!(messages.iter().all(|(message, offset)| message.offset == *offset));
    let Ok(mut decoded) = v1::Delivery::decode(delivery) else {
        assert!(v1::Delivery::decode(&rest[..]).is_err(), "prost fails at none of the parts");
        return;
    };
    assert!(std::mem::take(&mut decoded.messages).into_iter().eq(messages.into_iter().map(|(message, _)| message)));
    assert!(v1::Delivery::decode(&rest[..]).unwrap() == decoded);
    if rest.is_empty() {
        assert!(stored_messages(delivery).all(|message| message.is_ok()));
    }
}

/// Groups are refused wherever they are: protobuf has given them up, and not every generated client reads them. And
/// prost reads a map whatever its wire type, which no other implementation does.
fn is_strict(reason: &str) -> bool {
    reason.ends_with("has wire type 3") || reason.ends_with("has wire type 4") || reason.starts_with("field 6 has wire")
}
