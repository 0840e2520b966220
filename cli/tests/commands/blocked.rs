//! `sub` whose output nobody reads: signals end it all the same, and its position is of what was written.

use std::fs;
use std::time::{Duration, Instant};

use crate::node::ServedNode;
use crate::position::{folder, lines};
use crate::process::{Process, Signal, until};

/// A pipe holds twice that, less what small writes leave unused of its pages.
const PIPE_BYTES_MIN: u64 = 32 << 10;
/// A pipe that is written to does not stay the same for as long.
const STILL: Duration = Duration::from_millis(300);
/// A signal has to end it within two seconds; the rest is for a slow machine.
const SOON: Duration = Duration::from_secs(8);
/// As lines these take several times what a pipe and the subscriber's buffer hold.
const MANY: u32 = 200_000;

fn wait_until_blocked(reader: &Process) {
    let mut last = (0, Instant::now());
    until("the pipe is full", || {
        let unread = reader.unread_bytes();
        if unread != last.0 {
            last = (unread, Instant::now());
        }
        (unread >= PIPE_BYTES_MIN && last.1.elapsed() > STILL).then_some(())
    });
}

/// Signals it and waits for its end, without reading what it writes.
#[track_caller]
fn assert_ends(mut reader: Process, signal: Signal, code: i32) -> Vec<u8> {
    let started = Instant::now();
    reader.signal(signal);
    until("the subscriber ends", || (!reader.is_running()).then_some(()));
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    reader.wait().with_code(code).stdout
}

#[test]
fn signals_end_a_subscriber_whose_output_blocks() {
    let node = ServedNode::start();
    let readers = [node.subscribe(&[]), node.subscribe(&["--count", "150000"])];
    node.push_lines("k", &lines(0..MANY));
    readers.iter().for_each(wait_until_blocked);
    let [first, second] = readers;
    assert_ends(first, Signal::TERM, 0);
    assert_ends(second, Signal::INT, 130);
    node.stop();
}

#[test]
fn subscriber_that_has_enough_and_is_blocked_ends_on_a_signal() {
    let node = ServedNode::start();
    // All of it is in the subscriber's hands, and more than the pipe holds.
    let reader = node.subscribe(&["--count", "20000"]);
    node.push_lines("k", &lines(0..20_000));
    until("everything is delivered", || (node.status()["delivered_messages"] == 20_000).then_some(()));
    wait_until_blocked(&reader);
    assert_ends(reader, Signal::TERM, 0);
    node.stop();
}

#[test]
fn position_of_a_blocked_subscriber_is_that_of_what_it_wrote() {
    let node = ServedNode::start();
    let file = folder("blocked").join("position");
    let from = file.to_str().unwrap();
    let first = node.subscribe(&["--from", from]);
    node.push_lines("k", &lines(0..MANY));
    wait_until_blocked(&first);
    let written = assert_ends(first, Signal::TERM, 0);
    let whole = u32::try_from(written.iter().filter(|byte| **byte == b'\n').count()).unwrap();
    let mut second = node.run(&["sub", "--from", from]);
    let next: u32 = second.read_line().trim().parse().unwrap();
    assert!(next <= whole, "lines {whole} to {next} were skipped");
    let rest = lines(next + 1..MANY);
    assert!(second.read(rest.len()) == rest, "the rest differs");
    second.signal(Signal::TERM);
    second.wait().with_code(0);
    node.stop();
}

#[test]
fn position_is_there_once_the_subscription_stands() {
    let node = ServedNode::start();
    let file = folder("confirmed").join("position");
    let from = file.to_str().unwrap();
    let first = node.subscribe(&["--from", from]);
    until("the position is written", || file.exists().then_some(()));
    first.signal(Signal::KILL);
    first.wait();
    // It began live, and goes on there.
    node.push_lines("k", &lines(0..10));
    let second = node.run(&["sub", "--from", from, "--count", "10"]);
    assert_eq!(second.wait().with_code(0).stdout, lines(0..10));
    node.stop();
}

#[test]
fn killed_reader_goes_on_near_where_it_stopped() {
    let node = ServedNode::start();
    let file = folder("killed").join("position");
    let from = file.to_str().unwrap();
    let mut first = node.subscribe(&["--from", from]);
    let confirmed = until("the position is written", || fs::read(&file).ok());
    node.push_lines("k", &lines(0..10));
    assert_eq!(first.read(lines(0..10).len()), lines(0..10));
    // Nothing more comes: the position is written all the same.
    until("the position moves", || (fs::read(&file).unwrap() != confirmed).then_some(()));
    first.signal(Signal::KILL);
    first.wait();
    node.push_lines("k", &lines(10..20));
    let mut second = node.run(&["sub", "--from", from]);
    // Lines that came in two deliveries may be covered in part only.
    let next: u32 = second.read_line().trim().parse().unwrap();
    assert!((1..=10).contains(&next), "{next}");
    let rest = lines(next + 1..20);
    assert_eq!(second.read(rest.len()), rest);
    second.signal(Signal::TERM);
    second.wait().with_code(0);
    node.stop();
}
