//! What one replica does in each role.

use super::*;
use broky_proto::id::{Incarnation, IsrVersion, NodeId, ProducerEpoch, ProducerId, Sequence};

fn member(node: u32) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(1) }
}

fn isr(nodes: &[u32], version: u64, min: usize) -> Isr {
    Isr { members: nodes.iter().map(|node| member(*node)).collect(), version: IsrVersion(version), min }
}

fn leading(followers: &[u32], min_isr: usize) -> Replica {
    let mut replica = Replica::new(Lineage(1), Offset::ZERO);
    let nodes: Vec<u32> = std::iter::once(0).chain(followers.iter().copied()).collect();
    replica.lead(Epoch(1), member(0), isr(&nodes, 1, min_isr));
    for node in followers {
        replica.handle_ack(member(*node), Offset::ZERO);
    }
    replica
}

fn message(sequence: u64) -> Numbered {
    Numbered { producer: ProducerId(7), epoch: ProducerEpoch(1), sequence: Sequence(sequence) }
}

/// A follower of epoch 1 that holds `count` messages, of which `committed` are committed.
fn following(count: u64, committed: u64) -> Replica {
    let mut replica = Replica::new(Lineage(1), Offset::ZERO);
    replica.follow(Epoch(1), member(0));
    replica.attach(Epoch(1), Lineage(1), Attachment::Keep { to: Offset::ZERO }).unwrap();
    replica.accept(Epoch(1), Offset::ZERO, count, Epoch(1)).unwrap();
    replica.commit_to(Offset(committed));
    replica
}

#[test]
fn lone_leader_commits_through_the_same_high_watermark() {
    let mut replica = leading(&[], 1);
    assert_eq!(replica.append(None), Append::Stored(Offset(0)));
    assert!(!replica.log().is_committed());
    assert!(replica.advance_high_watermark());
    assert!(replica.log().is_committed());
    replica.check_invariants();
}

#[test]
fn follower_ack_commits() {
    let mut replica = leading(&[1], 2);
    replica.append(None);
    assert!(!replica.advance_high_watermark());
    assert!(replica.handle_ack(member(1), Offset(1)));
    assert_eq!(replica.log().high_watermark(), Offset(1));
}

#[test]
fn frozen_leader_refuses_before_it_appends() {
    let mut replica = leading(&[], 2);
    let first = Some(message(1));
    assert_eq!(replica.append(first), Append::NotEnoughReplicas);
    assert_eq!(replica.log().end(), Offset::ZERO);
    assert_eq!(replica.append(Some(message(2))), Append::OutOfSequence);
}

#[test]
fn retry_is_stored_once() {
    let mut replica = leading(&[], 1);
    let push = Some(message(1));
    assert_eq!(replica.append(push), Append::Stored(Offset(0)));
    assert_eq!(replica.append(push), Append::Duplicate(Some(Offset(0))));
    assert_eq!(replica.log().end(), Offset(1));
}

proptest::proptest! {
    /// Offered in one go or one by one, messages end the same, whatever is offered again or left out, and when the
    /// replica freezes in between.
    #[test]
    fn run_is_stored_as_its_messages_would_be(
        offers in proptest::collection::vec((1_u64..20, 1_u64..6, 0_u32..5, 1_u32..4), 1..30),
    ) {
        let (mut by_run, mut by_one) = (leading(&[1], 2), leading(&[1], 2));
        for (version, (first, count, freeze, epoch)) in (2..).zip(offers) {
            let isr = isr(if freeze == 0 { &[0] } else { &[0, 1] }, version, 2);
            by_run.leader_mut().unwrap().handle_isr(isr.clone());
            by_one.leader_mut().unwrap().handle_isr(isr);
            let message = |sequence| Some(Numbered { epoch: ProducerEpoch(epoch), ..message(sequence) });
            let sequences = first..first + count;
            let each: Vec<Append> = sequences.clone().map(|it| by_one.append(message(it))).collect();
            match by_run.append_run(message(first), count) {
                Some(at) => {
                    let stored: Vec<Append> = (0..count).map(|it| Append::Stored(at.plus(it))).collect();
                    proptest::prop_assert_eq!(each, stored);
                }
                None => {
                    let again: Vec<Append> = sequences.map(|it| by_run.append(message(it))).collect();
                    proptest::prop_assert_eq!(each, again);
                }
            }
            proptest::prop_assert_eq!(by_run.log(), by_one.log());
            proptest::prop_assert_eq!(by_run.dedup(), by_one.dedup());
        }
    }
}

