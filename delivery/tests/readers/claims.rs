//! What readers are promised.

use broky_delivery::Poll;
use broky_proto::id::ClusterId;
use broky_proto::v1::{self, ErrorCode, GapReason, start::Start};
use bytes::Bytes;

use crate::feed::{CLUSTER, Feed, earliest, live, resume};

#[test]
fn match_all_beside_a_system_pattern_gets_both() {
    let mut feed = Feed::new(0);
    let reader = feed.open(&["*", "!system*"], live(), 0);
    assert_eq!(feed.block(&["a", "!system.x"]), [reader]);
    assert_eq!(feed.read_all(reader), [0, 1]);
    assert_eq!(feed.block(&["!system.y"]), [reader]);
    assert_eq!(feed.read_all(reader), [2]);
}

#[test]
fn match_all_gets_no_system_keys() {
    let mut feed = Feed::new(0);
    let reader = feed.open(&["*", "a*"], live(), 0);
    assert_eq!(feed.block(&["a", "!system.x", "b"]), [reader]);
    assert_eq!(feed.block(&["!system.y"]), []);
    assert_eq!(feed.read_all(reader), [0, 2]);
}

#[test]
fn block_of_which_credit_allows_a_part_can_be_evicted() {
    let mut feed = Feed::new(0);
    let reader = feed.open(&["a*"], live(), 1);
    feed.block(&["a", "b", "a", "b"]);
    assert_eq!(feed.read_all(reader), [0]);
    feed.evict(1);
    let gaps = feed.read(reader).gaps;
    assert_eq!(gaps.iter().map(|gap| (gap.from, gap.to)).collect::<Vec<_>>(), [(1, 4)]);
}

#[test]
fn credit_divides_a_block() {
    let mut feed = Feed::new(0);
    let reader = feed.open(&["a*"], live(), 2);
    feed.block(&["a", "b", "a", "b", "a"]);
    assert_eq!(feed.read_all(reader), [0, 2]);
    assert!(feed.delivery.add_credit(reader, 5));
    assert_eq!(feed.read_all(reader), [4]);
}

#[test]
fn credit_without_flow_control_is_a_violation() {
    let mut feed = Feed::new(0);
    let reader = feed.open(&["a*"], live(), 0);
    assert!(feed.delivery.add_credit(reader, 5));
    assert!(matches!(feed.delivery.poll(reader), Poll::Ended(refusal) if refusal.code == ErrorCode::ProtocolViolation));
}

fn refused(feed: &mut Feed, start: Start) -> ErrorCode {
    let start = Some(v1::Start { start: Some(start) });
    let open = v1::Open { patterns: vec![Bytes::from_static(b"*")], start, ..v1::Open::default() };
    let refusal = feed.delivery.open(&open).unwrap_err();
    assert_eq!(feed.delivery.subscriptions(), 0, "nothing was opened");
    refusal.code
}

#[test]
fn position_of_another_cluster_is_refused() {
    let mut feed = Feed::new(0);
    assert_eq!(refused(&mut feed, resume(ClusterId([9; 16]), 2, 0)), ErrorCode::ForeignCluster);
    let nameless = Start::Resume(v1::Resume::default());
    assert_eq!(refused(&mut feed, nameless), ErrorCode::ForeignCluster);
}

#[test]
fn position_ahead_is_refused() {
    let mut feed = Feed::new(10);
    feed.block(&["a"]);
    assert_eq!(refused(&mut feed, resume(CLUSTER, 2, 12)), ErrorCode::PositionAhead);
    assert_eq!(refused(&mut feed, resume(CLUSTER, 3, 11)), ErrorCode::PositionAhead);
    let mut elsewhere = v1::Resume { cluster_id: CLUSTER.0.to_vec().into(), ..v1::Resume::default() };
    for vbucket in [1, 1 << 16, u32::MAX] {
        elsewhere.cursors = vec![v1::Cursor { vbucket, ..v1::Cursor::default() }];
        assert_eq!(refused(&mut feed, Start::Resume(elsewhere.clone())), ErrorCode::PositionAhead, "{vbucket}");
    }
}

#[test]
fn position_at_the_end_waits_for_the_next_message() {
    let mut feed = Feed::new(10);
    feed.block(&["a"]);
    let reader = feed.open(&["*"], resume(CLUSTER, 2, 11), 0);
    assert_eq!(feed.read_all(reader), []);
    assert_eq!(feed.block(&["a"]), [reader]);
    assert_eq!(feed.read_all(reader), [11]);
}

/// The gaps and the first cursor that a resuming reader is told, and what it gets.
fn resumed(feed: &mut Feed, start: Start) -> (Vec<v1::Gap>, u64, Vec<u64>) {
    let start = Some(v1::Start { start: Some(start) });
    let open = v1::Open { patterns: vec![Bytes::from_static(b"*")], start, ..v1::Open::default() };
    let reader = feed.delivery.open(&open).unwrap();
    let confirmation = feed.read(reader);
    (confirmation.gaps, confirmation.cursors[0].offset, feed.read_all(reader))
}

#[test]
fn position_of_a_lost_lineage_is_told_the_loss() {
    let mut feed = Feed::new(10);
    feed.block(&["a", "a"]);
    let lost = v1::Gap { vbucket: 0, lineage: 1, from: 4, to: 10, reason: GapReason::Lost.into() };
    assert_eq!(resumed(&mut feed, resume(CLUSTER, 1, 4)), (vec![lost], 10, vec![10, 11]));
}

#[test]
fn evicted_position_is_told_what_was_evicted() {
    let mut feed = Feed::new(10);
    feed.block(&["a", "a"]);
    feed.block(&["a"]);
    feed.evict(1);
    let evicted = v1::Gap { vbucket: 0, lineage: 2, from: 11, to: 12, reason: GapReason::Evicted.into() };
    assert_eq!(resumed(&mut feed, resume(CLUSTER, 2, 11)), (vec![evicted], 12, vec![12]));
}

#[test]
fn resuming_in_the_middle_of_a_block_repeats_nothing() {
    let mut feed = Feed::new(10);
    feed.block(&["a", "b", "a", "b"]);
    assert_eq!(resumed(&mut feed, resume(CLUSTER, 2, 12)), (vec![], 12, vec![12, 13]));
}

#[test]
fn interest_that_takes_the_place_of_another_does_not_get_its_matches() {
    let mut feed = Feed::new(0);
    let first = feed.open(&["a*"], live(), 0);
    feed.block(&["a", "b", "a"]);
    feed.delivery.close(first);
    let second = feed.open(&["b*"], earliest(), 0);
    assert_eq!(feed.read_all(second), [1]);
}

#[test]
fn closed_handle_does_not_name_the_next_subscription() {
    let mut feed = Feed::new(0);
    let first = feed.open(&["a*"], live(), 0);
    feed.delivery.close(first);
    let second = feed.open(&["a*"], live(), 0);
    assert_eq!(first.index(), second.index());
    feed.delivery.close(first);
    assert!(matches!(feed.delivery.poll(first), Poll::Ended(_)));
    feed.block(&["a"]);
    assert_eq!(feed.read_all(second), [0]);
}
