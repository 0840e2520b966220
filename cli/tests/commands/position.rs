//! `sub --from FILE`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::node::ServedNode;
use crate::process::{Signal, run, until};

/// A new folder for one test.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}", std::process::id()));
    // One that an earlier process of the same id left.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn lines(numbers: std::ops::Range<u32>) -> Vec<u8> {
    numbers.flat_map(|number| format!("{number}\n").into_bytes()).collect()
}

/// What is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn three_runs_give_each_message_once() {
    let node = ServedNode::start();
    let file = folder("three-runs").join("position");
    let from = file.to_str().unwrap();
    let first = node.subscribe(&["--from", from, "--count", "100"]);
    // A hundred are read, in the middle of a batch.
    node.push_lines("k", &lines(0..250));
    assert_eq!(first.wait().with_code(0).stdout, lines(0..100));
    let second = node.run(&["sub", "--from", from, "--count", "70"]);
    assert_eq!(second.wait().with_code(0).stdout, lines(100..170));
    node.push_lines("k", &lines(250..300));
    let third = node.run(&["sub", "--from", from, "--count", "130"]);
    assert_eq!(third.wait().with_code(0).stdout, lines(170..300));
    assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing but the position is left");
    node.stop();
}

#[test]
fn interrupted_reader_goes_on_where_it_stopped() {
    let node = ServedNode::start();
    let file = folder("interrupted").join("position");
    let from = file.to_str().unwrap();
    let mut first = node.subscribe(&["--from", from]);
    node.push_lines("k", &lines(0..10));
    assert_eq!(first.read(lines(0..10).len()), lines(0..10));
    first.signal(Signal::INT);
    first.wait().with_code(130);
    node.push_lines("k", &lines(10..20));
    let second = node.run(&["sub", "--from", from, "--count", "10"]);
    assert_eq!(second.wait().with_code(0).stdout, lines(10..20));
    node.stop();
}

#[test]
fn damaged_position_is_unreadable_input() {
    let file = folder("damaged").join("position");
    fs::write(&file, b"BRT\x01garbage").unwrap();
    let ended = run(&["sub", "--from", file.to_str().unwrap()]).with_code(66);
    assert!(ended.stderr.contains("position") && ended.stderr.contains("checksum"), "{}", ended.stderr);
    assert_eq!(fs::read(&file).unwrap(), b"BRT\x01garbage", "it is left alone");
}

#[test]
fn position_without_a_file_is_a_usage_error() {
    let folder = folder("no-file");
    for from in ["", folder.join("new/").to_str().unwrap()] {
        let ended = run(&["sub", "--from", from]).with_code(2);
        assert!(ended.stderr.contains("--from"), "{}", ended.stderr);
    }
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn position_that_cannot_be_kept_any_more_leaves_nothing_behind() {
    let node = ServedNode::start();
    let folder = folder("taken-away");
    let file = folder.join("position");
    let mut reader = node.subscribe(&["--from", file.to_str().unwrap()]);
    until("the position is written", || file.exists().then_some(()));
    // No file can take the place of a folder.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    node.push_lines("k", b"x\n");
    assert_eq!(reader.read_line(), "x\n");
    assert!(reader.wait().with_code(74).stderr.contains("cannot keep the position"));
    assert_eq!(names(&folder), ["position"]);
    node.stop();
}

#[test]
fn link_is_followed_and_stays() {
    let node = ServedNode::start();
    let folder = folder("link");
    let (link, target) = (folder.join("link"), folder.join("other/target"));
    fs::create_dir(folder.join("other")).unwrap();
    std::os::unix::fs::symlink("other/target", &link).unwrap();
    let from = link.to_str().unwrap();
    // At first it leads nowhere.
    let first = node.subscribe(&["--from", from, "--count", "2"]);
    node.push_lines("k", &lines(0..3));
    assert_eq!(first.wait().with_code(0).stdout, lines(0..2));
    let second = node.run(&["sub", "--from", from, "--count", "1"]);
    assert_eq!(second.wait().with_code(0).stdout, lines(2..3));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(fs::symlink_metadata(&target).unwrap().is_file());
    assert_eq!(
        (names(&folder), names(&folder.join("other"))),
        (vec!["link".to_owned(), "other".to_owned()], vec!["target".to_owned()])
    );
    node.stop();
}

#[test]
fn position_that_cannot_be_kept_is_noticed_at_the_start() {
    let file = folder("unwritable").join("no-such-folder").join("position");
    let ended = run(&["sub", "--from", file.to_str().unwrap()]).with_code(74);
    assert!(ended.stderr.contains("cannot keep a position"), "{}", ended.stderr);
}

#[test]
fn position_of_another_cluster_is_refused() {
    let file = folder("foreign").join("position");
    let from = file.to_str().unwrap();
    let node = ServedNode::start();
    let reader = node.subscribe(&["--from", from, "--count", "1"]);
    node.push_lines("k", b"x\n");
    reader.wait().with_code(0);
    node.stop();
    let other = ServedNode::start();
    let ended = other.run(&["sub", "--from", from]).wait().with_code(1);
    assert!(ended.stderr.contains("another cluster"), "{}", ended.stderr);
    other.stop();
}

#[test]
fn what_was_evicted_meanwhile_is_told() {
    let node = ServedNode::start_with(&["--memory", "16MiB", "--workers", "1"]);
    let file = folder("evicted").join("position");
    let from = file.to_str().unwrap();
    let first = node.subscribe(&["--from", from, "--count", "1"]);
    node.push_lines("k", b"first\n");
    first.wait().with_code(0);
    let mut push = node.run(&["push", "k", "--chunk", "raw", "--block-size", "64KiB", "--quiet"]);
    push.write(&vec![0; 32 << 20]);
    push.close_stdin();
    push.wait().with_code(0);
    node.push_lines("k", b"last\n");
    let mut second = node.run(&["sub", "--from", from, "--format", "payload"]);
    // 512 were pushed, and what is not told as missed is here.
    let missed = until("the gap", || {
        let stderr = second.stderr();
        let words = stderr.split("up to ").nth(1)?;
        words.split_whitespace().next()?.parse::<usize>().ok()
    });
    let rest = second.read((512 - missed) * (64 << 10) + b"last".len());
    assert!(missed > 0 && rest.ends_with(b"last"));
    assert!(second.stderr().contains("offsets 1 to ") && second.stderr().contains("evicted"), "{}", second.stderr());
    second.signal(Signal::TERM);
    second.wait().with_code(0);
    node.stop();
}
