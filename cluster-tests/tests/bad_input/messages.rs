//! Requests whose bytes no encoder would write: a broken message is rejected alone, a broken request is refused whole.

use broky_cluster_tests::node::TestNode;
use broky_cluster_tests::wire::{FIXED32, FIXED64, GROUP, LEN, VARINT, Wire};
use broky_cluster_tests::with_one_and_three_workers;
use broky_proto::v1::{Delivery, ErrorCode, Open, OutcomeKind, Start, SubscribeRequest, start, subscribe_request};

use crate::victim::{Victim, assert_committed, push_bytes, request};

with_one_and_three_workers!(
    broken_message_is_rejected_alone,
    broken_request_is_refused_whole,
    forged_fields_are_overridden,
    last_value_of_a_field_wins,
    unknown_fields_are_carried,
    key_of_the_longest_length_is_stored,
    limit_of_a_message_can_be_raised,
    sequences_up_to_the_last_are_stored,
);

/// Messages that are broken, and why.
fn broken_messages() -> Vec<(&'static str, Wire, ErrorCode, &'static str)> {
    let malformed = |name, message, words| (name, message, ErrorCode::Malformed, words);
    let too_long = |name, message| (name, message, ErrorCode::LimitExceeded, "4097 bytes; the limit is 4096");
    let header = |name: &[u8]| Wire::new().bytes(6, Wire::new().bytes(1, name).bytes(2, "value"));
    vec![
        malformed("garbage", Wire::new().raw(b"\xff\xff\xff"), ""),
        malformed("a field beyond the end", Wire::new().tag(2, LEN).number(9).raw(b"short"), "beyond the end"),
        malformed("a length of u64::MAX", Wire::new().tag(2, LEN).number(u64::MAX), "beyond the end"),
        malformed("an endless varint", Wire::new().tag(8, VARINT).raw(&[0x80; 11]), "varint"),
        malformed("a key that is a number", Wire::new().varint(2, 7), "wire type"),
        malformed("a ttl that is bytes", Wire::new().bytes(8, "x"), "wire type"),
        malformed("a timestamp of four bytes", Wire::new().fixed32(4, 7), "wire type"),
        malformed("a checksum of eight bytes", Wire::new().fixed64(11, 7), "wire type"),
        malformed("a group", Wire::new().tag(20, GROUP).tag(20, GROUP + 1), "wire type"),
        malformed("field number 0", Wire::new().varint(0, 1), "field number"),
        malformed("a field number beyond 2^29", Wire::new().number(1 << 32).number(1), "field number"),
        malformed("a header name that is not UTF-8", header(b"\xff\xfe"), "UTF-8"),
        malformed("a broken header", Wire::new().bytes(6, b"\xff"), ""),
        malformed("a uid of one byte", Wire::new().bytes(5, "x"), "uid has 1 bytes"),
        malformed("a uid of 19 bytes", Wire::new().bytes(5, [7; 19]), "uid has 19 bytes"),
        malformed("a uid of 21 bytes", Wire::new().bytes(5, [7; 21]), "uid has 21 bytes"),
        too_long("a long key", Wire::new().bytes(2, [b'k'; 4097])),
        too_long("a long key_partition", Wire::new().bytes(1, [b'k'; 4097])),
        (
            "a message over the limit",
            Wire::new().bytes(3, vec![0; (1 << 20) - 3]),
            ErrorCode::MessageTooLarge,
            "the limit is 1048576",
        ),
    ]
}

async fn broken_message_is_rejected_alone(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let neighbour = Wire::new().bytes(2, "neighbour");
    let broken = broken_messages();
    for (name, message, code, words) in &broken {
        let request = Wire::new().bytes(1, &neighbour).bytes(1, message).bytes(1, &neighbour);
        let response = push_bytes(&mut connection, request).await.unwrap();
        let [first, rejected, last] = &response.outcomes[..] else { panic!("{name}: {response:?}") };
        assert_eq!((first.kind(), first.first, first.count), (OutcomeKind::Committed, 0, 1), "{name}");
        assert_eq!((last.kind(), last.first, last.count), (OutcomeKind::Committed, 2, 1), "{name}");
        assert_eq!((rejected.kind(), rejected.first, rejected.count), (OutcomeKind::Rejected, 1, 1), "{name}");
        assert_eq!((rejected.code(), rejected.retry), (*code, false), "{name}");
        assert!(rejected.reason.contains(words), "{name}: {}", rejected.reason);
    }
    // All broken ones in one request: nothing but rejections.
    let small = broken.iter().filter(|(_, message, _, _)| message.0.len() < 10_000);
    let all = small.fold(Wire::new(), |request, (_, message, _, _)| request.bytes(1, message));
    assert_committed(&push_bytes(&mut connection, all).await.unwrap(), 0);
    drop(connection);
    victim.stored("neighbour", 2 * broken.len() as u64).await;
    assert_eq!(victim.metrics().await.get("broky_push_messages_total"), 2.0 * broken.len() as f64);
    victim.assert_unharmed().await;
}

