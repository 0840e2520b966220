//! What is committed when, and who hears of it, step by step.

use broky_proto::id::{Offset, VBucketId};
use broky_ring::command::{Command, Step};
use broky_ring::placement::Placement;
use broky_shard::{LAG_MAX, Outbox, SessionId};

use crate::network::Link;
use crate::readers::Reader;
use crate::world::World;

const VBUCKET: VBucketId = VBucketId(0);

/// Nodes, three of which hold the one vbucket and are in sync, and nothing on its way.
fn settled(nodes: usize) -> World {
    let mut world = World::new(1, nodes, 1, 3, 0);
    pass_time(&mut world, 100);
    assert_eq!(world.control.map().vbucket(VBUCKET).unwrap().isr.len(), 3);
    world
}

/// Lets so many ticks pass, in which everybody hears everything.
fn pass_time(world: &mut World, ticks: usize) {
    for _ in 0..ticks {
        (0..world.nodes.len()).for_each(|node| world.learn(node));
        deliver_all(world);
        world.tick();
        while !world.proposals.is_empty() {
            world.decide(0);
        }
    }
    deliver_all(world);
}

/// Delivers what is on its way until nothing is. Returns how many frames each node was sent as a follower.
fn deliver_all(world: &mut World) -> [usize; 4] {
    let mut received = [0; 4];
    loop {
        let links: Vec<SessionId> = world.network.links.keys().copied().collect();
        let before = received;
        let mut has_answered = false;
        for session in links {
            let Some(link) = world.network.links.get(&session) else { continue };
            let (from, to, inbound, now) = (link.from, link.to, link.inbound, world.now);
            while let Some(frame) = world.network.next_down(session) {
                world.with(to, |shard, out| shard.handle_to_follower(now, inbound, frame, out).unwrap());
                received[to] += 1;
            }
            world.with(to, |shard, out| shard.flush(out));
            while let Some(frame) = world.network.next_up(session) {
                world.with(from, |shard, out| shard.handle_to_leader(now, session, frame, out).unwrap());
                has_answered = true;
            }
        }
        if received == before && !has_answered {
            return received;
        }
    }
}

fn leader(world: &World) -> usize {
    let leader = world.control.map().vbucket(VBUCKET).unwrap().leader;
    world.nodes.iter().position(|node| Some(node.member) == leader).unwrap()
}

fn push(world: &mut World) {
    world.produce(0);
    world.push(0);
    world.with(leader(world), |shard, out| shard.flush(out));
}

/// The end of a node's log, and up to where it knows it to be committed.
fn ends(world: &World, node: usize) -> (Offset, Offset) {
    let log = world.nodes[node].shard.as_ref().unwrap().log(VBUCKET).unwrap();
    (log.end(), log.high_watermark())
}

#[test]
fn follower_without_readers_is_not_woken_for_a_commit() {
    let mut world = settled(3);
    let leader = leader(&world);
    push(&mut world);
    let received = deliver_all(&mut world);
    assert_eq!(world.ledger.acknowledged.len(), 1);
    for follower in (0..3).filter(|node| *node != leader) {
        assert_eq!(received[follower], 1, "the block, and no more");
        assert_eq!(ends(&world, follower), (Offset(1), Offset(0)));
    }
    // A little later it hears of it after all.
    world.with(leader, |shard, out| shard.send_late_notices(out));
    deliver_all(&mut world);
    (0..3).for_each(|node| assert_eq!(ends(&world, node), (Offset(1), Offset(1))));
}

#[test]
fn reader_at_a_follower_gets_what_is_committed_at_once() {
    let mut world = settled(3);
    let reading = (leader(&world) + 1) % 3;
    let mut out = Outbox::default();
    let shard = world.nodes[reading].shard.as_mut().unwrap();
    let mut reader = Reader::open(reading, shard, None, None, &mut out);
    world.carry_out(reading, out);
    deliver_all(&mut world);
    push(&mut world);
    let received = deliver_all(&mut world);
    assert_eq!((0..3).map(|node| received[node]).sum::<usize>(), 3, "two blocks and one word about them");
    assert_eq!(ends(&world, reading), (Offset(1), Offset(1)));
    let mut out = Outbox::default();
    reader.read(world.nodes[reading].shard.as_mut().unwrap(), &mut world.ledger, &mut out);
    assert_eq!(reader.received, 1);
}

#[test]
fn push_that_waits_while_the_lead_is_handed_over_is_committed() {
    let mut world = settled(3);
    let before = leader(&world);
    push(&mut world);
    // Both followers have it; the leader has not heard that.
    for session in world.network.links.keys().copied().collect::<Vec<_>>() {
        let (to, inbound, now) = (world.network.links[&session].to, world.network.links[&session].inbound, world.now);
        while let Some(frame) = world.network.next_down(session) {
            world.with(to, |shard, out| shard.handle_to_follower(now, inbound, frame, out).unwrap());
        }
        world.with(to, |shard, out| shard.flush(out));
    }
    let other = (before + 1) % 3;
    let to = world.nodes[other].member.node;
    let steps = vec![Step::TransferLeadership { vbucket: VBUCKET, to }];
    world.control.apply(Command::Move { steps });
    assert_eq!(leader(&world), other);
    (0..3).for_each(|node| world.learn(node));
    assert!(world.producers[0].attempt.is_some(), "it was given up");
    for _ in 0..4 {
        (0..3).for_each(|node| world.learn(node));
        deliver_all(&mut world);
        world.tick();
    }
    assert!(world.producers[0].unsettled.is_empty() && world.producers[0].attempt.is_none());
    assert_eq!(ends(&world, before), (Offset(1), Offset(1)));
}

