//! Several `broky serve`: forming, status, drain and forget, replacement, and what a data directory is good for.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::{LazyLock, Mutex};

use broky_node::Ports;
use serde_json::Value;

use crate::node::ServedNode;
use crate::process::{Process, Signal, command, run, until};

/// Addresses that are free, and that nobody gets by chance.
pub(crate) fn free(count: usize) -> Vec<String> {
    static PORTS: LazyLock<Mutex<Ports>> = LazyLock::new(|| Mutex::new(Ports::of_this_process()));
    let mut ports = PORTS.lock().unwrap();
    (0..count).map(|_| ports.free().unwrap().to_string()).collect()
}

pub(crate) fn http(address: &str, request: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address) else { return String::new() };
    let _ = stream.write_all(request.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn serve(name: &str, flags: &[&str]) -> Process {
    let mut args = vec!["serve", "--name", name, "--workers", "1", "--memory", "16MiB", "--vbuckets", "16"];
    args.extend(["--listen", "127.0.0.1:0"]);
    args.extend(flags);
    Process::start(&mut command(&args))
}

pub(crate) fn status(admin: &str) -> Option<Value> {
    let answer = http(admin, "GET /status HTTP/1.0\r\n\r\n");
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

fn states(admin: &str) -> Option<Vec<(String, String)>> {
    let status = status(admin)?;
    let nodes = status["cluster"]["nodes"].as_array()?.clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(nodes.iter().map(|node| (text(&node["name"]), text(&node["liveness"]))).collect())
}

pub(crate) fn until_nodes(admin: &str, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect();
    until("the cluster is as expected", || {
        let mut states = states(admin)?;
        states.sort();
        (states == expected).then_some(())
    });
}

/// Nodes that have formed a cluster.
pub(crate) struct Cluster {
    pub(crate) processes: Vec<Process>,
    pub(crate) admins: Vec<String>,
}

impl Cluster {
    /// Starts nodes of these names, in alphabetical order, and waits until each sees all of them alive.
    pub(crate) fn start(names: &[&str]) -> Self {
        let (peers, admins) = (free(names.len()), free(names.len()));
        let (join, expect) = (peers.join(","), names.len().to_string());
        let start = |((name, peer), admin): ((&&str, &String), &String)| {
            let flags = ["--peer-listen", peer, "--admin-listen", admin, "--join", &join, "--expect", &expect];
            serve(name, &flags)
        };
        let processes = names.iter().zip(&peers).zip(&admins).map(start).collect();
        let alive: Vec<_> = names.iter().map(|name| (*name, "alive")).collect();
        for admin in &admins {
            until_nodes(admin, &alive);
        }
        Self { processes, admins }
    }

    /// What a node says of itself and of the cluster.
    pub(crate) fn status(&self, at: usize) -> Value {
        until("the node answers", || status(&self.admins[at]))
    }
}

#[test]
fn two_nodes_form_a_cluster_and_one_is_replaced_drained_and_forgotten() {
    let (peers, admins) = (free(2), free(3));
    let join = peers.join(",");
    let flags = |at: usize| {
        ["--peer-listen", &peers[at], "--admin-listen", &admins[at], "--join", &join, "--expect", "2"]
            .map(str::to_owned)
    };
    let start = |name: &str, at: usize| serve(name, &flags(at).iter().map(String::as_str).collect::<Vec<_>>());
    let a = start("a", 0);
    until("it waits, and says so", || {
        http(&admins[0], "GET /readyz HTTP/1.0\r\n\r\n").contains("1 of 2 nodes have met").then_some(())
    });
    let ended = run(&["status", "--ready", "--admin", &admins[0]]).with_code(1);
    assert!(ended.stderr.contains("not ready: 1 of 2 nodes have met"), "{}", ended.stderr);
    let b = start("b", 1);
    for admin in &admins[..2] {
        until_nodes(admin, &[("a", "alive"), ("b", "alive")]);
    }
    let text = run(&["status", "--admin", &admins[1]]).with_code(0).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("raft           led by") && text.contains("* b"), "{text}");
    // A second process of the name: the first one ends, and says why.
    let usurper = serve("b", &["--peer-listen", "127.0.0.1:0", "--admin-listen", &admins[2], "--join", &peers[0]]);
    let ended = b.wait().with_code(77);
    assert!(ended.stderr.contains("another process has registered as node \"b\""), "{}", ended.stderr);
    until_nodes(&admins[2], &[("a", "alive"), ("b", "alive")]);
    // The first one may have led; then the cluster needs a moment before it decides anything.
    until("the living node is not forgotten", || {
        let ended = run(&["forget", "b", "--admin", &admins[0]]);
        (ended.code == Some(1) && ended.stderr.contains("drain it first")).then_some(())
    });
    let foreign = http(&admins[0], "POST /nodes/b/drain HTTP/1.0\r\nhost: evil.example\r\ncontent-length: 0\r\n\r\n");
    assert!(foreign.contains(" 403 "), "{foreign}");
    let read = http(&admins[0], "GET /nodes/b/drain HTTP/1.0\r\nhost: localhost\r\n\r\n");
    assert!(read.contains(" 405 "), "{read}");
    until("it is drained", || (run(&["drain", "b", "--force", "--admin", &admins[0]]).code == Some(0)).then_some(()));
    for process in [a, usurper] {
        process.signal(Signal::TERM);
        process.wait().with_code(0);
    }
}

#[test]
fn node_that_waits_for_others_can_be_stopped() {
    let peers = free(1);
    let admins = free(1);
    let node = serve(
        "a",
        &["--peer-listen", "127.0.0.1:0", "--admin-listen", &admins[0], "--join", &peers[0], "--expect", "2"],
    );
    until("it answers", || http(&admins[0], "GET /healthz HTTP/1.0\r\n\r\n").contains(" 200 ").then_some(()));
    node.signal(Signal::TERM);
    node.wait().with_code(0);
}

#[test]
fn data_directory_keeps_the_cluster_and_is_nobody_elses() {
    let directory = std::env::temp_dir().join(format!("broky-commands-{}", std::process::id()));
    let path = directory.to_str().unwrap().to_owned();
    let node = ServedNode::start_with(&["--name", "a", "--data-dir", &path]);
    let cluster = node.status()["cluster_id"].clone();
    let taken =
        ["serve", "--name", "a", "--data-dir", &path, "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"];
    let taken = run(&[&taken[..], &["--admin-listen", "127.0.0.1:0"]].concat()).with_code(78);
    assert!(taken.stderr.contains("--data-dir") && taken.stderr.contains("in use"), "{}", taken.stderr);
    node.stop();
    let node = ServedNode::start_with(&["--name", "a", "--data-dir", &path]);
    assert_eq!(node.status()["cluster_id"], cluster);
    node.stop();
    let _ = std::fs::remove_dir_all(directory);
}
