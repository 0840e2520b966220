use broky_proto::id::{Epoch, Lineage, VBucketId as Id};
use broky_proto::v1::{Confirmed, Cursor, Delivery, GapReason, Message, Resume};
use broky_proto::wire::{Stored, append_stored};
use bytes::{BufMut as _, BytesMut};
use prost::Message as _;

use super::*;

fn confirmed() -> Confirmed {
    Confirmed { cluster_id: vec![1; 16].into(), map_version: 1, vbuckets: 4, node_incarnation: 1 }
}

/// A message of vbucket 0 unless said otherwise; its payload is its offset.
fn message(vbucket: u16, offset: u64, is_damaged: bool) -> Bytes {
    let message = Message { key: "k".into(), payload: offset.to_string().into(), ..Message::default() }.encode_to_vec();
    let crc32 = crc(&message) ^ u32::from(is_damaged);
    let stored = Stored { crc32, ts_broker: 1, epoch: Epoch(2), vbucket: Id(vbucket), offset: Offset(offset) };
    let mut block = BytesMut::new();
    append_stored(&mut block, &message, &stored);
    block.freeze()
}

fn crc(message: &[u8]) -> u32 {
    broky_proto::wire::Fields::scan(message).unwrap().checksum(message)
}

fn delivery(messages: impl IntoIterator<Item = Bytes>, rest: Delivery) -> Bytes {
    let mut bytes = BytesMut::new();
    messages.into_iter().for_each(|message| bytes.put(message));
    bytes.put(&rest.encode_to_vec()[..]);
    bytes.freeze()
}

fn run(offsets: std::ops::Range<u64>) -> impl Iterator<Item = Bytes> {
    offsets.map(|offset| message(0, offset, false))
}

fn cursor(offset: u64) -> Cursor {
    Cursor { vbucket: 0, lineage: 1, epoch: 2, offset }
}

/// Confirmed, with vbucket 0 at `offset`.
fn intake(offset: u64) -> Intake {
    let mut intake = Intake::new(Cursors::new(true, Vec::new()));
    let rest = Delivery { confirmed: Some(confirmed()), cursors: vec![cursor(offset)], ..Delivery::default() };
    assert!(intake.handle_delivery(delivery([], rest)).unwrap().batch.is_none());
    intake
}

fn offsets(batch: &Batch) -> Vec<u64> {
    batch.messages().map(|message| message.offset().0).collect()
}

fn position(resume: Option<Resume>) -> u64 {
    resume.unwrap().cursors[0].offset
}

#[test]
fn messages_come_out_as_they_were_stored() {
    let mut intake = intake(0);
    let taken = intake.handle_delivery(delivery(run(0..3), Delivery::default())).unwrap();
    let batch = taken.batch.unwrap();
    let seen: Vec<_> = batch.messages().map(|message| (message.key(), message.payload(), message.offset().0)).collect();
    assert_eq!(seen, [(&b"k"[..], &b"0"[..], 0), (b"k", b"1", 1), (b"k", b"2", 2)]);
    assert_eq!((taken.messages, taken.error), (3, None));
}

#[test]
fn delivery_before_the_confirmation_is_refused() {
    let mut intake = Intake::new(Cursors::new(true, Vec::new()));
    assert!(intake.handle_delivery(delivery(run(0..1), Delivery::default())).is_err());
    let mut intake = self::intake(0);
    intake.handle_open();
    assert!(intake.handle_delivery(delivery(run(0..1), Delivery::default())).is_err());
}

#[test]
fn repeated_messages_are_dropped_and_counted_against_the_credit() {
    let mut intake = intake(0);
    intake.handle_delivery(delivery(run(0..3), Delivery::default())).unwrap();
    let taken = intake.handle_delivery(delivery(run(1..5), Delivery::default())).unwrap();
    assert_eq!(offsets(&taken.batch.unwrap()), [3, 4]);
    assert_eq!(taken.messages, 4);
}

#[test]
fn damaged_message_ends_what_is_given_out() {
    let mut intake = intake(0);
    let messages = [message(0, 0, false), message(0, 1, true), message(0, 2, false)];
    let rest = Delivery { cursors: vec![cursor(3)], ..Delivery::default() };
    let taken = intake.handle_delivery(delivery(messages, rest)).unwrap();
    assert_eq!(offsets(&taken.batch.unwrap()), [0]);
    assert!(matches!(taken.error, Some(SubscribeError::Corrupted { offset: Offset(1), .. })));
    assert_eq!(position(intake.positions(None)), 1, "the position stands before the damaged message");
}

#[test]
fn refused_delivery_leaves_the_position() {
    let mut intake = intake(5);
    let unknown = [message(0, 5, false), message(4, 0, false)];
    assert!(intake.handle_delivery(delivery(unknown, Delivery::default())).is_err());
    let bad = Delivery { cursors: vec![cursor(9), Cursor { vbucket: 4, ..cursor(1) }], ..Delivery::default() };
    assert!(intake.handle_delivery(delivery(run(5..6), bad)).is_err());
    let mut cut = delivery(run(5..7), Delivery::default());
    cut.truncate(cut.len() - 1);
    assert!(intake.handle_delivery(cut).is_err());
    assert_eq!(position(intake.positions(None)), 5);
}

#[test]
fn gaps_count_before_messages_and_cursors_after() {
    let mut intake = intake(0);
    let gap = v1::Gap { vbucket: 0, lineage: 1, from: 0, to: 10, reason: GapReason::Slow.into() };
    let rest = Delivery { gaps: vec![gap], cursors: vec![cursor(12)], ..Delivery::default() };
    let batch = intake.handle_delivery(delivery(run(10..12), rest)).unwrap().batch.unwrap();
    assert_eq!(offsets(&batch), [10, 11]);
    let gaps: Vec<_> = batch.gaps().map(|gap| (gap.from.0, gap.to.0, gap.lineage, gap.reason)).collect();
    assert_eq!(gaps, [(0, 10, Lineage(1), GapReason::Slow)]);
    assert_eq!((intake.cursors.skipped, position(intake.positions(None))), (0, 12));
}

#[test]
fn position_within_a_batch_stands_before_what_is_left() {
    let mut intake = intake(0);
    let gap = v1::Gap { vbucket: 0, lineage: 1, from: 0, to: 10, reason: GapReason::Slow.into() };
    let rest = Delivery { gaps: vec![gap], ..Delivery::default() };
    let batch = intake.handle_delivery(delivery(run(10..13), rest)).unwrap().batch.unwrap();
    assert_eq!(position(intake.positions(Some((&batch, 0, 0)))), 0);
    assert_eq!(position(intake.positions(Some((&batch, 1, 0)))), 10);
    assert_eq!(position(intake.positions(Some((&batch, 1, 2)))), 12);
    assert_eq!(position(intake.positions(Some((&batch, 1, 3)))), 13);
}

#[test]
fn lists_of_entries_are_used_again() {
    let mut intake = intake(0);
    let mut places = std::collections::HashSet::new();
    for offset in 0..50 {
        let taken = intake.handle_delivery(delivery(run(offset..offset + 1), Delivery::default())).unwrap();
        places.insert(taken.batch.unwrap().entries.as_ptr());
    }
    assert_eq!(places.len(), 1);
}
