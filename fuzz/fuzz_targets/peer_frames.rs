//! Frames of peers: whatever decodes encodes to a frame that means the same, and what is in it can be looked into.

#![no_main]

use broky_proto::data_v1::{Replicated, to_follower};
use broky_proto::forward;
use broky_proto::frame::{self, PREFIX_LEN};
use broky_proto::id::VBucketCount;
use broky_proto::replicate::{
    decode_to_follower, decode_to_leader, encode_block, encode_to_follower, encode_to_leader,
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(told) = decode_to_leader(bytes.clone()) {
        assert_eq!(decode_to_leader(message(&encode_to_leader(told.clone()))), Ok(told));
    }
    if let Ok(told) = decode_to_follower(bytes.clone()) {
        if let to_follower::Frame::Block(block) = &told {
            check_block(block);
        }
        assert_eq!(decode_to_follower(message(&encode_to_follower(told.clone()))), Ok(told));
    }
    if let Ok(outcome) = forward::decode_outcome(bytes.clone()) {
        assert_eq!(forward::decode_outcome(message(&frame::encode(&outcome))), Ok(outcome));
    }
    check_forward(bytes);
});

/// What a frame holds behind its prefix.
fn message(framed: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&framed[PREFIX_LEN..])
}

/// The block as its leader would send it, list by list.
fn check_block(block: &Replicated) {
    let (runs, origins) = (block.runs(VBucketCount::DEFAULT), block.origins());
    let announced = crc32fast::hash(&block.messages);
    assert_eq!(block.check().is_ok(), block.crc32 == announced);
    let (Ok(runs), Ok(origins)) = (runs, origins) else { return };
    let mut meta = Replicated { messages: Bytes::new(), ..block.clone() };
    for list in [&mut meta.leader_epochs, &mut meta.epochs, &mut meta.firsts] {
        list.clear();
    }
    for list in [&mut meta.origin_producers, &mut meta.origin_sequences] {
        list.clear();
    }
    for list in [&mut meta.vbuckets, &mut meta.counts, &mut meta.origin_firsts, &mut meta.origin_counts] {
        list.clear();
    }
    runs.into_iter().for_each(|run| meta.push_run(run));
    origins.into_iter().for_each(|origin| meta.push_origin(origin));
    let mut sent = encode_block(&meta, block.messages.len()).to_vec();
    sent.extend_from_slice(&block.messages);
    assert_eq!(decode_to_follower(message(&sent)), Ok(to_follower::Frame::Block(Box::new(block.clone()))));
}

fn check_forward(bytes: Bytes) {
    let Ok((part, request, push)) = forward::decode(bytes) else { return };
    let again = forward::decode(message(&forward::encode(part, &request, &push)));
    let (same_part, same_request, same) = again.expect("what was accepted is accepted again");
    assert_eq!((same_part, &same.epochs), (part, &push.epochs));
    assert_eq!((same.producer, same.sequence, same.acks), (push.producer, push.sequence, push.acks));
    assert_eq!((same.want_positions, same.entries.len()), (push.want_positions, push.entries.len()));
    assert_eq!(same.producer_epoch, push.producer_epoch);
    for (one, other) in push.entries.iter().zip(&same.entries) {
        assert_eq!((one.index, one.token, one.crc32), (other.index, other.token, other.crc32));
        assert_eq!(one.message.of(&request), other.message.of(&same_request));
    }
}
