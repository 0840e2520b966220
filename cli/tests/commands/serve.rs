//! `broky serve` with settings that cannot work: exit code 78, and the flag at fault is named.

use std::net::TcpListener;
use std::process::Command;

use crate::node::{ServedNode, serve_on_free_ports};
use crate::process::{Process, Signal, run, until};

#[track_caller]
fn assert_refused(flags: &[&str], words: &[&str]) {
    let ended = run(&serve_on_free_ports(flags)).with_code(78);
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is not in: {}", ended.stderr);
    }
}

#[test]
fn taken_port_is_refused() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert_refused(&["--listen", &address], &["--listen", &address, "in use"]);
    assert_refused(&["--peer-listen", &address], &["--peer-listen", &address, "in use"]);
    assert_refused(&["--admin-listen", &address], &["--admin-listen", &address, "in use"]);
}

#[test]
fn address_of_another_machine_is_refused() {
    // TEST-NET-3.
    assert_refused(&["--listen", "203.0.113.1:0", "--insecure"], &["--listen", "203.0.113.1:0"]);
    assert_refused(&["--admin-listen", "203.0.113.1:0", "--insecure"], &["--admin-listen", "203.0.113.1:0"]);
}

#[test]
fn address_that_others_can_reach_is_refused_without_insecure() {
    assert_refused(&["--listen", "0.0.0.0:0"], &["--listen 0.0.0.0:0", "--insecure"]);
    assert_refused(&["--peer-listen", "0.0.0.0:0"], &["--peer-listen 0.0.0.0:0", "--insecure"]);
    assert_refused(&["--admin-listen", "[::]:0"], &["--admin-listen [::]:0", "--insecure"]);
}

#[test]
fn insecure_address_is_served_with_a_warning_if_that_is_wanted() {
    let node = ServedNode::start_with(&["--insecure", "--listen", "0.0.0.0:0"]);
    let serve = node.into_process();
    until("the warning", || {
        let said = serve.stderr();
        said.lines().any(|line| line.contains("WARN") && line.contains("--listen")).then_some(())
    });
    serve.signal(Signal::TERM);
    serve.wait().with_code(0);
}

#[test]
fn too_little_memory_is_refused() {
    assert_refused(&["--memory", "1MiB"], &["--memory"]);
    assert_refused(&["--memory", "47MiB", "--workers", "3"], &["--memory", "3 worker"]);
}

#[test]
fn settings_out_of_range_are_refused() {
    assert_refused(&["--message-max", "4MiB"], &["--message-max"]);
    assert_refused(&["--message-max", "0"], &["--message-max"]);
    assert_refused(&["--vbuckets", "1000"], &["--vbuckets 1000"]);
    assert_refused(&["--workers", "0"], &["--workers"]);
    assert_refused(&["--replicas", "8"], &["--replicas 8"]);
    assert_refused(&["--replicas", "2", "--min-isr", "3"], &["--min-isr 3", "--replicas 2"]);
    assert_refused(&["--expect", "3"], &["--expect", "--join"]);
    assert_refused(&["--join", "example.org"], &["--join", "example.org"]);
    assert_refused(&["--dead-after", "0"], &["--dead-after"]);
}

#[test]
fn names_that_mean_nothing_are_refused() {
    assert_refused(&["--name", ""], &["--name"]);
    assert_refused(&["--name", &"x".repeat(256)], &["--name", "255"]);
    for advertise in ["", "host:", ":7400", "host:0", "host:70000", "a host:7400", "::1:7400", "http://host:1"] {
        assert_refused(&["--advertise", advertise], &["--advertise", "host:port"]);
    }
}

#[test]
fn address_to_tell_clients_may_be_a_name() {
    for advertise in ["broky-1.example.org:7400", "[::1]:7400", "10.0.0.1:1"] {
        let node = ServedNode::start_with(&["--advertise", advertise]);
        assert_eq!(node.status()["address"], advertise);
        node.stop();
    }
}

/// Waits until the process says a warning with these words.
fn warned(serve: &Process, words: &[&str]) {
    until("the warning", || {
        let said = serve.stderr();
        said.lines().any(|line| line.contains("WARN") && words.iter().all(|word| line.contains(word))).then_some(())
    });
}

#[test]
fn more_memory_than_the_machine_has_is_warned_about() {
    // Sixteen terabytes.
    let serve = ServedNode::start_with(&["--memory", "16384GiB"]).into_process();
    warned(&serve, &["--memory", "this machine has"]);
    serve.signal(Signal::TERM);
    serve.wait().with_code(0);
}

#[test]
fn too_few_files_for_its_clients_are_warned_about() {
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -n 150 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_broky")]).env_clear();
    let serve = Process::start(limited.args(serve_on_free_ports(&[])));
    warned(&serve, &["ulimit -n", "150", "22"]);
    serve.signal(Signal::TERM);
    serve.wait().with_code(0);
}

#[test]
fn ordinary_node_warns_of_nothing() {
    let ended = ServedNode::start().into_process();
    ended.signal(Signal::TERM);
    let said = ended.wait().with_code(0).stderr;
    assert!(!said.contains("WARN"), "{said}");
}

#[test]
fn every_fault_is_told_at_once() {
    assert_refused(
        &["--listen", "0.0.0.0:1", "--vbuckets", "3", "--message-max", "0", "--replicas", "0", "--join", "x"],
        &["--listen", "--vbuckets", "--message-max", "--replicas", "--join"],
    );
}

#[test]
fn interrupted_node_ends_with_0() {
    let serve = ServedNode::start().into_process();
    serve.signal(Signal::INT);
    let ended = serve.wait().with_code(0);
    assert!(ended.stderr.contains("node stopping") && ended.stdout.is_empty(), "{}", ended.stderr);
}

#[test]
fn smallest_node_serves() {
    let node = ServedNode::start_with(&["--memory", "16MiB", "--workers", "1", "--vbuckets", "1"]);
    node.push_lines("k", b"line\n");
    let reader = node.run(&["sub", "--from", "earliest", "--count", "1"]);
    assert_eq!(reader.wait().with_code(0).stdout, b"line\n");
    node.stop();
}