#[test]
fn follower_whose_link_breaks_again_and_again_leaves_the_isr() {
    let mut world = settled(3);
    let leader = leader(&world);
    let gone = world.nodes[(leader + 1) % 3].member;
    let is_in_sync = |world: &World| world.control.map().vbucket(VBUCKET).unwrap().isr.contains(&gone);
    for _ in 0..30 {
        let link = world.network.links.iter().find(|(_, link)| link.member == gone).map(|(session, _)| *session);
        // It opens each time, and ends before anything has come of it.
        link.into_iter().for_each(|session| world.cut(session, false));
        deliver_all(&mut world);
        world.connect(leader);
        world.tick();
        while !world.proposals.is_empty() {
            world.decide(0);
        }
        (0..3).for_each(|node| world.learn(node));
    }
    assert!(!is_in_sync(&world), "a second and a half later it still counts");
    push(&mut world);
    deliver_all(&mut world);
    assert_eq!(world.ledger.acknowledged.len(), 1);
    // Once its link holds it is back.
    pass_time(&mut world, 50);
    assert!(is_in_sync(&world));
}

#[test]
fn leader_that_stands_alone_makes_way_for_holders_that_live() {
    let mut world = settled(3);
    let alone = leader(&world);
    let others: Vec<_> =
        world.nodes.iter().map(|node| node.member).filter(|it| *it != world.nodes[alone].member).collect();
    // Nobody heard of the others for a while. They live, and reach one another, but not the one that was left to lead.
    others.iter().for_each(|member| drop(world.control.apply(Command::Fence { member: *member })));
    others.iter().for_each(|member| drop(world.control.apply(Command::Unfence { member: *member })));
    assert_eq!(leader(&world), alone);
    for _ in 0..80 {
        (0..3).for_each(|node| world.learn(node));
        let touches = |link: &Link| link.from == alone || link.to == alone;
        let links = world.network.links.iter().filter(|(_, link)| touches(link)).map(|(session, _)| *session);
        links.collect::<Vec<_>>().into_iter().for_each(|session| world.cut(session, false));
        deliver_all(&mut world);
        world.tick();
        while !world.proposals.is_empty() {
            world.decide(0);
        }
    }
    assert_ne!(leader(&world), alone);
    assert_eq!(world.control.map().vbucket(VBUCKET).unwrap().isr, others);
    push(&mut world);
    deliver_all(&mut world);
    assert_eq!(world.ledger.acknowledged.len(), 1);
}

#[test]
fn leader_that_stood_still_blames_nobody() {
    let mut world = settled(3);
    push(&mut world);
    world.now = world.now.plus(2 * LAG_MAX);
    world.tick();
    assert!(world.proposals.is_empty(), "{:?}", world.proposals);
    deliver_all(&mut world);
    assert_eq!(world.ledger.acknowledged.len(), 1);
}

#[test]
fn copy_that_was_dropped_and_begun_anew_counts_when_it_has_everything() {
    let mut world = settled(4);
    let leader = leader(&world);
    push(&mut world);
    pass_time(&mut world, 2);
    let target = |world: &World| world.control.map().vbucket(VBUCKET).unwrap().target.clone();
    let before = target(&world);
    let moved = world
        .nodes
        .iter()
        .position(|node| before.contains(node.member.node) && node.member != world.nodes[leader].member);
    let spare = world.nodes.iter().position(|node| !before.contains(node.member.node)).unwrap();
    let (moved, spare_id) = (moved.unwrap(), world.nodes[spare].member.node);
    let moved_id = world.nodes[moved].member.node;
    let others = before.0.iter().map(|node| if *node == moved_id { spare_id } else { *node }).collect();
    let step = |world: &mut World, step| drop(world.control.apply(Command::Move { steps: vec![step] }));
    let aim = |world: &mut World, to| drop(world.control.apply(Command::Reassign { targets: vec![(VBUCKET, to)] }));

    aim(&mut world, Placement(others));
    step(&mut world, Step::AddLearner { vbucket: VBUCKET, node: spare_id });
    pass_time(&mut world, 40);
    assert_eq!(world.control.map().vbucket(VBUCKET).unwrap().isr.len(), 4);
    // Its node hears of each step, the leader of the last only.
    step(&mut world, Step::Drop { vbucket: VBUCKET, node: moved_id });
    world.learn(moved);
    assert!(world.nodes[moved].shard.as_ref().unwrap().log(VBUCKET).is_none());
    aim(&mut world, before);
    step(&mut world, Step::AddLearner { vbucket: VBUCKET, node: moved_id });
    world.learn(moved);
    assert_eq!(ends(&world, moved).0, Offset(0));
    let member = world.nodes[moved].member;
    for _ in 0..60 {
        world.learn(leader);
        world.tick();
        while !world.proposals.is_empty() {
            world.decide(0);
        }
        let is_in_sync = world.control.map().vbucket(VBUCKET).unwrap().isr.contains(&member);
        assert!(!is_in_sync || ends(&world, moved).0 == Offset(1), "an empty copy is in the ISR");
        deliver_all(&mut world);
    }
    assert!(world.control.map().vbucket(VBUCKET).unwrap().isr.contains(&member));
}
