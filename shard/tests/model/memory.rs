//! The memory budget, and what becomes of readers that get in its way.

use broky_proto::v1::{self, start::Start};
use bytes::Bytes;

use crate::log::payload;
use crate::world::{MEMORY_BYTES, MESSAGE_BYTES_MAX, World};

const BLOCK_BYTES_MAX: usize = 256 << 10;
/// More than an arena of the smallest budget holds.
const LARGE_BYTES: usize = 380 << 10;

fn everything(start: Start) -> v1::Open {
    let start = Some(v1::Start { start: Some(start) });
    v1::Open { patterns: vec![Bytes::from_static(b"*")], start, ..v1::Open::default() }
}

fn live() -> v1::Open {
    everything(Start::Live(v1::Live {}))
}

/// A world whose memory has been written to more than once.
fn full(shards: u16) -> World {
    let mut world = World::new(shards, 16, BLOCK_BYTES_MAX);
    world.flood(u64::from(shards) * 160, 200_000);
    world
}

/// Pushes one request of `messages` messages and flushes.
fn push(world: &mut World, messages: u64, payload_bytes: usize) {
    let number = world.pushed.len() as u64;
    let message = |at| v1::Message { payload: payload(number + at, payload_bytes), ..v1::Message::default() };
    world.push(v1::PushRequest { messages: (0..messages).map(message).collect(), ..v1::PushRequest::default() });
    for shard in 0..world.shards.len() {
        world.store(shard);
        world.flush(shard);
    }
}

#[test]
fn full_memory_keeps_a_history() {
    for shards in 1..=3 {
        let world = full(shards);
        (0..world.shards.len()).for_each(|shard| world.check_history(shard));
    }
}

#[test]
fn request_that_needs_an_arena_of_its_own_costs_only_its_size() {
    const { assert!(LARGE_BYTES > MEMORY_BYTES / 64 && LARGE_BYTES < MESSAGE_BYTES_MAX) };
    for messages in [1, 10] {
        let mut world = full(1);
        for _ in 0..8 {
            push(&mut world, messages, LARGE_BYTES);
            world.check_history(0);
        }
        push(&mut world, 1, 10);
        world.check_history(0);
    }
}

#[test]
fn reader_that_keeps_up_misses_nothing_however_large_requests_are() {
    for shards in 1..=2 {
        let mut world = full(shards);
        let reader = world.open(usize::from(shards) - 1, live());
        world.readers[reader].keeps_up = true;
        for round in 0..100 {
            push(&mut world, 1 + round % 9, LARGE_BYTES * usize::try_from(round % 3).unwrap() / 2);
        }
        world.settle();
        assert_eq!(world.readers[reader].missed, 0);
    }
}

#[test]
fn stalled_reader_that_holds_little_is_skipped_and_not_cut() {
    let mut world = World::new(1, 16, BLOCK_BYTES_MAX);
    let stalled = world.open(0, live());
    world.hold(stalled);
    world.flood(1, 200_000);
    world.hold(stalled);
    world.flood(300, 200_000);
    assert_eq!(world.cut, []);
    assert!(world.shards[0].pinned_bytes() > 0, "what it holds is counted");
    world.check_history(0);
    world.held.clear();
    world.settle();
    assert!(world.readers[stalled].missed > 0);
}

/// Opens readers that stall one after the other, each with three arenas in its transport.
fn stall(world: &mut World, readers: usize) -> Vec<usize> {
    let mut stalled = Vec::new();
    for _ in 0..readers {
        let reader = world.open(0, live());
        world.poll(reader, 1);
        world.flood(3, 200_000);
        (0..3).for_each(|_| world.hold(reader));
        stalled.push(reader);
    }
    stalled
}

