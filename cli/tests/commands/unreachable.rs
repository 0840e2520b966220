//! `push` when something goes wrong on the way: failures are told at once, and a node that is gone ends it.

use std::fs;
use std::time::{Duration, Instant};

use crate::node::ServedNode;
use crate::process::{Process, Signal, until};

/// What must not wait for a delivery timeout, which is 30 s, takes less than this on the slowest machine.
const SOON: Duration = Duration::from_secs(10);

/// A push of which one message is committed.
fn push_that_works(node: &ServedNode, args: &[&str]) -> Process {
    let mut push = node.run(&[&["push", "k"], args].concat());
    push.write(b"one\n");
    until("the message is stored", || (node.status()["pushed_messages"] == 1).then_some(()));
    // Asked anew, the node has sent what it owed: were it stopped before, the message would be unknown.
    node.status();
    push
}

/// How many bytes that nobody has read yet wait behind this address, on the connection that has most of them.
fn unread_bytes(address: &str) -> u64 {
    let port: u16 = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let local = format!(":{port:04X}");
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    let sockets = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Local address, remote address, state, and the two queues. A listener's queue counts connections.
    let connections = sockets.filter(|socket| socket[1].ends_with(&local) && socket[3] == "01");
    let queues = connections.map(|socket| u64::from_str_radix(socket[4].rsplit_once(':').unwrap().1, 16).unwrap());
    queues.max().unwrap_or(0)
}

#[test]
fn node_that_died_ends_a_push_with_69() {
    let node = ServedNode::start();
    let mut push = push_that_works(&node, &["--timeout", "1"]);
    let mut serve = node.into_process();
    serve.signal(Signal::KILL);
    until("the node is gone", || (!serve.is_running()).then_some(()));
    push.write(b"two\nthree\n");
    // Its input stays open.
    let ended = push.wait().with_code(69);
    assert!(ended.stderr.contains("1 committed") && ended.stderr.contains("message 2: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("no node"), "{}", ended.stderr);
}

#[test]
fn node_that_is_silent_ends_a_push_with_69_and_what_was_sent_is_unknown() {
    let node = ServedNode::start();
    let mut push = push_that_works(&node, &["--timeout", "1.5"]);
    let serve = node.into_process();
    serve.stop();
    push.write(b"two\nthree\n");
    let ended = push.wait().with_code(69);
    assert!(ended.stderr.contains("1 committed, 0 rejected, 2 unknown"), "{}", ended.stderr);
}

#[test]
fn node_that_died_ends_a_push_whose_input_has_ended_with_69() {
    let node = ServedNode::start();
    let mut push = push_that_works(&node, &["--timeout", "1"]);
    drop(node);
    push.write(b"two\n");
    push.close_stdin();
    push.wait().with_code(69);
}

#[test]
fn refused_messages_do_not_end_a_push() {
    let node = ServedNode::start_with(&["--message-max", "1KiB"]);
    let mut reader = node.subscribe(&[]);
    let mut push = node.run(&["push", "k", "--timeout", "1"]);
    let large = ["x".repeat(2048).as_bytes(), b"\n"].concat();
    // Nothing is committed for longer than the delivery timeout.
    let started = Instant::now();
    for number in 1..=3 {
        push.write(&large);
        until("the failure is told", || push.stderr().contains(&format!("message {number}: ")).then_some(()));
        until("time passes", || (started.elapsed() > Duration::from_millis(700) * number).then_some(()));
    }
    assert!(push.is_running());
    push.write(b"last\n");
    assert_eq!(reader.read_line(), "last\n");
    push.close_stdin();
    assert!(push.wait().with_code(1).stderr.contains("1 committed, 3 rejected, 0 unknown"));
    reader.signal(Signal::INT);
    node.stop();
}

#[test]
fn failure_is_told_while_no_input_comes() {
    let node = ServedNode::start_with(&["--message-max", "1KiB"]);
    let mut push = node.run(&["push", "k"]);
    let started = Instant::now();
    push.write(&["x".repeat(2048).as_bytes(), b"\n"].concat());
    until("the failure is told", || push.stderr().contains("message 1: rejected (MESSAGE_TOO_LARGE)").then_some(()));
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert!(push.is_running());
    push.close_stdin();
    push.wait().with_code(1);
    node.stop();
}

#[test]
fn second_signal_ends_a_push_at_once_and_the_rest_is_unknown() {
    let node = ServedNode::start();
    let mut push = push_that_works(&node, &[]);
    let address = node.address.clone();
    let serve = node.into_process();
    serve.stop();
    let large = ["x".repeat(2048).as_bytes(), b"\n"].concat();
    push.write(&large.repeat(2));
    // Pings wait there too: far fewer bytes.
    until("both are sent", || (unread_bytes(&address) > 4096).then_some(()));
    let started = Instant::now();
    push.signal(Signal::INT);
    until("the first is noticed", || push.stderr().contains("once more").then_some(()));
    assert!(push.is_running());
    push.signal(Signal::INT);
    let ended = push.wait().with_code(130);
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert!(ended.stderr.contains("1 committed, 0 rejected, 2 unknown"), "{}", ended.stderr);
}

#[test]
fn block_that_cannot_fit_a_message_is_refused_with_words_about_the_limit() {
    let node = ServedNode::start();
    let mut push = node.run(&["push", "k", "--chunk", "raw", "--block-size", "1MiB"]);
    push.write(&vec![0; 1 << 20]);
    push.close_stdin();
    let ended = push.wait().with_code(1);
    for words in ["MESSAGE_TOO_LARGE", "encoded", "--block-size"] {
        assert!(ended.stderr.contains(words), "{words:?} is not in: {}", ended.stderr);
    }
    node.push_lines("k", b"small\n");
    let mut push = node.run(&["push", "k", "--chunk", "raw"]);
    push.write(&vec![0; 1 << 20]);
    push.close_stdin();
    push.wait().with_code(0);
    node.stop();
}
