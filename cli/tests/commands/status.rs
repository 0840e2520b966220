//! `broky status`.

use std::fs::File;

use serde_json::Value;

use crate::node::ServedNode;
use crate::process::{Process, command, run};

#[test]
fn status_tells_of_the_node() {
    let node = ServedNode::start_with(&["--name", "nancy", "--memory", "64MiB", "--workers", "2"]);
    let reader = node.subscribe(&["--count", "2"]);
    node.push_lines("k", b"one\n");
    let text = Process::start(&mut command(&["status", "--admin", &node.admin])).wait().with_code(0).stdout;
    let text = String::from_utf8(text).unwrap();
    let expected =
        ["nancy", &node.address, "2 worker(s)", "1 subscriptions", "1 pushed", "of 64.0 MiB", "vbuckets led   1024"];
    for word in expected {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
    node.push_lines("k", b"two\n");
    reader.wait().with_code(0);
    node.stop();
}

#[test]
fn status_as_json_is_one_object() {
    let node = ServedNode::start();
    let out = Process::start(&mut command(&["status", "--json", "--admin", &node.admin])).wait().with_code(0).stdout;
    let status: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(status["address"], node.address);
    assert_eq!(status["cluster_id"].as_str().unwrap().len(), 32);
    assert_eq!(status["vbuckets_led"], 1024);
    node.stop();
}

#[test]
fn status_of_something_else_fails() {
    let node = ServedNode::start();
    // The client port is no admin port.
    let ended = Process::start(&mut command(&["status", "--admin", &node.address])).wait().with_code(69);
    assert!(ended.stderr.contains(&node.address), "{}", ended.stderr);
    node.stop();
}

#[test]
fn status_takes_the_name_of_a_host() {
    let node = ServedNode::start();
    let admin = node.admin.replace("127.0.0.1", "localhost");
    run(&["status", "--admin", &admin]).with_code(0);
    let ended = run(&["status", "--admin", "no-such-host.invalid:1"]).with_code(69);
    assert!(ended.stderr.contains("no-such-host.invalid:1"), "{}", ended.stderr);
    node.stop();
}

#[test]
fn status_that_cannot_be_written_ends_with_74() {
    let node = ServedNode::start();
    for flags in [&[][..], &["--json"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = command(&[&["status", "--admin", &node.admin], flags].concat());
        let ended = command.stdout(full).output().unwrap();
        assert_eq!(ended.status.code(), Some(74), "{flags:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
    node.stop();
}
