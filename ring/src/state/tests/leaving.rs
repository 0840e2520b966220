//! Moves, drain, eviction and forgetting.

use std::num::NonZeroU16;

use super::*;

#[test]
fn fourth_node_gets_its_share_without_a_copy_too_few() {
    let mut cluster = Cluster::three(64);
    cluster.register("d");
    let before = cluster.index;
    for _ in 0..500 {
        let moves = cluster.state.next_moves(MoveLimits { learners: 4, learners_per_node: 2, starts: 4, transfers: 2 });
        let is_idle = moves.is_empty();
        for command in moves {
            assert_accepted(&cluster.apply(command));
            let map = cluster.state.map();
            assert!(
                map.vbuckets().all(|(_, vb)| vb.isr.len() >= 3),
                "copies in sync are added before they are dropped"
            );
            assert!(map.vbuckets().filter(|(_, vb)| !vb.learners.is_empty()).count() <= 2);
        }
        if !cluster.catch_up() && is_idle {
            break;
        }
    }
    assert_eq!(cluster.state.next_moves(MoveLimits::default()), []);
    assert_eq!(cluster.state.map().copies_at(NodeId(4)), 48);
    assert_eq!([1, 2, 3, 4].map(|node| cluster.leads(node)), [16; 4]);
    assert!(cluster.index > before);
}

#[test]
fn steps_that_do_not_fit_are_refused() {
    let mut cluster = Cluster::three(1);
    let vbucket = VB;
    let leader = cluster.leader().node;
    let follower = NodeId(if leader.0 == 1 { 2 } else { 1 });
    let stranger = NodeId(9);
    assert_eq!(cluster.step(Step::AddLearner { vbucket, node: stranger }), Err(MoveRefusal::NotTarget));
    assert_eq!(cluster.step(Step::AddLearner { vbucket, node: follower }), Err(MoveRefusal::HasCopy));
    assert_eq!(cluster.step(Step::Drop { vbucket, node: follower }), Err(MoveRefusal::Target));
    assert_eq!(cluster.step(Step::Drop { vbucket, node: stranger }), Err(MoveRefusal::NoCopy));
    assert_eq!(cluster.step(Step::TransferLeadership { vbucket, to: stranger }), Err(MoveRefusal::Unfit));
    assert_eq!(cluster.step(Step::TransferLeadership { vbucket, to: leader }), Ok(Effect::Unchanged));
    let unknown = VBucketId(5);
    assert_eq!(cluster.step(Step::Drop { vbucket: unknown, node: follower }), Err(MoveRefusal::UnknownVBucket));
    let name = cluster.state.map().node(follower).unwrap().name.clone();
    cluster.register(&name);
    assert_eq!(cluster.step(Step::TransferLeadership { vbucket, to: follower }), Err(MoveRefusal::NotInSync));
}

#[test]
fn vbucket_takes_one_step_per_entry() {
    let mut cluster = Cluster::three(1);
    let leader = cluster.leader().node;
    let others = [1, 2, 3].map(NodeId).into_iter().filter(|node| *node != leader);
    let steps = others.map(|to| Step::TransferLeadership { vbucket: VB, to }).collect();
    let outcome = cluster.apply(Command::Move { steps });
    assert_eq!(outcome, Outcome::Move(Ok(vec![Ok(Effect::Changed), Err(MoveRefusal::OneStepPerEntry)])));
}

#[test]
fn last_copies_in_sync_are_not_dropped() {
    let mut cluster = Cluster::of(&["a", "b", "c", "d"], 1, Copies::DEFAULT);
    let vb = cluster.vb().clone();
    let (leader, follower) = (vb.leader.unwrap(), vb.isr.iter().find(|m| Some(**m) != vb.leader).copied().unwrap());
    let rest: Vec<NodeId> = (1..=4).map(NodeId).filter(|node| *node != follower.node && *node != leader.node).collect();
    let target = Placement([vec![leader.node], rest.clone()].concat());
    cluster.apply(Command::Reassign { targets: vec![(VB, target)] });
    cluster.alter(&[leader, follower]).unwrap();
    let drop = Step::Drop { vbucket: VB, node: follower.node };
    assert_eq!(cluster.step(drop), Err(MoveRefusal::Needed));
    cluster.alter(&[leader]).unwrap();
    assert!(cluster.vb().eligible.contains(&follower));
    assert_eq!(cluster.step(drop), Err(MoveRefusal::Needed));
    cluster.catch_up();
    let learner = rest.iter().copied().find(|node| !vb.replicas.contains(node)).unwrap();
    cluster.step(Step::AddLearner { vbucket: VB, node: learner }).unwrap();
    cluster.catch_up();
    assert_eq!(cluster.vb().replicas.len(), 4);
    assert_eq!(cluster.step(drop), Ok(Effect::Changed));
    let drop_leader = Step::Drop { vbucket: VB, node: leader.node };
    assert_eq!(cluster.step(drop_leader), Err(MoveRefusal::Target));
}

