//! `broky demo`: its verdict, and that nothing of it stays behind.

use std::fs;

use crate::node::serve_on_free_ports;
use crate::process::{Ended, Process, Signal, command, until};

fn demo(args: &[&str]) -> Process {
    // One that is killed cannot remove its nodes' logs.
    Process::start(command(&[&["demo"], args].concat()).env("TMPDIR", env!("CARGO_TARGET_TMPDIR")))
}

fn stdout(ended: &Ended) -> String {
    String::from_utf8(ended.stdout.clone()).unwrap()
}

/// A field of `/proc/PID/stat` behind the name, which may hold anything; `None` when the process is gone.
fn stat(pid: &str, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(field).map(str::to_owned)
}

/// The processes that a process has started.
fn children(parent: u32) -> Vec<String> {
    let pids = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    pids.filter(|pid| stat(pid, 1) == Some(parent.to_string())).collect()
}

fn is_gone(pid: &str) -> bool {
    // One that nobody has waited for is dead all the same.
    stat(pid, 0).is_none_or(|state| state == "Z")
}

#[test]
fn demo_kills_the_busiest_node_and_nothing_is_lost() {
    let ended = demo(&["--lines", "20000"]).wait().with_code(0);
    let text = stdout(&ended);
    assert!(text.contains("pushed 20000, acked 20000"), "{text}");
    assert!(text.contains("lost 0, duplicated 0, reordered 0"), "{text}");
    assert!(text.contains("verdict: nothing lost, nothing repeated, order kept"), "{text}");
    let told: Vec<_> = ["kill -9", "others lead in its place", "is started again", "has caught up"]
        .iter()
        .map(|words| ended.stderr.find(words))
        .collect();
    assert!(told.iter().all(Option::is_some) && told.is_sorted(), "{}", ended.stderr);
}

#[test]
fn demo_pushes_the_file_it_is_given() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let ended = demo(&[path, "--lines", "1000"]).wait().with_code(0);
    assert!(ended.stderr.contains("1000 lines from") && ended.stderr.contains("cli/Cargo.toml"), "{}", ended.stderr);
    assert!(stdout(&ended).contains("acked 1000,"), "{}", stdout(&ended));
}

#[test]
fn demo_of_no_lines_or_of_no_file_is_refused() {
    demo(&["--lines", "0"]).wait().with_code(2);
    demo(&["/no/such/file"]).wait().with_code(66);
}

#[test]
fn demo_takes_its_nodes_along_however_it_ends() {
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(130)), (Signal::KILL, None)] {
        let demo = demo(&["--lines", "100000000"]);
        until("it pushes", || demo.stderr().contains("subscribers listen").then_some(()));
        let nodes = children(demo.id());
        assert_eq!(nodes.len(), 3, "{}", demo.stderr());
        demo.signal(signal);
        let ended = demo.wait();
        assert_eq!(ended.code, code, "{}", ended.stderr);
        until("its nodes are gone", || nodes.iter().all(|pid| is_gone(pid)).then_some(()));
    }
}

#[test]
fn node_stops_with_its_stdin_when_it_is_to() {
    let mut node = Process::start(&mut command(&serve_on_free_ports(&["--stop-with-stdin"])));
    until("the node starts", || node.stderr().contains("node started").then_some(()));
    node.close_stdin();
    let ended = node.wait().with_code(0);
    assert!(ended.stderr.contains("node stopping"), "{}", ended.stderr);
}

#[test]
fn demo_shows_what_a_node_said_that_did_not_start() {
    // Enough files for the demo, and too few for a node.
    let few_files = format!("ulimit -n 24; exec {} demo --lines 1000", env!("CARGO_BIN_EXE_broky"));
    let mut shell = std::process::Command::new("sh");
    let ended = Process::start(shell.env_clear().args(["-c", &few_files])).wait().with_code(1);
    assert!(ended.stderr.contains(" said:\n") && ended.stderr.contains("Too many open files"), "{}", ended.stderr);
}
