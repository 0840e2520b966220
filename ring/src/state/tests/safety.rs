//! What keeps committed messages: ISR, eligibility, lineage, resignation.

use super::*;

#[test]
fn newer_incarnation_strips_the_older_in_the_same_entry() {
    let mut cluster = Cluster::three(32);
    let old = cluster.member(1);
    cluster.register("a");
    for (_, vb) in cluster.state.map().vbuckets() {
        assert!(!vb.isr.contains(&old) && !vb.eligible.contains(&old));
        assert!(vb.leader.is_some_and(|leader| leader.node != old.node));
        assert!(vb.replicas.contains(&old.node), "its place stays");
        assert_eq!(vb.lineage, Lineage(0));
    }
}

#[test]
fn delayed_isr_add_of_a_restarted_follower_is_refused() {
    let mut cluster = Cluster::three(1);
    let leader = cluster.leader();
    let follower = cluster.vb().isr.iter().copied().find(|m| *m != leader).unwrap();
    let without: Vec<Member> = cluster.vb().isr.iter().copied().filter(|m| *m != follower).collect();
    let all = cluster.vb().isr.clone();
    cluster.alter(&without).unwrap();
    // The add is on its way while the follower restarts.
    let vb = cluster.vb();
    let add = IsrChange { vbucket: VB, epoch: vb.epoch, expected: vb.isr_version, isr: all };
    let name = cluster.state.map().node(follower.node).unwrap().name.clone();
    let current = cluster.register(&name).incarnation;
    let reason = Ineligible::Replaced { current };
    assert_eq!(cluster.alter_as(leader, add), Err(IsrRefusal::Ineligible { member: follower, reason }));
}

#[test]
fn copy_of_a_refused_isr_change_is_refused() {
    let mut cluster = Cluster::three(1);
    let (leader, all) = (cluster.leader(), cluster.vb().isr.clone());
    let follower = all.iter().copied().find(|m| *m != leader).unwrap();
    cluster.fence(follower.node.0);
    let vb = cluster.vb();
    let add = IsrChange { vbucket: VB, epoch: vb.epoch, expected: vb.isr_version, isr: all };
    let reason = Ineligible::Fenced;
    assert_eq!(cluster.alter_as(leader, add.clone()), Err(IsrRefusal::Ineligible { member: follower, reason }));
    // The leader has begun to commit without the follower when the copy comes.
    cluster.unfence(follower.node.0);
    let current = cluster.vb().isr_version;
    assert!(current > add.expected);
    assert_eq!(cluster.alter_as(leader, add), Err(IsrRefusal::StaleVersion { current }));
}

#[test]
fn isr_change_is_compare_and_swap() {
    let mut cluster = Cluster::three(1);
    let (leader, vb) = (cluster.leader(), cluster.vb().clone());
    let alone = IsrChange { vbucket: VB, epoch: vb.epoch, expected: vb.isr_version, isr: vec![leader] };
    let current = cluster.alter_as(leader, alone.clone()).unwrap();
    assert_eq!(current, IsrVersion(cluster.index));
    assert_eq!(cluster.alter_as(leader, alone.clone()), Err(IsrRefusal::StaleVersion { current }));
    let other = vb.isr.iter().copied().find(|m| *m != leader).unwrap();
    assert_eq!(cluster.alter(&[other]), Err(IsrRefusal::WithoutLeader));
    assert_eq!(cluster.alter(&[]), Err(IsrRefusal::WithoutLeader));
    let twice = Err(IsrRefusal::Duplicate { node: leader.node });
    assert_eq!(cluster.alter(&[leader, leader]), twice);
    let not_leader = IsrRefusal::NotLeader { leader: Some(leader), epoch: vb.epoch };
    let change = |isr: &[Member]| IsrChange { isr: isr.to_vec(), ..alone.clone() };
    assert_eq!(cluster.alter_as(other, change(&[other])), Err(not_leader));
    let stale = IsrChange { epoch: Epoch(vb.epoch.0 - 1), ..change(&[leader]) };
    assert_eq!(cluster.alter_as(leader, stale), Err(not_leader));
    let stranger = Member { node: NodeId(77), incarnation: Incarnation(1) };
    let no_copy = Err(IsrRefusal::NoCopy { node: NodeId(77) });
    assert_eq!(cluster.alter(&[leader, stranger]), no_copy);
    cluster.alter(&vb.isr).unwrap();
    assert_eq!(cluster.vb().isr, vb.isr);
}

