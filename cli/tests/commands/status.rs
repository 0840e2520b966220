//! `broky status`.

use std::fs::File;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::node::ServedNode;
use crate::process::{Process, Signal, command, run, until};

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
fn status_of_any_node_shows_all_of_them() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let status = |flags: &[&str]| {
        let out = run(&[&["status", "--admin", &cluster.admins[1]], flags].concat()).with_code(0).stdout;
        String::from_utf8(out).unwrap()
    };
    let nodes = |text: &str| -> Vec<Value> {
        let status: Value = serde_json::from_str(text).unwrap();
        status["cluster"]["nodes"].as_array().unwrap().clone()
    };
    until("every node answers and holds everything", || {
        let is_good = |node: &Value| {
            node["state"] == "alive" && node["answers"] == true && node["lag_messages"] == 0 && node["in_sync"] == 16
        };
        let nodes = nodes(&status(&["--json"]));
        (nodes.len() == 3 && nodes.iter().all(is_good)).then_some(())
    });
    let text = status(&[]);
    for word in ["  a ", "* b ", "  c ", "lag", "copying", "0 vbuckets under-replicated", "0 vbuckets being copied"] {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

#[test]
fn status_shows_who_is_dead_and_what_lacks_copies() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let dead = cluster.processes.remove(2);
    dead.signal(Signal::KILL);
    dead.wait();
    until("it counts as dead", || {
        let text = run(&["status", "--admin", &cluster.admins[0]]).with_code(0).stdout;
        let text = String::from_utf8(text).unwrap();
        let node = text.lines().find(|line| line.starts_with("  c "))?;
        (node.contains("dead") && text.contains("16 vbuckets under-replicated")).then_some(())
    });
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
fn ready_node_says_so_by_its_exit_code() {
    let node = ServedNode::start();
    assert_eq!(run(&["status", "--ready", "--admin", &node.admin]).with_code(0).stdout, b"ready\n");
    // The client port is no admin port.
    run(&["status", "--ready", "--admin", &node.address]).with_code(69);
    let admin = node.admin.clone();
    node.stop();
    let ended = run(&["status", "--ready", "--admin", &admin]).with_code(69);
    assert!(ended.stderr.contains(&admin), "{}", ended.stderr);
}

#[test]
fn status_that_cannot_be_written_ends_with_74() {
    let node = ServedNode::start();
    for flags in [&[][..], &["--json"], &["--ready"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = command(&[&["status", "--admin", &node.admin], flags].concat());
        let ended = command.stdout(full).output().unwrap();
        assert_eq!(ended.status.code(), Some(74), "{flags:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
    node.stop();
}