#[test]
fn replica_without_a_role_takes_nothing() {
    assert_eq!(Replica::new(Lineage(1), Offset::ZERO).append(None), Append::NotLeader);
}

#[test]
fn what_was_refused_before_it_led_comes_again_in_order_though_some_of_it_is_stored() {
    let mut replica = leading(&[], 1);
    assert_eq!(replica.append(Some(message(5))), Append::Stored(Offset(0)));
    [5, 8].into_iter().for_each(|sequence| replica.refused_before(message(sequence)));
    assert_eq!(replica.append(Some(message(7))), Append::OutOfSequence);
    assert_eq!(replica.append(Some(message(5))), Append::Duplicate(Some(Offset(0))));
    assert_eq!(replica.append(Some(message(6))), Append::Stored(Offset(1)));
    assert_eq!(replica.append(Some(message(7))), Append::Stored(Offset(2)));
    assert_eq!(replica.append(Some(message(8))), Append::Stored(Offset(3)));
}

#[test]
fn nothing_overtakes_a_message_refused_before_it_was_offered() {
    let mut replica = leading(&[], 1);
    replica.refuse(message(1));
    assert_eq!(replica.append(Some(message(2))), Append::OutOfSequence);
    assert_eq!(replica.append(Some(message(1))), Append::Stored(Offset(0)));
    assert_eq!(replica.append(Some(message(2))), Append::Stored(Offset(1)));
}

#[test]
fn follower_takes_only_what_follows() {
    let mut replica = following(3, 0);
    assert_eq!(
        replica.accept(Epoch(1), Offset(4), 1, Epoch(1)),
        Err(AcceptError::Hole { first: Offset(4), end: Offset(3) })
    );
    assert_eq!(
        replica.accept(Epoch(2), Offset(3), 1, Epoch(2)),
        Err(AcceptError::NotAttached { asked: Epoch(2) }),
        "it has not heard of that leader"
    );
    replica.accept(Epoch(1), Offset(3), 2, Epoch(1)).unwrap();
    assert_eq!(replica.log().end(), Offset(5));
}

#[test]
fn follower_of_a_newer_epoch_rejects_the_older_leader() {
    let mut replica = following(3, 3);
    replica.follow(Epoch(2), member(1));
    assert_eq!(replica.accept(Epoch(1), Offset(3), 1, Epoch(1)), Err(AcceptError::NotAttached { asked: Epoch(1) }));
}

#[test]
fn follower_truncates_to_where_the_epochs_agree() {
    // Two followers of epoch 1: one got two messages more, and the other one was elected.
    let mut elected = following(3, 2);
    let mut other = following(5, 2);
    elected.lead(Epoch(2), member(1), isr(&[1, 2], 2, 2));
    elected.append(None);
    other.follow(Epoch(2), member(1));
    let attachment = elected.attachment(&other.summary());
    assert_eq!(attachment, Attachment::Keep { to: Offset(3) });
    other.attach(Epoch(2), Lineage(1), attachment).unwrap();
    assert_eq!(other.log().end(), Offset(3));
    other.accept(Epoch(2), Offset(3), 1, Epoch(2)).unwrap();
    assert_eq!(other.epoch(), Epoch(2));
    assert_eq!(elected.attachment(&other.summary()), Attachment::Keep { to: Offset(4) });
}

#[test]
fn committed_messages_are_never_taken_back() {
    let mut replica = following(5, 4);
    replica.follow(Epoch(2), member(1));
    let diverged = AttachError::Diverged { next: Offset(3), high_watermark: Offset(4) };
    assert_eq!(replica.attach(Epoch(2), Lineage(1), Attachment::Keep { to: Offset(3) }), Err(diverged));
    assert_eq!(replica.log().end(), Offset(5));
}