#[test]
fn fenced_member_is_refused_until_it_returns() {
    let mut cluster = Cluster::three(1);
    let leader = cluster.leader();
    let all = cluster.vb().isr.clone();
    let follower = all.iter().copied().find(|m| *m != leader).unwrap();
    cluster.fence(follower.node.0);
    let reason = Ineligible::Fenced;
    assert_eq!(cluster.alter(&all), Err(IsrRefusal::Ineligible { member: follower, reason }));
    cluster.unfence(follower.node.0);
    assert!(!cluster.vb().isr.contains(&follower), "it has to catch up first");
    cluster.alter(&all).unwrap();
}

#[test]
fn who_left_a_frozen_isr_stays_eligible_and_is_elected() {
    let mut cluster = Cluster::three(1);
    let all = cluster.vb().isr.clone();
    let leader = cluster.leader();
    let [b, c] = [0, 1].map(|nth| *all.iter().filter(|m| **m != leader).nth(nth).unwrap());
    cluster.alter(&[leader, b]).unwrap();
    assert!(cluster.vb().eligible.is_empty(), "two in sync go on committing without the third");
    cluster.alter(&[leader]).unwrap();
    assert_eq!(cluster.vb().eligible, [b]);
    // The leader's process dies and returns empty: only the one that left may follow it.
    let name = cluster.state.map().node(leader.node).unwrap().name.clone();
    cluster.register(&name);
    assert_eq!((cluster.leader(), cluster.vb().lineage), (b, Lineage(0)));
    assert_eq!((&cluster.vb().isr, cluster.vb().eligible.len()), (&vec![b], 0));
    assert_ne!(cluster.leader(), c);
}

#[test]
fn eligibility_ends_when_the_watermark_may_move_again() {
    let mut cluster = Cluster::three(1);
    let all = cluster.vb().isr.clone();
    let leader = cluster.leader();
    let [b, c] = [0, 1].map(|nth| *all.iter().filter(|m| **m != leader).nth(nth).unwrap());
    cluster.alter(&[leader]).unwrap();
    assert_eq!(cluster.vb().eligible, [b, c]);
    cluster.alter(&[leader, c]).unwrap();
    assert!(cluster.vb().eligible.is_empty());
    // And when it may because fewer copies will do.
    cluster.alter(&[leader]).unwrap();
    assert_eq!(cluster.vb().eligible, [c]);
    cluster.apply(Command::Configure { copies: Copies { replicas: 3, min_isr: 1 } });
    assert!(cluster.vb().eligible.is_empty());
}

#[test]
fn fenced_holders_are_waited_for() {
    let mut cluster = Cluster::three(4);
    (1..=3).for_each(|node| cluster.fence(node));
    assert_eq!((cluster.vb().leader, cluster.vb().lineage), (None, Lineage(0)));
    let last_in_sync = cluster.member(3);
    assert!(cluster.vb().eligible.contains(&last_in_sync));
    cluster.unfence(3);
    assert_eq!((cluster.leader(), cluster.vb().lineage), (last_in_sync, Lineage(0)));
}

#[test]
fn total_loss_starts_a_lineage_above_everything_at_once() {
    let mut cluster = Cluster::three(4);
    let end = cluster.vb().lineage_end;
    (1..=3).for_each(|node| cluster.fence(node));
    let a = cluster.register("a");
    assert_eq!((cluster.vb().leader, cluster.vb().lineage), (None, Lineage(0)), "two holders may live");
    let b = cluster.register("b");
    // The first fenced had left an ISR of two, which went on committing: only the last two were holders.
    let lineages = |cluster: &Cluster| cluster.state.map().vbuckets().map(|(_, vb)| vb.lineage).collect::<Vec<_>>();
    assert_eq!(lineages(&cluster), [Lineage(0); 4]);
    let c = cluster.register("c");
    assert_eq!(lineages(&cluster), [end; 4]);
    assert_eq!(cluster.vb().isr, [a, b, c], "all are equally empty");
    assert!(lineage_base(end) > lineage_base(Lineage(0)));
}