async fn broken_request_is_refused_whole(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let good = || request(&["k"]);
    for (name, broken, words) in [
        ("garbage", Wire::new().raw(b"\xff\xff\xff\xff"), ""),
        ("garbage behind a message", good().raw(b"\xff"), ""),
        ("a message beyond the end", good().tag(1, LEN).number(100).raw(b"x"), "beyond the end"),
        ("messages that are a number", good().varint(1, 1), "wire type"),
        ("acks that are bytes", good().bytes(2, "x"), "wire type"),
        ("a producer_id of four bytes", good().tag(3, FIXED32).raw(&[1; 4]), "wire type"),
        ("a producer_epoch of eight bytes", good().tag(6, FIXED64).raw(&[1; 8]), "wire type"),
        ("a producer_id cut short", good().tag(3, FIXED64).raw(&[1; 7]), "beyond the end"),
        ("a group", good().tag(9, GROUP).tag(9, GROUP + 1), "wire type"),
        ("a producer without a sequence", good().fixed64(3, 7), "producer_id without sequence"),
        ("sequences beyond the last", request(&["k", "k"]).fixed64(3, 7).varint(4, u64::MAX), "sequence"),
    ] {
        let end = push_bytes(&mut connection, broken).await.err();
        let end = end.unwrap_or_else(|| panic!("{name} was taken"));
        end.assert_refused(ErrorCode::Malformed, words);
    }
    assert_eq!(victim.metrics().await.get("broky_push_messages_total"), 0.0);
    drop(connection);
    victim.assert_unharmed().await;
}

/// What a standard decoder makes of the first message of this key.
async fn decoded(victim: &Victim, key: &str) -> broky_proto::v1::Message {
    let mut connection = victim.connect().await;
    let mut call = connection.call("Subscribe").await;
    let start = Some(Start { start: Some(start::Start::Earliest(broky_proto::v1::Earliest {})) });
    let open = Open { patterns: vec![key.to_owned().into()], start, ..Open::default() };
    call.send_message(&SubscribeRequest { request: Some(subscribe_request::Request::Open(open)) });
    loop {
        let delivery: Delivery = call.next().await.unwrap();
        if let Some(message) = delivery.messages.into_iter().next() {
            return message;
        }
    }
}

async fn forged_fields_are_overridden(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let forged = |message: Wire| {
        message.fixed32(11, 1).fixed64(12, 2).varint(13, 3_000).varint(14, 4_000_000_000).fixed64(15, 5_000)
    };
    // Also in front of what they are computed from.
    let message = forged(forged(Wire::new()).bytes(2, "forged").bytes(3, "payload"));
    let sent = Wire::new().bytes(1, message).varint(5, 1);
    let response = push_bytes(&mut connection, sent).await.unwrap();
    assert_committed(&response, 1);
    drop(connection);
    let position = &response.positions[0];
    let got = decoded(&victim, "forged").await;
    assert_eq!(got.crc32, crc32fast::hash(b"forgedpayload"));
    assert_eq!((got.vbucket, got.offset, got.epoch), (position.vbucket, position.offset, position.epoch));
    assert!(got.ts_broker > 1_700_000_000_000_000_000, "{}", got.ts_broker);
    victim.assert_unharmed().await;
}

