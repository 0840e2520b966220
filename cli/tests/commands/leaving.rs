//! `broky drain` and `broky forget`: waiting, giving up, and what is refused.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use crate::cluster::{Cluster, until_nodes};
use crate::process::{Process, Signal, command, run, until};

/// Something that answers as a node's admin port does: whatever is decided is done, and the node `b` stays as it is.
fn admin_of_a_node_that_never_gets_empty() -> String {
    let node = r#"{"id": 2, "name": "b", "incarnation": 5, "zone": "", "liveness": "alive", "is_draining": true,
        "client": "", "admin": "", "leads": 2, "copies": 5, "in_sync": 5, "learning": 0, "is_me": false}"#;
    let raft = r#"{"leader": "a", "term": 1, "voters": [], "learners": [], "last_applied": 9}"#;
    let cluster = format!(
        r#"{{"map_version": 9, "vbuckets": 16, "leaderless": 0, "under_replicated": 0, "frozen": 0, "moving": 0,
        "misplaced": 5, "replicas": 3, "min_isr": 2, "nodes": [{node}], "raft": {raft}, "waiting_for": null}}"#
    );
    let status = format!(
        r#"{{"name": "a", "cluster_id": "", "address": "", "uptime_seconds": 1, "workers": 1, "vbuckets_led": 0,
        "connections": 0, "subscriptions": 0, "pushed_messages": 0, "delivered_messages": 0, "dropped_messages": 0,
        "memory_used_bytes": 0, "memory_max_bytes": 0, "cluster": {cluster}}}"#
    );
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Up to the empty line; a body there is none.
            let request = BufReader::new(&stream).lines().map_while(Result::ok);
            let _ = request.take_while(|line| !line.is_empty()).count();
            let _ = write!(&stream, "HTTP/1.0 200 OK\r\n\r\n{status}");
        }
    });
    address
}

#[test]
fn drained_node_is_empty_and_can_be_forgotten() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let admin = cluster.admins[0].clone();
    let living = run(&["forget", "c", "--admin", &admin]).with_code(1);
    assert!(living.stderr.contains("c is not forgotten: the node is alive and holds"), "{}", living.stderr);
    let drained = run(&["drain", "c", "--admin", &admin]).with_code(0);
    assert!(drained.stderr.contains("c is empty"), "{}", drained.stderr);
    let nodes = cluster.status(0)["cluster"]["nodes"].as_array().unwrap().clone();
    let c = nodes.iter().find(|node| node["name"] == "c").unwrap();
    assert_eq!((c["copies"].as_u64(), c["leads"].as_u64()), (Some(0), Some(0)));
    let forgotten = run(&["forget", "c", "--admin", &admin]).with_code(0);
    assert!(forgotten.stderr.contains("c is forgotten"), "{}", forgotten.stderr);
    until_nodes(&admin, &[("a", "alive"), ("b", "alive")]);
    cluster.processes.remove(2).wait().with_code(77);
}

#[test]
fn drain_that_leaves_fewer_than_min_isr_needs_force() {
    let cluster = Cluster::start(&["a", "b"]);
    let admin = &cluster.admins[0];
    let refused = run(&["drain", "b", "--admin", admin]).with_code(1);
    let expected = "b is not drained: 1 nodes would remain for a min_isr of 2; --force drains it all the same";
    assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    run(&["drain", "b", "--force", "--admin", admin]).with_code(0);
}

#[test]
fn node_that_nobody_knows_is_neither_drained_nor_forgotten() {
    let cluster = Cluster::start(&["a"]);
    for verb in ["drain", "forget"] {
        let ended = run(&[verb, "z", "--admin", &cluster.admins[0]]).with_code(68);
        assert!(ended.stderr.contains("no node is called \"z\""), "{}", ended.stderr);
    }
}

#[test]
fn drain_that_takes_too_long_says_what_is_left() {
    let admin = admin_of_a_node_that_never_gets_empty();
    let ended = run(&["drain", "b", "--timeout", "0.2", "--admin", &admin]).with_code(75);
    let expected = "b is not empty in time: 5 copies left, 2 of them leaders; it goes on being drained";
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
}

#[test]
fn interrupted_drain_goes_on_and_says_so() {
    let admin = admin_of_a_node_that_never_gets_empty();
    let drain = Process::start(&mut command(&["drain", "b", "--admin", &admin]));
    until("it says what is left", || drain.stderr().contains("5 copies left").then_some(()));
    drain.signal(Signal::INT);
    let ended = drain.wait().with_code(130);
    assert!(ended.stderr.contains("b goes on being drained"), "{}", ended.stderr);
}