#[test]
fn lost_vbuckets_reopen_with_whoever_is_alive() {
    let mut cluster = Cluster::of(&["a", "b"], 4, Copies { replicas: 1, min_isr: 1 });
    let lost: Vec<VBucketId> =
        cluster.state.map().vbuckets().filter(|(_, vb)| vb.replicas == [NodeId(1)]).map(|(id, _)| id).collect();
    assert_eq!(lost.len(), 2);
    cluster.fence(1);
    assert!(lost.iter().all(|id| cluster.state.map().vbucket(*id).unwrap().leader.is_none()));
    cluster.apply(Command::Forget { node: NodeId(1) });
    cluster.converge();
    for id in lost {
        let vb = cluster.state.map().vbucket(id).unwrap();
        assert_eq!((vb.leader.unwrap().node, vb.lineage), (NodeId(2), Lineage(1)));
    }
}

#[test]
fn lost_vbucket_reopens_where_its_target_already_was() {
    let mut cluster = Cluster::of(&["a", "b"], 1, Copies { replicas: 1, min_isr: 1 });
    let holder = cluster.leader();
    let other = NodeId(3 - holder.node.0);
    cluster.apply(Command::Reassign { targets: vec![(VB, Placement(vec![other]))] });
    cluster.fence(holder.node.0);
    cluster.apply(Command::Forget { node: holder.node });
    assert_eq!((cluster.leader().node, cluster.vb().lineage), (other, Lineage(1)), "in the same entry");
}

#[test]
fn leader_that_cannot_reach_its_followers_is_replaced() {
    let mut cluster = Cluster::three(1);
    let (leader, epoch) = (cluster.leader(), cluster.vb().epoch);
    cluster.alter(&[leader]).unwrap();
    let eligible = cluster.vb().eligible.clone();
    let resign = |epoch| Command::Resign { leader, vbuckets: vec![(VB, epoch)] };
    let Outcome::Resign(Ok(outcomes)) = cluster.apply(resign(epoch)) else { panic!() };
    let successor = outcomes[0].unwrap();
    assert!(eligible.contains(&successor));
    assert_eq!((cluster.leader(), &cluster.vb().isr), (successor, &vec![successor]));
    assert!(cluster.vb().eligible.contains(&leader), "the watermark stood still, it holds everything as well");
    let epoch_now = cluster.vb().epoch;
    assert_eq!(epoch_now, Epoch(cluster.index));
    let refused = Outcome::Resign(Ok(vec![Err(ResignRefusal::NotLeader { epoch: epoch_now })]));
    assert_eq!(cluster.apply(resign(epoch)), refused);
}

#[test]
fn nobody_resigns_in_favour_of_nobody() {
    let mut cluster = Cluster::of(&["a"], 1, Copies::DEFAULT);
    let (leader, epoch) = (cluster.leader(), cluster.vb().epoch);
    let outcome = cluster.apply(Command::Resign { leader, vbuckets: vec![(VB, epoch)] });
    assert_eq!(outcome, Outcome::Resign(Ok(vec![Err(ResignRefusal::NoSuccessor)])));
    assert_eq!(cluster.leader(), leader);
}

#[test]
fn word_of_an_older_incarnation_changes_nothing() {
    let mut cluster = Cluster::three(4);
    let old = cluster.member(1);
    let current = cluster.register("a").incarnation;
    let map = cluster.state.map().clone();
    for command in [Command::Fence { member: old }, Command::Unfence { member: old }, Command::Evict { member: old }] {
        assert_eq!(cluster.apply(command), Outcome::Node(Err(NodeRefusal::Replaced { current })));
    }
    assert_eq!(cluster.state.map(), &map);
}

#[test]
fn exhausted_offsets_end_a_vbucket_instead_of_repeating_them() {
    let mut cluster = Cluster::of(&["a"], 1, Copies::DEFAULT);
    let last = crate::lineage::LINEAGE_END;
    cluster.state.map.vbuckets[0].lineage = Lineage(last.0 - 1);
    cluster.state.map.vbuckets[0].lineage_end = last;
    cluster.register("a");
    assert_eq!((cluster.vb().lineage, cluster.vb().leader), (last, None));
    cluster.register("a");
    assert_eq!(cluster.vb().leader, None);
}
