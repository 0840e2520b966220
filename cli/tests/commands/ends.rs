//! How commands end: signals, closed pipes, and the codes of sysexits.h.

use std::fs::File;

use crate::node::ServedNode;
use crate::process::{Process, Signal, command, run, until};

/// An address where nobody listens: the port was free a moment ago and stays bound without listening.
fn nobody() -> (socket2::Socket, String) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap().to_string();
    (socket, address)
}

#[test]
fn interrupted_subscriber_ends_with_130() {
    let node = ServedNode::start();
    let mut reader = node.subscribe(&[]);
    node.push_lines("k", b"one\n");
    assert_eq!(reader.read_line(), "one\n");
    reader.signal(Signal::INT);
    assert_eq!(reader.wait().with_code(130).stderr, "");
    node.stop();
}

#[test]
fn terminated_subscriber_ends_with_0() {
    let node = ServedNode::start();
    let mut reader = node.subscribe(&[]);
    node.push_lines("k", b"one\ntwo\n");
    assert_eq!((reader.read_line(), reader.read_line()), ("one\n".to_owned(), "two\n".to_owned()));
    reader.signal(Signal::TERM);
    assert_eq!(reader.wait().with_code(0).stdout, b"");
    node.stop();
}

#[test]
fn idle_subscriber_ends_with_141_when_its_reader_goes() {
    let node = ServedNode::start();
    let mut reader = node.subscribe(&[]);
    node.push_lines("k", b"only\n");
    reader.read_line();
    reader.close_stdout();
    assert_eq!(reader.wait().with_code(141).stderr, "");
    node.stop();
}

#[test]
fn busy_subscriber_ends_with_141_when_its_reader_goes() {
    let node = ServedNode::start();
    let mut reader = node.subscribe(&[]);
    let mut push = node.run(&["push", "k", "--quiet"]);
    push.write("a line of some length\n".repeat(50_000).as_bytes());
    reader.read_line();
    reader.close_stdout();
    assert_eq!(reader.wait().with_code(141).stderr, "");
    push.close_stdin();
    push.wait().with_code(0);
    node.stop();
}

#[test]
fn interrupted_publisher_ends_with_130_and_what_it_read_is_committed() {
    let node = ServedNode::start();
    let reader = node.subscribe(&["--count", "2"]);
    let mut push = node.run(&["push", "k"]);
    push.write(b"one\ntwo\n");
    assert_eq!(reader.wait().with_code(0).stdout, b"one\ntwo\n");
    push.signal(Signal::INT);
    let push = push.wait().with_code(130);
    assert!(push.stderr.contains("2 committed, 0 rejected, 0 unknown"), "{}", push.stderr);
    node.stop();
}

#[test]
fn node_ends_with_0_under_load_and_its_clients_are_told() {
    let node = ServedNode::start();
    let mut reader = node.subscribe(&[]);
    let mut push = node.run(&["push", "k", "--quiet"]);
    push.write(b"one\n");
    assert_eq!(reader.read_line(), "one\n");
    let mut serve = node.into_process();
    serve.signal(Signal::TERM);
    until("the node ends", || (!serve.is_running()).then_some(()));
    serve.wait().with_code(0);
    reader.signal(Signal::INT);
    reader.wait().with_code(130);
    push.close_stdin();
    // Everything was committed: nothing is owed.
    push.wait().with_code(0);
}

#[test]
fn wrong_command_line_ends_with_2() {
    for args in [
        &["serve", "--no-such-flag"][..],
        &["serve", "--memory", "12parsecs"],
        &["serve", "--listen", "not-an-address"],
        &["push"],
        &["push", "k", "--block-size", "0"],
        &["push", "k", "--rate", "0"],
        &["sub", "--count", "-1"],
        &["sub", "--format", "xml"],
        &["push", "k", "--timeout", "0"],
        &["push", "k", "--timeout", "soon"],
        &["status", "--admin", "nowhere"],
        &["status", "--admin", ":7402"],
        &["status", "--admin", "host:70000"],
        &["no-such-command"],
        &[],
    ] {
        let ended = run(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.stderr);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn no_server_ends_with_69() {
    let (_bound, address) = nobody();
    for args in
        [&["push", "k", "--server", &address][..], &["sub", "--server", &address], &["status", "--admin", &address]]
    {
        let ended = run(args).with_code(69);
        assert!(ended.stderr.contains(&address), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn address_without_a_port_ends_with_69_and_is_named() {
    let ended = run(&["sub", "--server", "localhost"]).with_code(69);
    assert!(ended.stderr.contains("localhost"), "{}", ended.stderr);
}

#[test]
fn unreadable_file_ends_with_66() {
    let ended = run(&["demo", "/no/such/file"]).with_code(66);
    assert!(ended.stderr.contains("/no/such/file"), "{}", ended.stderr);
}

#[test]
fn input_that_cannot_be_read_ends_with_66() {
    let node = ServedNode::start();
    let folder = File::open(env!("CARGO_MANIFEST_DIR")).unwrap();
    let output = File::options().write(true).open("/dev/null").unwrap();
    for stdin in [folder, output] {
        for chunk in ["lines", "raw"] {
            let mut command = node.command(&["push", "k", "--chunk", chunk]);
            let ended = Process::start_reading(&mut command, stdin.try_clone().unwrap().into()).wait().with_code(66);
            assert!(ended.stderr.contains("stdin"), "{}", ended.stderr);
        }
    }
    node.stop();
}

#[test]
fn refused_subscription_ends_with_1_and_says_why() {
    let node = ServedNode::start();
    for (args, word) in [
        (&["sub", "a\\"][..], "bad pattern"),
        (&["sub", &"x".repeat(1025)], "1024"),
        (&["sub", "--group", "g"], "UNIMPLEMENTED: consumer groups"),
    ] {
        let ended = node.run(args).wait().with_code(1);
        assert!(ended.stderr.contains(word), "{args:?}: {}", ended.stderr);
    }
    node.stop();
}

#[test]
fn help_and_version_end_with_0() {
    for args in [&["--help"][..], &["--version"], &["serve", "--help"], &["sub", "--help"]] {
        let ended = Process::start(&mut command(args)).wait().with_code(0);
        assert!(!ended.stdout.is_empty() && ended.stderr.is_empty());
    }
}