#[test]
fn drain_leaves_nothing_behind_and_then_the_node_can_go() {
    let mut cluster = Cluster::of(&["a", "b", "c", "d"], 32, Copies::DEFAULT);
    let node = NodeId(2);
    let alive = Outcome::Node(Err(NodeRefusal::NotDrained { copies: 24 }));
    assert_eq!(cluster.apply(Command::Forget { node }), alive);
    assert_eq!(cluster.apply(Command::Drain { node, force: false }), Outcome::Node(Ok(Effect::Changed)));
    cluster.converge();
    assert_eq!((cluster.state.map().copies_at(node), cluster.leads(2)), (0, 0));
    assert!(cluster.state.map().vbuckets().all(|(_, vb)| vb.isr.len() == 3 && vb.lineage == Lineage(0)));
    assert_eq!(cluster.apply(Command::Forget { node }), Outcome::Node(Ok(Effect::Changed)));
    assert_eq!(cluster.apply(Command::Forget { node }), Outcome::Node(Err(NodeRefusal::Unregistered)));
    assert_eq!(cluster.register("b").node, NodeId(5), "ids are not given away twice");
}

#[test]
fn drained_third_node_leaves_two_copies() {
    let mut cluster = Cluster::three(8);
    cluster.apply(Command::Drain { node: NodeId(3), force: false });
    cluster.converge();
    assert_eq!(cluster.state.map().copies_at(NodeId(3)), 0);
    assert!(cluster.state.map().vbuckets().all(|(_, vb)| vb.isr.len() == 2 && vb.min_isr == 2));
    // A restart is a return.
    let returned = cluster.register("c");
    assert!(cluster.state.map().is_caught_up(returned), "nothing lacks a copy because of it");
    assert!(!cluster.state.map().is_settled(returned), "but it has none of those that will be its own");
    for command in cluster.state.next_moves(MoveLimits::default()) {
        cluster.apply(command);
    }
    assert_eq!((cluster.state.map().missing_at(returned), cluster.state.map().is_settled(returned)), (8, false));
    cluster.converge();
    assert!(cluster.state.map().vbuckets().all(|(_, vb)| vb.isr.len() == 3));
    assert!(cluster.state.map().is_settled(returned));
}

#[test]
fn node_for_which_there_are_no_copies_has_all_of_them() {
    let mut cluster = Cluster::of(&["a", "b"], 1, Copies { replicas: 1, min_isr: 1 });
    let [a, b] = [cluster.member(1), cluster.member(2)];
    assert!(cluster.state.map().is_settled(a) && cluster.state.map().is_settled(b));
    cluster.fence(2);
    assert!(!cluster.state.map().is_settled(b), "but not while it counts as dead");
}

#[test]
fn drain_stops_at_min_isr_unless_forced_and_at_the_last_node_always() {
    let mut cluster = Cluster::of(&["a", "b"], 8, Copies::DEFAULT);
    let drain = |node, force| Command::Drain { node: NodeId(node), force };
    let below = NodeRefusal::BelowMinIsr { alive: 1, min_isr: 2 };
    assert_eq!(cluster.apply(drain(2, false)), Outcome::Node(Err(below)));
    assert_eq!(cluster.apply(drain(2, true)), Outcome::Node(Ok(Effect::Changed)));
    cluster.converge();
    assert_eq!(cluster.state.map().copies_at(NodeId(2)), 0);
    assert_eq!(cluster.apply(drain(1, true)), Outcome::Node(Err(NodeRefusal::LastNode)));
    assert_eq!(cluster.apply(Command::Undrain { node: NodeId(2) }), Outcome::Node(Ok(Effect::Changed)));
    cluster.converge();
    assert!(cluster.state.map().vbuckets().all(|(_, vb)| vb.isr.len() == 2 && vb.min_isr == 2));
}

