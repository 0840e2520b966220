//! Batches that wait for another lane, and streams that move to another node.

use super::*;

#[test]
fn held_batch_waits_and_so_does_what_is_behind_it() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a"]);
    bench.push("b");
    assert_eq!(bench.window.divide(), 2);
    bench.window.hold_open();
    bench.push("c");
    assert_eq!(bench.send_all(), [batch(2, &["b"])], "what was closed before goes");
    bench.window.hurry();
    assert_eq!(bench.send_all(), []);
    bench.window.handle_disconnect();
    bench.window.handle_connect();
    assert_eq!(bench.send_all(), [batch(1, &["a"]), batch(2, &["b"])], "a break changes nothing about it");
    bench.numbering.take(1);
    bench.window.release();
    assert_eq!(bench.send_all(), [batch(4, &["c"])], "behind what it waited for");
}

#[test]
fn drained_stream_moves_once_everything_is_answered() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a", "b"]);
    bench.push("c");
    assert!(!bench.window.handle_drain());
    assert_eq!(bench.send_all(), []);
    assert_eq!(bench.answer(vec![committed(0, 1)]), Next::Continue);
    assert_eq!(bench.answer(vec![committed(0, 1)]), Next::Drained);
    bench.window.handle_disconnect();
    bench.window.handle_connect();
    assert_eq!(bench.send_all(), [batch(3, &["c"])]);
    assert!(!bench.window.handle_drain());
    bench.answer(vec![committed(0, 1)]);
    assert!(bench.window.handle_drain(), "nothing is unanswered");
}

#[test]
fn refusal_ends_the_draining() {
    let mut bench = Bench::new(eager());
    bench.send_each(&["a"]);
    bench.window.handle_drain();
    assert_eq!(bench.answer(vec![refused(0, 1, ErrorCode::NotLeader)]), Next::Wait);
    bench.window.handle_retry();
    assert_eq!(bench.send_all(), [batch(1, &["a"])]);
}
