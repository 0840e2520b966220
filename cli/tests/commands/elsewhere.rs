//! Subscriptions at nodes that do not hold what they ask for.

use std::thread;

use crate::cluster::{free, http, status};
use crate::node::ServedNode;

const NODES: usize = 4;
const KEYS: usize = 16;
const WORKERS: [&str; NODES] = ["2", "3", "4", "5"];

/// Four nodes with two copies of each vbucket. Each was told another number of threads; all have that of the founder.
fn start() -> Vec<ServedNode> {
    let peers = free(NODES);
    let join = peers.join(",");
    let start = |at: usize| {
        let name = format!("n{at}");
        let workers = WORKERS[at];
        let flags = ["--name", &name, "--peer-listen", &peers[at], "--join", &join, "--expect", "4", "--replicas", "2"];
        ServedNode::start_with(&[&flags[..], &["--workers", workers, "--vbuckets", "64", "--memory", "80MiB"]].concat())
    };
    // None has started before all have met.
    thread::scope(|scope| {
        let nodes: Vec<_> = (0..NODES).map(|at| scope.spawn(move || start(at))).collect();
        nodes.into_iter().map(|node| node.join().unwrap()).collect()
    })
}

fn lines_of(key: usize, numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers.flat_map(|number| format!("k{key} {number}\n").into_bytes()).collect()
}

fn push(node: &ServedNode, numbers: &std::ops::Range<usize>) {
    (0..KEYS).for_each(|key| node.push_lines(&format!("k{key}"), &lines_of(key, numbers.clone())));
}

/// Each key's lines, in the order in which they came.
fn by_key(output: &[u8]) -> Vec<Vec<u8>> {
    let of = |key: usize| format!("k{key} ").into_bytes();
    let lines = || output.split_inclusive(|byte| *byte == b'\n');
    (0..KEYS).map(|key| lines().filter(|line| line.starts_with(&of(key))).flatten().copied().collect()).collect()
}

#[test]
fn every_node_gives_everything_once_and_in_order() {
    let nodes = start();
    let workers = |node: &ServedNode| status(&node.admin).unwrap()["workers"].as_u64().unwrap();
    let all_workers: Vec<_> = nodes.iter().map(workers).collect();
    assert!((2..=5).contains(&all_workers[0]) && all_workers.iter().all(|of| *of == all_workers[0]), "{all_workers:?}");
    push(&nodes[0], &(0..40));
    let count = (2 * 40 * KEYS).to_string();
    let all: Vec<_> =
        nodes.iter().map(|node| node.run(&["sub", "k*", "--from", "earliest", "--count", &count])).collect();
    let one: Vec<_> =
        nodes.iter().map(|node| node.run(&["sub", "k3", "--from", "earliest", "--count", "80"])).collect();
    push(&nodes[1], &(40..80));
    let expected: Vec<_> = (0..KEYS).map(|key| lines_of(key, 0..80)).collect();
    for sub in all {
        assert_eq!(by_key(&sub.wait().with_code(0).stdout), expected);
    }
    for sub in one {
        assert_eq!(sub.wait().with_code(0).stdout, lines_of(3, 0..80));
    }
    for node in nodes {
        let metrics = http(&node.admin, "GET /metrics HTTP/1.0\r\n\r\n");
        let relayed = metrics.lines().find_map(|line| line.strip_prefix("broky_relay_received_messages_total "));
        assert!(relayed.is_some_and(|count| count != "0"), "a node holds all of it: {relayed:?}");
        drop(node.into_process());
    }
}
