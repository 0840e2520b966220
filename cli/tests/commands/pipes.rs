//! Data through pipes: what goes in comes out.

use std::fmt::Write as _;
use std::fs::File;

use crate::node::ServedNode;
use crate::process::{Process, until};

/// Bytes that look random and are the same each time.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut all = Vec::with_capacity(bytes + 8);
    while all.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend(state.to_le_bytes());
    }
    all.truncate(bytes);
    all
}

#[test]
fn lines_round_trip() {
    let node = ServedNode::start();
    let reader = node.subscribe(&["log.*", "--count", "5003"]);
    let mut lines = String::from("first\n\n");
    for number in 0..5000 {
        writeln!(lines, "line {number}").unwrap();
    }
    let input = [lines.as_bytes(), b"not \xff text\n"].concat();
    node.push_lines("log.a", &input);
    assert_eq!(reader.wait().with_code(0).stdout, input);
    node.stop();
}

#[test]
fn last_line_without_an_end_is_a_message() {
    let node = ServedNode::start();
    let reader = node.subscribe(&["k", "--count", "2"]);
    node.push_lines("k", b"one\ntwo");
    assert_eq!(reader.wait().with_code(0).stdout, b"one\ntwo\n");
    node.stop();
}

#[test]
fn line_typed_is_delivered_before_the_input_ends() {
    let node = ServedNode::start();
    let reader = node.subscribe(&["k", "--count", "1"]);
    let mut push = node.run(&["push", "k", "--quiet"]);
    push.write(b"typed\n");
    assert_eq!(reader.wait().with_code(0).stdout, b"typed\n");
    assert!(push.is_running());
    push.close_stdin();
    push.wait().with_code(0);
    node.stop();
}

#[test]
fn raw_bytes_round_trip() {
    let node = ServedNode::start();
    let input = noise(8 << 20);
    // The last block is a short one.
    let blocks = input.len().div_ceil(60 << 10).to_string();
    let reader = node.subscribe(&["file", "--format", "payload", "--count", &blocks]);
    let mut push = node.run(&["push", "file", "--chunk", "raw", "--block-size", "60KiB"]);
    push.write(&input);
    push.close_stdin();
    let summary = push.wait().with_code(0).stderr;
    assert!(summary.contains(&format!("{blocks} committed, 0 rejected, 0 unknown")), "{summary}");
    assert!(reader.wait().with_code(0).stdout == input, "the copy differs");
    node.stop();
}

#[test]
fn count_ends_a_subscription_exactly() {
    let node = ServedNode::start();
    let reader = node.subscribe(&["--count", "3"]);
    node.push_lines("k", b"1\n2\n3\n4\n5\n");
    assert_eq!(reader.wait().with_code(0).stdout, b"1\n2\n3\n");
    node.stop();
}

#[test]
fn count_of_none_ends_at_once() {
    let node = ServedNode::start();
    let reader = node.run(&["sub", "--count", "0"]);
    assert_eq!(reader.wait().with_code(0).stdout, b"");
    node.stop();
}

#[test]
fn earliest_gives_what_was_pushed_before() {
    let node = ServedNode::start();
    node.push_lines("k", b"1\n2\n3\n");
    let reader = node.run(&["sub", "k", "--from", "earliest", "--count", "3"]);
    assert_eq!(reader.wait().with_code(0).stdout, b"1\n2\n3\n");
    node.stop();
}

#[test]
fn only_what_matches_and_is_of_the_partition_is_written() {
    let node = ServedNode::start();
    let reader = node.subscribe(&["a.?", "b.*", "--partition", "p1", "--count", "2"]);
    for (key, partition, line) in
        [("a.1", "p1", "yes"), ("a.12", "p1", "no"), ("a.1", "p2", "no"), ("c", "p1", "no"), ("b.123", "p1", "too")]
    {
        let mut push = node.run(&["push", key, "--partition", partition, "--quiet"]);
        push.write(line.as_bytes());
        push.close_stdin();
        push.wait().with_code(0);
    }
    assert_eq!(reader.wait().with_code(0).stdout, b"yes\ntoo\n");
    node.stop();
}

#[test]
fn message_over_the_limit_is_named_and_the_others_are_committed() {
    let node = ServedNode::start_with(&["--message-max", "1KiB"]);
    let reader = node.subscribe(&["k", "--count", "3"]);
    let mut push = node.run(&["push", "k"]);
    push.write(&[b"one\n", "x".repeat(2048).as_bytes(), b"\ntwo\nthree\n"].concat());
    push.close_stdin();
    let push = push.wait().with_code(1);
    assert!(push.stderr.contains("message 2: rejected (MESSAGE_TOO_LARGE)"), "{}", push.stderr);
    assert!(push.stderr.contains("3 committed, 1 rejected, 0 unknown"), "{}", push.stderr);
    assert_eq!(reader.wait().with_code(0).stdout, b"one\ntwo\nthree\n");
    node.stop();
}

#[test]
fn limit_of_a_message_can_be_raised() {
    let node = ServedNode::start_with(&["--message-max", "3MiB"]);
    let reader = node.subscribe(&["k", "--count", "1"]);
    let line = ["x".repeat(2 << 20).as_bytes(), b"\n"].concat();
    node.push_lines("k", &line);
    assert!(reader.wait().with_code(0).stdout == line, "the line came otherwise");
    node.stop();
}

#[test]
fn message_over_any_limit_is_named_and_the_others_are_committed() {
    let node = ServedNode::start();
    let reader = node.subscribe(&["k", "--count", "2"]);
    let mut push = node.run(&["push", "k"]);
    push.write(&[b"one\n", "x".repeat(5 << 20).as_bytes(), b"\ntwo\n"].concat());
    push.close_stdin();
    let push = push.wait().with_code(1);
    assert!(push.stderr.contains("message 2:") && push.stderr.contains("the limit is"), "{}", push.stderr);
    assert_eq!(reader.wait().with_code(0).stdout, b"one\ntwo\n");
    node.stop();
}

#[test]
fn file_for_stdin_is_pushed_whole() {
    let node = ServedNode::start();
    let lines = include_bytes!("../../../Cargo.lock");
    let count = lines.split(|byte| *byte == b'\n').count() - 1;
    let reader = node.subscribe(&["k", "--count", &count.to_string()]);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock");
    let file = File::open(path).unwrap();
    Process::start_reading(&mut node.command(&["push", "k"]), file.into()).wait().with_code(0);
    assert!(reader.wait().with_code(0).stdout == lines, "the copy differs");
    node.stop();
}

#[test]
fn rate_is_not_exceeded() {
    let node = ServedNode::start();
    let reader = node.subscribe(&["k", "--count", "40"]);
    let started = std::time::Instant::now();
    let mut push = node.run(&["push", "k", "--rate", "100", "--quiet"]);
    push.write("x\n".repeat(40).as_bytes());
    push.close_stdin();
    push.wait().with_code(0);
    assert!(started.elapsed().as_millis() >= 390, "{:?}", started.elapsed());
    reader.wait().with_code(0);
    node.stop();
}

#[test]
fn two_subscribers_get_the_same() {
    let node = ServedNode::start();
    let readers = [node.subscribe(&["--count", "100"]), node.subscribe(&["k", "--count", "100"])];
    let lines = "line\n".repeat(100);
    node.push_lines("k", lines.as_bytes());
    for reader in readers {
        assert_eq!(reader.wait().with_code(0).stdout, lines.as_bytes());
    }
    until("both are gone", || (node.status()["subscriptions"] == 0).then_some(()));
    node.stop();
}
