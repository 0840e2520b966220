//! The in-place scan against prost: the same checks as in `proto/tests/wire`, for bytes a fuzzer finds.

#![no_main]

#[path = "../../proto/tests/wire/differential.rs"]
mod differential;

use broky_proto::id::{Epoch, Offset, VBucketId};
use broky_proto::wire::{Fields, Stored, append_stored, stored_len, stored_messages};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The first byte sets the limit, so that both sides of it are met.
    let Some((limit, bytes)) = data.split_first() else { return };
    differential::check_request(bytes, usize::from(*limit) * 8);
    differential::check_message(bytes);
    differential::check_delivery(bytes);
    if Fields::scan(bytes).is_ok() {
        check_stored(bytes);
    }
});

/// What was accepted can be stored, and reads back with the assigned fields.
fn check_stored(message: &[u8]) {
    let epoch = Epoch(u64::MAX >> (message.len() % 64));
    let stored = Stored { crc32: 1, ts_broker: -2, epoch, vbucket: VBucketId(3), offset: Offset(4) };
    let mut block = BytesMut::new();
    append_stored(&mut block, message, &stored);
    assert_eq!(block.len(), stored_len(message.len(), &stored));
    differential::check_delivery(&block);
    let (_, read) = stored_messages(&block).next().unwrap().unwrap();
    let fields = Fields::scan(read).unwrap();
    assert_eq!((fields.crc32, fields.ts_broker, fields.epoch), (1, -2, epoch.0));
    assert_eq!((fields.vbucket, fields.offset), (3, 4));
}