#[test]
fn stalled_readers_that_hold_much_are_cut_once_each() {
    let mut world = World::new(1, 16, BLOCK_BYTES_MAX);
    let stalled = stall(&mut world, 30);
    world.flood(100, 200_000);
    assert!((1..stalled.len()).contains(&world.cut.len()), "{} were cut off", world.cut.len());
    assert_eq!(world.shards[0].delivery_stats().slow_ended, world.cut.len() as u64);
    assert!(world.cut.is_sorted(), "those that hold the oldest go first: {:?}", world.cut);
    // One arena more makes the difference between enough and too much.
    assert!(world.shards[0].pinned_bytes() <= MEMORY_BYTES / 4 + MEMORY_BYTES / 64);
    world.check_history(0);
}

#[test]
fn stalled_readers_of_another_shard_are_cut_too() {
    let mut world = World::new(2, 16, BLOCK_BYTES_MAX);
    for _ in 0..60 {
        let reader = world.open(1, live());
        world.poll(reader, 1);
        world.flood(4, 200_000);
        (0..4).for_each(|_| world.hold(reader));
    }
    world.flood(400, 200_000);
    assert!(!world.cut.is_empty(), "nobody was cut off");
    assert!(world.readers.iter().all(|reader| reader.shard == 1), "all of them read at shard 1");
    for shard in &world.shards {
        assert!(shard.pinned_bytes() <= MEMORY_BYTES / 2, "{} bytes are pinned", shard.pinned_bytes());
    }
}

#[test]
fn reader_whose_transport_asks_for_more_is_not_cut() {
    let mut world = World::new(1, 16, BLOCK_BYTES_MAX);
    let rare = world.open(0, v1::Open { patterns: vec![Bytes::new()], ..live() });
    let waits_for_credit = world.open(0, v1::Open { credit: 1, ..live() });
    push(&mut world, 1, 200_000);
    for reader in [rare, waits_for_credit] {
        while world.poll(reader, 1) {}
        assert_eq!(world.readers[reader].received, 1);
    }
    stall(&mut world, 30);
    world.flood(100, 200_000);
    assert!(!world.cut.is_empty());
    assert!(!world.cut.contains(&rare) && !world.cut.contains(&waits_for_credit), "{:?}", world.cut);
}

#[test]
fn copy_in_a_transport_pins_nothing() {
    let mut world = World::new(1, 16, BLOCK_BYTES_MAX);
    let copied = world.open(0, v1::Open { patterns: vec![Bytes::from_static(b"a*")], ..live() });
    world.poll(copied, 1);
    let message = |key| v1::Message { key: Bytes::from_static(key), ..v1::Message::default() };
    let messages = vec![message(b"a"), message(b"b")];
    world.push(v1::PushRequest { messages, ..v1::PushRequest::default() });
    world.store(0);
    world.flush(0);
    world.hold(copied);
    stall(&mut world, 30);
    world.flood(100, 200_000);
    assert!(!world.cut.is_empty() && !world.cut.contains(&copied), "{:?}", world.cut);
}

#[test]
fn oversized_arena_in_a_transport_is_counted() {
    let mut world = full(1);
    let stalled = world.open(0, live());
    world.poll(stalled, 1);
    push(&mut world, 10, LARGE_BYTES);
    world.hold(stalled);
    world.flood(100, 200_000);
    assert!(world.shards[0].pinned_bytes() >= 10 * LARGE_BYTES);
    world.held.clear();
    world.flood(100, 200_000);
    assert_eq!(world.shards[0].pinned_bytes(), 0);
    world.check_history(0);
}

#[test]
fn reader_that_keeps_up_is_served_while_others_stall_at_another_shard() {
    let mut world = World::new(2, 16, BLOCK_BYTES_MAX);
    let keeper = world.open(0, live());
    world.readers[keeper].keeps_up = true;
    let mut pushed = 0;
    for _ in 0..40 {
        let reader = world.open(1, live());
        world.poll(reader, 1);
        for _ in 0..3 {
            // The empty key is of vbucket 0: all is stored by shard 0, while shard 1 serves those that stall.
            push(&mut world, 1, 200_000);
            pushed += 1;
        }
        (0..3).for_each(|_| world.hold(reader));
    }
    assert!(!world.cut.contains(&keeper), "nobody that holds nothing is cut");
    assert_eq!(world.readers[keeper].received, pushed);
}