async fn last_value_of_a_field_wins(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let twice = Wire::new()
        .bytes(2, "first")
        .bytes(1, "partition a")
        .bytes(3, "payload a")
        .fixed64(4, 1)
        // Too long, but overridden.
        .bytes(5, [7; 3])
        .varint(7, 1)
        .varint(8, 1)
        .bytes(6, Wire::new().bytes(1, "name").bytes(2, "a"))
        .bytes(2, "twice")
        .bytes(1, "partition b")
        .bytes(3, "payload b")
        .fixed64(4, 2)
        .bytes(5, [9; 20])
        .varint(7, 0)
        .varint(8, 2)
        .bytes(6, Wire::new().bytes(1, "name").bytes(2, "b"));
    // The request's own numbers as well: without the last values it would be refused, or stored twice.
    let sent = Wire::new().fixed64(3, 5).varint(4, 0).bytes(1, &twice).varint(5, 1).fixed64(3, 6).varint(4, 1);
    for duplicate in [false, true] {
        let response = push_bytes(&mut connection, &sent).await.unwrap();
        assert_committed(&response, 1);
        assert_eq!(response.outcomes[0].duplicate, duplicate);
    }
    drop(connection);
    let got = decoded(&victim, "twice").await;
    assert_eq!(
        (&got.key[..], &got.key_partition[..], &got.payload[..]),
        (&b"twice"[..], &b"partition b"[..], &b"payload b"[..])
    );
    assert_eq!((got.ts_producer, &got.uid[..], got.retain, got.ttl_ms), (2, &[9; 20][..], false, 2));
    assert_eq!(&got.headers["name"][..], b"b");
    // The one that counts decides where it goes and what its checksum is.
    assert_eq!(got.crc32, crc32fast::hash(b"partition btwicepayload b"));
    assert_eq!(got.vbucket, crc32fast::hash(b"partition b") >> 22);
    victim.assert_unharmed().await;
}

async fn unknown_fields_are_carried(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let message = Wire::new().bytes(2, "unknown").bytes(9, "reserved").varint(1000, 7).fixed64(16, 1).fixed32(17, 2);
    let sent = Wire::new().bytes(99, "x").varint(98, 3).bytes(1, message).varint(2, 77);
    assert_committed(&push_bytes(&mut connection, sent).await.unwrap(), 1);
    drop(connection);
    assert_eq!(&decoded(&victim, "unknown").await.key[..], b"unknown");
    victim.assert_unharmed().await;
}

async fn key_of_the_longest_length_is_stored(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let message = Wire::new().bytes(2, [b'k'; 4096]).bytes(1, [b'p'; 4096]);
    assert_committed(&push_bytes(&mut connection, Wire::new().bytes(1, message)).await.unwrap(), 1);
    // As long as a message may be, to the byte.
    let longest = Wire::new().bytes(3, vec![0; (1 << 20) - 4]);
    assert_eq!(longest.0.len(), 1 << 20);
    assert_committed(&push_bytes(&mut connection, Wire::new().bytes(1, longest)).await.unwrap(), 1);
    drop(connection);
    victim.stored("kkkk*", 1).await;
    victim.assert_unharmed().await;
}

async fn limit_of_a_message_can_be_raised(workers: u16) {
    let victim = Victim::of(TestNode::start_with(workers, |config| config.message_bytes_max = 2 << 20)).await;
    let mut connection = victim.connect().await;
    let message = |payload: usize| Wire::new().bytes(2, "raised").bytes(3, vec![0; payload]);
    let overhead = message(1 << 20).0.len() - (1 << 20);
    let longest = Wire::new().bytes(1, message((2 << 20) - overhead));
    assert_committed(&push_bytes(&mut connection, longest).await.unwrap(), 1);
    let longer = Wire::new().bytes(1, message((2 << 20) - overhead + 1));
    let response = push_bytes(&mut connection, longer).await.unwrap();
    let [rejected] = &response.outcomes[..] else { panic!("{response:?}") };
    assert_eq!((rejected.kind(), rejected.code()), (OutcomeKind::Rejected, ErrorCode::MessageTooLarge));
    assert!(rejected.reason.contains("2097153 bytes; the limit is 2097152"), "{}", rejected.reason);
    drop(connection);
    victim.stored("raised", 1).await;
    victim.assert_unharmed().await;
}

async fn sequences_up_to_the_last_are_stored(workers: u16) {
    let victim = Victim::start(workers).await;
    let mut connection = victim.connect().await;
    let sent = request(&["last", "last"]).fixed64(3, 7).varint(4, u64::MAX - 2);
    for duplicate in [false, true] {
        let response = push_bytes(&mut connection, &sent).await.unwrap();
        assert_committed(&response, 2);
        assert!(response.outcomes.iter().all(|outcome| outcome.duplicate == duplicate), "{response:?}");
    }
    drop(connection);
    victim.stored("last", 2).await;
    victim.assert_unharmed().await;
}