#[test]
fn evicted_nodes_copies_are_rebuilt_while_others_remain() {
    let mut cluster = Cluster::of(&["a", "b", "c", "d"], 16, Copies::DEFAULT);
    cluster.fence(4);
    cluster.converge();
    let held = cluster.state.map().copies_at(NodeId(4));
    assert_eq!(held, 12, "a node that is merely dead keeps its places");
    let member = cluster.member(4);
    cluster.apply(Command::Evict { member });
    cluster.converge();
    assert_eq!(cluster.state.map().copies_at(NodeId(4)), 0);
    assert!(cluster.state.map().vbuckets().all(|(_, vb)| vb.isr.len() == 3));
    let alive = Command::Evict { member: cluster.member(1) };
    assert_eq!(cluster.apply(alive), Outcome::Node(Err(NodeRefusal::Alive)));
    // With no fourth node to take its place, its place is kept.
    let mut cluster = Cluster::three(4);
    cluster.fence(3);
    let member = cluster.member(3);
    cluster.apply(Command::Evict { member });
    cluster.converge();
    assert_eq!(cluster.state.map().copies_at(NodeId(3)), 4);
    cluster.unfence(3);
    cluster.converge();
    assert!(cluster.state.map().vbuckets().all(|(_, vb)| vb.isr.len() == 3));
}

#[test]
fn forgetting_the_dead_lowers_what_is_wanted() {
    let mut cluster = Cluster::three(8);
    cluster.fence(2);
    cluster.fence(3);
    assert!(cluster.vb().is_frozen());
    cluster.apply(Command::Forget { node: NodeId(2) });
    assert!(cluster.vb().is_frozen(), "two registered nodes, two copies");
    cluster.apply(Command::Forget { node: NodeId(3) });
    assert!(!cluster.vb().is_frozen());
    assert_eq!(cluster.apply(Command::Forget { node: NodeId(1) }), Outcome::Node(Err(NodeRefusal::LastNode)));
}

#[test]
fn forgetting_does_not_lower_min_isr_while_nodes_remain() {
    let mut cluster = Cluster::of(&["a", "b", "c", "d"], 4, Copies::DEFAULT);
    let two: Vec<NodeId> = cluster.vb().replicas.iter().copied().skip(1).collect();
    for node in two {
        cluster.fence(node.0);
        cluster.apply(Command::Forget { node });
    }
    assert_eq!((cluster.vb().replicas.len(), cluster.vb().min_isr), (1, 2), "no commit with one copy");
    cluster.converge();
    assert_eq!((cluster.vb().isr.len(), cluster.vb().is_frozen()), (2, false));
}

#[test]
fn targets_name_fit_nodes_only() {
    let mut cluster = Cluster::of(&["a", "b", "c", "d"], 4, Copies::DEFAULT);
    let mut reassign = |nodes: &[u32]| {
        let target = Placement(nodes.iter().copied().map(NodeId).collect());
        match cluster.apply(Command::Reassign { targets: vec![(VB, target)] }) {
            Outcome::Reassign(Ok(each)) => each[0],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reassign(&[]), Err(ReassignRefusal::Malformed));
    assert_eq!(reassign(&[1, 1]), Err(ReassignRefusal::Malformed));
    assert_eq!(reassign(&[1, 2, 3, 4, 5, 6, 7, 8]), Err(ReassignRefusal::Malformed));
    assert_eq!(reassign(&[1, 9]), Err(ReassignRefusal::Unfit { node: NodeId(9) }));
    cluster.apply(Command::Drain { node: NodeId(1), force: false });
    let target = Placement(vec![NodeId(1)]);
    let outcome = cluster.apply(Command::Reassign { targets: vec![(VB, target)] });
    assert_eq!(outcome, Outcome::Reassign(Ok(vec![Err(ReassignRefusal::Unfit { node: NodeId(1) })])));
}

#[test]
fn copies_move_to_new_zones() {
    let mut cluster = Cluster { state: ClusterState::new(), index: 0 };
    let vbuckets = VBucketCount::new(16).unwrap();
    let copies = Copies { replicas: 2, min_isr: 1 };
    cluster.apply(Command::Found {
        cluster: ClusterId::default(),
        vbuckets,
        shards: NonZeroU16::MIN,
        copies,
        expect: 2,
    });
    for (nth, (name, zone)) in [("a", "x"), ("b", "x"), ("c", "y")].into_iter().enumerate() {
        cluster.apply(register(name, BootId([u8::try_from(nth).unwrap(); 16]), zone));
        cluster.converge();
    }
    assert!(cluster.state.map().vbuckets().all(|(_, vb)| vb.replicas.contains(&NodeId(3)) && vb.isr.len() == 2));
    assert_eq!(cluster.state.map().node(NodeId(3)).unwrap().liveness, Liveness::Alive);
}