#[test]
fn new_leader_keeps_its_tail_and_commits_it_with_its_isr() {
    let mut replica = following(5, 2);
    replica.lead(Epoch(2), member(1), isr(&[1, 2], 2, 2));
    assert!(!replica.advance_high_watermark());
    assert!(replica.handle_ack(member(2), Offset(5)));
    assert_eq!(replica.log().high_watermark(), Offset(5));
}

#[test]
fn empty_follower_begins_where_the_leaders_log_starts() {
    let mut leader = leading(&[], 1);
    for _ in 0..9 {
        leader.append(None);
    }
    leader.advance_high_watermark();
    let empty = Replica::new(Lineage(1), Offset::ZERO);
    assert_eq!(leader.attachment(&empty.summary()), Attachment::Keep { to: Offset(0) });
    leader.evict(Offset(4));
    let attachment = leader.attachment(&empty.summary());
    assert_eq!(attachment, Attachment::Restart { start: Offset(4) });
    let mut empty = empty;
    empty.follow(Epoch(1), member(0));
    empty.attach(Epoch(1), Lineage(1), attachment).unwrap();
    empty.accept(Epoch(1), Offset(4), 5, Epoch(1)).unwrap();
    empty.check_invariants();
}

#[test]
fn follower_whose_messages_the_leader_has_evicted_begins_anew() {
    let mut leader = following(9, 9);
    leader.lead(Epoch(3), member(1), isr(&[1], 2, 1));
    leader.append(None);
    leader.advance_high_watermark();
    leader.evict(Offset(10));
    let mut late = following(6, 5);
    late.follow(Epoch(3), member(1));
    let attachment = leader.attachment(&late.summary());
    assert_eq!(attachment, Attachment::Restart { start: Offset(10) });
    late.attach(Epoch(3), Lineage(1), attachment).unwrap();
    assert_eq!((late.log().start(), late.log().end()), (Offset(10), Offset(10)));
    assert_eq!(late.epoch_at(Offset(5)), None, "nor does it make one up for what was before");
    late.check_invariants();
}

#[test]
fn follower_whose_committed_log_ends_where_the_leaders_starts_keeps_it() {
    let mut leader = following(9, 9);
    leader.lead(Epoch(3), member(1), isr(&[1], 2, 1));
    leader.append(None);
    leader.advance_high_watermark();
    leader.evict(Offset(6));
    let mut late = following(8, 6);
    late.follow(Epoch(3), member(1));
    late.attach(Epoch(3), Lineage(1), Attachment::Restart { start: Offset(6) }).unwrap();
    assert_eq!((late.log().start(), late.log().end()), (Offset(0), Offset(6)));
    assert_eq!(late.epoch_at(Offset(5)), Some(Epoch(1)), "it knows of which epoch that is");
    late.accept(Epoch(3), Offset(6), 4, Epoch(3)).unwrap();
    late.check_invariants();
}

#[test]
fn follower_that_has_evicted_all_that_is_committed_keeps_its_place() {
    // Of epoch 2 only this follower got something, and of epoch 1 it holds nothing any more.
    let mut other = following(3, 3);
    other.follow(Epoch(2), member(1));
    other.attach(Epoch(2), Lineage(1), Attachment::Keep { to: Offset(3) }).unwrap();
    other.accept(Epoch(2), Offset(3), 2, Epoch(2)).unwrap();
    other.evict(Offset(3));
    let mut elected = following(3, 2);
    elected.lead(Epoch(4), member(1), isr(&[1, 2], 2, 2));
    let attachment = elected.attachment(&other.summary());
    assert_eq!(attachment, Attachment::Keep { to: Offset(3) });
    other.follow(Epoch(4), member(1));
    other.attach(Epoch(4), Lineage(1), attachment).unwrap();
    assert_eq!(other.log().end(), Offset(3));
    other.check_invariants();
}

#[test]
fn copy_that_was_begun_anew_is_not_attached_where_the_old_one_ended() {
    let mut replica = Replica::new(Lineage(1), Offset::ZERO);
    replica.follow(Epoch(1), member(1));
    let short = AttachError::Short { next: Offset(3), end: Offset(0) };
    assert_eq!(replica.attach(Epoch(1), Lineage(1), Attachment::Keep { to: Offset(3) }), Err(short));
}
